"""A guest of one sector: firmware loads it, it prints to the serial port, and stops, in a second or two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

#: Loaded at 0x7c00: cli, so that the firmware prints no more; cld; xor %ax,%ax; mov %ax,%ds; mov $0x7c40,%si; then for
#: each byte up to a zero: wait for the transmitter (port 0x3fd, bit 5), write it to port 0x3f8.  At the zero, continue
#: at 0x7c20.
PRINT = bytes.fromhex("fafc31c08ed8be407cac84c0741288c3bafd03eca82074fbbaf80388d8eeebe9")

HALT = bytes.fromhex("f4ebfd")  # hlt; jmp back to it
RESET = bytes.fromhex("baf90cb006ee") + HALT  # mov $0xcf9,%dx; mov $6,%al; out %al,%dx: the chip set's reset

MakeGuest = Callable[..., Path]


@pytest.fixture
def tiny_guest(tmp_path: Path) -> MakeGuest:
    """Makes a raw disk whose boot sector prints ``text`` and then halts or resets."""

    def make(text: str, ending: bytes = HALT) -> Path:
        sector = (PRINT.ljust(0x20, b"\0") + ending).ljust(0x40, b"\0") + text.encode() + b"\0"
        assert len(sector) <= 440
        path = tmp_path / "tiny.raw"
        path.write_bytes(sector.ljust(510, b"\0") + b"\x55\xaa" + bytes(1024 * 1024 - 512))
        return path

    return make
