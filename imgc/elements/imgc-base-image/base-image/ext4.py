"""Reads ext2, ext3 and ext4 without mounting them."""

from __future__ import annotations

import stat
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from nodes import CONVERT, Extent, Image, Node, Unreadable, acl, damaged

MAGIC_AT, MAGIC = 0x438, b"\x53\xef"

# Features that a reader has to know.
_FILETYPE, _RECOVER, _EXTENTS, _64BIT = 0x2, 0x4, 0x40, 0x80
_MMP, _FLEX_BG, _EA_INODE, _CSUM_SEED, _LARGEDIR, _INLINE, _CASEFOLD = (
    0x100,
    0x200,
    0x400,
    0x2000,
    0x4000,
    0x8000,
    0x20000,
)
_KNOWN = (
    _FILETYPE | _EXTENTS | _64BIT | _MMP | _FLEX_BG | _EA_INODE | _CSUM_SEED | _LARGEDIR | _INLINE | _CASEFOLD
)

# Flags of inodes.
_COMPRESSED, _ENCRYPTED, _HAS_EXTENTS, _HAS_INLINE = 0x4, 0x800, 0x80000, 0x10000000

_PREFIXES = {1: "user.", 4: "trusted.", 6: "security.", 7: "system."}
_ACLS = {2: "system.posix_acl_access", 3: "system.posix_acl_default"}
_DATA = "system.data"
_XATTR_MAGIC = 0xEA020000


@dataclass(frozen=True)
class _Raw:
    """An inode as it is on disk: ``block`` are the 60 bytes that say where its data is."""

    node: Node
    flags: int
    block: bytes
    acl_block: int
    #: Extended attributes that are kept in the inode itself, with their header.
    inside: bytes


def is_dirty(image: Image) -> bool:
    """Whether its journal has something that is not in the file system yet."""
    features: int = struct.unpack("<I", image.read(1024 + 0x60, 4))[0]
    return bool(features & _RECOVER)


class Ext4:
    """One file system.  Raises E666 for features that it does not know and E665 for damage."""

    root = 2

    def __init__(self, image: Image) -> None:
        self._image = image
        sb = image.read(1024, 1024)
        (features,) = struct.unpack_from("<I", sb, 0x60)
        if features & _RECOVER:
            raise Unreadable("E665", "The journal of the image's file system has not been replayed.")
        unknown = features & ~_KNOWN
        if unknown:
            said = f"The image's ext4 has features that cannot be read without mounting it (0x{unknown:x})."
            raise Unreadable("E666", said, CONVERT)
        self._size = 1024 << struct.unpack_from("<I", sb, 0x18)[0]
        (self._first,) = struct.unpack_from("<I", sb, 0x14)
        (self._per_group,) = struct.unpack_from("<I", sb, 0x28)
        (self._inodes,) = struct.unpack_from("<I", sb, 0)
        (revision,) = struct.unpack_from("<I", sb, 0x4C)
        self._inode_size = struct.unpack_from("<H", sb, 0x58)[0] if revision else 128
        self._descriptor = (struct.unpack_from("<H", sb, 0xFE)[0] or 64) if features & _64BIT else 32
        if not self._per_group or self._inode_size < 128 or self._size > 1 << 16:
            raise damaged("its superblock makes no sense")
        self.uuid = str(uuid.UUID(bytes=sb[0x68:0x78]))
        self.label = sb[0x78:0x88].rstrip(b"\0").decode("utf-8", "replace")
        # Of one inode, several things are asked in a row.
        self._raw = lru_cache(maxsize=1024)(self._read_inode)

    def node(self, number: int) -> Node:
        return self._raw(number).node

    def link(self, number: int) -> bytes:
        raw = self._raw(number)
        if raw.node.size < 60 and not raw.flags & (_HAS_EXTENTS | _HAS_INLINE):
            return raw.block[: raw.node.size]
        return self._all(number)

    def inline(self, number: int) -> bytes | None:
        raw = self._raw(number)
        if not raw.flags & _HAS_INLINE:
            return None
        return (raw.block + self._attributes(number).get(_DATA, b""))[: raw.node.size]

    def extents(self, number: int) -> Iterator[Extent]:
        raw = self._raw(number)
        blocks = self._extents(raw.block) if raw.flags & _HAS_EXTENTS else self._pointers(raw)
        end = raw.node.size
        for at, block, count in blocks:
            begin, length = at * self._size, count * self._size
            if begin < end:
                yield Extent(begin, self._image.begin + block * self._size, min(length, end - begin))

    def entries(self, number: int) -> Iterator[tuple[bytes, int]]:
        raw = self._raw(number)
        if raw.flags & _HAS_INLINE:
            # The first four bytes are the directory above.
            yield from self._names(raw.block[4:])
            yield from self._names(self._attributes(number).get(_DATA, b""))
            return
        data = self._all(number)
        for at in range(0, len(data), self._size):
            yield from self._names(data[at : at + self._size])

    def xattrs(self, number: int) -> dict[str, bytes]:
        return {name: value for name, value in self._attributes(number).items() if name != _DATA}

    # --- inodes ---

    def _read_inode(self, number: int) -> _Raw:
        if not 0 < number <= self._inodes:
            raise damaged(f"there is no inode {number}")
        group, index = divmod(number - 1, self._per_group)
        descriptor = self._image.read(
            (self._first + 1) * self._size + group * self._descriptor, self._descriptor
        )
        (table,) = struct.unpack_from("<I", descriptor, 0x8)
        if self._descriptor >= 64:
            table |= struct.unpack_from("<I", descriptor, 0x28)[0] << 32
        data = self._image.read(table * self._size + index * self._inode_size, self._inode_size)
        return self._parse(data, number)

    def _parse(self, data: bytes, number: int) -> _Raw:
        mode, uid, size, _atime, _ctime, mtime = struct.unpack_from("<HHIIIi", data, 0)
        gid, links = struct.unpack_from("<HH", data, 0x18)
        (flags,) = struct.unpack_from("<I", data, 0x20)
        block = data[0x28:0x64]
        (acl_block,) = struct.unpack_from("<I", data, 0x68)
        acl_high, uid_high, gid_high = struct.unpack_from("<HHH", data, 0x76)
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            size |= struct.unpack_from("<I", data, 0x6C)[0] << 32
        if flags & (_COMPRESSED | _ENCRYPTED):
            said = f"Inode {number} of the image's ext4 is encrypted or compressed."
            raise Unreadable("E666", said, CONVERT)
        extra = struct.unpack_from("<H", data, 0x80)[0] if len(data) > 128 else 0
        seconds, nanoseconds = mtime, 0
        if extra >= 0x0C:
            (more,) = struct.unpack_from("<I", data, 0x88)
            seconds, nanoseconds = mtime + ((more & 3) << 32), more >> 2
        node = Node(
            mode,
            uid | uid_high << 16,
            gid | gid_high << 16,
            size,
            seconds * 10**9 + nanoseconds,
            links,
            _device(mode, block),
        )
        inside = data[128 + extra :] if len(data) > 128 else b""
        return _Raw(node, flags, block, acl_block | acl_high << 32, inside)

    # --- data ---

    def _all(self, number: int) -> bytes:
        """The bytes of a directory or a long symbolic link."""
        inline = self.inline(number)
        if inline is not None:
            return inline
        size = self.node(number).size
        if size > 1 << 30:
            raise damaged(f"inode {number} is too large for what it is")
        found = bytearray(size)
        for one in self.extents(number):
            found[one.at : one.at + one.length] = self._image.read(one.image - self._image.begin, one.length)
        return bytes(found)

    def _extents(self, data: bytes, depth: int | None = None) -> Iterator[tuple[int, int, int]]:
        """(first block in the file, first block on disk, count) of each piece of an extent tree."""
        magic, count, _most, level = struct.unpack_from("<HHHH", data, 0)
        if magic != 0xF30A or (depth is not None and level != depth) or 12 * (count + 1) > len(data):
            raise damaged("an extent tree makes no sense")
        for number in range(1, count + 1):
            if level:
                _at, low, high = struct.unpack_from("<IIH", data, 12 * number)
                below = self._image.read((low | high << 32) * self._size, self._size)
                yield from self._extents(below, level - 1)
                continue
            at, length, high, low = struct.unpack_from("<IHHI", data, 12 * number)
            # A longer one is allocated and was never written: a hole to readers.
            if length <= 1 << 15:
                yield at, low | high << 32, length

    def _pointers(self, raw: _Raw) -> Iterator[tuple[int, int, int]]:
        """The same for a file whose blocks are listed, as ext2 has it."""
        last = -(-raw.node.size // self._size)
        pointers = struct.unpack("<15I", raw.block)
        at = 0
        for pointer in pointers[:12]:
            if pointer and at < last:
                yield at, pointer, 1
            at += 1
        for level, pointer in enumerate(pointers[12:], 1):
            yield from self._indirect(pointer, level, at, last)
            at += (self._size // 4) ** level

    def _indirect(self, pointer: int, level: int, at: int, last: int) -> Iterator[tuple[int, int, int]]:
        if not pointer or at >= last:
            return
        if not level:
            yield at, pointer, 1
            return
        step = (self._size // 4) ** (level - 1)
        for below in struct.unpack(
            f"<{self._size // 4}I", self._image.read(pointer * self._size, self._size)
        ):
            yield from self._indirect(below, level - 1, at, last)
            at += step

    def _names(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        at = 0
        while at + 8 <= len(data):
            inode, length, size = struct.unpack_from("<IHB", data, at)
            if length in (0, 0xFFFF) and self._size == 1 << 16:
                length = 1 << 16
            if length < 8 or at + length > len(data):
                raise damaged("a directory makes no sense")
            name = data[at + 8 : at + 8 + size]
            if inode and name not in (b".", b".."):
                yield name, inode
            at += length

    # --- extended attributes ---

    def _attributes(self, number: int) -> dict[str, bytes]:
        raw = self._raw(number)
        found: dict[str, bytes] = {}
        if len(raw.inside) >= 8 and struct.unpack_from("<I", raw.inside, 0)[0] == _XATTR_MAGIC:
            found |= self._listed(raw.inside[4:], 0)
        if raw.acl_block:
            block = self._image.read(raw.acl_block * self._size, self._size)
            if struct.unpack_from("<I", block, 0)[0] != _XATTR_MAGIC:
                raise damaged(f"the extended attributes of inode {number} make no sense")
            found |= self._listed(block, 32)
        return found

    def _listed(self, data: bytes, at: int) -> dict[str, bytes]:
        """The attributes whose list begins at ``at``; values are at offsets into ``data``."""
        found: dict[str, bytes] = {}
        while at + 16 <= len(data) and data[at : at + 4] != b"\0\0\0\0":
            length, index, offset, inode, size = struct.unpack_from("<BBHII", data, at)
            name = data[at + 16 : at + 16 + length].decode("utf-8", "surrogateescape")
            value = self._all(inode)[:size] if inode else data[offset : offset + size]
            if len(value) != size:
                raise damaged("an extended attribute is cut")
            if index in _ACLS:
                found[_ACLS[index]] = _acl(value)
            elif index in _PREFIXES:
                found[_PREFIXES[index] + name] = value
            at += 16 + (length + 3 & ~3)
        return found


def _device(mode: int, block: bytes) -> tuple[int, int]:
    """The major and minor number of a device node: the old form in the first word, else the new one in the second."""
    if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
        return 0, 0
    old, new = struct.unpack_from("<II", block, 0)
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    return (new & 0xFFF00) >> 8, (new & 0xFF) | (new >> 12 & 0xFFF00)


def _acl(value: bytes) -> bytes:
    """An access control list from the form in which the disk has it."""
    found = []
    at = 4
    while at + 4 <= len(value):
        tag, permissions = struct.unpack_from("<HH", value, at)
        at += 4
        number = 0
        if tag in (0x02, 0x08):
            (number,) = struct.unpack_from("<I", value, at)
            at += 4
        found.append((tag, permissions, number))
    return acl(found)
