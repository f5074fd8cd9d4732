"""The times of an ext4's inodes, and that nothing else of where the tree lay gets into the disk."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgc.disk import inode_times, sparse
from imgc.disk.assemble import assemble
from imgc.disk.check import check_filesystem
from imgc.disk.layout import MIB, plan_layout
from imgc.disk.measure import measure
from imgc.errors import ImgcError
from imgc.spec.model import Disk

from .readback import run
from .trees import add_boot

#: 2025-10-09; some files of the trees are older, those that the tests make newer.
EPOCH = 1_760_000_000
DISK = Disk(None, 4 * MIB, "ext4", "root-label", "gpt", "both", "", 1)


def build(tree: Path, raw: Path, epoch: int | None = EPOCH) -> str:
    """Assemble a disk; its root file system in the words of debugfs."""
    usage = measure(str(tree))
    layout = plan_layout(DISK, tree_bytes=usage.bytes, tree_files=usage.files, seed="seed")
    assemble(str(tree), str(raw), layout, epoch=epoch)
    return f"{raw}?offset={layout.partition('root').offset}"


def times(image: str, path: str) -> dict[str, tuple[int, int]]:
    """The four times of a file as (seconds, the rest of the field)."""
    text = run("debugfs", "-R", f"stat {path}", image)
    found = re.findall(r"^ *(\w+): 0x([0-9a-f]{8}):([0-9a-f]{8})", text, flags=re.M)
    return {name: (int(low, 16), int(high, 16)) for name, low, high in found}


def test_files_are_no_later_than_the_epoch(tree: Path, tmp_path: Path) -> None:
    image = build(tree, tmp_path / "disk.raw")
    names = ("mtime", "atime", "ctime", "crtime")
    for path in ("/", "/big", "/lost+found", "/many", '"/short link"'):
        expected = min(int(os.lstat(tree).st_mtime), EPOCH) if path == "/" else EPOCH
        assert times(image, path) == dict.fromkeys(names, (expected, 0)), path
    # What was older stays so.
    assert times(image, "/one") == dict.fromkeys(names, (981_173_106, 0))
    check_filesystem(str(tmp_path / "disk.raw"))
    header = run("dumpe2fs", "-h", image)
    assert re.search(r"Filesystem created: +Thu Oct +9 ", header)


def test_without_an_epoch_files_keep_their_times(tree: Path, tmp_path: Path) -> None:
    os.utime(tree / "big", (1, 2**31 - 5))
    image = build(tree, tmp_path / "disk.raw", None)
    assert times(image, "/big") == dict.fromkeys(("mtime", "atime", "ctime", "crtime"), (2**31 - 5, 0))
    check_filesystem(str(tmp_path / "disk.raw"))


def test_where_a_tree_lay_and_how_it_was_made_are_not_on_the_disk(tmp_path: Path) -> None:
    """Another order of making the files, other times of reading and changing, holes in other places."""
    disks = []
    for seed in (1, 2):
        tree = tmp_path / f"tree{seed}"
        add_boot(tree)
        names = [f"{directory}/{number}" for directory in ("a", "b/c") for number in range(150)]
        random.Random(seed).shuffle(names)
        for name in names:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(name * 50)
        with open(tree / "zeros", "wb") as file:
            if seed == 1:
                file.truncate(5 * MIB)
            else:
                file.write(bytes(5 * MIB))
            file.seek(3 * MIB)
            file.write(b"not zero")
        for name in sorted(names)[::3]:
            os.utime(tree / name, (seed * 10**8, 10**9))
        build(tree, tmp_path / f"{seed}.raw")
        disks.append((tmp_path / f"{seed}.raw").read_bytes())
        shutil.rmtree(tree)
    assert disks[0] == disks[1]


def test_a_time_that_does_not_take_is_told(tree: Path, tmp_path: Path) -> None:
    build(tree, tmp_path / "disk.raw")
    with pytest.raises(ImgcError, match="had no effect") as caught:
        inode_times.settle(str(tmp_path / "disk.raw"), 66 * MIB, 1_000_000_000, lambda script: None)
    assert caught.value.code == "E403"


def test_another_file_system_is_refused(tmp_path: Path) -> None:
    small = tmp_path / "small"
    with open(small, "wb") as file:
        file.truncate(MIB)
    with pytest.raises(ImgcError, match="of a kind"):
        list(inode_times.inodes(str(small), 0))
    # Inodes too short for all four times.
    run("mke2fs", "-q", "-F", "-t", "ext2", "-I", "128", str(small))
    with pytest.raises(ImgcError, match="of a kind"):
        list(inode_times.inodes(str(small), 0))


def test_which_inode_lies_at_a_byte(tree: Path, tmp_path: Path) -> None:
    image = build(tree, tmp_path / "disk.raw")
    number = int(run("debugfs", "-R", "ncheck -c 12", image).split("\n")[1].split()[0])
    block, offset = re.search(  # type: ignore[union-attr]
        r"block (\d+), offset 0x([0-9a-f]+)", run("debugfs", "-R", f"imap <{number}>", image)
    ).groups()
    at = 66 * MIB + int(block) * 4096 + int(offset, 16)
    raw = str(tmp_path / "disk.raw")
    found = [inode_times.inode_at(raw, 66 * MIB, at + more) for more in (-1, 0, 255, 256)]
    assert found == [number - 1, number, number, number + 1]
    assert inode_times.inode_at(raw, 66 * MIB, 66 * MIB) == 0


@given(pieces=st.lists(st.tuples(st.booleans(), st.integers(1, 9000)), max_size=8))
def test_filled_counts_blocks_that_are_not_zeros(
    pieces: list[tuple[bool, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = b"".join((b"x" if filled else b"\0") * length for filled, length in pieces)
    blocks = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    path = tmp_path_factory.mktemp("filled") / "file"
    path.write_bytes(data)
    expected = 4096 * sum(any(block) for block in blocks)
    assert sparse.filled(str(path), 4096) == expected
    sparse.copy_file(str(path), f"{path}.sparse")
    assert sparse.filled(f"{path}.sparse", 4096) == expected
