"""imgc-base-image on tarballs and directories."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .base_trees import differences, full, minimal, run, unpack, unpacked


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full(tmp_path_factory.mktemp("trees") / "full")


def tar(path: Path, tree: Path, *options: str) -> Path:
    keep = ("--numeric-owner", "--sparse", "--format=posix", "--xattrs", "--xattrs-include=*", "--acls")
    run("tar", "-C", tree, *keep, *options, "-cf", path, ".")
    return path


@pytest.mark.parametrize("option", ["", "--gzip", "--xz", "--zstd", "--bzip2"])
def test_all_of_a_tarball_arrives(tree: Path, tmp_path: Path, option: str) -> None:
    base = tar(tmp_path / "base", tree, *([option] if option else []))
    assert differences(tree, unpacked(base, tmp_path / "target")) == []


def test_all_of_a_directory_arrives(tree: Path, tmp_path: Path) -> None:
    assert differences(tree, unpacked(tree, tmp_path / "target")) == []


def test_names_without_a_dot_before_them_are_fine(tmp_path: Path) -> None:
    source = minimal(tmp_path / "tree")
    run("sh", "-c", f"cd {source} && tar -cf {tmp_path / 'base'} *")
    assert (unpacked(tmp_path / "base", tmp_path / "target") / "usr/bin/true").exists()


def test_modes_do_not_depend_on_a_umask(tmp_path: Path) -> None:
    source = minimal(tmp_path / "tree")
    (source / "etc").chmod(0o777)
    base = tar(tmp_path / "base", source)
    umask = os.umask(0o077)
    try:
        target = unpacked(base, tmp_path / "target")
    finally:
        os.umask(umask)
    assert (target / "etc").stat().st_mode & 0o7777 == 0o777


@pytest.mark.parametrize("program", ["", "gzip"])
def test_a_squashfs_is_a_tree_too(tmp_path: Path, program: str) -> None:
    source = minimal(tmp_path / "tree")
    base = tmp_path / "base.squashfs"
    run("mksquashfs", source, base, "-quiet", "-no-progress")
    if program:
        run(program, base)
        base = base.with_suffix(".squashfs.gz")
    assert (unpacked(base, tmp_path / "target") / "etc/os-release").exists()


# --- what is refused ---


def refused(base: Path, tmp_path: Path, said: str) -> None:
    done: subprocess.CompletedProcess[str] = unpack(base, tmp_path / "refused")
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert "E665: " in done.stderr and said in done.stderr, done.stderr


def test_a_tarball_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source/docs").mkdir(parents=True)
    refused(tar(tmp_path / "base", tmp_path / "source"), tmp_path, "At its top are: docs")


def test_a_root_file_system_one_directory_too_deep_is_told(tmp_path: Path) -> None:
    minimal(tmp_path / "outer/rootfs")
    refused(tar(tmp_path / "base", tmp_path / "outer"), tmp_path, "Everything is below rootfs/")


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path, "no root file system")


def test_a_tarball_that_is_cut_is_refused(tmp_path: Path) -> None:
    base = tar(tmp_path / "base", minimal(tmp_path / "tree"))
    base.write_bytes(base.read_bytes()[:20_000])
    refused(base, tmp_path, "tar cannot unpack")


def test_a_compressed_tarball_that_is_damaged_is_refused(tmp_path: Path) -> None:
    base = tar(tmp_path / "base", minimal(tmp_path / "tree"), "--gzip")
    data = bytearray(base.read_bytes())
    data[-8:] = bytes(8)
    base.write_bytes(bytes(data))
    refused(base, tmp_path, "decompress")


def test_a_tarball_without_programs_is_refused(tmp_path: Path) -> None:
    source = minimal(tmp_path / "tree")
    (source / "usr/bin/true").unlink()
    refused(tar(tmp_path / "base", source), tmp_path, "no programs")
