"""Images of every format, looked at and laid under a throw-away disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from imgc import process
from imgc.errors import ImgcError
from imgc.verify import disk_image

MIB = 1024**2


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """4 MiB with boot code and a partition table's signature."""
    path = tmp_path / "disk.raw"
    path.write_bytes(b"\xf4".ljust(510, b"\0") + b"\x55\xaa" + bytes(4 * MIB - 512))
    return path


@pytest.mark.parametrize(("format", "options"), [("qcow2", []), ("raw", []), ("vpc", ["-o", "force_size"])])
def test_formats(raw: Path, tmp_path: Path, format: str, options: list[str]) -> None:
    path = tmp_path / "image"
    process.run(["qemu-img", "convert", "-O", format, *options, str(raw), str(path)])
    before = hashlib.sha256(path.read_bytes()).digest()
    found = disk_image.inspect(path, tmp_path)
    assert (found.format, found.size, found.boots_bios) == (format, 4 * MIB, True)
    size = disk_image.overlay(found, tmp_path / "overlay.qcow2", None)
    info = json.loads(
        process.run(["qemu-img", "info", "--output=json", str(tmp_path / "overlay.qcow2")]).output
    )
    assert size == info["virtual-size"] == 4 * MIB + 2 * disk_image.GIB
    assert info["backing-filename"] == str(path)
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_a_name_that_looks_like_a_protocol(raw: Path, tmp_path: Path) -> None:
    odd = raw.rename(tmp_path / "nbd:a,b c%d.raw")
    found = disk_image.inspect(odd, tmp_path)
    assert disk_image.overlay(found, tmp_path / "overlay.qcow2", 8 * MIB + 1) == 8 * MIB + 512


def test_a_disk_without_boot_code_is_for_efi(raw: Path, tmp_path: Path) -> None:
    with raw.open("r+b") as file:
        file.write(bytes(440))
    assert not disk_image.inspect(raw, tmp_path).boots_bios


def broken(path: Path, what: str) -> Path:
    if what == "text":
        path.write_text("not an image\n" * 100)
    elif what == "empty":
        path.touch()
    elif what == "directory":
        path.mkdir()
    elif what == "truncated":
        process.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1G"])
        path.write_bytes(path.read_bytes()[:100])
    return path


@pytest.mark.parametrize("what", ["text", "empty", "directory", "truncated", "missing"])
def test_what_is_not_a_disk(tmp_path: Path, what: str) -> None:
    path = broken(tmp_path / "image", what)
    with pytest.raises(ImgcError) as caught:
        disk_image.inspect(path, tmp_path)
    assert caught.value.code == "E504"
    assert str(path) in caught.value.message


def test_a_disk_smaller_than_the_image(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ImgcError) as caught:
        disk_image.overlay(disk_image.inspect(raw, tmp_path), tmp_path / "overlay.qcow2", MIB)
    assert caught.value.code == "E504"
