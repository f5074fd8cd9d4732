"""Which file systems a disk has, which of them is the root, and where the others are mounted."""

from __future__ import annotations

import json
import mmap
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ext4
import xfs
from contents import need
from nodes import CONVERT, FileSystem, Image, Unreadable, content, find

#: What partitions are for, by their type: the EFI system partition, and what systemd mounts on /boot.
_ESP = ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef")
_BOOT = ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "ea")

#: A partition that only holds others.
_EXTENDED = ("5", "f", "85")

#: File systems that have a reader, by what is where in their first bytes.
_READERS: tuple[tuple[str, int, bytes, Callable[[Image], FileSystem]], ...] = (
    ("ext4", ext4.MAGIC_AT, ext4.MAGIC, ext4.Ext4),
    ("xfs", xfs.MAGIC_AT, xfs.MAGIC, xfs.Xfs),
)

#: Others, that are told by name.
_OTHERS = (
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("LVM", 512, b"LABELONE"),
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("swap", 4086, b"SWAPSPACE2"),
    ("vfat", 82, b"FAT32   "),
    ("vfat", 54, b"FAT1"),
)

#: Never a file system of the image, whatever its fstab says.
_NOT_OURS = re.compile(r"/(proc|sys|dev|run|tmp)(/|$)")


@dataclass
class Partition:
    """A part of the disk; ``begin`` and ``size`` in bytes, ``kind`` the name of its file system or empty."""

    number: int
    begin: int
    size: int
    type: str = ""
    uuid: str = ""
    name: str = ""
    kind: str = ""
    system: FileSystem | None = None
    image: Image | None = None

    def __str__(self) -> str:
        return f"partition {self.number} ({self.kind or 'unknown'})"


@dataclass(frozen=True)
class Mount:
    """A partition, and where the image mounts it (empty: the root)."""

    partition: Partition
    below: str


def partitions(raw: Path, data: mmap.mmap) -> list[Partition]:
    """The partitions of a disk with their file systems; a disk without a table is one."""
    found = list(_table(raw, len(data))) or [Partition(0, 0, len(data))]
    for one in found:
        one.image = Image(data, one.begin, min(one.size, len(data) - one.begin))
        _recognise(one)
    return found


def open_readable(found: list[Partition]) -> None:
    """Give each partition its reader, where there is one.  Raises E665 and E666."""
    for one in found:
        for kind, _at, _mark, reader in _READERS:
            if one.kind == kind and one.image:
                one.system = reader(one.image)


def root_of(found: list[Partition]) -> Partition:
    """The partition with the operating system.  Raises E665, or E666 when it may be one that cannot be read."""
    for one in found:
        if one.system and any(find(one.system, path) for path in ("etc/os-release", "usr/lib/os-release")):
            return one
    told = ", ".join(str(one) for one in found)
    if any(one.kind not in ("ext4", "xfs", "vfat", "swap", "") for one in found):
        said = f"The root file system of the base cannot be read without mounting it: {told}."
        raise Unreadable("E666", said, CONVERT)
    raise Unreadable("E665", f"No file system of the base has an operating system in it: {told}.")


def mounts(found: list[Partition], root: Partition) -> list[Mount]:
    """The root, and what the image mounts below it, parents first."""
    below = dict(_by_fstab(found, root))
    for one in found:
        if one in below.values() or one is root:
            continue
        if one.type in _ESP and one.kind == "vfat":
            below.setdefault("boot/efi", one)
        elif one.type in _BOOT and one.system:
            below.setdefault("boot", one)
    return [Mount(root, ""), *(Mount(below[path], path) for path in sorted(below))]


def _by_fstab(found: list[Partition], root: Partition) -> Iterator[tuple[str, Partition]]:
    """Where the image's own table mounts its partitions."""
    assert root.system and root.image
    number = find(root.system, "etc/fstab")
    text = content(root.system, root.image, number).decode("utf-8", "replace") if number else ""
    for line in text.splitlines():
        fields = [_unescaped(field) for field in line.split("#")[0].split()]
        if len(fields) < 3 or not fields[1].startswith("/") or _NOT_OURS.match(fields[1]):
            continue
        path = fields[1].strip("/")
        one = next((one for one in found if _is_named(one, fields[0].replace('"', ""))), None)
        if path and one and one is not root and ".." not in path.split("/"):
            yield path, one


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _is_named(one: Partition, name: str) -> bool:
    """Whether ``name`` is how the first column of an fstab calls a partition."""
    tag, _, value = name.rpartition("=")
    label, identity = _names(one)
    named = {
        "LABEL": label and value == label,
        "UUID": identity and value.lower() == identity.lower(),
        "PARTUUID": one.uuid and value.lower() == one.uuid.lower(),
        "PARTLABEL": one.name and value == one.name,
        "": bool(re.fullmatch(rf"/dev/[a-z]+[a-z0-9]*?p?{one.number}", value)),
    }
    return bool(named.get(tag))


def _names(one: Partition) -> tuple[str, str]:
    """Label and UUID of a partition's file system."""
    if one.system:
        return one.system.label, one.system.uuid
    if one.kind == "vfat" and one.image:
        head = one.image.read(0, 512)
        at = 67 if head[82:90] == b"FAT32   " else 39
        serial = int.from_bytes(head[at : at + 4], "little")
        label = head[at + 4 : at + 15].decode("ascii", "replace").strip()
        return label, f"{serial >> 16:04X}-{serial & 0xFFFF:04X}"
    return "", ""


def _table(raw: Path, size: int) -> Iterator[Partition]:
    """The partitions that sfdisk finds; none on a disk without a table."""
    need("sfdisk")
    argv = ["sfdisk", "--json", str(raw)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        return
    table = json.loads(done.stdout)["partitiontable"]
    sector = int(table.get("sectorsize", 512))
    for one in table.get("partitions", ()):
        kind = str(one.get("type", "")).lower()
        begin = int(one["start"]) * sector
        if kind in _EXTENDED or begin >= size:
            continue
        number = int(re.sub(r".*?(\d+)$", r"\1", str(one["node"])))
        yield Partition(
            number, begin, int(one["size"]) * sector, kind, str(one.get("uuid", "")), str(one.get("name", ""))
        )


def _recognise(one: Partition) -> None:
    assert one.image
    head = one.image.read(0, min(1 << 17, one.image.size))
    marks = [(kind, at, mark) for kind, at, mark, _ in _READERS] + list(_OTHERS)
    one.kind = next((kind for kind, at, mark in marks if head[at : at + len(mark)] == mark), "")
