"""GRUB's BIOS images as they are placed."""

from __future__ import annotations

import struct

import pytest

from imgc.disk.bootcode import core_image, first_sector
from imgc.errors import ImgcError


def core(sectors: int, says: int | None = None) -> bytes:
    head = bytearray(b"\xaa" * 512)
    head[500:512] = struct.pack("<QHH", 2, sectors - 1 if says is None else says, 0x820)
    return bytes(head) + b"\xbb" * 512 * (sectors - 1)


def test_the_first_sector_loads_the_core() -> None:
    boot = b"\x01" * 510 + b"\x55\xaa"
    code = first_sector(boot, 2048)
    assert len(code) == 440
    assert struct.unpack_from("<Q", code, 0x5C) == (2048,)
    assert code[0x66:0x68] == b"\x90\x90"
    changed = [at for at in range(440) if code[at] != 1]
    assert set(changed) <= {*range(0x5C, 0x64), 0x66, 0x67}


def test_the_core_loads_its_rest() -> None:
    placed = core_image(core(5), 2048, 8192)
    assert struct.unpack_from("<QHH", placed, 500) == (2049, 4, 0x820)
    assert placed[:500] == core(5)[:500] and placed[512:] == core(5)[512:]


def test_a_last_sector_that_is_not_full() -> None:
    placed = core_image(core(5)[:-100], 1, 8192)
    assert struct.unpack_from("<QHH", placed, 500) == (2, 4, 0x820)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (core(1), "not complete"),
        (core(20), "room for 8192"),
        (core(5, says=7), "7 more sectors, but it has 4"),
    ],
)
def test_a_core_that_cannot_be_placed(data: bytes, what: str) -> None:
    with pytest.raises(ImgcError, match=what) as caught:
        core_image(data, 1, 8192)
    assert caught.value.code == "E402"


@pytest.mark.parametrize("boot", [b"", b"\x01" * 512, b"\x01" * 1022 + b"\x55\xaa"])
def test_what_is_not_a_boot_sector(boot: bytes) -> None:
    with pytest.raises(ImgcError) as caught:
        first_sector(boot, 1)
    assert caught.value.code == "E402"
