"""Where the pins of a platform are: in the lock file beside its spec, else in the cache, from its last build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imgc import lock as locks
from imgc.errors import ImgcError
from imgc.lock import EARLIEST_EPOCH, Lock

if TYPE_CHECKING:
    from imgc.spec.model import Platform


def lock_file(platform: Platform) -> Path:
    """The lock of a platform, beside its spec; it need not be there."""
    return locks.path_of(Path(platform.file).parent, platform.name)


def recorded_file(platform: Platform, cache: Path) -> Path:
    """The pins that the last build of a platform without a lock used."""
    return locks.path_of(cache / "pins", platform.name)


def known_lock(platform: Platform, cache: Path) -> Lock:
    """The lock file's pins, else the recorded ones, else none.  Raises E611 for a lock file that is not one."""
    file = lock_file(platform)
    if file.exists():
        return locks.read(file)
    try:
        return locks.read(recorded_file(platform, cache))
    except ImgcError:
        # There is none, or not of a kind that this imgc knows: then the build pins anew.
        return Lock(platform.name, {}, EARLIEST_EPOCH)


def record(lock: Lock, platform: Platform, cache: Path) -> None:
    """Remember the pins of a build for the next one."""
    file = recorded_file(platform, cache)
    if file.exists() and file.read_text(encoding="utf-8", errors="replace") == locks.text_of(lock):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    locks.write(lock, file)
