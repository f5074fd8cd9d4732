"""imgc-base-image on disk images: what is read from a real file system is what was written to it."""

from __future__ import annotations

import importlib
import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .base_trees import (
    ELEMENT,
    differences,
    disk,
    ext4,
    full,
    hook,
    minimal,
    run,
    unpack,
    unpacked,
)

#: Namespace as xfs_db has it, name and size of attributes: enough for a tree of blocks, and one with blocks of its own.
ATTRIBUTES = [
    ("u", "small", 5),
    ("r", "root", 6),
    ("s", "capability", 20),
    ("u", "huge", 30_000),
    *(("u", f"number{one}", 100 + one) for one in range(120)),
]

ROOT_TYPE, ESP_TYPE = "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
BOOT_TYPE = "BC13C2FF-59E6-4262-A352-B275FD6F7172"

#: A table that mounts all three by different names.
FSTAB = (
    "# <file system> <mount point> <type>\n"
    "LABEL=the-root / ext4 defaults 0 1\n"
    'PARTLABEL="my\\040boot" /boot ext4 defaults 0 2\n'
    "UUID=ABCD-1234 /boot/efi vfat umask=0077 0 0\n"
    "tmpfs /tmp tmpfs defaults 0 0\n"
    "UUID=00000000-0000-0000-0000-000000000000 /data ext4 nofail 0 0\n"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full(tmp_path_factory.mktemp("trees") / "full")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-O", "inline_data,ea_inode", "-I", "512"),
        ("-t", "ext2"),
        ("-O", "^64bit,^flex_bg"),
    ],
    ids=["ext4", "inline data", "ext2", "32 bits"],
)
def test_all_of_an_ext4_arrives(tree: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    image = ext4(tmp_path / "root.img", tree, "200M", *options)
    # mke2fs leaves out the bits of times beyond 2038.
    run("debugfs", "-w", "-R", "set_inode_field /var/data/large mtime_extra 1", image)
    assert differences(tree, unpacked(image, tmp_path / "target")) == []


@pytest.mark.parametrize("format", ["qcow2", "vpc", "vhdx", "raw"])
def test_every_format_of_a_disk_is_opened(tmp_path: Path, format: str) -> None:
    source = minimal(tmp_path / "tree")
    root = ext4(tmp_path / "root.img", source, "20M")
    raw = disk(tmp_path / "disk.raw", [(root, ROOT_TYPE, {})])
    image = tmp_path / "cloud.img"
    run("qemu-img", "convert", "-O", format, raw, image)
    unpacked(image, tmp_path / "target")
    assert (tmp_path / "target/etc/os-release").read_text() == 'ID="debian"\n'


@pytest.mark.parametrize("program", ["gzip", "xz", "bzip2", "zstd"])
def test_a_disk_may_be_compressed(tmp_path: Path, program: str) -> None:
    root = ext4(tmp_path / "root.img", minimal(tmp_path / "tree"), "20M")
    run(program, "-q", root)
    [image] = tmp_path.glob("root.img.*")
    unpacked(image, tmp_path / "target")
    assert (tmp_path / "target/usr/bin/true").exists()


def test_what_the_image_mounts_is_part_of_the_tree(tmp_path: Path) -> None:
    source = minimal(tmp_path / "tree")
    (source / "boot/efi").mkdir(parents=True)
    (source / "etc/fstab").write_text(FSTAB)
    boot = tmp_path / "boot"
    (boot / "efi").mkdir(parents=True)
    (boot / "vmlinuz").write_text("kernel")
    esp = tmp_path / "esp.img"
    run("truncate", "-s", "2M", esp)
    run("mkfs.vfat", "-i", "ABCD1234", esp)
    run("mmd", "-i", esp, "::EFI")
    run("mcopy", "-i", esp, source / "etc/fstab", "::EFI/fstab")
    parts = [
        (esp, ESP_TYPE, {}),
        (ext4(tmp_path / "boot.img", boot, "20M"), ROOT_TYPE, {"name": '"my boot"'}),
        (ext4(tmp_path / "root.img", source, "20M", "-L", "the-root"), ROOT_TYPE, {}),
    ]
    target = unpacked(disk(tmp_path / "disk.raw", parts), tmp_path / "target")
    assert (target / "boot/vmlinuz").read_text() == "kernel"
    assert (target / "boot/efi/EFI/fstab").read_text() == FSTAB
    assert not (target / "data").exists()


def test_without_a_table_of_mounts_the_types_of_partitions_tell(tmp_path: Path) -> None:
    source = minimal(tmp_path / "tree")
    boot = tmp_path / "boot"
    boot.mkdir()
    (boot / "vmlinuz").write_text("kernel")
    parts = [
        (ext4(tmp_path / "root.img", source, "20M"), ROOT_TYPE, {}),
        (ext4(tmp_path / "boot.img", boot, "20M"), BOOT_TYPE, {}),
    ]
    target = unpacked(disk(tmp_path / "disk.raw", parts), tmp_path / "target")
    assert (target / "boot/vmlinuz").read_text() == "kernel"


def test_logical_partitions_of_an_old_table_are_found(tmp_path: Path) -> None:
    root = ext4(tmp_path / "root.img", minimal(tmp_path / "tree"), "20M")
    raw = tmp_path / "disk.raw"
    run("truncate", "-s", "40M", raw)
    script = tmp_path / "table"
    script.write_text("label: dos\nstart=2048, size=69632, type=5\nstart=4096, size=40960, type=83\n")
    run("sh", "-c", f"sfdisk --quiet {raw} < {script}")
    run("dd", f"if={root}", f"of={raw}", "bs=1M", "seek=2", "conv=notrunc,sparse", "status=none")
    assert (unpacked(raw, tmp_path / "target") / "etc/os-release").exists()


def test_a_journal_that_is_not_empty_is_replayed_in_a_copy(tmp_path: Path) -> None:
    """debugfs writes a transaction into the journal, as a machine that lost power leaves one."""
    source = minimal(tmp_path / "tree")
    (source / "etc/hostname").write_text("before\n")
    image = ext4(tmp_path / "root.img", source, "40M")
    block = run("debugfs", "-R", "blocks /etc/hostname", image).split()[-1]
    (tmp_path / "block").write_bytes(b"after!\n".ljust(4096, b"\0"))
    (tmp_path / "commands").write_text(f"jo\njw -b {block} {tmp_path / 'block'}\njc\n")
    run("debugfs", "-w", "-f", tmp_path / "commands", image)
    before = image.read_bytes()
    target = unpacked(image, tmp_path / "target")
    assert (target / "etc/hostname").read_text() == "after!\n"
    assert image.read_bytes() == before


# --- XFS ---


def xfs(path: Path, tree: Path, *options: str) -> Path:
    """An XFS that is made of a tree without mounting it, with what mkfs.xfs can take over."""
    lines = ["/dev/null", "0 0", "d--755 0 0"]

    def walk(directory: Path) -> None:
        for one in sorted(directory.iterdir()):
            mode = one.lstat().st_mode & 0o777
            if one.is_symlink():
                lines.append(f"{one.name} l--777 0 0 {os.readlink(one)}")
            elif one.is_dir():
                lines.append(f"{one.name} d--{mode:o} 12 34")
                walk(one)
            else:
                lines.append(f"{one.name} -{'u' if one.lstat().st_mode & 0o4000 else '-'}-{mode:o} 5 6 {one}")
        lines.append("$")

    walk(tree)
    prototype = path.with_suffix(".proto")
    prototype.write_text("\n".join(lines) + "\n")
    run("truncate", "-s", "400M", path)
    run("mkfs.xfs", "-q", "-f", *options, "-p", prototype, path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of what such a prototype can say, with directories of every form."""
    tree = minimal(tmp_path_factory.mktemp("trees") / "plain")
    (tree / "usr/bin/true").chmod(0o4755)
    (tree / "bin").symlink_to("usr/bin")
    (tree / "var").mkdir()
    (tree / "var/large").write_bytes(os.urandom(3_000_000))
    (tree / "var/empty").touch()
    (tree / "var/link").symlink_to("L" * 250)
    for count in (3, 60, 1500):
        directory = tree / f"var/many{count}"
        directory.mkdir()
        for number in range(count):
            (directory / f"a-file-with-a-rather-long-name-{number}").touch()
    return tree


@pytest.mark.parametrize(
    "options",
    [(), ("-m", "crc=0"), ("-m", "bigtime=0"), ("-b", "size=1024", "-n", "size=8192"), ("-i", "size=2048")],
    ids=["v5", "v4", "short times", "large directories", "large inodes"],
)
def test_all_of_an_xfs_arrives(plain: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    target = unpacked(xfs(tmp_path / "root.img", plain, *options), tmp_path / "target")
    assert names(target) == names(plain)
    for path in ("var/large", "usr/bin/true", "etc/os-release", "var/empty"):
        assert (target / path).read_bytes() == (plain / path).read_bytes()
    assert os.readlink(target / "var/link") == "L" * 250
    assert (target / "usr/bin/true").stat().st_mode & 0o7777 == 0o4755
    if os.geteuid() == 0:
        status = (target / "usr/bin/true").stat()
        assert (status.st_uid, status.st_gid) == (5, 6)


def names(tree: Path) -> list[str]:
    return sorted(str(one.relative_to(tree)) for one in tree.rglob("*"))


def test_attributes_of_xfs_are_read_from_leaves_and_from_blocks_of_their_own(
    plain: Path, tmp_path: Path
) -> None:
    image = xfs(tmp_path / "root.img", plain)
    inode = _inode(image, "var/large")
    sets = [f"attr_set -{space} {name} -v {size}" for space, name, size in ATTRIBUTES]
    run("xfs_db", "-x", *(word for one in sets for word in ("-c", f"inode {inode}", "-c", one)), image)
    # No file system here takes as many; so they are not written anywhere.
    with (
        reader("xfs") as (module, nodes),
        image.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        found = module.Xfs(nodes.Image(data, 0, len(data))).xattrs(inode)
    prefixes = {"u": "user.", "r": "trusted.", "s": "security."}
    assert {name: len(value) for name, value in found.items()} == {
        f"{prefixes[space]}{name}": size for space, name, size in ATTRIBUTES
    }


def _inode(image: Path, path: str) -> int:
    """The number of an inode, as xfs_db finds it."""
    told = run("xfs_db", "-r", "-c", f"path /{path}", "-c", "inode", image)
    return int(told.split()[-1])


@contextmanager
def reader(name: str) -> Iterator[tuple[ModuleType, ModuleType]]:
    """One of the element's modules, and that with the words that all of them speak in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.syspath_prepend(str(ELEMENT / "base-image"))
        yield importlib.import_module(name), importlib.import_module("nodes")


def test_long_links_of_an_xfs_with_checksums(tmp_path: Path) -> None:
    tree = minimal(tmp_path / "tree")
    (tree / "remote").symlink_to("M" * 700)
    image = xfs(tmp_path / "root.img", tree)
    data = bytearray(image.read_bytes())
    # mkfs.xfs forgets the header that the kernel writes before the target of a long link.
    at = data.find(b"M" * 700)
    data[at : at + 756] = b"XSLM" + struct.pack(">II", 0, 700) + bytes(44) + b"M" * 700
    image.write_bytes(bytes(data))
    target = unpacked(image, tmp_path / "target")
    assert os.readlink(target / "remote") == "M" * 700


def test_an_xfs_that_was_not_unmounted_is_refused(plain: Path, tmp_path: Path) -> None:
    image = xfs(tmp_path / "root.img", plain)
    data = bytearray(image.read_bytes())
    # The record that unmounting writes last, and its mark.
    at = data.rfind(b"\xfe\xed\xba\xbe")
    assert data[at + 512 + 9] & 0x20
    data[at + 512 + 9] &= ~0x20
    image.write_bytes(bytes(data))
    refused(image, tmp_path, "E665", "not unmounted")


# --- what is refused ---


def refused(base: Path, tmp_path: Path, code: str, said: str) -> str:
    done = unpack(base, tmp_path / "refused")
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith("E"))
    assert line.startswith(f"{code}: ") and said in line, done.stderr
    return done.stderr


def test_a_qcow2_that_reads_another_file_is_refused(tmp_path: Path) -> None:
    run("truncate", "-s", "1M", tmp_path / "secret")
    image = tmp_path / "cloud.qcow2"
    run("qemu-img", "create", "-f", "qcow2", "-b", tmp_path / "secret", "-F", "raw", image)
    refused(image, tmp_path, "E665", "another file")
    run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", image, "1M")
    refused(image, tmp_path, "E665", "another file")


def _btrfs(image: Path, scratch: Path) -> None:
    run("truncate", "-s", "200M", image)
    run("mkfs.btrfs", "-q", image)


def _lvm(image: Path, scratch: Path) -> None:
    part = scratch / "part"
    data = bytearray(4 << 20)
    data[512:520] = b"LABELONE"
    part.write_bytes(data)
    disk(image, [(part, ROOT_TYPE, {})])


@pytest.mark.parametrize("make", [_btrfs, _lvm], ids=["btrfs", "lvm"])
def test_what_cannot_be_read_without_mounting_is_told_with_a_way_out(
    tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    make(tmp_path / "disk.img", tmp_path)
    told = refused(tmp_path / "disk.img", tmp_path, "E666", "without mounting")
    assert "base.kind: tree" in told


def test_a_disk_without_an_operating_system_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    image = ext4(tmp_path / "root.img", tmp_path / "tree", "20M")
    refused(image, tmp_path, "E665", "partition 0 (ext4)")


@pytest.mark.parametrize(
    "data", [b"", b"a page of a proxy\n" * 100, b"\x1f\x8bnot really", b"\xfd7zXZ\0broken"]
)
def test_a_file_that_is_nothing_of_the_kind_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "base"
    path.write_bytes(data)
    refused(path, tmp_path, "E665", "The base")


def test_damage_is_told_and_not_a_traceback(tmp_path: Path) -> None:
    image = ext4(tmp_path / "root.img", minimal(tmp_path / "tree"), "20M", "-O", "^metadata_csum")
    data = bytearray(image.read_bytes())
    for number in range(0, len(data), 4096):
        if b"os-release" in data[number : number + 4096]:
            data[number + 4 : number + 6] = b"\x03\x00"
    image.write_bytes(bytes(data))
    refused(image, tmp_path, "E665", "")


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def healthy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[int]]:
    """An image that may be damaged and put right again, and where it is not empty."""
    place = tmp_path_factory.mktemp("damage")
    tree = minimal(place / "tree")
    for number in range(200):
        (tree / f"etc/file-with-a-long-name-{number}").symlink_to("nowhere")
    image = (ext4 if request.param == "ext4" else xfs)(place / "root.img", tree)
    data = image.read_bytes()
    used = [at for at in range(0, len(data), 512) if data[at : at + 512].strip(b"\0")]
    return image, used


@given(where=st.integers(0, 1 << 30), at=st.integers(0, 500), data=st.binary(min_size=1, max_size=12))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_ends_in_a_traceback(
    healthy: tuple[Path, list[int]], where: int, at: int, data: bytes
) -> None:
    image, used = healthy
    offset = used[where % len(used)] + at
    with image.open("r+b") as file, tempfile.TemporaryDirectory(dir=image.parent) as target:
        file.seek(offset)
        before = file.read(len(data))
        file.seek(offset)
        file.write(data)
        file.flush()
        try:
            done = unpack(image, Path(target))
        finally:
            file.seek(offset)
            file.write(before)
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr, done.stderr


# --- the hook ---


@pytest.mark.parametrize("way", ["offer", "stock"])
def test_the_hook_takes_what_imgc_offers_or_a_local_image(tmp_path: Path, way: str) -> None:
    offers = tmp_path / "offers"
    offers.mkdir()
    ext4(offers / "base", minimal(tmp_path / "tree"), "20M")
    env = {"IMGC_OFFERS": str(offers)} if way == "offer" else {"DIB_LOCAL_IMAGE": str(offers / "base")}
    done = hook("root.d/05-imgc-base-image", tmp_path / "target", tmp_path, {**env, "DISTRO_NAME": "debian"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "target/etc/os-release").exists()


def test_the_hook_refuses_another_distribution(tmp_path: Path) -> None:
    base = ext4(tmp_path / "base", minimal(tmp_path / "tree", "fedora"), "20M")
    env = {"DIB_LOCAL_IMAGE": str(base), "DISTRO_NAME": "debian"}
    done = hook("root.d/05-imgc-base-image", tmp_path / "target", tmp_path, env)
    assert done.returncode == 1
    assert "E665: The base is fedora" in done.stdout


def test_the_hook_says_when_there_is_no_base(tmp_path: Path) -> None:
    done = hook("root.d/05-imgc-base-image", tmp_path / "target", tmp_path, {"DISTRO_NAME": "debian"})
    assert done.returncode == 1
    assert "DIB_LOCAL_IMAGE" in done.stdout


def test_apt_and_grub_forget_the_disk_that_the_base_came_from(tmp_path: Path) -> None:
    target = minimal(tmp_path / "target")
    sources, grub = target / "etc/apt/sources.list.d", target / "etc/default/grub.d"
    sources.mkdir(parents=True)
    grub.mkdir(parents=True)
    (sources / "debian.sources").write_text("URIs: http://elsewhere.example/debian\n")
    (sources / "mine.list").write_text("deb http://mine.example/ ./\n")
    (grub / "40-force-partuuid.cfg").write_text("GRUB_FORCE_PARTUUID=1234\nGRUB_CMDLINE_LINUX=quiet\n")
    env = {
        "DISTRO_NAME": "debian",
        "DIB_RELEASE": "bookworm",
        "DIB_DISTRIBUTION_MIRROR": "http://mirror.example/debian",
        "DIB_DEBIAN_SECURITY_MIRROR": "http://mirror.example/security",
        "DIB_DEBIAN_COMPONENTS": "main,contrib",
    }
    done = hook("root.d/06-imgc-base-image-settle", target, tmp_path, env)
    assert done.returncode == 0, done.stderr
    assert sorted(one.name for one in sources.iterdir()) == ["mine.list"]
    assert (target / "etc/apt/sources.list").read_text().splitlines() == [
        "deb http://mirror.example/debian bookworm main contrib",
        "deb http://mirror.example/debian bookworm-updates main contrib",
        "deb http://mirror.example/security bookworm-security main contrib",
    ]
    assert (grub / "40-force-partuuid.cfg").read_text().splitlines() == [
        "# imgc: GRUB_FORCE_PARTUUID=1234",
        "GRUB_CMDLINE_LINUX=quiet",
    ]


def test_without_a_mirror_the_sources_of_the_base_stay(tmp_path: Path) -> None:
    target = minimal(tmp_path / "target")
    (target / "etc/apt").mkdir()
    (target / "etc/apt/sources.list").write_text("deb http://own.example/ x main\n")
    env = {"DISTRO_NAME": "debian", "DIB_RELEASE": "bookworm"}
    done = hook("root.d/06-imgc-base-image-settle", target, tmp_path, env)
    assert done.returncode == 0, done.stderr
    assert (target / "etc/apt/sources.list").read_text() == "deb http://own.example/ x main\n"
