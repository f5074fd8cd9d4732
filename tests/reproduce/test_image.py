"""What lies where two images differ."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from imgc.disk.assemble import assemble
from imgc.disk.convert import convert
from imgc.disk.layout import MIB, Layout, plan_layout
from imgc.disk.measure import measure
from imgc.reproduce.image import describe, first_difference
from imgc.spec.model import Disk, Output
from tests.disk.trees import add_boot

Disks = tuple[Path, Path, Layout]


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    """Two equal disks, and how they are laid out."""
    tree = tmp_path / "tree"
    add_boot(tree)
    (tree / "etc").mkdir()
    (tree / "etc/named").write_bytes(b"its content" * 1000)
    usage = measure(str(tree))
    wanted = Disk(None, 4 * MIB, "ext4", "root-label", "gpt", "both", "", 1)
    layout = plan_layout(wanted, tree_bytes=usage.bytes, tree_files=usage.files, seed="seed")
    one, two = tmp_path / "one.raw", tmp_path / "two.raw"
    assemble(str(tree), str(one), layout, epoch=1_000_000_000)
    shutil.copyfile(one, two)
    return one, two, layout


def change(disk: Path, at: int) -> int:
    """Change the byte at ``at``; where it is."""
    with open(disk, "r+b") as file:
        old = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([old[0] ^ 1]), at)
    return at


def said(disks: Disks) -> str:
    at = first_difference(disks[0], disks[1])
    assert at is not None
    return describe(disks[0], disks[1], "raw", at)


def test_equal_files_have_no_difference(disks: Disks) -> None:
    assert first_difference(disks[0], disks[1]) is None


def test_a_difference_in_the_table_or_the_loader(disks: Disks) -> None:
    change(disks[1], 66 * MIB - 1)
    assert said(disks) == f"from byte {66 * MIB - 1}, before the root file system (what starts the machine)"
    change(disks[1], 1024)
    assert said(disks) == "from byte 1024, in the partition table"


def test_a_difference_behind_everything(disks: Disks) -> None:
    end = disks[2].partition("root").end
    change(disks[1], end + 5)
    assert said(disks) == f"from byte {end + 5}, behind the root file system"


def test_a_difference_in_a_file(disks: Disks) -> None:
    at = change(disks[1], disks[0].read_bytes().index(b"its content") + 4096)
    assert said(disks).startswith(f"from byte {at}, a block of inode ")
    assert said(disks).endswith("of the root file system: /etc/named")


def test_a_difference_in_an_inode(disks: Disks) -> None:
    offset = disks[2].partition("root").offset
    subprocess.run(
        ["debugfs", "-w", "-R", "set_inode_field /etc/named mtime @5", f"{disks[1]}?offset={offset}"],
        check=True,
        capture_output=True,
        env={**os.environ, "E2FSPROGS_FAKE_TIME": "1000000000"},
    )
    assert " inode " in said(disks) and said(disks).endswith("of the root file system: /etc/named")


def test_a_difference_in_what_is_no_files(disks: Disks) -> None:
    offset = disks[2].partition("root").offset
    change(disks[1], offset + 1024 + 120)
    assert said(disks) == f"from byte {offset + 1144}, block 0 of the root file system, which is no file's"


def test_images_are_compared_by_the_disk_in_them(disks: Disks, tmp_path: Path) -> None:
    change(disks[1], disks[0].read_bytes().index(b"its content") + 4096)
    for output in (
        Output("qcow2", "qcow2", (("compression", "zstd"), ("compat", "1.1"))),
        Output("vhd", "vhd", (("variant", "dynamic"),)),
    ):
        images = [tmp_path / f"{number}.{output.suffix}" for number in (1, 2)]
        for disk, image in zip(disks[:2], images, strict=True):
            convert(str(disk), str(image), output)
        at = first_difference(*images)
        assert at is not None
        what = describe(*images, output.format, at)
        assert what.startswith(f"from byte {at}; on the disk from byte ") and what.endswith(": /etc/named")
    assert sorted(path.name for path in tmp_path.glob("compare-*")) == []


def test_the_same_disk_stored_in_another_way(disks: Disks, tmp_path: Path) -> None:
    images = []
    for compression in ("zstd", "zlib"):
        image = tmp_path / f"{compression}.qcow2"
        options = (("compression", compression), ("compat", "1.1"))
        convert(str(disks[0]), str(image), Output("qcow2", "qcow2", options))
        images.append(image)
    at = first_difference(*images)
    assert at is not None
    assert describe(*images, "qcow2", at).endswith("in how it is stored; the disk in it is the same")


def test_the_member_of_an_archive(tmp_path: Path) -> None:
    archives = []
    for number in (1, 2):
        (tmp_path / "a").write_text("same")
        (tmp_path / "b").write_text(f"{number}")
        archive = tmp_path / f"{number}.tar"
        tar = ["tar", "-cf", str(archive), "--mtime=@1", "-C", str(tmp_path), "./a", "./b"]
        subprocess.run(tar, check=True)
        archives.append(archive)
    at = first_difference(*archives)
    assert at is not None
    assert describe(*archives, "tar", at) == f"from byte {at}, in /b"
