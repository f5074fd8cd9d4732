"""The complete log of a build: every event and every line, as text, in one file that is never cut."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from types import TracebackType

from imgc.engine import events
from imgc.errors import ImgcError

#: Logs kept per platform.
KEPT = 50


class Log:
    """A reader of the event stream that writes what is said about one platform to ``<directory>/<time>.log``.

    Use it as a context manager.
    """

    def __init__(self, directory: Path, platform: str) -> None:
        self._platform = platform
        stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H-%M-%S.%f")
        self.path = directory / f"{stamp}-{os.getpid()}.log"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for old in sorted(directory.glob("*.log"))[: -KEPT + 1]:
                old.unlink(missing_ok=True)
            self._file = self.path.open("w", encoding="utf-8", errors="replace", buffering=1)
        except OSError as problem:
            raise ImgcError(
                "E304",
                f"The log {self.path} cannot be written: {problem.strerror}.",
                hint="Choose another cache with --cache or IMGC_CACHE, or make room with `imgc clean`.",
            ) from problem

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __call__(self, event: events.Event) -> None:
        if getattr(event, "platform", self._platform) != self._platform:
            return
        time = datetime.datetime.fromtimestamp(event.time, datetime.timezone.utc)
        self._file.write(f"{time:%Y-%m-%d %H:%M:%S}.{time.microsecond // 1000:03d} | {text(event)}\n")


def text(event: events.Event) -> str:
    """An event as a line of the log."""
    if isinstance(event, events.Line):
        return f"{event.step} | {event.text}"
    if isinstance(event, events.BuildStarted):
        return f"build {event.platform}: {event.total} steps, {event.cached} cached"
    if isinstance(event, events.StepStarted):
        return f"{event.step} started, key {event.key}"
    if isinstance(event, events.StepFinished):
        return f"{event.step} finished in {event.seconds:.2f} s"
    if isinstance(event, events.StepCached):
        return f"{event.step} cached, key {event.key}"
    if isinstance(event, events.StepFailed):
        return f"{event.step} FAILED after {event.seconds:.2f} s: {event.message} {event.file}".rstrip()
    if isinstance(event, events.Notice):
        return f"note: {event.text}"
    if isinstance(event, events.ArtifactReady):
        return f"{event.path} ready: {event.size} bytes, sha256 {event.sha256}"
    if isinstance(event, events.BuildFinished):
        return f"build {event.platform} {event.status}: {event.ran} steps ran, {event.cached} cached"
    return repr(event)
