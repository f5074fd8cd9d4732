"""Locks of directories in the cache, for several threads and several imgc at once."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgc import process

#: Seconds between two looks at a lock that another holds.
_PATIENCE = 0.05


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of ``directory``, which need not be there yet.  Waiting for it ends with an interrupt (E307)."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / f".{directory.name}.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                process.INTERRUPT.check()
                time.sleep(_PATIENCE)
        yield
