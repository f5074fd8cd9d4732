"""The tree of files that a chain of stored layers makes, with the step that wrote each file.

The layers are read as archives, topmost first: what an upper layer has, removes or makes opaque hides what lies below.
How overlayfs writes that down is in the kernel's ``Documentation/filesystems/overlayfs.rst``.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imgc.errors import ImgcError

#: Prefixes of paths in a layer, and how a user calls what is there.  The hooks tree is no part of a result.
_ROOTS = {"mnt": "", "out": "beside the image:"}

_KINDS = {
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "fifo",
}
_MARKS = ("SCHILY.xattr.trusted.overlay.", "SCHILY.xattr.user.overlay.")
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """One path of a tree.  ``step`` is the id of the step that wrote it last and says nothing about the tree.

    ``time`` is the time of modification in seconds since 1970, as text; ``target`` is what a symbolic link says, or a
    device's numbers; ``names`` are all paths of a file that has several.
    """

    step: str
    kind: str
    mode: int
    owner: tuple[int, int]
    size: int
    time: str
    target: str
    attributes: tuple[tuple[str, str], ...]
    content: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """A step's id, and the archive of what it changed."""

    step: str
    archive: Path


def read_tree(chain: Sequence[Layer]) -> dict[str, Entry]:
    """Every path that is there after the last layer of ``chain``.  Raises E642 when a layer cannot be read."""
    found: dict[str, Entry] = {}
    files: dict[tuple[int, str], list[str]] = defaultdict(list)
    covered: set[str] = set()
    for number, layer in enumerate(reversed(chain)):
        try:
            with tarfile.open(layer.archive, "r:") as archive:
                covered |= _add(archive, layer.step, found, covered, files, number)
        except (OSError, tarfile.TarError) as problem:
            raise ImgcError(
                "E642",
                f"The layer of {layer.step} cannot be read: {problem}.",
                hint="`imgc clean --all` empties the cache; then build again.",
            ) from problem
    for names in files.values():
        for name in names if len(names) > 1 else ():
            found[name] = replace(found[name], names=tuple(sorted(names)))
    return found


def content(chain: Sequence[Layer], step: str, path: str) -> bytes:
    """What a file has in the layer of ``step``, at most a mebibyte of it."""
    layer = next(one for one in chain if one.step == step)
    with tarfile.open(layer.archive, "r:") as archive:
        for member in archive:
            if _path(member.name) == path and (reader := archive.extractfile(member)):
                return reader.read(_CHUNK)
    return b""


def _add(
    archive: tarfile.TarFile,
    step: str,
    found: dict[str, Entry],
    covered: set[str],
    files: dict[tuple[int, str], list[str]],
    number: int,
) -> set[str]:
    """Add the visible paths of one layer to ``found``; the paths below which no lower layer shows."""
    members = {member.name: member for member in archive}
    covers: set[str] = set()
    for member in members.values():
        path = _path(member.name)
        if not path or path in covered or any(above in covered for above in _above(path)):
            continue
        if member.ischr() and (member.devmajor, member.devminor) == (0, 0):
            covers.add(path)
            continue
        if not member.isdir() or _is_opaque(member):
            # What was a directory below is one no more, or a new one.
            covers.add(path)
        if path in found:
            continue
        real = members[member.linkname] if member.islnk() else member
        found[path] = _entry(archive, real, step)
        if real.isreg():
            files[number, real.name].append(path)
    return covers


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo, step: str) -> Entry:
    kind = "file" if member.isreg() else _KINDS.get(member.type, "file of an unknown kind")
    target = member.linkname if member.issym() else ""
    if kind == "device":
        target = f"{'character' if member.ischr() else 'block'} {member.devmajor}:{member.devminor}"
    return Entry(
        step,
        kind,
        member.mode,
        (member.uid, member.gid),
        member.size if member.isreg() else 0,
        str(member.pax_headers.get("mtime", int(member.mtime))),
        target,
        tuple(sorted(_attributes(member.pax_headers))),
        _digest(archive, member) if member.isreg() else "",
    )


def _attributes(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Extended attributes and access control lists, without overlayfs's own."""
    for name, value in headers.items():
        if name.startswith("SCHILY.") and not name.startswith(_MARKS):
            yield name.removeprefix("SCHILY.").removeprefix("xattr."), value


def _digest(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    digest = hashlib.sha256()
    reader = archive.extractfile(member)
    while reader and (data := reader.read(_CHUNK)):
        digest.update(data)
    return digest.hexdigest()


def _is_opaque(member: tarfile.TarInfo) -> bool:
    return any(member.pax_headers.get(f"{mark}opaque") == "y" for mark in _MARKS)


def _path(name: str) -> str:
    """The path of a member as a user knows it; empty for what is no part of a result."""
    first, _, rest = name.removeprefix("./").partition("/")
    if first not in _ROOTS or (first == "out" and not rest):
        return ""
    return f"{_ROOTS[first]}/{rest}"


def _above(path: str) -> Iterator[str]:
    """The directories above a path."""
    if path != "/":
        yield "/"
    end = path.rfind("/")
    while end > 0:
        yield path[:end]
        end = path.rfind("/", 0, end)
