"""``meta.json``: what is recorded with every result, sealed so that a damaged one is told from a whole one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgc import process

#: The number of the store's format.  A result of another format counts as absent.
FORMAT = 2

#: Fields that the seal does not cover: itself, and the boot, which says nothing about the result.
_UNSEALED = ("seal", "boot")

#: Bytes read at once: few enough to stay in the processor's cache.
_CHUNK = 256 * 1024


def format_of(cache: Path) -> int:
    """The format that a cache says it has; 0 when it says nothing that can be read."""
    try:
        return int((cache / "format").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def text(meta: Mapping[str, Any], boot: str) -> str:
    """The bytes of ``meta.json`` for what is recorded, made in the boot ``boot`` of this machine."""
    # Once through JSON: the seal is over what a reader gets back.
    plain = json.loads(json.dumps({**meta, "format": FORMAT}))
    return json.dumps({**plain, "boot": boot, "seal": _seal(plain)}, indent=1)


def load(directory: Path) -> dict[str, Any]:
    """What was recorded with a result, sound or not; empty when there is nothing that can be read."""
    try:
        loaded = json.loads((directory / "meta.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def is_sound(meta: Mapping[str, Any]) -> bool:
    """Whether what was loaded is of this format, and as it was written."""
    return meta.get("format") == FORMAT and meta.get("seal") == _seal(meta)


def is_foreign(meta: Mapping[str, Any]) -> bool:
    """Whether another version of imgc wrote it, in a format of its own."""
    return bool(meta) and meta.get("format", 1) != FORMAT


def is_newer(meta: Mapping[str, Any]) -> bool:
    """Whether a later version of imgc wrote it, which may still want it."""
    number = meta.get("format")
    return isinstance(number, int) and number > FORMAT


def is_unchanged(directory: Path, meta: Mapping[str, Any]) -> bool:
    """Whether the file of a result has the size and the time it was made with.  True when it has no one file."""
    if "file" not in meta:
        return True
    try:
        status = (directory / meta["file"]).stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (meta["size"], meta["mtime_ns"])


def of_file(path: Path) -> dict[str, Any]:
    """What is recorded about a file: ``file size mtime_ns sha256``."""
    status = path.stat()
    return {
        "file": path.name,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "sha256": sha256(path),
    }


def of_tree(directory: Path, known: str = "") -> dict[str, str]:
    """The sha256 of every regular file of a result by its path in there, but for ``known`` and ``meta.json``."""
    found = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            path = Path(parent, name)
            relative = str(path.relative_to(directory))
            if relative not in (known, "meta.json") and path.is_file() and not path.is_symlink():
                found[relative] = sha256(path)
    return found


def sha256(path: Path) -> str:
    """The digest of a file in hexadecimal.  Raises OSError, and E307 on an interrupt."""
    digest = hashlib.sha256()
    piece = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(piece[:count])
            process.INTERRUPT.check()
    return digest.hexdigest()


def _seal(meta: Mapping[str, Any]) -> str:
    covered = {name: value for name, value in meta.items() if name not in _UNSEALED}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()
