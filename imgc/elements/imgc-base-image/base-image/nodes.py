"""What a file system has in it, whichever it is: the words in which readers and the writer of trees speak."""

from __future__ import annotations

import mmap
import posixpath
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol


class Unreadable(Exception):
    """Something here cannot be read.  ``code`` is one of imgc's, ``hint`` says what can be done about it."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


#: What helps with a file system that has no reader here.
CONVERT = (
    "Boot the image (or mount it) where that is allowed, pack its root file system with "
    "`tar --numeric-owner --xattrs --xattrs-include='*' --one-file-system -c`, and use that as `base.kind: tree`."
)


def damaged(what: str) -> Unreadable:
    return Unreadable("E665", f"The file system of the image is damaged: {what}.")


@dataclass(frozen=True)
class Node:
    """An inode.  ``mtime`` is in nanoseconds since 1970, ``device`` a pair of major and minor number."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    links: int
    device: tuple[int, int] = (0, 0)

    @property
    def type(self) -> int:
        return stat.S_IFMT(self.mode)


@dataclass(frozen=True)
class Extent:
    """A piece of a file that is not a hole: where it is in the file and in the image, and its length, in bytes."""

    at: int
    image: int
    length: int


class FileSystem(Protocol):
    """A file system in an image.  Inodes are known by their numbers."""

    root: int
    label: str
    uuid: str

    def node(self, number: int) -> Node: ...

    def entries(self, number: int) -> Iterator[tuple[bytes, int]]:
        """Names and inodes in a directory, without itself and the one above."""

    def extents(self, number: int) -> Iterator[Extent]:
        """Where the bytes of a file are; none for one that :meth:`inline` has."""

    def inline(self, number: int) -> bytes | None:
        """The bytes of a file that is kept in its inode or is compressed; None for any other."""

    def link(self, number: int) -> bytes:
        """Where a symbolic link leads to."""

    def xattrs(self, number: int) -> Mapping[str, bytes]:
        """Extended attributes, by the names that setxattr takes."""


class Image:
    """The bytes of one partition: offsets are from its beginning."""

    def __init__(self, data: mmap.mmap, begin: int, size: int) -> None:
        self.data, self.begin, self.size = data, begin, size

    def read(self, at: int, length: int) -> bytes:
        if at < 0 or length < 0 or at + length > self.size:
            raise damaged(f"{length} bytes at {at} are outside of its partition")
        return self.data[self.begin + at : self.begin + at + length]


def content(system: FileSystem, image: Image, number: int) -> bytes:
    """All bytes of a small file."""
    inline = system.inline(number)
    if inline is not None:
        return inline
    size = system.node(number).size
    if size > 16 << 20:
        raise damaged(f"inode {number} is too large for what it is")
    found = bytearray(size)
    for one in system.extents(number):
        length = min(one.length, size - one.at)
        found[one.at : one.at + length] = image.read(one.image - image.begin, length)
    return bytes(found)


def find(system: FileSystem, path: str) -> int | None:
    """The inode at ``path``, symbolic links followed within the file system; None when there is none."""
    left = [part for part in path.split("/") if part]
    above: list[int] = []
    here = system.root
    hops = 0
    while left:
        part = left.pop(0)
        if part == "..":
            here = above.pop() if above else system.root
            continue
        if part == "." or system.node(here).type != stat.S_IFDIR:
            if part == ".":
                continue
            return None
        below = next((inode for name, inode in system.entries(here) if name == part.encode()), None)
        if below is None:
            return None
        if system.node(below).type == stat.S_IFLNK:
            hops += 1
            if hops > 40:
                return None
            target = system.link(below).decode("utf-8", "surrogateescape")
            if posixpath.isabs(target):
                here, above = system.root, []
            left = [*(one for one in target.split("/") if one), *left]
            continue
        above.append(here)
        here = below
    return here


def acl(entries: list[tuple[int, int, int]]) -> bytes:
    """A POSIX access control list as setxattr takes it, from (tag, permissions, id) each."""
    packed = [
        tag.to_bytes(2, "little")
        + permissions.to_bytes(2, "little")
        # Only named users and groups have an id.
        + (number if tag in (0x02, 0x08) else 0xFFFFFFFF).to_bytes(4, "little")
        for tag, permissions, number in entries
    ]
    return (2).to_bytes(4, "little") + b"".join(packed)
