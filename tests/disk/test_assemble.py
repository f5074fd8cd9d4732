"""Whole disks, read back without mounting them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgc import process
from imgc.disk import assemble, inside
from imgc.disk.check import check_filesystem, inspect_boot, list_boot, root_partition
from imgc.disk.layout import MIB, SECTOR, Layout, plan_layout, usage_for
from imgc.disk.measure import measure
from imgc.disk.sparse import copy_range
from imgc.errors import ImgcError
from imgc.spec.model import Disk

from . import readback
from .trees import describe

SEED = "5" * 64
KINDS = [
    (filesystem, partitioning, boot)
    for filesystem in ("ext4", "btrfs")
    for partitioning, boot in (("gpt", "both"), ("mbr", "bios"))
]


def disk(filesystem: str = "ext4", partitioning: str = "gpt", boot: str = "both", **changes: object) -> Disk:
    plain = Disk(None, 4 * MIB, filesystem, "root-label", partitioning, boot, "", 1)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def plan(wanted: Disk, tree: Path) -> Layout:
    size, files = usage_for(wanted.filesystem, measure(str(tree)))
    return plan_layout(wanted, tree_bytes=size, tree_files=files, seed=SEED)


def build(wanted: Disk, tree: Path, raw: Path) -> Layout:
    layout = plan(wanted, tree)
    assemble.assemble(str(tree), str(raw), layout)
    return layout


def extract(raw: Path, target: Path) -> Path:
    """The root partition as a file of its own."""
    offset, size = root_partition(str(raw))
    with open(raw, "rb") as source, open(target, "wb") as file:
        file.truncate(size)
        copy_range(source.fileno(), offset, size, file.fileno(), 0)
    return target


@pytest.mark.parametrize(("partitioning", "boot"), [("gpt", "both"), ("mbr", "bios")])
def test_ext4_keeps_everything(tree: Path, tmp_path: Path, partitioning: str, boot: str) -> None:
    raw = tmp_path / "disk.raw"
    layout = build(disk("ext4", partitioning, boot), tree, raw)
    image = f"{raw}?offset={layout.partition('root').offset}"
    assert readback.ext4(image, tmp_path) == describe(tree)
    check_filesystem(str(raw))
    for name in ("big", "sparse", "weird\nnäme", "many/two"):
        inode = readback.run("debugfs", "-R", f'dump "/{name}" {tmp_path}/dumped', image)
        assert inode == "" and (tmp_path / "dumped").read_bytes() == (tree / name).read_bytes()
    # The hole is still one.
    blocks = readback.run("debugfs", "-R", "stat /sparse", image)
    assert "Blockcount: 16" in blocks


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ("metadata_csum,64bit,", {"metadata_csum", "64bit"}),  # e2fsprogs 1.43 and later
        ("uninit_bg,", set()),  # e2fsprogs 1.42
        ("uninit_bg,64bit,", {"64bit"}),  # the same of CentOS 7
    ],
)
def test_the_programs_in_the_image_can_read_its_ext4(
    tree: Path, tmp_path: Path, known: str, wanted: set[str]
) -> None:
    (tree / "etc").mkdir(exist_ok=True)
    (tree / "etc/mke2fs.conf").write_text(
        f"[fs_types]\n ext4 = {{\n  features = has_journal,{known}dir_nlink\n  auto_64-bit_support = 1\n }}\n"
    )
    layout = build(disk(), tree, tmp_path / "disk.raw")
    image = f"{tmp_path}/disk.raw?offset={layout.partition('root').offset}"
    features = set(readback.run("debugfs", "-R", "features", image).split())
    assert "extent" in features
    assert features & {"metadata_csum", "64bit"} == wanted
    assert readback.ext4(image, tmp_path) == describe(tree)
    check_filesystem(str(tmp_path / "disk.raw"))


def test_btrfs_keeps_everything(tree: Path, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    build(disk("btrfs"), tree, raw)
    check_filesystem(str(raw))
    part = extract(raw, tmp_path / "part")
    found = readback.btrfs(str(part))
    wanted = describe(tree)
    cut = {
        path: dataclasses.replace(
            entry, attributes=tuple((name, value.split(b"\0")[0]) for name, value in entry.attributes)
        )
        for path, entry in wanted.items()
    }
    assert found == cut
    # The values of the attributes and the content, which that tool does not show.
    (tmp_path / "restored").mkdir()
    readback.run("btrfs", "restore", "-S", "-x", str(part), str(tmp_path / "restored"))
    restored = describe(tmp_path / "restored")
    for path, entry in restored.items():
        assert entry.attributes == wanted[path].attributes, path
        if (tree / path[1:]).is_file() and not (tree / path[1:]).is_symlink():
            assert (tmp_path / "restored" / path[1:]).read_bytes() == (tree / path[1:]).read_bytes()
    assert {"/big", "/one", "/sparse", "/many/two"} <= set(restored)


@pytest.mark.parametrize(("filesystem", "partitioning", "boot"), KINDS)
def test_what_the_firmware_reads(
    tree: Path, tmp_path: Path, filesystem: str, partitioning: str, boot: str
) -> None:
    raw = tmp_path / "disk.raw"
    layout = build(disk(filesystem, partitioning, boot), tree, raw)
    table = json.loads(readback.run("sfdisk", "--json", str(raw)))["partitiontable"]
    assert (table["label"], table["id"]) == ("gpt" if partitioning == "gpt" else "dos", layout.disk_id)
    assert not readback.run("sfdisk", "--verify", str(raw)).startswith("Partition")
    found = {
        int(part["node"].removeprefix(str(raw))): (
            part["start"] * SECTOR,
            part["size"] * SECTOR,
            part["type"],
        )
        for part in table["partitions"]
    }
    assert found == {part.number: (part.offset, part.size, part.type) for part in layout.partitions}
    data = raw.read_bytes()
    core_at = layout.partition("bios").offset if partitioning == "gpt" else SECTOR
    assert data[:0x5C] == (tree / "boot/grub/i386-pc/boot.img").read_bytes()[:0x5C]
    assert int.from_bytes(data[0x5C:0x64], "little") == core_at // SECTOR
    assert data[0x66:0x68] == b"\x90\x90"
    assert int.from_bytes(data[core_at + 500 : core_at + 508], "little") == core_at // SECTOR + 1
    core = (tree / "boot/grub/i386-pc/core.img").read_bytes()
    assert data[core_at : core_at + 500] == core[:500]
    assert data[core_at + 512 : core_at + len(core)] == core[512:]
    menu = inspect_boot(str(raw), layout)
    assert menu["kernels"] == ["/boot/vmlinuz-6.1.0-test"] and menu["menus"] == ["/boot/grub/grub.cfg"]
    if layout.efi:
        esp = f"{raw}@@{layout.partition('esp').offset}"
        read = subprocess.run(
            ["mcopy", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI", "-"], capture_output=True, check=True
        )
        assert read.stdout == (tree / "boot/grub/x86_64-efi/core.efi").read_bytes()
        volume = layout.volume_id.upper()
        assert f"{volume[:4]}-{volume[4:]}" in readback.run("mdir", "-i", esp, "::")


def test_the_same_tree_gives_the_same_disk(tree: Path, tmp_path: Path) -> None:
    for directory, _, files in os.walk(tree):
        for name in [".", *files]:
            # Reading changes the time of access of a file that was not read since it was written.
            path = f"{directory}/{name}"
            status = os.lstat(path)
            os.utime(path, (status.st_mtime + 10**9, status.st_mtime), follow_symlinks=False)
    build(disk(), tree, tmp_path / "one.raw")
    build(disk(), tree, tmp_path / "two.raw")
    assert (tmp_path / "one.raw").read_bytes() == (tmp_path / "two.raw").read_bytes()


@pytest.mark.parametrize("shape", ["many small", "one large", "long names", "deep"])
@pytest.mark.parametrize("filesystem", ["ext4", "btrfs"])
def test_automatic_size_is_enough(tmp_path: Path, filesystem: str, shape: str) -> None:
    tree = tmp_path / "tree"
    (tree / "boot").mkdir(parents=True)
    if shape == "many small":
        for number in range(1500):
            (tree / f"{number}").write_bytes(b"x")
    elif shape == "one large":
        (tree / "file").write_bytes(b"x" * 60 * MIB)
    elif shape == "long names":
        for number in range(800):
            (tree / f"{number:0>250}").touch()
            os.symlink("y" * 900, tree / f"link {number}")
    else:
        os.makedirs(tree / "/".join(f"d{number}" for number in range(300)))
    for free in (0, 40 * MIB):
        layout = plan(disk(filesystem, free=free), tree)
        raw = tmp_path / f"{free}.raw"
        with open(raw, "wb") as file:
            file.truncate(layout.size)
        assemble.write_table(str(raw), layout, process.run)
        assemble.make_root(str(tree), str(raw), layout, process.run)
        check_filesystem(str(raw))
        if filesystem == "ext4":
            image = f"{raw}?offset={layout.partition('root').offset}"
            header = readback.run("dumpe2fs", "-h", image)
            fields = dict(line.split(":", 1) for line in header.splitlines() if ":" in line)
            assert int(fields["Free blocks"]) * 4096 >= free
            assert int(fields["Free inodes"]) > 100
            # Nor is it wasteful.
            assert int(fields["Free blocks"]) * 4096 <= free + 24 * MIB
        raw.unlink()


@pytest.mark.parametrize(
    ("lost", "boot", "named"),
    [
        ("boot/grub/i386-pc/core.img", "both", "/boot/grub/i386-pc/core.img"),
        ("boot/grub/x86_64-efi/core.efi", "efi", "/boot/grub/x86_64-efi/core.efi"),
        ("boot/grub/grub.cfg", "bios", "/boot/grub/grub.cfg"),
        ("boot/vmlinuz-6.1.0-test", "bios", "/boot/vmlinuz-*"),
    ],
)
def test_a_tree_that_could_not_start(tree: Path, tmp_path: Path, lost: str, boot: str, named: str) -> None:
    (tree / lost).unlink()
    with pytest.raises(ImgcError) as caught:
        build(disk(boot=boot), tree, tmp_path / "disk.raw")
    assert caught.value.code == "E402" and named in caught.value.message and "bootloader" in caught.value.hint
    assert not (tmp_path / "disk.raw").exists()


def test_an_empty_tree_could_not_start(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(ImgcError) as caught:
        build(disk(), tmp_path / "tree", tmp_path / "disk.raw")
    assert caught.value.code == "E402" and "/boot/grub" in caught.value.message


def test_a_loader_that_is_too_large(tree: Path, tmp_path: Path) -> None:
    core = tree / "boot/grub/i386-pc/core.img"
    head = core.read_bytes()[:508]
    sectors = (2 * MIB // SECTOR).to_bytes(2, "little")
    core.write_bytes(head + sectors + b"\x20\x08" + b"x" * 2 * MIB)
    with pytest.raises(ImgcError) as caught:
        build(disk(), tree, tmp_path / "disk.raw")
    assert caught.value.code == "E402" and "room for 1048576" in caught.value.message
    assert not (tmp_path / "disk.raw").exists()


def test_a_file_system_that_cannot_be_made(tree: Path, tmp_path: Path) -> None:
    layout = dataclasses.replace(plan(disk(), tree), label="far too long for ext4", root_uuid="nonsense")
    with pytest.raises(ImgcError) as caught:
        assemble.assemble(str(tree), str(tmp_path / "disk.raw"), layout)
    assert caught.value.code == "E403" and "mke2fs" in caught.value.detail
    assert not (tmp_path / "disk.raw").exists()


def serve(request: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "imgc.disk.assemble", request],
        cwd=Path(assemble.__file__).parents[2],
        capture_output=True,
        text=True,
    )


def test_in_another_process(tree: Path, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    done = serve(assemble.request(str(tree), str(raw), disk(), SEED))
    assert done.returncode == 0, done
    layout = Layout.from_json(inside.answer("noise\n" + done.stdout)["layout"])
    assert layout == plan(disk(), tree) and raw.stat().st_size == layout.size
    assert "/boot/grub" in list_boot(str(raw))


def test_errors_from_another_process(tree: Path, tmp_path: Path) -> None:
    done = serve(assemble.request(str(tree), str(tmp_path / "disk.raw"), disk(size=70 * MIB), SEED))
    assert done.returncode == 1
    with pytest.raises(ImgcError) as caught:
        inside.answer(done.stdout)
    assert caught.value.code == "E401" and "disk.size" in caught.value.hint
    with pytest.raises(ImgcError) as caught:
        inside.answer("killed before it could answer\n")
    assert caught.value.code == "E901" and "killed" in caught.value.detail
