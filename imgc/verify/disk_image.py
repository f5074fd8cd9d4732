"""The image to boot: what it is, and a throw-away disk on top of it that is larger."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from imgc import process
from imgc.errors import ImgcError

GIB = 1024**3

#: Where the first sector holds what: the boot loader's code, and the signature of a partition table.
_CODE = slice(0, 440)
_SIGNATURE = slice(510, 512)


@dataclass(frozen=True)
class DiskImage:
    """``path`` is absolute, ``format`` as QEMU names it (``qcow2``, ``raw``, ``vpc``), ``size`` the disk's, in bytes.

    ``boots_bios`` says whether the first sector holds code.
    """

    path: Path
    format: str
    size: int
    boots_bios: bool


def inspect(path: Path, scratch: Path) -> DiskImage:
    """Look at an image without changing it.  Raises E504 when it is not a partitioned disk."""
    if not path.is_file():
        raise ImgcError("E504", f"There is no image {path}.", hint="`imgc build` makes one; `-o` says where.")
    absolute = path.resolve()
    answer = _qemu_img(path, "info", "--output=json", str(absolute))
    found = json.loads(answer)
    form, size = str(found["format"]), int(found["virtual-size"])
    sector = _first_sector(path, absolute, form, scratch)
    if sector[_SIGNATURE] != b"\x55\xaa":
        raise ImgcError(
            "E504",
            f"{path} is not a bootable disk: it has no partition table.",
            hint="Give a qcow2, vhd or raw image of a whole disk.",
        )
    return DiskImage(absolute, form, size, boots_bios=any(sector[_CODE]))


def _first_sector(path: Path, absolute: Path, form: str, scratch: Path) -> bytes:
    target = scratch / "first-sector"
    _qemu_img(path, "dd", "-f", form, "-O", "raw", "bs=512", "count=1", f"if={absolute}", f"of={target}")
    try:
        return target.read_bytes()[:512].ljust(512, b"\0")
    finally:
        target.unlink()


def overlay(image: DiskImage, target: Path, size: int | None) -> int:
    """Make ``target``, a qcow2 that starts as ``image`` and takes all writes.  Returns its size in bytes.

    ``size`` is in bytes; None adds 2 GiB, or a quarter when that is more, so that growing can be told from rounding.
    """
    wanted = size if size is not None else image.size + max(2 * GIB, image.size // 4)
    wanted = -(-wanted // 512) * 512
    if wanted < image.size:
        raise ImgcError(
            "E504",
            f"A disk of {wanted} bytes is smaller than the image's {image.size}.",
            hint="Give a larger disk size, or none.",
        )
    _qemu_img(
        image.path,
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        image.format,
        "-b",
        str(image.path),
        str(target),
        str(wanted),
    )
    return wanted


def _qemu_img(path: Path, *arguments: str) -> str:
    try:
        return process.run(["qemu-img", *arguments], timeout=120).output
    except ImgcError as error:
        if error.code != "E301":
            raise
        raise ImgcError(
            "E504", f"qemu-img cannot read {path}.", hint="Is it a complete disk image?", detail=error.detail
        ) from None
