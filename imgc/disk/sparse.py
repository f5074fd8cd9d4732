"""Copying and hashing files without reading or writing their holes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

CHUNK = 4 * 1024 * 1024


def data_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """The (offset, length) of every range of a file that is not a hole, in order, in pieces of at most CHUNK."""
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        position = end
        while start < end:
            length = min(CHUNK, end - start)
            yield start, length
            start += length


def filled(path: str, block: int) -> int:
    """Bytes in those blocks of a file, of ``block`` bytes each, that hold anything but zeros; whole blocks count."""
    count = done = 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        for start, length in data_ranges(file.fileno(), size):
            # Where the file system of the file has smaller blocks, two ranges may share one.
            first, end = max(start // block, done), -(-(start + length) // block)
            data = os.pread(file.fileno(), max(end - first, 0) * block, first * block)
            pieces = (data[at : at + block] for at in range(0, len(data), block))
            count += sum(piece.count(0) != len(piece) for piece in pieces)
            done = end
    return count * block


def copy_range(source: int, start: int, size: int, target: int, at: int) -> None:
    """Copy ``size`` bytes between open files; blocks of zeros become holes.

    What ``target`` holds where the source has holes is left alone, so it should be new there.
    """
    for offset, length in data_ranges(source, start + size):
        first = max(offset, start)
        data = os.pread(source, offset + length - first, first) if first < offset + length else b""
        for piece in range(0, len(data), 65536):
            block = data[piece : piece + 65536]
            if block.count(0) != len(block):
                _write_all(target, block, at + first - start + piece)


def copy_file(source: str, target: str) -> None:
    """Make ``target`` a sparse copy of ``source`` that shares nothing with it."""
    with open(source, "rb") as reader, open(target, "wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        os.ftruncate(writer.fileno(), size)
        copy_range(reader.fileno(), 0, size, writer.fileno(), 0)


def _write_all(target: int, data: bytes, at: int) -> None:
    while data:
        done = os.pwrite(target, data, at)
        data, at = data[done:], at + done
