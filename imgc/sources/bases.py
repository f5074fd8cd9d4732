"""What an image is based on when it does not start from packages: a disk image, a tarball, a directory."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from imgc import process
from imgc.errors import ImgcError
from imgc.lock import Pin, Source
from imgc.sources.files import fetch_file, pin_file, sha256_of


def pin_base(source: Source, cache: Path, *, known: Pin | None = None) -> Pin:
    """The digest of a base: of a file's bytes, or of everything in a directory.

    Raises what :func:`imgc.sources.files.pin_file` does, E602 when the spec demands another digest, and E665 when it
    cannot be read.
    """
    if "://" in source.location:
        return pin_file(source, cache, known=known)
    path = Path(source.location)
    try:
        found = _digest_of_tree(path) if path.is_dir() else sha256_of(path)
    except OSError as error:
        said = f"The base {error.filename or path} cannot be read: {error.strerror}."
        raise ImgcError("E665", said, place=source.place) from error
    demanded = source.get("sha256")
    if demanded and demanded != found:
        said = f"The base {path.name} has sha256 {found}, not {demanded} as the spec says."
        raise ImgcError("E602", said, place=source.place)
    return Pin(source.kind, source.name, (("sha256", found),), source.asked)


def fetch_base(source: Source, pin: Pin, cache: Path, *, offline: bool) -> Path:
    """The pinned base: a file in the cache, or what the spec names on this host.  Raises what fetching raises."""
    if "://" in source.location:
        return fetch_file(source, pin, cache, offline=offline)
    return Path(source.location)


def _below(directory: Path) -> list[Path]:
    """Everything in a directory, at any depth, by name."""
    found: list[Path] = []
    for parent, names, files in os.walk(directory, onerror=_fail):
        found += [Path(parent, name) for name in (*names, *files)]
    return sorted(found)


def _fail(error: OSError) -> None:
    raise error


def _digest_of_tree(directory: Path) -> str:
    """The digest of all names, modes, owners and contents in a directory; not of times."""
    digest = hashlib.sha256()
    for one in _below(directory):
        process.INTERRUPT.check()
        status = one.lstat()
        told: list[object] = [
            os.path.relpath(one, directory),
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
        ]
        if stat.S_ISREG(status.st_mode):
            told.append(sha256_of(one))
        elif stat.S_ISLNK(status.st_mode):
            told.append(os.readlink(one))
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            told.append(status.st_rdev)
        digest.update(f"{told}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
