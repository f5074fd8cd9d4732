"""Where two files of the same output first differ, and what lies there."""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
from pathlib import Path

from imgc import process
from imgc.disk import check, inode_times, sparse
from imgc.disk.measure import BLOCK
from imgc.errors import ImgcError

#: What the path of a difference begins with when it lies in an output.
OUTPUT = "output "

#: Up to here there is nothing but the partition table and the code of a BIOS.
_TABLE = 34 * 512

#: What QEMU calls the formats of outputs that it calls otherwise.
_QEMU = {"vhd": "vpc"}


def first_difference(one: Path, two: Path) -> int | None:
    """The first byte in which two files differ; None when they are equal."""
    with open(one, "rb") as first, open(two, "rb") as second:
        sizes = os.fstat(first.fileno()).st_size, os.fstat(second.fileno()).st_size
        position = 0
        while position < max(sizes):
            pieces = [os.pread(file.fileno(), sparse.CHUNK, position) for file in (first, second)]
            if pieces[0] != pieces[1]:
                return position + _first(*pieces)
            position += sparse.CHUNK
    return None


def describe(one: Path, two: Path, form: str, at: int) -> str:
    """What lies where two files of the output format ``form`` differ, in words; ``at`` is the first byte that does."""
    where = f"from byte {at}"
    if form == "tar":
        return f"{where}{_member(one, at)}"
    if form == "raw":
        return f"{where}, {on_disk(one, at)}"
    kind = _QEMU.get(form, form)
    with tempfile.TemporaryDirectory(prefix="compare-", dir=one.parent) as scratch:
        disks = [Path(scratch) / name for name in ("first", "second")]
        for image, disk in zip((one, two), disks, strict=True):
            process.run(["qemu-img", "convert", "-f", kind, "-O", "raw", str(image), str(disk)])
        inside = first_difference(*disks)
        if inside is None:
            return f"{where}, in how it is stored; the disk in it is the same"
        return f"{where}; on the disk from byte {inside}, {on_disk(disks[0], inside)}"


def on_disk(raw: Path, at: int) -> str:
    """What of a disk lies at the byte ``at``."""
    if at < _TABLE:
        return "in the partition table"
    try:
        offset, size = check.root_partition(str(raw))
    except ImgcError:
        return "on a disk without partitions"
    if at < offset:
        return "before the root file system (what starts the machine)"
    if at >= offset + size:
        return "behind the root file system"
    if check.filesystem_at(str(raw), offset) != "ext4":
        return "in the root file system"
    return _in_ext4(raw, offset, at)


def _in_ext4(raw: Path, offset: int, at: int) -> str:
    number = inode_times.inode_at(str(raw), offset, at)
    if number:
        return f"inode {number} of the root file system{_named(raw, offset, number)}"
    block = (at - offset) // BLOCK
    found = re.search(rf"^{block}\s+(\d+)$", _debugfs(raw, offset, f"icheck {block}"), flags=re.M)
    if found:
        number = int(found[1])
        return f"a block of inode {number} of the root file system{_named(raw, offset, number)}"
    return f"block {block} of the root file system, which is no file's"


def _named(raw: Path, offset: int, number: int) -> str:
    found = re.search(rf"^{number}\s+(/.*)$", _debugfs(raw, offset, f"ncheck {number}"), flags=re.M)
    return f": {found[1].replace('//', '/')}" if found else ""


def _debugfs(raw: Path, offset: int, command: str) -> str:
    process.need("debugfs", package="e2fsprogs")
    return process.run(["debugfs", "-R", command, f"{raw}?offset={offset}"], check=False).output


def _member(archive: Path, at: int) -> str:
    """The member that the byte ``at`` of an uncompressed archive belongs to."""
    found = ""
    try:
        with tarfile.open(archive, "r:") as opened:
            for member in opened:
                if member.offset > at:
                    break
                found = member.name
    except tarfile.TarError:
        return ""
    return f", in {found.removeprefix('.')}"


def _first(one: bytes, two: bytes) -> int:
    """Where two pieces first differ; they are not equal."""
    low, high = 0, min(len(one), len(two))
    if one[:high] == two[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == two[low:middle]:
            low = middle
        else:
            high = middle
    return low
