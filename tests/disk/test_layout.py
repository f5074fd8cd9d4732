"""Where things lie on the disk: properties that hold for every disk."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgc.disk.layout import (
    ALIGNMENT,
    GIB,
    MBR_LIMIT,
    MIB,
    Layout,
    plan_layout,
    root_size,
)
from imgc.errors import ImgcError
from imgc.spec.model import Disk

DISKS = st.builds(
    Disk,
    size=st.none() | st.integers(8 * GIB, 4 * 1024 * GIB),
    free=st.integers(0, 4 * GIB),
    filesystem=st.sampled_from(["ext4", "btrfs"]),
    label=st.just("root"),
    partitioning=st.sampled_from(["mbr", "gpt"]),
    boot=st.sampled_from(["bios", "efi", "both"]),
    kernel_command_line=st.just(""),
    timeout=st.just(1),
)


def disk(**changes: object) -> Disk:
    return dataclasses.replace(Disk(None, 0, "ext4", "root", "gpt", "both", "", 1), **changes)  # type: ignore[arg-type]


def plan(wanted: Disk, tree_bytes: int = 400 * MIB, tree_files: int = 20_000, seed: str = "seed") -> Layout:
    return plan_layout(wanted, tree_bytes=tree_bytes, tree_files=tree_files, seed=seed)


@given(DISKS, st.integers(0, 3 * GIB), st.integers(1, 20_000), st.text())
def test_every_layout(wanted: Disk, tree_bytes: int, tree_files: int, seed: str) -> None:
    try:
        layout = plan(wanted, tree_bytes, tree_files, seed)
    except ImgcError as error:
        too_large = (wanted.size or 0) > MBR_LIMIT - MIB
        assert error.code == "E403" and wanted.partitioning == "mbr" and too_large
        return
    parts = layout.partitions
    assert layout.size % MIB == 0
    assert all(part.offset % ALIGNMENT == 0 and part.size > 0 for part in parts)
    assert all(first.end <= second.offset for first, second in pairwise(parts))
    assert parts[0].offset >= ALIGNMENT
    # The backup of a GPT takes 33 sectors at the end.
    assert parts[-1].end <= layout.size - (33 * 512 if wanted.partitioning == "gpt" else 0)
    assert parts[-1].role == "root" and parts[-1].number == 1
    assert len({part.number for part in parts}) == len(parts)
    assert layout.inodes > tree_files
    assert parts[-1].size >= tree_bytes
    if wanted.size is None:
        assert parts[-1].size >= tree_bytes + wanted.free
    else:
        assert wanted.size - MIB < layout.size <= wanted.size
    assert ("esp" in {part.role for part in parts}) == (wanted.boot != "bios")
    assert ("bios" in {part.role for part in parts}) == (
        wanted.boot != "efi" and wanted.partitioning == "gpt"
    )
    assert Layout.from_json(layout.to_json()) == layout
    assert plan(wanted, tree_bytes, tree_files, seed) == layout


@given(st.text(), st.text())
def test_identifiers_come_from_the_seed_alone(one: str, other: str) -> None:
    first, second = plan(disk(), seed=one), plan(disk(), seed=other)
    assert (first == second) == (one == other)
    names = [first.disk_id, first.root_uuid, first.hash_seed, *(part.uuid for part in first.partitions)]
    assert len({name.lower() for name in names}) == len(names)


@pytest.mark.parametrize("filesystem", ["ext4", "btrfs"])
def test_too_small(filesystem: str) -> None:
    with pytest.raises(ImgcError) as caught:
        plan(disk(size=300 * MIB, filesystem=filesystem))
    assert caught.value.code == "E401"
    assert "300.0 MiB" in caught.value.message and "20000 files with 400.0 MiB" in caught.value.message
    # The size that the message calls the least is enough, and one mebibyte less is not.
    needed = root_size(filesystem, 400 * MIB, 20_000, 0)
    least = -(-(needed + 67 * MIB) // MIB) * MIB
    text = f"{least / GIB:.2f} GiB" if least >= GIB else f"{least / MIB:.1f} MiB"
    assert text in caught.value.message
    assert plan(disk(size=least, filesystem=filesystem)).size == least
    with pytest.raises(ImgcError):
        plan(disk(size=least - MIB, filesystem=filesystem))


def test_smaller_than_what_starts_it() -> None:
    with pytest.raises(ImgcError) as caught:
        plan(disk(size=MIB), tree_bytes=0, tree_files=1)
    assert caught.value.code == "E401"
