"""From the raw disk to the formats that clouds take.  The same disk gives the same bytes every time."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable

from imgc import process
from imgc.disk import sparse, vhd
from imgc.errors import ImgcError
from imgc.spec.model import Output

#: Clouds that take VHDs want whole mebibytes; every layout has them.
_UNIT = 1024 * 1024
_NAMESPACE = uuid.UUID("0d0b7a86-5a0c-5b8f-8f6e-3f9a3b1c2d10")


def convert(raw: str, out: str, output: Output, *, on_line: Callable[[str], None] | None = None) -> None:
    """Write the disk image ``raw`` to ``out`` in the format ``output`` says.

    ``out`` must not exist; it is complete when this returns and is removed when anything goes wrong.  Raises
    E405 when it cannot be written.
    """
    try:
        if output.format == "raw":
            sparse.copy_file(raw, out)
        elif output.format == "qcow2":
            _qcow2(raw, out, output, on_line)
        elif output.format == "vhd":
            _vhd(raw, out, output, on_line)
        else:
            raise ImgcError("E405", f"A disk cannot be written as {output.format}.")
    except BaseException as error:
        if os.path.exists(out):
            os.unlink(out)
        if isinstance(error, OSError):
            raise ImgcError("E405", f"Writing {out}: {error.strerror}.") from error
        raise


def qemu_format(output: Output) -> str:
    """What QEMU calls the format of an output."""
    return "vpc" if output.format == "vhd" else output.format


def _qcow2(raw: str, out: str, output: Output, on_line: Callable[[str], None] | None) -> None:
    options = [f"compat={output.option('compat')}"]
    compression = output.option("compression")
    if compression == "zstd":
        # Older readers do not know the field at all, so zlib goes without saying.
        options.append("compression_type=zstd")
    _convert(raw, out, "qcow2", options, on_line, compress=compression != "none")


def _vhd(raw: str, out: str, output: Output, on_line: Callable[[str], None] | None) -> None:
    size = os.stat(raw).st_size
    if size % _UNIT:
        raise ImgcError("E405", f"A VHD must have whole mebibytes; this disk has {size} bytes.")
    variant = output.option("variant")
    subformat = "fixed" if variant == "fixed" else "dynamic"
    _convert(raw, out, "vpc", [f"subformat={subformat}", "force_size=on"], on_line, compress=False)
    vhd.finish(out, _identifier(raw), xenserver=variant == "xenserver")


def _convert(
    raw: str,
    out: str,
    name: str,
    options: list[str],
    on_line: Callable[[str], None] | None,
    *,
    compress: bool,
) -> None:
    """Run qemu-img, which writes clusters in the order of the disk: out of order would be faster and random."""
    process.need("qemu-img", package="qemu-utils")
    command = ["qemu-img", "convert", *(["-c"] if compress else []), "-f", "raw", "-O", name]
    try:
        process.run([*command, "-o", ",".join(options), raw, out], on_line=on_line)
    except ImgcError as error:
        if error.code != "E301":
            raise
        raise ImgcError("E405", f"Writing {out}: {error.message}", detail=error.detail) from error


def _identifier(raw: str) -> uuid.UUID:
    """A UUID for a disk from its first mebibyte, which holds the identifiers that its partition table has."""
    with open(raw, "rb") as file:
        return uuid.uuid5(_NAMESPACE, file.read(_UNIT).hex())
