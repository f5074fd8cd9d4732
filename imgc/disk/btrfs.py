"""What ``mkfs.btrfs --rootdir`` leaves out, put right in the file system it made.

btrfs-progs before 6.12 take over names, data, owners, modes, hard links, extended attributes and times in
seconds, but forget the numbers of device nodes, and the owner and mode of the top directory.  :func:`repair`
writes these few inodes in place.  The structures are those of the kernel's
``include/uapi/linux/btrfs_tree.h``; all numbers are little-endian.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from imgc.errors import ImgcError

_SUPERBLOCK = 65536
_MAGIC = b"_BHRfS_M"
_HEADER = 101
_KEY = struct.Struct("<QBQ")
_ITEM = struct.Struct("<QBQII")
_POINTER = struct.Struct("<QBQQQ")
_CHUNK = struct.Struct("<QQQQIIIHH")
_STRIPE = struct.Struct("<QQ16s")

_ENTRY = struct.Struct("<QBQQHHB")

_INODE_ITEM = 1
_DIR_ITEM = 84
_ROOT_ITEM = 132
_CHUNK_ITEM = 228
_FS_TREE = 5
_TOP_DIRECTORY = 256
#: Where a tree's block number stands in its ROOT_ITEM.
_ROOT_BLOCK = 176
#: In an INODE_ITEM: uid, gid and mode; the device number; seconds of the last change of the data.
_OWNER_AND_MODE = 44
_DEVICE = 56
_MODIFIED = 136


@dataclass(frozen=True)
class _Chunk:
    """Where ``length`` bytes of logical addresses from ``logical`` on lie on the device, once per copy."""

    logical: int
    length: int
    copies: tuple[int, ...]


def repair(image: str, tree: str) -> None:
    """Give the file system in the file ``image``, just made from ``tree``, what mkfs.btrfs forgot (else E403)."""
    with open(image, "r+b") as file:
        system = _FileSystem(file.fileno())
        for names, status in _special(tree):
            system.update(names, status)


def _special(tree: str) -> Iterator[tuple[tuple[bytes, ...], os.stat_result]]:
    """(path from the top, status) of what mkfs.btrfs does not do justice."""
    yield (), os.stat(tree)
    todo: list[tuple[bytes, ...]] = [()]
    while todo:
        above = todo.pop()
        with os.scandir(os.path.join(os.fsencode(tree), *above)) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    todo.append((*above, entry.name))
                elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                    yield (*above, entry.name), status


class _FileSystem:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        superblock = os.pread(descriptor, 4096, _SUPERBLOCK)
        (checksum,) = struct.unpack_from("<H", superblock, 0xC4)
        if superblock[0x40:0x48] != _MAGIC or checksum != 0:
            raise ImgcError("E403", "mkfs.btrfs made a file system of a kind that imgc does not know.")
        root, chunk_root = struct.unpack_from("<QQ", superblock, 0x50)
        (self._node_size,) = struct.unpack_from("<I", superblock, 0x94)
        (length,) = struct.unpack_from("<I", superblock, 0xA0)
        self._chunks = list(_system_chunks(superblock[0x32B : 0x32B + length]))
        self._chunks = [
            _chunk(key[2], data) for key, data in self._items(chunk_root) if key[1] == _CHUNK_ITEM
        ]
        block, at = self._find(root, _FS_TREE, _ROOT_ITEM)
        (self._tree,) = struct.unpack_from("<Q", self._read(block), at + _ROOT_BLOCK)

    def update(self, names: tuple[bytes, ...], status: os.stat_result) -> None:
        """Write owner, mode, device and time of the file at the path ``names``."""
        number = _TOP_DIRECTORY
        for name in names:
            number = self._entry(number, name)
        block, at = self._find(self._tree, number, _INODE_ITEM)
        node = bytearray(self._read(block))
        struct.pack_into("<III", node, at + _OWNER_AND_MODE, status.st_uid, status.st_gid, status.st_mode)
        device = os.major(status.st_rdev) << 20 | os.minor(status.st_rdev)
        special = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
        struct.pack_into("<Q", node, at + _DEVICE, device if special else 0)
        struct.pack_into("<QI", node, at + _MODIFIED, int(status.st_mtime), 0)
        struct.pack_into("<I", node, 0, crc32c(bytes(node[32:])))
        for offset in self._places(block):
            os.pwrite(self._descriptor, node, offset)

    def _entry(self, directory: int, name: bytes) -> int:
        """The inode number that ``name`` has in a directory."""
        block, at = self._find(self._tree, directory, _DIR_ITEM, _name_hash(name))
        node = self._read(block)
        # Names with the same hash share an item; it ends where another item's data begins at the latest.
        while at + _ENTRY.size <= len(node):
            number, _, _, _, data, length, _ = _ENTRY.unpack_from(node, at)
            start = at + _ENTRY.size
            if node[start : start + length] == name:
                return int(number)
            at = start + length + data
        raise ImgcError("E403", f"mkfs.btrfs lost {os.fsdecode(name)}.")

    def _find(self, block: int, number: int, kind: int, offset: int = 0) -> tuple[int, int]:
        """The leaf that holds an item, and where in the leaf the item's data begins.

        Without ``offset``, the first item of that number and kind.
        """
        while True:
            node = self._read(block)
            entries, level = struct.unpack_from("<IB", node, 96)
            if level == 0:
                break
            for index in range(entries):
                key = _POINTER.unpack_from(node, _HEADER + index * _POINTER.size)
                if index and key[:3] > (number, kind, offset):
                    break
                block = key[3]
        for index in range(entries):
            item = _ITEM.unpack_from(node, _HEADER + index * _ITEM.size)
            if item[:2] == (number, kind) and item[2] >= offset:
                return block, _HEADER + int(item[3])
        raise ImgcError("E403", f"mkfs.btrfs lost inode {number}.")

    def _items(self, block: int) -> Iterator[tuple[tuple[int, int, int], bytes]]:
        """Every (key, data) of a tree, in order."""
        node = self._read(block)
        entries, level = struct.unpack_from("<IB", node, 96)
        for index in range(entries):
            if level:
                yield from self._items(_POINTER.unpack_from(node, _HEADER + index * _POINTER.size)[3])
            else:
                first, kind, second, at, size = _ITEM.unpack_from(node, _HEADER + index * _ITEM.size)
                yield (first, kind, second), node[_HEADER + at : _HEADER + at + size]

    def _read(self, block: int) -> bytes:
        return os.pread(self._descriptor, self._node_size, self._places(block)[0])

    def _places(self, block: int) -> list[int]:
        for chunk in self._chunks:
            if chunk.logical <= block < chunk.logical + chunk.length:
                return [copy + block - chunk.logical for copy in chunk.copies]
        raise ImgcError("E403", f"mkfs.btrfs made no chunk for block {block}.")


def _system_chunks(array: bytes) -> Iterator[_Chunk]:
    """The chunks that the superblock itself lists: those of the chunk tree."""
    position = 0
    while position < len(array):
        _, _, logical = _KEY.unpack_from(array, position)
        chunk = _chunk(logical, array[position + _KEY.size :])
        yield chunk
        position += _KEY.size + _CHUNK.size + len(chunk.copies) * 32


def _chunk(logical: int, data: bytes) -> _Chunk:
    length, *_, stripes, _ = _CHUNK.unpack_from(data)
    offsets = [_STRIPE.unpack_from(data, _CHUNK.size + index * 32)[1] for index in range(stripes)]
    return _Chunk(logical, length, tuple(offsets))


def _name_hash(name: bytes) -> int:
    """What the directory entries of btrfs are sorted by."""
    return _crc32c(0xFFFFFFFE, name)


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum of ``data``, as btrfs stores it."""
    return _crc32c(0xFFFFFFFF, data) ^ 0xFFFFFFFF


def _crc32c(value: int, data: bytes) -> int:
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value
