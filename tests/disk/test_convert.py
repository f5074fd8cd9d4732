"""The formats of clouds, and what tells a good file from a damaged one."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from imgc.disk import vhd
from imgc.disk.assemble import assemble
from imgc.disk.check import check_outputs, inspect_boot
from imgc.disk.convert import convert
from imgc.disk.layout import MIB, plan_layout
from imgc.disk.measure import measure
from imgc.errors import ImgcError
from imgc.spec.model import Disk, Output

from .readback import run


def qcow2(compression: str, compat: str = "1.1") -> Output:
    return Output("qcow2", "qcow2", (("compression", compression), ("compat", compat)))


def vpc(variant: str) -> Output:
    return Output("vhd", "vhd", (("variant", variant),))


OUTPUTS = [
    qcow2("zstd"),
    qcow2("zlib"),
    qcow2("none"),
    qcow2("zlib", "0.10"),
    vpc("dynamic"),
    vpc("fixed"),
    vpc("xenserver"),
    Output("raw", "raw", ()),
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A disk of 13 MiB, which is no whole number of cylinders, with data here and there."""
    path = tmp_path / "disk.raw"
    with open(path, "wb") as file:
        file.truncate(13 * MIB)
        for at in (0, 5 * MIB + 512, 13 * MIB - 4096):
            file.seek(at)
            file.write(os.urandom(2048) + b"text " * 400)
    return path


def made(raw: Path, output: Output, name: str = "out") -> Path:
    out = raw.parent / f"{name}.{output.suffix}"
    convert(str(raw), str(out), output)
    return out


@pytest.mark.parametrize("output", OUTPUTS, ids=str)
def test_every_format_holds_the_same_disk(raw: Path, output: Output) -> None:
    out = made(raw, output)
    kind = "vpc" if output.format == "vhd" else output.format
    run("qemu-img", "compare", "-f", "raw", "-F", kind, str(raw), str(out))
    assert (
        json.loads(run("qemu-img", "info", "--output=json", "-f", kind, str(out)))["virtual-size"] == 13 * MIB
    )
    again = made(raw, output, "again")
    assert out.read_bytes() == again.read_bytes()


def test_qcow2_is_what_was_asked_for(raw: Path) -> None:
    for compression, compat in (("zstd", "1.1"), ("zlib", "1.1"), ("zlib", "0.10")):
        out = made(raw, qcow2(compression, compat), f"{compression}{compat}")
        fields = json.loads(run("qemu-img", "info", "--output=json", str(out)))["format-specific"]["data"]
        assert fields["compat"] == compat
        assert fields.get("compression-type", "zlib") == compression
        clusters = json.loads(run("qemu-img", "map", "--output=json", str(out)))
        assert any(part["data"] for part in clusters)
        version, length = struct.unpack_from(">I", out.read_bytes(), 4)[0], 72
        # Without zstd the header has nothing that a reader older than QEMU 5.1 does not know.
        incompatible = struct.unpack_from(">Q", out.read_bytes(), length)[0] if version == 3 else 0
        assert incompatible == (8 if compression == "zstd" else 0)


def test_raw_is_sparse_and_a_copy(raw: Path) -> None:
    out = made(raw, Output("raw", "raw", ()))
    assert out.stat().st_blocks * 512 < MIB and out.stat().st_ino != raw.stat().st_ino


@pytest.mark.parametrize("variant", ["dynamic", "fixed", "xenserver"])
def test_vhd_footer(raw: Path, variant: str) -> None:
    data = made(raw, vpc(variant)).read_bytes()
    footer = data[-512:]
    creator, version, system = struct.unpack_from(">4sI4s", footer, 28)
    if variant == "xenserver":
        assert (creator, version, system) == (b"tap\0", 0x10000, b"\0\0\0\0")
    else:
        assert creator == b"qem2"
    assert struct.unpack_from(">QQ", footer, 40)[1] == 13 * MIB
    assert (len(data) == 13 * MIB + 512) == (variant == "fixed")
    assert variant == "fixed" or data[:512] == footer


@pytest.mark.parametrize(
    ("variant", "at", "what"),
    [
        ("dynamic", -500, "the footer's checksum is wrong"),
        ("dynamic", -512, "does not end with a footer"),
        ("dynamic", 20, "the copy of the footer differs"),
        ("dynamic", 512, "no dynamic header"),
        ("dynamic", 600, "the dynamic header's checksum is wrong"),
        ("dynamic", 1536, "lies beyond the end"),
        ("fixed", -500, "the footer's checksum is wrong"),
    ],
)
def test_a_damaged_vhd_is_noticed(raw: Path, variant: str, at: int, what: str) -> None:
    out = made(raw, vpc(variant))
    assert vhd.problems(str(out), 13 * MIB) == []
    data = bytearray(out.read_bytes())
    data[at] ^= 0x40
    out.write_bytes(data)
    assert what in "; ".join(vhd.problems(str(out), 13 * MIB))


def test_a_vhd_that_is_too_short_or_of_another_size(raw: Path) -> None:
    out = made(raw, vpc("fixed"))
    assert "13631488 bytes, not 14680064" in "; ".join(vhd.problems(str(out), 14 * MIB))
    data = out.read_bytes()
    out.write_bytes(data[4096:])
    assert "not 13632000" in "; ".join(vhd.problems(str(out), 13 * MIB))


def test_blocks_that_overlap(raw: Path) -> None:
    out = made(raw, vpc("dynamic"))
    data = bytearray(out.read_bytes())
    used = [at for at in range(1536, 1536 + 7 * 4, 4) if data[at : at + 4] != b"\xff" * 4]
    data[used[1] : used[1] + 4] = data[used[0] : used[0] + 4]
    out.write_bytes(data)
    assert vhd.problems(str(out), 13 * MIB) == ["two blocks overlap"]


def test_nothing_is_left_of_a_file_that_cannot_be_written(raw: Path) -> None:
    for output in (qcow2("zstd"), Output("raw", "raw", ())):
        with pytest.raises(ImgcError) as caught:
            convert(str(raw), str(raw.parent / "no such directory/out"), output)
        assert caught.value.code == "E405"
    with pytest.raises(ImgcError) as caught:
        convert(str(raw), str(raw.parent / "out"), Output("floppy", "img", ()))
    assert caught.value.code == "E405"
    with open(raw, "r+b") as file:
        file.truncate(13 * MIB + 512)
    with pytest.raises(ImgcError, match="whole mebibytes"):
        made(raw, vpc("dynamic"))
    assert sorted(os.listdir(raw.parent)) == ["disk.raw"]


@pytest.mark.parametrize("filesystem", ["ext4", "btrfs"])
def test_check_finds_what_is_wrong(tree: Path, tmp_path: Path, filesystem: str) -> None:
    wanted = Disk(None, 0, filesystem, "root", "gpt", "both", "", 1)
    usage = measure(str(tree))
    layout = plan_layout(wanted, tree_bytes=usage.apparent, tree_files=usage.names, seed="seed")
    raw = tmp_path / "disk.raw"
    assemble(str(tree), str(raw), layout)
    outputs = [(str(made(raw, output, f"o{number}")), output) for number, output in enumerate(OUTPUTS)]
    check_outputs(str(raw), outputs)

    # Another disk in the place of an output
    other = tmp_path / "other.raw"
    other.write_bytes(raw.read_bytes()[:-MIB] + b"\1" * MIB)
    with pytest.raises(ImgcError) as caught:
        check_outputs(str(raw), [(str(other), OUTPUTS[-1])])
    assert caught.value.code == "E404" and "other.raw" in caught.value.message

    # A damaged qcow2
    damaged = tmp_path / "o0.qcow2"
    data = bytearray(damaged.read_bytes())
    data[struct.unpack_from(">Q", data, 48)[0] + 6] ^= 0xFF
    damaged.write_bytes(data)
    with pytest.raises(ImgcError) as caught:
        check_outputs(str(raw), [(str(damaged), OUTPUTS[0])])
    assert caught.value.code == "E404" and "o0.qcow2" in caught.value.message

    # A damaged file system: both copies of what is at the root of everything
    part = layout.partition("root")
    with open(raw, "r+b") as file:
        file.seek(part.offset + (4096 if filesystem == "ext4" else 65536 + 0x50))
        file.write(b"\xff" * 16)
    with pytest.raises(ImgcError) as caught:
        check_outputs(str(raw), [])
    assert caught.value.code == "E404" and "file system" in caught.value.message


def test_a_disk_that_would_not_start(tree: Path, tmp_path: Path) -> None:
    wanted = Disk(None, 0, "ext4", "root", "gpt", "both", "", 1)
    usage = measure(str(tree))
    layout = plan_layout(wanted, tree_bytes=usage.bytes, tree_files=usage.files, seed="seed")
    raw = tmp_path / "disk.raw"
    assemble(str(tree), str(raw), layout)
    inspect_boot(str(raw), layout)
    image = f"{raw}?offset={layout.partition('root').offset}"
    run("debugfs", "-w", "-R", "rm /boot/initrd.img-6.1.0-test", image)
    run("mdel", "-i", f"{raw}@@{layout.partition('esp').offset}", "::/EFI/BOOT/BOOTX64.EFI")
    with open(raw, "r+b") as file:
        file.write(bytes(440))
    with pytest.raises(ImgcError) as caught:
        inspect_boot(str(raw), layout)
    assert caught.value.message.endswith("it lacks: initrds, boot sector, EFI loader.")


def test_what_is_no_disk_at_all(tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"junk" * 10_000)
    with pytest.raises(ImgcError, match="no partition 1"):
        check_outputs(str(junk), [])
    with open(junk, "wb") as file:
        file.truncate(8 * MIB)
    run("sfdisk", "-q", str(junk), stdin="label: dos\nstart=2048\n")
    with pytest.raises(ImgcError, match="no file system"):
        check_outputs(str(junk), [])
