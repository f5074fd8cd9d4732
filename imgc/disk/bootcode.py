"""GRUB's BIOS images as they must look on the disk.

``boot.img`` is the first sector and loads the first sector of ``core.img``; that one loads the rest of it.
Both hold sector numbers that only the one who places them knows.  The offsets are those of GRUB's
``include/grub/i386/pc/boot.h`` and ``grub-core/boot/i386/pc/diskboot.S``, unchanged since GRUB 2.00.
"""

from __future__ import annotations

import struct

from imgc.errors import ImgcError

SECTOR = 512

#: In boot.img: where the number of core.img's first sector stands (64 bits).
_KERNEL_SECTOR = 0x5C
#: In boot.img: a jump over the remedy for BIOSes that pass no drive number.  On hard disks it is blanked.
_DRIVE_CHECK = 0x66
#: How much of the first sector is code; the rest is the partition table's.
CODE = 440
#: In core.img's first sector: the only entry of the list of what to load next.
_BLOCK_LIST = SECTOR - 12
_NO_OPERATION = b"\x90\x90"


def first_sector(boot: bytes, core_sector: int) -> bytes:
    """The code part (440 bytes) of the disk's first sector, which loads ``core_sector``."""
    if len(boot) != SECTOR or boot[-2:] != b"\x55\xaa":
        raise ImgcError("E402", f"GRUB's boot.img is not a boot sector ({len(boot)} bytes).")
    code = bytearray(boot[:CODE])
    struct.pack_into("<Q", code, _KERNEL_SECTOR, core_sector)
    code[_DRIVE_CHECK : _DRIVE_CHECK + 2] = _NO_OPERATION
    return bytes(code)


def core_image(core: bytes, core_sector: int, room: int) -> bytes:
    """``core.img`` for a place of ``room`` bytes that begins at ``core_sector``."""
    if len(core) <= SECTOR:
        raise ImgcError("E402", f"GRUB's core.img is not complete ({len(core)} bytes).")
    if len(core) > room:
        raise ImgcError("E402", f"GRUB's core.img has {len(core)} bytes; there is room for {room}.")
    image = bytearray(core)
    sectors = -(-len(core) // SECTOR) - 1
    _, length, segment = struct.unpack_from("<QHH", image, _BLOCK_LIST)
    if length not in (0, sectors):
        raise ImgcError("E402", f"GRUB's core.img says it has {length} more sectors, but it has {sectors}.")
    struct.pack_into("<QHH", image, _BLOCK_LIST, core_sector + 1, sectors, segment)
    return bytes(image)
