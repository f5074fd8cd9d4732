"""What the engine says while it works.  The terminal, the plain log, the JSON lines and the log file read one stream.

Every event is a frozen dataclass with ``time`` in seconds since the epoch; :func:`as_json` is its wire form.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    time: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True)
class BuildStarted(Event):
    """``total`` steps of which ``cached`` have results already; ``log`` is the complete log file's path.

    ``expected`` is how long the steps to run took last time, in seconds and all together, 0 when unknown.
    """

    platform: str
    total: int
    cached: int
    log: str
    expected: float = 0.0


@dataclass(frozen=True)
class StepStarted(Event):
    """``expected`` is how long it took last time, in seconds, 0 when unknown."""

    platform: str
    step: str
    kind: str
    key: str
    expected: float


@dataclass(frozen=True)
class Line(Event):
    """A line that a step printed."""

    platform: str
    step: str
    text: str


@dataclass(frozen=True)
class StepFinished(Event):
    platform: str
    step: str
    seconds: float


@dataclass(frozen=True)
class StepCached(Event):
    platform: str
    step: str
    key: str


@dataclass(frozen=True)
class StepFailed(Event):
    """``file`` is the hook's own file (empty when the step is imgc's), ``tail`` its last lines."""

    platform: str
    step: str
    seconds: float
    message: str
    file: str
    tail: str


@dataclass(frozen=True)
class Notice(Event):
    """Something that a user should know, and that does not end the build."""

    platform: str
    text: str


@dataclass(frozen=True)
class ArtifactReady(Event):
    """A finished output under its final name; ``size`` is in bytes on disk."""

    platform: str
    path: str
    format: str
    size: int
    sha256: str
    md5: str


@dataclass(frozen=True)
class BuildFinished(Event):
    """``ran`` steps ran; ``status`` is ``ok``, ``failed`` or ``interrupted``."""

    platform: str
    status: str
    ran: int
    cached: int
    seconds: float
    log: str


def as_json(event: Event) -> str:
    """One line of JSON: the event's fields and ``"event"``, the class name."""
    return json.dumps({"event": type(event).__name__, **dataclasses.asdict(event)}, ensure_ascii=False)


class Stream:
    """Hands every event to every reader, in order, from whichever thread it comes."""

    def __init__(self, *readers: Callable[[Event], None]) -> None:
        self._readers = list(readers)
        self._lock = threading.RLock()

    def add(self, reader: Callable[[Event], None]) -> None:
        with self._lock:
            self._readers.append(reader)

    def remove(self, reader: Callable[[Event], None]) -> None:
        with self._lock:
            self._readers.remove(reader)

    def emit(self, event: Event) -> None:
        with self._lock:
            for reader in self._readers:
                reader(event)
