"""Reads XFS (versions 4 and 5) without mounting it: inodes and what is in files.  Everything on disk is big-endian."""

from __future__ import annotations

import stat
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import xfs_attributes
import xfs_directories
from nodes import CONVERT, Extent, Image, Node, Unreadable, damaged

MAGIC_AT, MAGIC = 0, b"XFSB"

# Features of version 5 that change what is read here: file types in directories (1), sparse inodes (2), an UUID for
# metadata (4), long times (8), many extents (0x20), exchanged ranges (0x40), pointers to parents (0x80).
_KNOWN = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80
_NEEDS_REPAIR = 0x10

_DEVICE, _LOCAL, _EXTENTS, _BTREE = range(4)

_REALTIME = 0x1
_BIGTIME, _MANY_EXTENTS = 1 << 3, 1 << 4

#: Where the header of a record in the log begins, and what says that the file system was unmounted after it.
_RECORD = b"\xfe\xed\xba\xbe"
_UNMOUNTED = 0x20


@dataclass(frozen=True)
class Fork:
    """One of the two lists of an inode: its form, its bytes in the inode, and how many extents it has."""

    form: int
    data: bytes
    count: int


@dataclass(frozen=True)
class _Raw:
    node: Node
    flags: int
    fork: Fork
    attributes: Fork


class Xfs:
    """One file system.  Raises E666 for features that it does not know and E665 for damage."""

    def __init__(self, image: Image) -> None:
        self.image = image
        sb = image.read(0, 512)
        (self.block_size,) = struct.unpack_from(">I", sb, 4)
        (self.root,) = struct.unpack_from(">Q", sb, 56)
        (self._group_blocks,) = struct.unpack_from(">I", sb, 84)
        (version,) = struct.unpack_from(">H", sb, 100)
        (self._inode_size,) = struct.unpack_from(">H", sb, 104)
        self._inodes_log, self._group_log = sb[123], sb[124]
        self.directory_block = self.block_size << sb[192]
        features2, incompatible = struct.unpack_from(">I", sb, 200)[0], struct.unpack_from(">I", sb, 216)[0]
        self.checksums = version & 0xF == 5
        self.file_types = bool(incompatible & 0x1) if self.checksums else bool(features2 & 0x200)
        self.label = sb[108:120].rstrip(b"\0").decode("utf-8", "replace")
        self.uuid = str(uuid.UUID(bytes=sb[32:48]))
        if version & 0xF not in (4, 5) or not self._group_blocks or self.block_size < 512:
            raise damaged("its superblock makes no sense")
        unknown = incompatible & ~_KNOWN if self.checksums else 0
        if unknown & _NEEDS_REPAIR:
            raise damaged("it says that it needs xfs_repair")
        if unknown:
            said = f"The image's XFS has features that cannot be read without mounting it (0x{unknown:x})."
            raise Unreadable("E666", said, CONVERT)
        self._check_log(sb)
        # Of one inode, several things are asked in a row.
        self._raw = lru_cache(maxsize=1024)(self._read_inode)

    def node(self, number: int) -> Node:
        return self._raw(number).node

    def inline(self, number: int) -> bytes | None:
        """Files are never kept in inodes; directories and links are, and are read by their own methods."""
        return None

    def extents(self, number: int) -> Iterator[Extent]:
        raw = self._raw(number)
        if raw.flags & _REALTIME:
            raise Unreadable("E666", "The image's XFS has files on a realtime device.", CONVERT)
        for at, block, count in self.blocks(raw.fork):
            begin, length = at * self.block_size, count * self.block_size
            if begin < raw.node.size:
                where = self.image.begin + self.offset(block)
                yield Extent(begin, where, min(length, raw.node.size - begin))

    def link(self, number: int) -> bytes:
        raw = self._raw(number)
        if raw.fork.form == _LOCAL:
            return raw.fork.data[: raw.node.size]
        found = b""
        for _at, block, count in self.blocks(raw.fork):
            data = self.image.read(self.offset(block), count * self.block_size)
            if self.checksums:
                # Each piece has a header that says how much of it counts.
                if data[:4] != b"XSLM":
                    raise damaged(f"the symbolic link {number} makes no sense")
                data = data[56 : 56 + struct.unpack_from(">I", data, 8)[0]]
            found += data
        return found[: raw.node.size]

    def entries(self, number: int) -> Iterator[tuple[bytes, int]]:
        raw = self._raw(number)
        if raw.fork.form == _LOCAL:
            return xfs_directories.short(raw.fork.data[: raw.node.size], self.file_types)
        return xfs_directories.long(self, raw.fork)

    def xattrs(self, number: int) -> dict[str, bytes]:
        raw = self._raw(number)
        if not raw.attributes.data or (raw.attributes.form == _EXTENTS and not raw.attributes.count):
            return {}
        if raw.attributes.form == _LOCAL:
            return xfs_attributes.named(xfs_attributes.short(raw.attributes.data))
        return xfs_attributes.named(xfs_attributes.long(self, raw.attributes))

    # --- where things are ---

    def offset(self, block: int) -> int:
        """Where a block is, in bytes: its number has the allocation group in its high bits."""
        group, within = block >> self._group_log, block & (1 << self._group_log) - 1
        where: int = (group * self._group_blocks + within) * self.block_size
        return where

    def blocks(self, fork: Fork) -> Iterator[tuple[int, int, int]]:
        """(block in the file, block on disk, count) of each extent that has been written."""
        if fork.form == _EXTENTS:
            yield from _records(fork.data, 0, fork.count)
        elif fork.form == _BTREE:
            level, count = struct.unpack_from(">HH", fork.data, 0)
            pointers = 4 + (len(fork.data) - 4) // 16 * 8
            for number in range(count):
                (below,) = struct.unpack_from(">Q", fork.data, pointers + 8 * number)
                yield from self._tree(below, level - 1)

    def _tree(self, block: int, level: int) -> Iterator[tuple[int, int, int]]:
        data = self.image.read(self.offset(block), self.block_size)
        magic, found, count = struct.unpack_from(">4sHH", data, 0)
        header = 72 if self.checksums else 24
        if magic not in (b"BMAP", b"BMA3") or found != level:
            raise damaged("the tree of a file's extents makes no sense")
        if not level:
            yield from _records(data, header, count)
            return
        pointers = header + (self.block_size - header) // 16 * 8
        for number in range(count):
            (below,) = struct.unpack_from(">Q", data, pointers + 8 * number)
            yield from self._tree(below, level - 1)

    # --- inodes ---

    def _read_inode(self, number: int) -> _Raw:
        block, index = number >> self._inodes_log, number & (1 << self._inodes_log) - 1
        data = self.image.read(self.offset(block) + index * self._inode_size, self._inode_size)
        magic, mode, version, form = struct.unpack_from(">2sHBB", data, 0)
        if magic != b"IN":
            raise damaged(f"there is no inode {number}")
        uid, gid, links = struct.unpack_from(">III", data, 8)
        (size,) = struct.unpack_from(">Q", data, 56)
        count, attribute_count, fork_offset, attribute_form = struct.unpack_from(">IHBb", data, 76)
        (flags,) = struct.unpack_from(">H", data, 90)
        flags2 = struct.unpack_from(">Q", data, 120)[0] if version >= 3 else 0
        if flags2 & _MANY_EXTENTS:
            (count,) = struct.unpack_from(">Q", data, 24)
            (attribute_count,) = struct.unpack_from(">I", data, 76)
        if version == 1:
            (links,) = struct.unpack_from(">H", data, 6)
        core = 176 if version >= 3 else 100
        end = core + fork_offset * 8 if fork_offset else self._inode_size
        device = (0, 0)
        if form == _DEVICE and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            (packed,) = struct.unpack_from(">I", data, core)
            device = (packed >> 18, packed & 0x3FFFF)
        node = Node(mode, uid, gid, size, _time(data, 40, bool(flags2 & _BIGTIME)), links, device)
        attributes = Fork(attribute_form, data[end:] if fork_offset else b"", attribute_count)
        return _Raw(node, flags, Fork(form, data[core:end], count), attributes)

    # --- the log ---

    def _check_log(self, sb: bytes) -> None:
        """Raise E665 unless the newest record of the log says that the file system was unmounted."""
        (start,) = struct.unpack_from(">Q", sb, 48)
        (blocks,) = struct.unpack_from(">I", sb, 96)
        if not start:
            raise Unreadable("E666", "The image's XFS keeps its log on another device.", CONVERT)
        begin = self.image.begin + self.offset(start)
        end = begin + blocks * self.block_size
        newest, at = (-1, 0), self.image.data.find(_RECORD, begin, end)
        while at >= 0:
            if (at - begin) % 512 == 0:
                newest = max(newest, (struct.unpack_from(">Q", self.image.data, at + 16)[0], at))
            at = self.image.data.find(_RECORD, at + 4, end)
        if newest[0] < 0:
            raise damaged("its log has no records")
        at = newest[1]
        (operations,) = struct.unpack_from(">I", self.image.data, at + 40)
        (size,) = struct.unpack_from(">I", self.image.data, at + 320)
        headers = max(1, -(-size // 32768))
        body = at + headers * 512
        # The body may begin anew at the start of the log.
        body = begin + (body - begin) % (end - begin)
        if operations != 1 or not self.image.data[body + 9] & _UNMOUNTED:
            said = "The log of the image's XFS has not been replayed: it was not unmounted."
            raise Unreadable("E665", said, "Mount and unmount it once where that is allowed.")


def _records(data: bytes, at: int, count: int) -> Iterator[tuple[int, int, int]]:
    if at + 16 * count > len(data):
        raise damaged("a list of extents is cut")
    for number in range(count):
        high, low = struct.unpack_from(">QQ", data, at + 16 * number)
        unwritten = high >> 63
        if not unwritten:
            yield high >> 9 & (1 << 54) - 1, (high & 0x1FF) << 43 | low >> 21, low & (1 << 21) - 1


def _time(data: bytes, at: int, long: bool) -> int:
    """A time in nanoseconds since 1970."""
    if long:
        return int(struct.unpack_from(">Q", data, at)[0]) - (1 << 31) * 10**9
    seconds, nanoseconds = struct.unpack_from(">iI", data, at)
    return int(seconds) * 10**9 + int(nanoseconds)
