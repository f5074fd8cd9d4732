"""Signals that ask imgc to end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from imgc.process import INTERRUPT

#: The signals that end a build in good order.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def latched() -> Iterator[None]:
    """While inside, a signal only sets the latch: whatever runs sees it and winds up.  So does every later one.

    A signal that the parent process had us ignore (``nohup``) stays ignored.  When the latch was set, signals are
    ignored from then on: the process is on its way out, and an impatient one must not change its status.  (Python's
    own end would otherwise give a caught signal its default action back a moment too early.)
    """
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _latch)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if INTERRUPT.is_set() else handler)


@contextlib.contextmanager
def left_to_the_terminal() -> Iterator[None]:
    """While inside, Ctrl-C is for the program in the foreground (a shell), not for imgc.

    A handler that does nothing rather than SIG_IGN: the program would inherit that.
    """
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _latch(signum: int, _frame: FrameType | None) -> None:
    INTERRUPT.set(signum)
