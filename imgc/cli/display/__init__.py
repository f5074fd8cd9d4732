"""Readers of the engine's events: a live display for terminals, a plain log, JSON lines."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

from imgc.cli.session import Session, is_terminal
from imgc.engine.events import Event


class Display(Protocol):
    """Takes every event, then gives back what it holds of the terminal."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def shown(session: Session, *, as_json: bool) -> Iterator[Callable[[Event], None]]:
    """The reader that suits where stdout goes, for as long as one is inside."""
    display = _choose(session, as_json=as_json)
    reader = _Guarded(display)
    try:
        yield reader
    finally:
        reader.close()


def _choose(session: Session, *, as_json: bool) -> Display:
    if as_json:
        from imgc.cli.display.jsonlines import JsonLines

        return JsonLines(sys.stdout)
    if session.verbose or not is_terminal(sys.stdout):
        from imgc.cli.display.plain import PlainLog

        return PlainLog(sys.stdout, verbose=session.verbose)
    from rich.console import Console

    from imgc.cli.display.live import LiveDisplay

    return LiveDisplay(Console(no_color=session.colors() is False, highlight=False))


class _Guarded:
    """A display that may lose its audience.  The build, and its log file, go on when a pipe or terminal is gone."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._gone = False

    def __call__(self, event: Event) -> None:
        if not self._gone:
            self._try(lambda: self._display(event))

    def close(self) -> None:
        self._try(self._display.close)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError:
            self._gone = True
            # Whatever is still buffered, and whatever comes after the build, has nowhere to go either.
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
