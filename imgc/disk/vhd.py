"""The footer of a VHD, rewritten so that readers find what they look for and conversions do not differ.

qemu-img stamps a VHD with itself as the creator, the time, and a random identifier.  XenServer takes a disk
for resizable only when the creator is its own tool (``tap``, version 1.0); readers other than QEMU trust the
size in the footer rather than the geometry, which is why images are made with ``force_size``.  The layout is
Microsoft's Virtual Hard Disk Image Format Specification 1.0; all numbers are big-endian.
"""

from __future__ import annotations

import os
import struct
import uuid
from itertools import pairwise
from typing import BinaryIO

from imgc.errors import ImgcError

FOOTER = 512
_COOKIE = b"conectix"
_DYNAMIC_COOKIE = b"cxsparse"
_TIMESTAMP = 24
_CREATOR = 28
_CURRENT_SIZE = 48
_TYPE = 60
_CHECKSUM = 64
_IDENTIFIER = 68
_FIXED, _DYNAMIC = 2, 3
_UNUSED_BLOCK = 0xFFFFFFFF

#: Creator, its version, and its operating system, for XenServer.
_XENSERVER = struct.pack(">4sI4s", b"tap\0", 0x0001_0000, b"\0\0\0\0")


def finish(path: str, identifier: uuid.UUID, *, xenserver: bool) -> None:
    """Rewrite the footer of the VHD at ``path`` and, in a dynamic one, its copy at the beginning."""
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size - FOOTER)
        footer = bytearray(file.read(FOOTER))
        if footer[:8] != _COOKIE:
            raise ImgcError("E404", f"{os.path.basename(path)} has no VHD footer.")
        struct.pack_into(">I", footer, _TIMESTAMP, 0)
        footer[_IDENTIFIER : _IDENTIFIER + 16] = identifier.bytes
        if xenserver:
            footer[_CREATOR : _CREATOR + len(_XENSERVER)] = _XENSERVER
        struct.pack_into(">I", footer, _CHECKSUM, checksum(bytes(footer), _CHECKSUM))
        file.seek(size - FOOTER)
        file.write(footer)
        if struct.unpack_from(">I", footer, _TYPE)[0] == _DYNAMIC:
            file.seek(0)
            file.write(footer)


def problems(path: str, virtual_size: int) -> list[str]:
    """What is wrong with the structure of the VHD at ``path``, which should hold ``virtual_size`` bytes."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size - FOOTER)
        footer = file.read(FOOTER)
        found: list[str] = []
        if footer[:8] != _COOKIE:
            return ["it does not end with a footer"]
        if struct.unpack_from(">I", footer, _CHECKSUM)[0] != checksum(footer, _CHECKSUM):
            found.append("the footer's checksum is wrong")
        current = struct.unpack_from(">Q", footer, _CURRENT_SIZE)[0]
        if current != virtual_size:
            found.append(f"the footer says {current} bytes, not {virtual_size}")
        kind = struct.unpack_from(">I", footer, _TYPE)[0]
        if kind == _FIXED:
            if size != virtual_size + FOOTER:
                found.append(f"the file has {size} bytes, not {virtual_size + FOOTER}")
            return found
        if kind != _DYNAMIC:
            return [*found, f"it is of type {kind}, neither fixed nor dynamic"]
        file.seek(0)
        if file.read(FOOTER) != footer:
            found.append("the copy of the footer differs from the footer")
        header = file.read(1024)
        return found + _dynamic_problems(file, header, size)


def _dynamic_problems(file: BinaryIO, header: bytes, size: int) -> list[str]:
    """What is wrong with the header and the block table of a dynamic VHD."""
    found: list[str] = []
    if header[:8] != _DYNAMIC_COOKIE:
        return ["it has no dynamic header"]
    if struct.unpack_from(">I", header, 36)[0] != checksum(header, 36):
        found.append("the dynamic header's checksum is wrong")
    table, _, entries, block = struct.unpack_from(">QIII", header, 16)
    file.seek(table)
    sectors = struct.unpack(f">{entries}I", file.read(entries * 4))
    used = sorted(sector for sector in sectors if sector != _UNUSED_BLOCK)
    # Each block begins with a bitmap of its sectors.
    length = (block // 512 // 8 + 511) // 512 + block // 512
    if any(second - first < length for first, second in pairwise(used)):
        found.append("two blocks overlap")
    if used and (used[-1] + length) * 512 > size:
        found.append("a block lies beyond the end")
    return found


def checksum(data: bytes, at: int) -> int:
    """The ones' complement of the sum of all bytes, but for the four of the checksum itself at ``at``."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF
