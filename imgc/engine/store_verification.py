"""Reading every byte of a cache: what is not as it was made is dropped, and made again when it is wanted."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgc.engine import store_locks, store_meta
from imgc.engine.store import LAYERS, RESULTS, Store

#: Where files lie whose names are the sha256 of their bytes.
BY_DIGEST = ("archives/index", "archives/pool", "records/blobs")

_DIGEST = re.compile("[0-9a-f]{64}")
_AT_ONCE = 4


@dataclass(frozen=True)
class Damage:
    """Something that is not what it was: its path in the cache, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Verified:
    """How many things were read, of how many bytes, and which of them were damaged (and are dropped now)."""

    count: int
    bytes: int
    damaged: tuple[Damage, ...]


@dataclass(frozen=True)
class _Look:
    """What one look found: bytes read, and what is wrong, if anything."""

    bytes: int = 0
    why: str = ""


def verify(
    store: Store, remove: Callable[[Sequence[Path]], None], tell: Callable[[int, int], None] | None = None
) -> Verified:
    """Read all results, and downloads that are named by their digest; drop what has another one.

    ``remove`` is what :meth:`Store.work` wants.  ``tell`` is called with how many of how many are read.  Results of
    other formats are passed over.  Raises E304, and E307 on an interrupt.
    """
    jobs: list[tuple[Callable[[Path], _Look], Path]] = [(look_at_result, one) for one in _results(store)]
    jobs += [(look_at_blob, one) for one in _blobs(store)]
    damaged, size = [], 0
    with store.work("verify", remove) as work, ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1)) as pool:
        try:
            looks = pool.map(lambda job: job[0](job[1]), jobs)
            for number, ((_, path), look) in enumerate(zip(jobs, looks, strict=True), 1):
                size += look.bytes
                if look.why:
                    damaged.append(Damage(path.relative_to(store.cache), look.why))
                    _drop(store, path, work.path)
                if tell:
                    tell(number, len(jobs))
        finally:
            pool.shutdown(cancel_futures=True)
    return Verified(len(jobs), size, tuple(damaged))


def _drop(store: Store, path: Path, trash: Path) -> None:
    try:
        if path.is_file():
            # Downloads may be on another file system, behind a symbolic link.
            path.unlink(missing_ok=True)
        else:
            store.drop(path, trash)
    except OSError as problem:
        raise store_locks.unusable(store.cache, problem) from problem


def _results(store: Store) -> Iterator[Path]:
    for kind in (LAYERS, RESULTS):
        for path in sorted((store.cache / kind).iterdir()):
            if not store_meta.is_foreign(store.meta(path)):
                yield path


def _blobs(store: Store) -> Iterator[Path]:
    for name in BY_DIGEST:
        for parent, _, names in os.walk(store.cache / name):
            yield from (Path(parent, one) for one in sorted(names) if _DIGEST.fullmatch(one))


def look_at_result(path: Path) -> _Look:
    """Read a layer or another result.  One that another imgc replaces or removes meanwhile is nobody's damage."""
    while True:
        meta = store_meta.load(path)
        look = _compare(path, meta)
        if not look.why or not path.exists():
            return _Look(look.bytes)
        if meta == store_meta.load(path):
            return look


def _compare(path: Path, meta: Mapping[str, Any]) -> _Look:
    if not store_meta.is_sound(meta):
        return _Look(why="meta.json is missing or damaged")
    if not store_meta.is_unchanged(path, meta):
        return _Look(why=f"{meta['file']} is missing, or was written to after it was made")
    files = dict(meta.get("files", {}))
    if "file" in meta:
        files[meta["file"]] = meta["sha256"]
    size = 0
    for name, digest in sorted(files.items()):
        look = _read(path / name, digest)
        size += look.bytes
        if look.why:
            return _Look(size, f"{name} {look.why}")
    return _Look(size)


def look_at_blob(path: Path) -> _Look:
    """Read a file whose name is its digest."""
    look = _read(path, path.name)
    return look if path.exists() else _Look(look.bytes)


def _read(path: Path, digest: str) -> _Look:
    try:
        size, found = path.stat().st_size, store_meta.sha256(path)
    except OSError as problem:
        return _Look(why=f"cannot be read: {problem.strerror}")
    return _Look(
        size, "" if found == digest else f"has sha256 {found[:16]}…, and was made with {digest[:16]}…"
    )
