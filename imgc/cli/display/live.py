"""The live display: per platform what is done, what runs and for how long, how far it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from imgc.cli.display.progress import Group, Progress, Running, short
from imgc.cli.text import clock, duration, many
from imgc.engine.events import BuildFinished, BuildStarted, Event, Notice

_REFRESHES_PER_SECOND = 8

#: Rows that must stay free below the display.
_SPARE = 2

_MARKS = {"done": "✓", "failed": "✗", "run": "▸", "stopped": "■"}
_MARKS_ASCII = {"done": "+", "failed": "x", "run": ">", "stopped": "!"}
_STYLES = {"done": "green", "failed": "red", "run": "yellow", "stopped": "yellow"}


class LiveDisplay:
    """Draws on ``console`` from the first event until :meth:`close`.  ``now`` gives seconds since the epoch."""

    def __init__(self, console: Console, *, now: Callable[[], float] = time.time) -> None:
        self._console = console
        self._now = now
        # The engine's threads feed while rich's thread draws.
        self._lock = threading.Lock()
        self._builds: dict[str, Progress] = {}
        self._live = Live(
            get_renderable=lambda: self,
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
        )

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._console.print(Text(f"{event.platform}: {event.text}", style="dim"))
            return
        with self._lock:
            platform = getattr(event, "platform", "")
            if isinstance(event, BuildStarted) or platform not in self._builds:
                self._builds[platform] = Progress(platform)
            build = self._builds[platform]
            build.feed(event)
        if isinstance(event, BuildFinished):
            self._leave(build)
        elif not self._live.is_started:
            self._live.start()

    def close(self) -> None:
        """Give the terminal back; what was not finished stays as it last was."""
        self._live.stop()
        for build in self._builds.values():
            if not build.finished:
                self._console.print(*self._block(build, self._console.options), sep="\n")
        self._builds.clear()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            for build in self._builds.values():
                yield from self._block(build, options)

    def _leave(self, build: Progress) -> None:
        """Print a finished build above the others, where it scrolls away like any output."""
        with self._lock:
            del self._builds[build.platform]
            rows = list(self._block(build, self._console.options))
            last = not self._builds
        if last:
            self._live.stop()
        self._console.print(*rows, sep="\n")

    def _block(self, build: Progress, options: ConsoleOptions) -> Iterator[Text | Table]:
        """One build: a header, a line per phase, what runs with its last lines, a bar."""
        now = self._now()
        marks = _MARKS_ASCII if options.ascii_only else _MARKS
        tail: list[Text | Table] = [
            row for running in build.running.values() for row in _running(running, now, marks)
        ]
        if not build.finished:
            tail.append(_bar(build, now, options))
        phases = [_phase(groups, marks) for groups in _collapsed(build.groups)]
        room = self._console.height - _SPARE - len(tail) - 1
        # On a small terminal the oldest phases are what one can best do without.
        shown = phases if build.finished else phases[len(phases) - max(min(room, len(phases)), 0) :]
        yield _header(build, now, marks)
        yield from shown
        yield from tail


def _collapsed(groups: list[Group]) -> Iterator[list[Group]]:
    """Groups that have a line of their own, and runs of groups that were wholly cached as one."""
    together: list[Group] = []
    for group in groups:
        if group.running and not (group.ran or group.failed or group.cached):
            continue
        if group.ran or group.failed:
            if together:
                yield together
            together = []
            yield [group]
        else:
            together.append(group)
    if together:
        yield together


def _header(build: Progress, now: float, marks: dict[str, str]) -> Text:
    status = {"": "run", "ok": "done", "failed": "failed"}.get(build.status, "stopped")
    done = build.ran + build.cached
    steps = (
        many(done, "step") if build.status == "ok" else f"{done} of {many(max(build.total, done), 'step')}"
    )
    cached = f", {build.cached} cached" if build.cached else ""
    return Text.assemble(
        (marks[status], _STYLES[status]),
        (f" {build.platform}", "bold"),
        f"  {steps}{cached}  {clock(build.elapsed(now))}",
        no_wrap=True,
        overflow="ellipsis",
    )


def _phase(groups: list[Group], marks: dict[str, str]) -> Text:
    """``✓ install.d  12 steps  24.1 s  2 cached``; for several, all of them cached, ``✓ root.d to install.d``."""
    name = groups[0].name if len(groups) == 1 else f"{groups[0].name} to {groups[-1].name}"
    cached = sum(group.cached for group in groups)
    one = groups[0]
    state = "failed" if one.failed else "run" if one.running else "done"
    count = one.ran + cached + one.failed
    if not (one.ran or one.failed):
        rest = f"{many(cached, 'step')}, cached"
    else:
        rest = f"{many(count, 'step'):<9} {duration(one.seconds):>8}" + (
            f"   {cached} cached" if cached else ""
        )
    line = Text.assemble("  ", (marks[state], _STYLES[state]), f" {name:<15} {rest}")
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _running(running: Running, now: float, marks: dict[str, str]) -> Iterator[Text]:
    spent = clock(now - running.started)
    times = f"{spent} of about {clock(running.expected)}" if running.expected >= 1 else spent
    line = Text.assemble(
        "    ", (marks["run"], _STYLES["run"]), (f" {short(running.step)}", "bold"), f"  {times}"
    )
    for row in (line, *(Text(f"        {text}", style="dim") for text in running.lines)):
        row.no_wrap, row.overflow = True, "ellipsis"
        yield row


def _bar(build: Progress, now: float, options: ConsoleOptions) -> Table:
    fraction, left = build.fraction(now), build.left(now)
    after = f"{int(fraction * 100):>3} %" + (f"  about {clock(left)} left" if left >= 1 else "")
    row = Table.grid(padding=(0, 1))
    row.add_row(
        " ", ProgressBar(total=1.0, completed=fraction, width=min(40, max(options.max_width - 30, 5))), after
    )
    return row
