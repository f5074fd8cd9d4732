"""Making file systems from trees, straight into the raw disk where the tools can.

The tools' own configuration files are not read: what they would say differs between hosts, and some of it
(features that the image's GRUB or kernel cannot read) makes images that do not start.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from imgc.disk import btrfs, inode_times, sparse
from imgc.disk.layout import EPOCH, SECTOR, Layout
from imgc.disk.measure import BLOCK
from imgc.errors import ImgcError
from imgc.process import Completed, clean_environment, need
from imgc.spec.model import ESP_LABEL

#: The features of ext4 that GRUB 2.02 and Linux 3.13 and later can read.
_FEATURES = (
    *("has_journal", "extent", "huge_file", "flex_bg", "dir_nlink", "extra_isize"),
    *("metadata_csum", "64bit"),
)

#: Those of them that e2fsprogs before 1.43 refuses to check and to grow.
_YOUNG = ("metadata_csum", "64bit")

_MKE2FS_CONFIG = """\
[defaults]
    base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
    blocksize = 4096
    inode_size = 256
    inode_ratio = 16384
[fs_types]
    ext4 = {
        features = %s
    }
    small = {
    }
    big = {
    }
    huge = {
    }
"""

#: Where firmware looks for a loader on a disk it knows nothing about, by GRUB's name of the platform.
REMOVABLE = {"x86_64-efi": "BOOTX64.EFI", "arm64-efi": "BOOTAA64.EFI"}


class Run(Protocol):
    """What of :func:`imgc.process.run` is used here."""

    def __call__(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: str | None = None
    ) -> Completed: ...


def make_root(tree: str, raw: str, layout: Layout, run: Run, *, epoch: int | None = None) -> None:
    """Put the root file system, with all of ``tree`` in it, on the disk ``raw``.

    ``epoch`` is what the file system is stamped with, and the latest time that its files get, in seconds since 1970;
    without it files keep their times.  btrfs takes no part in that.
    """
    if layout.filesystem == "ext4":
        _make_ext4(tree, raw, layout, run, epoch)
    elif layout.filesystem == "btrfs":
        _make_btrfs(tree, raw, layout, run)
    else:
        raise ImgcError("E403", f"No way to make a root file system of type {layout.filesystem}.")


def make_esp(
    loaders: Mapping[str, str], raw: str, layout: Layout, run: Run, *, epoch: int | None = None
) -> None:
    """Put the EFI system partition on ``raw``.  ``loaders`` maps names in EFI/BOOT to the files that they hold.

    ``epoch`` is the time that all of it is stamped with, in seconds since 1970.
    """
    need("mkfs.vfat", "mmd", "mcopy", package="dosfstools and mtools")
    part = layout.partition("esp")
    env = clean_environment({"SOURCE_DATE_EPOCH": _stamp(epoch), "MTOOLSRC": os.devnull, "TZ": "UTC"})
    # --invariant comes first: it sets the volume id as well, and -i must win.
    mkfs = ["mkfs.vfat", "--invariant", "-F", "32", "-s", "1", "-i", layout.volume_id, "-n", ESP_LABEL]
    mkfs += ["-h", str(part.offset // SECTOR), "--offset", str(part.offset // SECTOR)]
    _run(run, [*mkfs, raw, str(part.size // 1024)], env)
    image = f"{raw}@@{part.offset}"
    _run(run, ["mmd", "-i", image, "::/EFI", "::/EFI/BOOT"], env)
    for name, source in sorted(loaders.items()):
        _run(run, ["mcopy", "-i", image, source, f"::/EFI/BOOT/{name}"], env)


def _make_ext4(tree: str, raw: str, layout: Layout, run: Run, epoch: int | None) -> None:
    need("mke2fs", "debugfs", package="e2fsprogs")
    part = layout.partition("root")
    with tempfile.NamedTemporaryFile("w", prefix="mke2fs-", suffix=".conf") as config:
        config.write(_MKE2FS_CONFIG % ",".join(_features(tree)))
        config.flush()
        env = clean_environment({"MKE2FS_CONFIG": config.name, "E2FSPROGS_FAKE_TIME": _stamp(epoch)})
        mkfs = [
            "mke2fs",
            "-q",
            "-F",
            "-t",
            "ext4",
            "-b",
            str(BLOCK),
            "-L",
            layout.label,
            "-U",
            layout.root_uuid,
        ]
        mkfs += ["-E", f"offset={part.offset},hash_seed={layout.hash_seed},root_owner=0:0"]
        mkfs += ["-N", str(layout.inodes), "-J", f"size={layout.journal >> 20}", "-m", "1"]
        _run(run, [*mkfs, "-d", tree, raw, str(part.size // BLOCK)], env)

        def debugfs(script: str) -> None:
            _run(run, ["debugfs", "-w", "-f", script, f"{raw}?offset={part.offset}"], env)

        with tempfile.NamedTemporaryFile("w", prefix="debugfs-") as script:
            script.writelines(_top_directory(tree))
            script.flush()
            debugfs(script.name)
        inode_times.settle(raw, part.offset, epoch, debugfs)


def _features(tree: str) -> Iterator[str]:
    """The features that the programs in the tree can work with, which must check this file system and grow it.

    They say so in their own settings; a tree without any has no such programs.
    """
    try:
        descriptor = os.open(os.path.join(tree, "etc/mke2fs.conf"), os.O_RDONLY | os.O_NOFOLLOW)
        with open(descriptor, encoding="utf-8", errors="replace") as file:
            settings = file.read()
    except OSError:
        settings = " ".join(_YOUNG)
    known = set(re.findall(r"[a-z0-9_]+", settings))
    return (feature for feature in _FEATURES if feature not in _YOUNG or feature in known)


def _top_directory(tree: str) -> Iterator[str]:
    """What debugfs must do for the top directory: mke2fs takes over everything but that."""
    top = os.stat(tree)
    fields = {"mode": f"0{top.st_mode:o}", "uid": top.st_uid, "gid": top.st_gid}
    for name, value in {**fields, "mtime": f"@{int(top.st_mtime)}"}.items():
        yield f"set_inode_field <2> {name} {value}\n"


def _stamp(epoch: int | None) -> str:
    """The time that new file systems are stamped with."""
    return str(EPOCH if epoch is None else epoch)


def _make_btrfs(tree: str, raw: str, layout: Layout, run: Run) -> None:
    need("mkfs.btrfs", package="btrfs-progs")
    part = layout.partition("root")
    # mkfs.btrfs knows of no offset: make the file system beside the disk and move its data in.
    with tempfile.TemporaryDirectory(prefix="btrfs-", dir=os.path.dirname(os.path.abspath(raw))) as scratch:
        image = os.path.join(scratch, "root.btrfs")
        with open(image, "wb") as file:
            file.truncate(part.size)
        mkfs = ["mkfs.btrfs", "-q", "-L", layout.label, "-U", layout.root_uuid, "--rootdir", tree, image]
        _run(run, mkfs, clean_environment())
        if os.stat(image).st_size != part.size:
            raise ImgcError("E403", f"mkfs.btrfs needs {os.stat(image).st_size} bytes and has {part.size}.")
        btrfs.repair(image, tree)
        with open(image, "rb") as source, open(raw, "r+b") as target:
            sparse.copy_range(source.fileno(), 0, part.size, target.fileno(), part.offset)


def _run(run: Run, argv: list[str], env: Mapping[str, str]) -> None:
    try:
        run(argv, env=env)
    except ImgcError as error:
        if error.code != "E301":
            raise
        raise ImgcError("E403", f"Making a file system: {error.message}", detail=error.detail) from error
