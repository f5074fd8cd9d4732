"""The plain log: one line per step, no control characters.  What a CI system's log keeps."""

from __future__ import annotations

import time
from typing import TextIO

from imgc.cli.text import duration, many, printable
from imgc.engine.events import (
    ArtifactReady,
    BuildStarted,
    Event,
    Line,
    Notice,
    StepCached,
    StepFailed,
    StepFinished,
    StepStarted,
)


class PlainLog:
    """Writes to ``out``; with ``verbose`` also what starts and everything that hooks print."""

    def __init__(self, out: TextIO, *, verbose: bool) -> None:
        self._out = out
        self._verbose = verbose

    def __call__(self, event: Event) -> None:
        line = self._of(event)
        if line:
            self._out.write(f"{time.strftime('%H:%M:%S', time.localtime(event.time))} {line}\n")
            self._out.flush()

    def close(self) -> None:
        """Nothing is held back."""

    def _of(self, event: Event) -> str:
        match event:
            case BuildStarted():
                steps = f"{many(event.total, 'step')}, {event.cached} cached"
                return f"start   {event.platform} ({steps}), log {event.log}"
            case StepCached():
                return f"cached  {event.step}"
            case StepFinished():
                return f"done    {event.step} {duration(event.seconds)}"
            case StepFailed():
                return f"failed  {event.step} {duration(event.seconds)}"
            case Notice():
                return f"note    {event.platform}: {event.text}"
            case ArtifactReady():
                return f"output  {event.path}"
            case StepStarted() if self._verbose:
                return f"run     {event.step}"
            case Line() if self._verbose:
                return f"        {printable(event.text)}".rstrip()
        return ""
