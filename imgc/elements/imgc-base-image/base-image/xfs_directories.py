"""What is in a directory of XFS."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nodes import damaged

if TYPE_CHECKING:
    from xfs import Fork, Xfs

#: Names are below this offset of a directory, in bytes; indexes of them are above.
_NAMES_END = 1 << 35

_ONE_BLOCK = (b"XD2B", b"XDB3")
_MANY_BLOCKS = (b"XD2D", b"XDD3")
_UNUSED = 0xFFFF


def short(data: bytes, file_types: bool) -> Iterator[tuple[bytes, int]]:
    """The entries of a directory that is kept in its inode."""
    count, wide = data[0], data[1]
    width = 8 if wide else 4
    # Where there are wide numbers, only they are counted.
    left = max(count, wide)
    at = 2 + width
    for _ in range(left):
        length = data[at]
        name = data[at + 3 : at + 3 + length]
        at += 3 + length + (1 if file_types else 0)
        if at + width > len(data):
            raise damaged("a directory is cut")
        yield name, int.from_bytes(data[at : at + width], "big")
        at += width


def long(system: Xfs, fork: Fork) -> Iterator[tuple[bytes, int]]:
    """The entries of a directory that has blocks of its own."""
    size, whole = system.block_size, system.directory_block
    blocks: dict[int, bytearray] = {}
    for at, block, count in system.blocks(fork):
        for number in range(count):
            begin = (at + number) * size
            if begin >= _NAMES_END:
                break
            data = system.image.read(system.offset(block + number), size)
            within = begin % whole
            blocks.setdefault(begin // whole, bytearray(whole))[within : within + size] = data
    for number in sorted(blocks):
        yield from _names(bytes(blocks[number]), system.file_types)


def _names(data: bytes, file_types: bool) -> Iterator[tuple[bytes, int]]:
    magic, end = data[:4], len(data)
    if magic in _ONE_BLOCK:
        # Its own index is at its end.
        (count,) = struct.unpack_from(">I", data, end - 8)
        end -= 8 + 8 * count
    elif magic not in _MANY_BLOCKS:
        raise damaged("a directory makes no sense")
    at = 64 if magic in (b"XDB3", b"XDD3") else 16
    while at + 8 <= end:
        tag, free = struct.unpack_from(">HH", data, at)
        if tag == _UNUSED:
            if not free:
                raise damaged("a directory makes no sense")
            at += free
            continue
        inode, length = struct.unpack_from(">QB", data, at)
        name = data[at + 9 : at + 9 + length]
        if name not in (b".", b".."):
            yield name, inode
        at += -(-(9 + length + (1 if file_types else 0) + 2) // 8) * 8
