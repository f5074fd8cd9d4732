"""How many platforms may be under way at once: as many as there is memory and disk for.

A platform reserves the room that its tree is going to take, from its first step to its end.  When nothing fits any
more, the next platform waits for one to end.  One at a time is always let through: whether that fits is not for a
budget to say.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Hashable, Mapping
from contextlib import suppress
from pathlib import Path

#: What a platform is taken to need when nothing is known about it: the layers of a small tree, in bytes.
UNKNOWN = 3 * 2**29
#: How much a platform takes on disk for each byte of its layers: packed layers, a raw disk, outputs.
ON_DISK = 3
#: What is left free on the disk of the cache.
RESERVE = 2 * 2**30


class Budget:
    """``memory`` and ``disk`` are in bytes; None for no limit."""

    def __init__(self, memory: int | None, disk: int | None) -> None:
        self._memory = memory
        self._disk = disk
        self._reserved: dict[Hashable, int] = {}

    def admit(self, who: Hashable, need: int) -> bool:
        """Whether ``who`` may go on; the first time, ``need`` bytes of layers are reserved for it."""
        if who in self._reserved:
            return True
        total = sum(self._reserved.values()) + need
        fits = (self._memory is None or total <= self._memory) and (
            self._disk is None or total * ON_DISK <= self._disk
        )
        if fits or not self._reserved:
            self._reserved[who] = need
            return True
        return False

    def release(self, who: Hashable) -> None:
        """Give back what was reserved for ``who``, if anything was."""
        self._reserved.pop(who, None)


def free_disk(cache: Path) -> int:
    """Bytes that builds may still fill on the disk of the cache."""
    return max(shutil.disk_usage(cache).free - RESERVE, 0)


class Sizes:
    """How large the layers of each platform were when it was last built, in bytes, kept in ``<cache>/sizes.json``."""

    def __init__(self, cache: Path) -> None:
        self._file = cache / "sizes.json"
        # Platforms of one build end in threads of their own.
        self._writing = threading.Lock()

    def of(self, platform: str) -> int:
        """What a platform is expected to need."""
        return self._read().get(platform, UNKNOWN)

    def remember(self, platform: str, size: int) -> None:
        """Note what a platform did need."""
        with self._writing:
            known = self._read()
            if size and known.get(platform) != size:
                partial = self._file.with_name(f"sizes.json.{os.getpid()}")
                with suppress(OSError):
                    partial.write_text(
                        json.dumps({**known, platform: size}, sort_keys=True), encoding="utf-8"
                    )
                    os.replace(partial, self._file)

    def _read(self) -> Mapping[str, int]:
        try:
            loaded = json.loads(self._file.read_text(encoding="utf-8"))
            return {str(name): int(size) for name, size in loaded.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
