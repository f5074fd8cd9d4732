"""What a base is: told by its first bytes, whatever it is called."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nodes import Unreadable

#: How a compressed file begins, and the program that decompresses it.
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}

#: How a disk image begins that is not a plain copy of a disk, and what qemu-img calls it.
_FORMATS = {b"QFI\xfb": "qcow2", b"conectix": "vpc", b"vhdxfile": "vhdx"}

#: Bytes that tell what a file is: the file systems' own marks lie within them.
_HEAD = 1 << 17


@dataclass(frozen=True)
class Base:
    """``kind`` is ``directory``, ``tar``, ``squashfs`` or ``disk``; ``format`` is that of a disk.

    ``compression`` is the program that undoes it, or empty.
    """

    path: Path
    kind: str
    format: str = ""
    compression: str = ""


def look(path: Path) -> Base:
    """What is at ``path``.  Raises E665 when nothing can start from it."""
    if path.is_dir():
        return Base(path, "directory")
    try:
        with path.open("rb") as file:
            first = file.read(16)
    except OSError as error:
        raise Unreadable("E665", f"The base cannot be read: {error.strerror}.") from error
    compression = next((name for mark, name in _COMPRESSIONS.items() if first.startswith(mark)), "")
    head = _head(path, compression)
    for mark, name in _FORMATS.items():
        if head.startswith(mark):
            _check_alone(head, name)
            return Base(path, "disk", name, compression)
    if head.startswith(b"hsqs"):
        return Base(path, "squashfs", "", compression)
    if _is_tar(head):
        return Base(path, "tar", "", compression)
    if _is_disk(head):
        return Base(path, "disk", "raw", compression)
    # A disk of this format may have its mark at the end only.
    if not compression and _tail(path).startswith(b"conectix"):
        return Base(path, "disk", "vpc")
    said = "The base is neither a directory nor a tarball, squashfs or disk image that imgc knows."
    raise Unreadable("E665", said, "Disk images are qcow2, raw, VHD or VHDX, as they are or compressed.")


def raw_disk(base: Base, scratch: Path) -> Path:
    """The disk as a raw, sparse file: the base itself when it is that already."""
    path = base.path
    if base.compression:
        path = scratch / "disk.unpacked"
        with decompressed(base) as stream, path.open("wb") as file:
            _copy_sparse(stream, file)
    if base.format == "raw":
        return path
    raw = scratch / "disk.raw"
    run("qemu-img", "convert", "-f", base.format, "-O", "raw", "-S", "64k", str(path), str(raw))
    return raw


@contextmanager
def decompressed(base: Base) -> Iterator[IO[bytes]]:
    """The bytes of a compressed base.  Raises E665 when they end with an error."""
    if not base.compression:
        with base.path.open("rb") as file:
            yield file
        return
    need(base.compression)
    with subprocess.Popen(
        [base.compression, "-dc", "--", str(base.path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        yield child.stdout
        # What a tarball has after its end is nobody's business, but has to be sound.
        while child.stdout.read(1 << 20):
            pass
    if child.returncode:
        raise Unreadable("E665", f"{base.compression} cannot decompress the base (see above).")


def run(*argv: str) -> str:
    """Run a program and return what it prints.  Raises E665 with that when it fails."""
    need(argv[0])
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    output = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode:
        print(output)
        raise Unreadable("E665", f"{argv[0]} failed on the base (exit status {done.returncode}, see above).")
    return output


def need(program: str) -> None:
    """Raise E302 when a program is not installed."""
    path = os.environ.get("PATH", os.defpath)
    if not any(os.access(os.path.join(where, program), os.X_OK) for where in path.split(":")):
        said = f"Opening the base takes `{program}`, which is not installed on this host."
        raise Unreadable("E302", said)


def _head(path: Path, compression: str) -> bytes:
    """The first bytes of what a file holds."""
    try:
        if compression == "zstd":
            need("zstd")
            with subprocess.Popen(
                ["zstd", "-dcq", "--", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as child:
                assert child.stdout
                found = child.stdout.read(_HEAD)
                child.kill()
            return found
        with _opened(path, compression) as file:
            return file.read(_HEAD)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise Unreadable("E665", f"The base cannot be decompressed: {error}.") from error


def _opened(path: Path, compression: str) -> IO[bytes]:
    """A file, decompressed as it is read."""
    if compression == "gzip":
        return gzip.GzipFile(path)  # type: ignore[return-value]
    if compression == "bzip2":
        return bz2.BZ2File(path)
    return lzma.LZMAFile(path) if compression == "xz" else path.open("rb")


def _check_alone(head: bytes, name: str) -> None:
    """Refuse an image that would have qemu-img read other files of this host."""
    if name != "qcow2":
        return
    (version,) = struct.unpack_from(">I", head, 4)
    (backing,) = struct.unpack_from(">Q", head, 8)
    features = struct.unpack_from(">Q", head, 72)[0] if version >= 3 else 0
    if backing or features & 0x4:
        said = "The base is a qcow2 that needs another file, its backing or data file."
        raise Unreadable("E665", said, "`qemu-img convert -O qcow2` makes one that stands for itself.")


def _is_tar(head: bytes) -> bool:
    if head[257:262] == b"ustar":
        return True
    try:
        # Older ones have no mark; the checksum of the first header tells.
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _is_disk(head: bytes) -> bool:
    """Whether something begins like a disk, or like a file system without one around it."""
    marks = ((510, b"\x55\xaa"), (0x438, b"\x53\xef"), (0, b"XFSB"), (0x10040, b"_BHRfS_M"))
    return any(head[at : at + len(mark)] == mark for at, mark in marks)


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 512))
        return file.read(512)


def _copy_sparse(stream: IO[bytes], file: IO[bytes]) -> None:
    while piece := stream.read(1 << 16):
        if piece.count(0) == len(piece):
            file.seek(len(piece), os.SEEK_CUR)
        else:
            file.write(piece)
    file.truncate()
