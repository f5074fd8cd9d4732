"""How much of a disk a tree of files will take."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from imgc.disk import sparse

#: The block size of every root file system that imgc makes, in bytes.
BLOCK = 4096

#: Files of this many bytes are looked into for blocks of zeros, which become holes; smaller ones count whole.
_LARGE = 1024 * 1024


@dataclass(frozen=True)
class Usage:
    """What a tree holds: ``bytes`` of data rounded up to blocks, and ``files`` of any type (inodes).

    A file with several names counts once there.  ``names`` counts each name, and ``apparent`` the bytes of each as if
    it were a file of its own, without holes.  ``devices`` is the number of file systems that the files lie on.
    """

    bytes: int
    files: int
    names: int
    apparent: int
    devices: int


def measure(tree: str) -> Usage:
    """Walk ``tree``, without following links or descending into what is not a directory.

    The answer follows from the files alone: what the file system that they lie on makes of holes, or compresses, is no
    part of it, or the same tree would make disks of different sizes.
    """
    seen: set[tuple[int, int]] = set()
    devices: set[int] = set()
    taken = files = names = apparent = 0
    todo = [tree]
    while todo:
        directory = todo.pop()
        entry_bytes = 0
        with os.scandir(directory) as entries:
            for entry in entries:
                names += 1
                entry_bytes += 8 + (len(os.fsencode(entry.name)) + 3) // 4 * 4
                status = entry.stat(follow_symlinks=False)
                devices.add(status.st_dev)
                if stat.S_ISDIR(status.st_mode):
                    todo.append(entry.path)
                    continue
                whole = _blocks(status.st_size) if stat.S_ISREG(status.st_mode) else 0
                apparent += whole
                if status.st_nlink > 1:
                    identity = (status.st_dev, status.st_ino)
                    if identity in seen:
                        continue
                    seen.add(identity)
                files += 1
                large = stat.S_ISREG(status.st_mode) and status.st_size >= _LARGE
                taken += sparse.filled(entry.path, BLOCK) if large else whole
                if stat.S_ISLNK(status.st_mode) and status.st_size >= 60:
                    taken += BLOCK
        # An indexed directory's blocks are about three quarters full.
        files += 1
        taken += _blocks(max(entry_bytes * 4 // 3, 1))
    return Usage(taken, files, names, apparent, len(devices))


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
