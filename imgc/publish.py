"""Finished outputs under their final names: each there whole or not at all, with ``.sha256`` and ``.md5`` beside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgc.errors import ImgcError


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
    artifacts, pending = [], []
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for file, meta in results:
            final = output_dir / f"{name}.{meta['suffix']}"
            artifacts.append(Artifact(final, meta["format"], meta["size"], meta["sha256"], meta["md5"]))
            if not _is_there(file, final, meta):
                pending += _stage(file, final, meta)
        for partial, final in pending:
            os.replace(partial, final)
    except OSError as problem:
        for partial, _ in pending:
            partial.unlink(missing_ok=True)
        raise ImgcError(
            "E405",
            f"{problem.filename or output_dir} cannot be written: {problem.strerror}.",
            hint="Choose another directory with --output, or make room; what was there before is untouched.",
        ) from problem
    return artifacts


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
            for kind in ("sha256", "md5")
        )
    except (OSError, UnicodeDecodeError):
        return False


def _stage(file: Path, final: Path, meta: Mapping[str, Any]) -> list[tuple[Path, Path]]:
    """Write a result and its checksums beside their final names; (partial, final) pairs in the order to rename."""
    staged = []
    for kind in ("sha256", "md5"):
        partial = Path(f"{final}.{kind}.partial")
        partial.write_text(_checksum_line(meta, kind, final), encoding="utf-8")
        staged.append((partial, Path(f"{final}.{kind}")))
    partial = Path(f"{final}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(file, partial)
    except OSError:
        shutil.copy2(file, partial)
    return [(partial, final), *staged]
