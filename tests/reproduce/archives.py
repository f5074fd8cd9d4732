"""Layers made by hand, as the engine packs them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgc.reproduce.tree import Layer


def member(kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    """A member whose ``name`` comes later; directories, links and devices by ``kind``."""
    info = tarfile.TarInfo()
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.mtime = 1000
    for name, value in fields.items():
        setattr(info, name, value)
    return info


def directory(**fields: Any) -> tarfile.TarInfo:
    return member(tarfile.DIRTYPE, **fields)


def opaque() -> tarfile.TarInfo:
    return directory(pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})


def whiteout() -> tarfile.TarInfo:
    return member(tarfile.CHRTYPE, mode=0)


def layer(place: Path, step: str, files: Mapping[str, bytes | tarfile.TarInfo]) -> Layer:
    """A layer of a step with these paths: contents of files, or members."""
    place.mkdir(parents=True, exist_ok=True)
    archive = place / f"{step.replace('/', '_')}.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as opened:
        for path, what in files.items():
            data = what if isinstance(what, bytes) else b""
            info = member(size=len(data)) if isinstance(what, bytes) else what
            info.name = f"./{path}"
            opened.addfile(info, io.BytesIO(data))
    return Layer(step, archive)
