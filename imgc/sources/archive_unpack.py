"""Reads indexes of package archives, in whichever way they are compressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tempfile
import zlib
from pathlib import Path

from imgc import process

#: An index that unpacks to more bytes than this is not one.
LIMIT = 2 << 30

#: The first bytes of each kind of file.
_GZIP, _XZ, _BZIP2, _ZSTD = b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh", b"\x28\xb5\x2f\xfd"


def unpacked(path: Path, limit: int = LIMIT) -> bytes:
    """The content of a file that may be packed with gzip, xz, bzip2 or zstd.

    Raises ValueError when it is damaged or unpacks to more than ``limit`` bytes, E302 when zstd is not installed.
    """
    with path.open("rb") as file:
        start = file.read(8)
    try:
        if start.startswith(_ZSTD):
            return _zstd(path, limit)
        if start.startswith(_XZ):
            with lzma.open(path) as packed:
                return _read(packed.read(limit + 1), limit)
        if start.startswith(_GZIP):
            with gzip.open(path) as packed:
                return _read(packed.read(limit + 1), limit)
        if start.startswith(_BZIP2):
            with bz2.open(path) as packed:
                return _read(packed.read(limit + 1), limit)
        with path.open("rb") as plain:
            return _read(plain.read(limit + 1), limit)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"it is damaged ({error})") from error


def _zstd(path: Path, limit: int) -> bytes:
    process.need("zstd", package="zstd")
    with tempfile.TemporaryDirectory(prefix="imgc-index-") as directory:
        made = Path(directory) / "index"
        done = process.run(["zstd", "-dq", "-o", str(made), str(path)], check=False)
        if done.status:
            raise ValueError(f"it is damaged ({done.output.strip()})")
        with made.open("rb") as file:
            return _read(file.read(limit + 1), limit)


def _read(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise ValueError(f"it unpacks to more than {limit} bytes")
    return data
