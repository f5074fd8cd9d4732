"""How far a build is, worked out from its events.  No drawing here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from imgc.cli.text import printable
from imgc.engine.events import (
    BuildFinished,
    BuildStarted,
    Event,
    Line,
    StepCached,
    StepFailed,
    StepFinished,
    StepStarted,
)

#: Kinds of steps that belong to no phase of the protocol but to the making of the image.
_IMAGE = ("assemble", "convert", "check")


@dataclass
class Running:
    """A step that runs: since when (seconds since the epoch), for how long it is expected to, what it said last."""

    step: str
    started: float
    expected: float
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=3))


@dataclass
class Group:
    """The steps of one phase (``install.d``), or ``image``, ``boot``."""

    name: str
    running: set[str] = field(default_factory=set)
    ran: int = 0
    cached: int = 0
    failed: bool = False
    seconds: float = 0.0


@dataclass
class Progress:
    """One platform's build.  Feed it events; read its fields."""

    platform: str
    total: int = 0
    ran: int = 0
    cached: int = 0
    started: float = 0.0
    finished: float = 0.0
    status: str = ""
    expected: float = 0.0
    groups: list[Group] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)
    _known: float = 0.0

    def feed(self, event: Event) -> None:
        match event:
            case BuildStarted():
                self.started, self.total, self.expected = event.time, event.total, event.expected
            case StepCached():
                self.cached += 1
                self._group(event.step, "").cached += 1
            case StepStarted():
                self.running[event.step] = Running(event.step, event.time, event.expected)
                self._group(event.step, event.kind).running.add(event.step)
            case Line():
                self._line(event)
            case StepFinished():
                self._ended(event.step, event.seconds, failed=False)
            case StepFailed():
                self._ended(event.step, event.seconds, failed=True)
            case BuildFinished():
                self.finished, self.status = event.time, event.status
                self.running.clear()

    def elapsed(self, now: float) -> float:
        """Seconds since the build started, or that it took."""
        return max((self.finished or now) - self.started, 0.0) if self.started else 0.0

    def fraction(self, now: float) -> float:
        """How much of the work is done, 0 to 1: by expected time when the build told it, else by count of steps."""
        if self.status == "ok":
            return 1.0
        parts = [
            (min(max(now - one.started, 0.0), one.expected), one.expected) for one in self.running.values()
        ]
        if self.expected > 0:
            done, whole = self._known + sum(spent for spent, _ in parts), self.expected
        else:
            done = self.ran + sum(spent / expected for spent, expected in parts if expected > 0)
            # Elements may bring steps that were not counted at the start.
            whole = max(self.total - self.cached, self.ran + len(self.running))
        return min(done / whole, 0.99) if whole > 0 else 0.0

    def left(self, now: float) -> float:
        """The seconds that the rest is expected to take; 0 when unknown."""
        return self.expected * (1 - self.fraction(now)) if self.expected > 0 else 0.0

    def _line(self, event: Line) -> None:
        running = self.running.get(event.step)
        text = printable(event.text).rstrip()
        if running and text:
            running.lines.append(text)

    def _ended(self, step: str, seconds: float, *, failed: bool) -> None:
        running = self.running.pop(step, None)
        self._known += running.expected if running else 0.0
        self.ran += not failed
        for group in self.groups:
            if step in group.running:
                group.running.discard(step)
                group.ran += not failed
                group.failed |= failed
                group.seconds += seconds

    def _group(self, step: str, kind: str) -> Group:
        """The group of a step; what the driver does between phases counts with the phase before."""
        parts = step.split("/", 2)
        if len(parts) == 3:
            name = parts[1]
        elif kind in _IMAGE:
            name = "image"
        elif kind == "boot" or not self.groups:
            name = kind or parts[-1]
        else:
            name = self.groups[-1].name
        for group in self.groups:
            if group.name == name:
                return group
        self.groups.append(Group(name))
        return self.groups[-1]


def short(step: str) -> str:
    """A step's id without its platform: ``install.d/50-packages``."""
    return step.partition("/")[2] or step
