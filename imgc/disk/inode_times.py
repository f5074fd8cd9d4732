"""The times of an ext4's files, made to follow from the files alone.

``mke2fs -d`` copies the time at which each inode of the tree was last changed (ctime), which nobody can set, and the
time at which it was last read.  :func:`settle` gives every inode of the new file system its time of modification
(mtime) for all four times it has, cut down to SOURCE_DATE_EPOCH.

The inodes are read here and written by debugfs, which knows their checksums.  The structures are those of the
kernel's ``fs/ext4/ext4.h``; all numbers are little-endian.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from imgc.errors import ImgcError

_SUPERBLOCK = 1024
_MAGIC = 0xEF53
_64BIT = 0x80
#: Of a group's descriptor: no inode of it has ever been used.
_INODES_UNUSED = 0x1
#: Of the inodes with reserved numbers, the only one that is of the tree.
_TOP_DIRECTORY = 2

#: The bits of a time's second half that belong to the seconds; the others are nanoseconds.
_EPOCH_BITS = 0x3

#: (name in debugfs, where its low 32 bits stand in the inode, where the rest does)
_TIMES = (
    ("mtime", 0x10, 0x88),
    ("atime", 0x08, 0x8C),
    ("ctime", 0x0C, 0x84),
    ("crtime", 0x90, 0x94),
)
_LINKS = 0x1A
_EXTRA_SIZE = 0x80
#: What an inode must be long enough for, beyond the first 128 bytes, to have all four times whole.
_ENOUGH = 0x98 - 0x80


@dataclass(frozen=True)
class Inode:
    """An inode in use: its number and its four times, each as (seconds since 1970, nanoseconds)."""

    number: int
    times: tuple[tuple[int, int], ...]


def settle(image: str, offset: int, epoch: int | None, debugfs: Callable[[str], None]) -> None:
    """Set the times of every file of the ext4 that begins at byte ``offset`` of ``image``.

    ``epoch`` is the latest time that a file may have, in seconds since 1970; None for any.  ``debugfs`` runs a script,
    given by its path, on that file system.  Raises E403 when a time did not take.
    """
    commands = list(_commands(image, offset, epoch))
    if not commands:
        return
    with tempfile.NamedTemporaryFile("w", prefix="debugfs-") as script:
        script.writelines(commands)
        script.flush()
        debugfs(script.name)
    left = next(_commands(image, offset, epoch), None)
    if left:
        raise ImgcError("E403", f"debugfs could not set the times of files: `{left.strip()}` had no effect.")


def _commands(image: str, offset: int, epoch: int | None) -> Iterator[str]:
    """What to tell debugfs, a line for each time that is not yet as it must be."""
    for inode in inodes(image, offset):
        modified = max(inode.times[0][0], 0)
        wanted = (modified if epoch is None else min(modified, epoch), 0)
        for (name, _, _), time in zip(_TIMES, inode.times, strict=True):
            if time != wanted:
                # The rest first: setting the seconds fills in what of them does not fit into 32 bits.
                yield (
                    f"set_inode_field <{inode.number}> {name}_extra 0\n"
                    f"set_inode_field <{inode.number}> {name} @{wanted[0]}\n"
                )


def inodes(image: str, offset: int) -> Iterator[Inode]:
    """The inodes of files, directories and the like, in the order of their numbers."""
    with open(image, "rb") as file:
        system = _FileSystem(file.fileno(), offset)
        yield from system.inodes()


def inode_at(image: str, offset: int, position: int) -> int:
    """The number of the inode whose 256 bytes or so the byte ``position`` of ``image`` is part of; 0 for none."""
    with open(image, "rb") as file:
        return _FileSystem(file.fileno(), offset).inode_at(position - offset)


class _FileSystem:
    def __init__(self, descriptor: int, offset: int) -> None:
        self._descriptor = descriptor
        self._offset = offset
        block = os.pread(descriptor, 1024, offset + _SUPERBLOCK)
        (magic,) = struct.unpack_from("<H", block, 56)
        self._inode_count, blocks = struct.unpack_from("<II", block, 0)
        first_block, block_size = struct.unpack_from("<II", block, 20)
        self._block_size = 1024 << block_size
        per_group, _, self._inodes_per_group = struct.unpack_from("<III", block, 32)
        self._first_inode, self._inode_size = struct.unpack_from("<IH", block, 84)
        (features,) = struct.unpack_from("<I", block, 96)
        (descriptor_size,) = struct.unpack_from("<H", block, 254)
        if magic != _MAGIC or self._inode_size < 0x80 + _ENOUGH or not per_group:
            raise ImgcError("E403", "mke2fs made a file system of a kind that imgc does not know.")
        if features & _64BIT:
            blocks |= struct.unpack_from("<I", block, 0x150)[0] << 32
        self._descriptor_size = descriptor_size if features & _64BIT else 32
        self._groups = -(-(blocks - first_block) // per_group)
        self._table = (first_block + 1) * self._block_size

    def inodes(self) -> Iterator[Inode]:
        for group, (start, used) in enumerate(self._tables()):
            table = os.pread(self._descriptor, used * self._inode_size, self._offset + start)
            for index in range(used):
                number = group * self._inodes_per_group + index + 1
                if number >= self._first_inode or number == _TOP_DIRECTORY:
                    yield from self._inode(number, table, index * self._inode_size)

    def inode_at(self, position: int) -> int:
        for group, (start, _) in enumerate(self._tables()):
            index = (position - start) // self._inode_size
            if 0 <= index < self._inodes_per_group:
                return int(group * self._inodes_per_group + index + 1)
        return 0

    def _tables(self) -> Iterator[tuple[int, int]]:
        """Where in the file system the inodes of each group begin, in bytes, and how many of them may be in use."""
        size = self._descriptor_size
        descriptors = os.pread(self._descriptor, self._groups * size, self._offset + self._table)
        for group in range(self._groups):
            yield self._group(descriptors[group * size : (group + 1) * size])

    def _group(self, descriptor: bytes) -> tuple[int, int]:
        (block,) = struct.unpack_from("<I", descriptor, 0x08)
        (flags,) = struct.unpack_from("<H", descriptor, 0x12)
        (unused,) = struct.unpack_from("<H", descriptor, 0x1C)
        if self._descriptor_size >= 64:
            block |= struct.unpack_from("<I", descriptor, 0x28)[0] << 32
            unused |= struct.unpack_from("<H", descriptor, 0x32)[0] << 16
        used = 0 if flags & _INODES_UNUSED else self._inodes_per_group - unused
        return block * self._block_size, used

    @staticmethod
    def _inode(number: int, table: bytes, at: int) -> Iterator[Inode]:
        """The inode at that place of a table, if it is in use."""
        (links,) = struct.unpack_from("<H", table, at + _LINKS)
        if not links:
            return
        (extra,) = struct.unpack_from("<H", table, at + _EXTRA_SIZE)
        if extra < _ENOUGH:
            raise ImgcError("E403", f"mke2fs made inode {number} without room for its times.")
        yield Inode(number, tuple(_time(table, at + low, at + high) for _, low, high in _TIMES))


def _time(table: bytes, low_at: int, high_at: int) -> tuple[int, int]:
    (low,) = struct.unpack_from("<i", table, low_at)
    (high,) = struct.unpack_from("<I", table, high_at)
    return low + ((high & _EPOCH_BITS) << 32), high >> 2
