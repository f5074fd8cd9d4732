"""Extended attributes of XFS."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nodes import acl, damaged

if TYPE_CHECKING:
    from xfs import Fork, Xfs

_LOCAL, _ROOT, _SECURE, _PARENT, _INCOMPLETE = 0x01, 0x02, 0x04, 0x08, 0x80

#: Access control lists are kept under these names, in a form of their own.
_ACLS = {b"SGI_ACL_FILE": "system.posix_acl_access", b"SGI_ACL_DEFAULT": "system.posix_acl_default"}

_LEAVES, _NODES = (0xFBEE, 0x3BEE), (0xFEBE, 0x3EBE)

#: An attribute: flags, name, value.
Attribute = tuple[int, bytes, bytes]


def named(attributes: Iterable[Attribute]) -> dict[str, bytes]:
    """The attributes by the names that setxattr takes."""
    found: dict[str, bytes] = {}
    for flags, name, value in attributes:
        if flags & (_PARENT | _INCOMPLETE):
            continue
        if flags & _ROOT and name in _ACLS:
            found[_ACLS[name]] = _acl(value)
            continue
        prefix = "trusted." if flags & _ROOT else "security." if flags & _SECURE else "user."
        found[prefix + name.decode("utf-8", "surrogateescape")] = value
    return found


def short(data: bytes) -> Iterator[Attribute]:
    """Those that are kept in the inode."""
    count, at = data[2], 4
    for _ in range(count):
        if at + 3 > len(data):
            raise damaged("a list of extended attributes is cut")
        length, size, flags = data[at], data[at + 1], data[at + 2]
        at += 3
        yield flags, data[at : at + length], data[at + length : at + length + size]
        at += length + size


def long(system: Xfs, fork: Fork) -> Iterator[Attribute]:
    """Those that are kept in blocks: a tree, of which the leaves are read from the first to the last."""
    blocks: dict[int, int] = {}
    for at, block, count in system.blocks(fork):
        blocks |= {at + number: block + number for number in range(count)}

    def read(number: int) -> bytes:
        if number not in blocks:
            raise damaged("a list of extended attributes is cut")
        return system.image.read(system.offset(blocks[number]), system.block_size)

    number, seen = 0, set[int]()
    while number not in seen:
        seen.add(number)
        data = read(number)
        following, _before, magic = struct.unpack_from(">IIH", data, 0)
        if magic in _NODES:
            (number,) = struct.unpack_from(">I", data, (64 if system.checksums else 16) + 4)
            continue
        if magic not in _LEAVES:
            raise damaged("a list of extended attributes makes no sense")
        for flags, name, value, block, size in _leaf(data, system.checksums):
            yield flags, name, value if flags & _LOCAL else _remote(system, blocks, block, size)
        if not following:
            return
        number = following
    raise damaged("a list of extended attributes has no end")


def _leaf(data: bytes, checksums: bool) -> Iterator[tuple[int, bytes, bytes, int, int]]:
    """Flags, name, and either the value or the block and the size of it."""
    (count,) = struct.unpack_from(">H", data, 56 if checksums else 12)
    begin = 80 if checksums else 32
    for number in range(count):
        _hash, at, flags = struct.unpack_from(">IHB", data, begin + 8 * number)
        if flags & _LOCAL:
            size, length = struct.unpack_from(">HB", data, at)
            name = data[at + 3 : at + 3 + length]
            yield flags, name, data[at + 3 + length : at + 3 + length + size], 0, 0
        else:
            block, size, length = struct.unpack_from(">IIB", data, at)
            yield flags, data[at + 9 : at + 9 + length], b"", block, size


def _remote(system: Xfs, blocks: dict[int, int], number: int, size: int) -> bytes:
    """A value that has blocks of its own, with a header in each where there are checksums."""
    header = 56 if system.checksums else 0
    found = b""
    while len(found) < size:
        if number not in blocks:
            raise damaged("an extended attribute is cut")
        found += system.image.read(system.offset(blocks[number]), system.block_size)[header:]
        number += 1
    return found[:size]


def _acl(value: bytes) -> bytes:
    (count,) = struct.unpack_from(">I", value, 0)
    entries = (struct.unpack_from(">IIH", value, 4 + 12 * number) for number in range(count))
    return acl([(tag, permissions, number) for tag, number, permissions in entries])
