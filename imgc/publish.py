"""Finished outputs under their final names: each there whole or not at all, with ``.sha256`` and ``.md5`` beside it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgc import lock as locks
from imgc.disk import sparse
from imgc.errors import ImgcError
from imgc.lock import Lock

_CHECKSUMS = ("sha256", "md5")
#: What an output consists of, in the order in which it appears: the file, then its checksums.
_FILES = ("", *(f".{kind}" for kind in _CHECKSUMS))


@dataclass(frozen=True)
class Artifact:
    """A finished output; ``size`` is in bytes."""

    path: Path
    format: str
    size: int
    sha256: str
    md5: str


def publish(name: str, results: Sequence[tuple[Path, Mapping[str, Any]]], output_dir: Path) -> list[Artifact]:
    """Put results of the store into ``output_dir`` as ``<name>.<suffix>``, all of them or none.

    ``results`` are pairs of a file and what was recorded with it (``format suffix size sha256 md5``).  A file is
    linked where the file system allows it and copied elsewhere; one that is already there is left alone.  Raises E405.
    """
    artifacts = []
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with _alone(output_dir):
            missing = []
            for file, meta in results:
                final = output_dir / f"{name}.{meta['suffix']}"
                artifacts.append(Artifact(final, meta["format"], meta["size"], meta["sha256"], meta["md5"]))
                if not _is_there(file, final, meta):
                    missing.append((file, final, meta))
            _replace(missing)
    except OSError as problem:
        raise ImgcError(
            "E405",
            f"{problem.filename2 or problem.filename or output_dir} cannot be written: {problem.strerror}.",
            hint="Choose another directory with --output, or make room; what was there before is untouched.",
        ) from problem
    return artifacts


def publish_side(directory: Path, output_dir: Path) -> list[Path]:
    """Put what hooks wrote beside the image (the entries of ``directory``) into ``output_dir``; their final paths.

    An entry replaces one of its name as a whole.  Raises E405.
    """
    finals = []
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with _alone(output_dir):
            for entry in sorted(directory.iterdir()) if directory.is_dir() else ():
                final = output_dir / entry.name
                finals.append(final)
                if not _alike(entry, final):
                    _exchange(entry, final)
    except OSError as problem:
        raise ImgcError(
            "E405",
            f"{problem.filename2 or problem.filename or output_dir} cannot be written: {problem.strerror}.",
            hint="Choose another directory with --output, or make room.",
        ) from problem
    return finals


def publish_lock(lock: Lock, output_dir: Path) -> Path:
    """Put what an image was made of beside it, as ``<platform>.lock``, unless it is there; its path.  Raises E405."""
    final = locks.path_of(output_dir, lock.platform)
    publish_text(final, locks.text_of(lock))
    return final


def publish_text(final: Path, text: str) -> None:
    """Give a file beside the images its text, whole, unless it has that already.  Raises E405."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _alone(final.parent):
            if not (final.is_file() and final.read_text(encoding="utf-8", errors="replace") == text):
                partial = Path(f"{final}.partial")
                partial.write_text(text, encoding="utf-8")
                os.replace(partial, final)
    except OSError as problem:
        raise ImgcError(
            "E405",
            f"{final} cannot be written: {problem.strerror}.",
            hint="Choose another directory with --output, or make room.",
        ) from problem


def _alike(one: Path, other: Path) -> bool:
    """Whether two trees have the same names, sizes and times."""
    if one.is_dir() and other.is_dir():
        names = sorted(os.listdir(one))
        return names == sorted(os.listdir(other)) and all(_alike(one / name, other / name) for name in names)
    if one.is_file() and other.is_file():
        ours, theirs = one.stat(), other.stat()
        return (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)
    return False


def _exchange(entry: Path, final: Path) -> None:
    """Copy an entry beside its final name, whole, and only then let it take the place of what is there."""
    partial, old = Path(f"{final}.partial"), Path(f"{final}.old")
    for path in (partial, old):
        _remove(path)
    if entry.is_dir():
        shutil.copytree(entry, partial)
    else:
        shutil.copy2(entry, partial)
    if final.is_dir():
        os.rename(final, old)
    os.rename(partial, final)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _alone(output_dir: Path) -> Iterator[None]:
    """Keep out other imgc that publish into the same directory, where its file system has locks."""
    directory = os.open(output_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _replace(missing: Sequence[tuple[Path, Path, Mapping[str, Any]]]) -> None:
    """Write every (result, final name, what was recorded) beside its final name, then rename them all.

    Old checksums go before the file that they belong to and new ones come after theirs, so that at no moment,
    not even one at which this process is killed, a checksum stands beside a file that it does not belong to.
    """
    finals = [Path(f"{final}{suffix}") for _, final, _ in missing for suffix in _FILES]
    staged = [(Path(f"{final}.partial"), final) for final in finals]
    try:
        for file, final, meta in missing:
            _stage(file, final, meta)
        for _, final, _ in missing:
            for kind in _CHECKSUMS:
                Path(f"{final}.{kind}").unlink(missing_ok=True)
        for partial, final in staged:
            os.replace(partial, final)
            # Between two links to one file, that does nothing.
            partial.unlink(missing_ok=True)
    except BaseException:
        for partial, _ in staged:
            # What cannot be removed must not hide why it has to be.
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        raise


def _checksum_line(meta: Mapping[str, Any], kind: str, final: Path) -> str:
    return f"{meta[kind]}  {final.name}\n"


def _is_there(file: Path, final: Path, meta: Mapping[str, Any]) -> bool:
    """Whether ``final`` is this very result: the same file, or a copy that nobody touched, with its checksums."""
    try:
        ours, theirs = file.stat(), final.stat()
        same = (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
        copied = (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)
        return (same or copied) and all(
            Path(f"{final}.{kind}").read_text(encoding="utf-8") == _checksum_line(meta, kind, final)
            for kind in _CHECKSUMS
        )
    except (OSError, UnicodeDecodeError):
        return False


def _stage(file: Path, final: Path, meta: Mapping[str, Any]) -> None:
    """Put a result and its checksums beside their final names, whole."""
    for kind in _CHECKSUMS:
        Path(f"{final}.{kind}.partial").write_text(_checksum_line(meta, kind, final), encoding="utf-8")
    partial = Path(f"{final}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(file, partial)
    except OSError:
        sparse.copy_file(str(file), str(partial))
        shutil.copystat(file, partial)
