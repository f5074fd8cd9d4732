"""A directory for one boot's own files, that is gone afterwards, or at the next boot when imgc was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "boot-"


@contextlib.contextmanager
def directory(work: Path) -> Iterator[Path]:
    """Make a directory below ``work`` for the time of the block.  It is locked for as long as its maker lives."""
    work.mkdir(parents=True, exist_ok=True)
    _sweep(work)
    made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=work)).resolve()
    descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(descriptor)


def _sweep(work: Path) -> None:
    """Remove the directories whose makers are dead."""
    for left in work.glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            except BlockingIOError:
                pass
            finally:
                os.close(descriptor)
