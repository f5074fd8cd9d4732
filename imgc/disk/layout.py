"""Where everything lies on the disk.  Pure: no file is read or written here.

Partition 1 is always the root file system, and always the last on the disk, so that it can grow; the
partitions that start the machine come before it under numbers that nobody expects to find files on (on GPT 14
and 15). All offsets and sizes are in bytes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from imgc.disk.measure import BLOCK, Usage
from imgc.errors import ImgcError
from imgc.spec.model import Disk

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
SECTOR = 512

#: Every partition starts on a multiple of this.
ALIGNMENT = MIB

#: FAT32 begins at 33 MiB; this leaves room for loaders of later years.
ESP_SIZE = 64 * MIB

BIOS_SIZE = MIB

#: The size that a sector number of 32 bits can address, beyond which there is only GPT.
MBR_LIMIT = 2**32 * SECTOR

#: The time that new file systems are stamped with (2020-01-01), in seconds, so that they do not differ by it.
EPOCH = 1_577_836_800

_NAMESPACE = uuid.UUID("6e1f6a0c-2f0f-5c11-9c0e-5c1f1d6f7a52")

_TYPES = {
    ("gpt", "esp"): "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    ("gpt", "bios"): "21686148-6449-6E6F-744E-656564454649",
    ("gpt", "root"): "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
    ("mbr", "esp"): "ef",
    ("mbr", "root"): "83",
}
_NUMBERS = {
    ("gpt", "esp"): 15,
    ("gpt", "bios"): 14,
    ("gpt", "root"): 1,
    ("mbr", "esp"): 2,
    ("mbr", "root"): 1,
}


@dataclass(frozen=True)
class Partition:
    """One partition.  ``role`` is ``esp``, ``bios`` or ``root``; ``type`` as sfdisk takes it; ``uuid`` of GPT only."""

    role: str
    number: int
    offset: int
    size: int
    type: str
    uuid: str

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class Layout:
    """A whole disk.  Partitions are in the order of their offsets.

    ``disk_id`` is a GUID on GPT, eight hexadecimal digits after ``0x`` on MBR; ``volume_id`` names the FAT of
    the EFI system partition; ``inodes`` is the number that ext4 gets.
    """

    size: int
    partitioning: str
    boot: str
    filesystem: str
    label: str
    disk_id: str
    root_uuid: str
    hash_seed: str
    volume_id: str
    inodes: int
    journal: int
    partitions: tuple[Partition, ...]

    def partition(self, role: str) -> Partition:
        """The partition of that role; KeyError when there is none."""
        return {part.role: part for part in self.partitions}[role]

    @property
    def bios(self) -> bool:
        return self.boot in ("bios", "both")

    @property
    def efi(self) -> bool:
        return self.boot in ("efi", "both")

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Layout:
        fields = json.loads(text)
        fields["partitions"] = tuple(Partition(**part) for part in fields["partitions"])
        return cls(**fields)


def plan_layout(disk: Disk, *, tree_bytes: int, tree_files: int, seed: str) -> Layout:
    """Lay out ``disk`` for a tree of ``tree_bytes`` in ``tree_files`` inodes
    (:func:`imgc.disk.measure.measure`).

    Every identifier derives from ``seed``, so that the same seed gives the same disk.  Raises E401, with
    numbers, when the size that the spec asks for is too small.
    """
    before = list(_before_root(disk))
    start = before[-1].end if before else ALIGNMENT
    after = ALIGNMENT if disk.partitioning == "gpt" else 0
    if disk.size is None:
        root = _round_up(root_size(disk.filesystem, tree_bytes, tree_files, disk.free), MIB)
        size = start + root + after
    else:
        size = disk.size // MIB * MIB
        root = size - start - after
        _check_fits(disk, root, size, start + after, tree_bytes, tree_files)
    if disk.partitioning == "mbr" and size > MBR_LIMIT:
        raise ImgcError(
            "E403",
            f"An MBR partition table reaches {_text(MBR_LIMIT)}; this disk has {_text(size)}.",
            hint="Set disk.partitioning to gpt.",
        )
    before.append(_partition(disk, "root", start, root))
    return Layout(
        size=size,
        partitioning=disk.partitioning,
        boot=disk.boot,
        filesystem=disk.filesystem,
        label=disk.label,
        disk_id=_disk_id(disk.partitioning, seed),
        root_uuid=identity(seed, "root file system"),
        hash_seed=identity(seed, "directory hash"),
        volume_id=identity(seed, "EFI system partition")[:8],
        inodes=_inodes(root, tree_files),
        journal=_journal(root),
        partitions=tuple(_with_uuid(part, disk.partitioning, seed) for part in before),
    )


def usage_for(filesystem: str, usage: Usage) -> tuple[int, int]:
    """The ``tree_bytes`` and ``tree_files`` of :func:`plan_layout`.

    mke2fs keeps holes and hard links; mkfs.btrfs fills the holes, and wants room as if each name were a file.
    """
    return (usage.apparent, usage.names) if filesystem == "btrfs" else (usage.bytes, usage.files)


def root_size(filesystem: str, tree_bytes: int, tree_files: int, free: int) -> int:
    """How many bytes a file system needs for a tree, so that ``free`` bytes are left for root."""
    if filesystem == "btrfs":
        return _btrfs_size(tree_bytes, tree_files, free)
    size = tree_bytes + free
    for _ in range(8):
        size = _ext4_size(size, tree_bytes, tree_files, free)
    # Below that there is no room for the smallest journal.
    return max(size, 16 * MIB)


def identity(seed: str, what: str) -> str:
    """The UUID of one thing on the disk."""
    return str(uuid.uuid5(_NAMESPACE, f"{seed}:{what}"))


def _before_root(disk: Disk) -> Iterator[Partition]:
    """The partitions that start the machine, in order."""
    offset = ALIGNMENT
    if disk.partitioning == "gpt" and disk.boot in ("bios", "both"):
        yield _partition(disk, "bios", offset, BIOS_SIZE)
        offset += BIOS_SIZE
    if disk.boot in ("efi", "both"):
        yield _partition(disk, "esp", offset, ESP_SIZE)


def _partition(disk: Disk, role: str, offset: int, size: int) -> Partition:
    key = (disk.partitioning, role)
    return Partition(role, _NUMBERS[key], offset, size, _TYPES[key], "")


def _with_uuid(part: Partition, partitioning: str, seed: str) -> Partition:
    name = identity(seed, f"partition {part.role}").upper() if partitioning == "gpt" else ""
    return Partition(part.role, part.number, part.offset, part.size, part.type, name)


def _disk_id(partitioning: str, seed: str) -> str:
    name = identity(seed, "disk")
    return name.upper() if partitioning == "gpt" else f"0x{name[:8]}"


def _check_fits(disk: Disk, root: int, size: int, around: int, tree_bytes: int, tree_files: int) -> None:
    needed = root_size(disk.filesystem, tree_bytes, tree_files, 0)
    if root >= needed:
        return
    least = _round_up(needed + around, MIB)
    raise ImgcError(
        "E401",
        f"The tree does not fit: a disk of {_text(size)} was asked for, and {_text(least)} is the least that"
        f" {tree_files} files with {_text(tree_bytes)} need.",
        hint="Raise disk.size, or leave it out to have it follow from the tree.",
    )


def _btrfs_size(tree_bytes: int, tree_files: int, free: int) -> int:
    """What mkfs.btrfs demands before it starts (it would make the disk longer), or what the tree and ``free`` take."""
    # Its own reckoning: two copies of three longest paths and a block for each name, and an eighth of the data.
    demanded = tree_bytes + 2 * (tree_files * (3 * 4 * KIB + BLOCK) + tree_bytes // 8)
    taken = tree_bytes + 2 * (tree_files * 2 * KIB + tree_bytes // 500)
    return max(demanded, taken + free) + 112 * MIB


def _ext4_size(size: int, tree_bytes: int, tree_files: int, free: int) -> int:
    """One step towards the size of an ext4 whose overhead depends on its size."""
    groups = -(-size // (128 * MIB))
    descriptors = -(-groups * 64 // BLOCK)
    # Room to grow a thousandfold, in the groups that hold a copy of the superblock.
    reserved = min(1024, -(-groups * 1024 * 64 // BLOCK))
    copies = min(groups, 2 + 3 * groups.bit_length())
    overhead = (
        _inodes(size, tree_files) * 256
        + groups * 2 * BLOCK
        + copies * (1 + descriptors + reserved) * BLOCK
        + _journal(size)
        + 2 * MIB
    )
    # One hundredth is reserved for root; another one is for attributes, extents and long directories.
    return (tree_bytes * 101 // 100 + tree_files * 64 + free + overhead) * 100 // 99 + BLOCK


def _inodes(size: int, tree_files: int) -> int:
    return max(size // (16 * KIB), tree_files * 13 // 10 + 1024)


def _journal(size: int) -> int:
    """Bytes of journal: what a disk that has grown wants, as far as a small one can hold it."""
    return max(4 * MIB, min(64 * MIB, _round_up(size // 16, MIB)))


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _text(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"
