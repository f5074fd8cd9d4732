"""What a cache holds: every result, download and record, with its size and its last use."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgc.engine import store_meta
from imgc.engine.store import LAYERS, RESULTS, Store, disk_usage

#: Downloads that can be had again one by one: each file, or each directory, stands for itself.
POOL, WHEELS = "archives/pool", "wheels"
FAILED, LOGS = "failed", "logs"
#: The kinds of items, with what people call them.
KINDS = {
    LAYERS: "layers",
    RESULTS: "outputs and checks",
    POOL: "packages",
    WHEELS: "wheels",
    FAILED: "failed states",
    LOGS: "logs and reports",
}


@dataclass(frozen=True)
class Item:
    """Something that can be removed by itself.

    ``size`` is in bytes on disk, ``used`` in seconds since 1970.  ``below`` are the keys of the layers that a layer
    lies on.  An item that is not ``usable`` is of no use to any build.
    """

    kind: str
    path: Path
    size: int
    used: float
    key: str = ""
    below: tuple[str, ...] = ()
    usable: bool = True
    platform: str = ""


def items(store: Store) -> list[Item]:
    """Everything that :mod:`imgc.engine.store_eviction` may remove.  What vanishes meanwhile is left out."""
    return [*results(store), *downloads(store), *records(store)]


def results(store: Store) -> Iterator[Item]:
    """Layers and other results."""
    for kind in (LAYERS, RESULTS):
        for path in _children(store.cache / kind):
            with suppress(FileNotFoundError, NotADirectoryError):
                yield _result(store, kind, path)


def _result(store: Store, kind: str, path: Path) -> Item:
    meta = store.meta(path)
    dated = path / "meta.json"
    used = (dated if dated.exists() else path).stat().st_mtime
    # Sealed, so what it says can be relied on; a later format may say it differently.
    sound = store_meta.is_sound(meta)
    below = tuple(meta.get("below", {})) if sound else ()
    return Item(
        kind,
        path,
        _size(path, meta) if sound else disk_usage(path),
        used,
        path.name,
        below,
        usable=store_meta.is_newer(meta) or store.is_trusted(path),
        platform=_platform(meta) if sound else "",
    )


def _size(path: Path, meta: dict[str, Any]) -> int:
    """Bytes on disk; a tree of very many files was counted when it was made."""
    tree = meta.get("tree")
    return int(tree["size"]) if tree else disk_usage(path)


def _platform(meta: dict[str, Any]) -> str:
    return str(meta.get("step", "")).partition("/")[0]


def downloads(store: Store) -> Iterator[Item]:
    """Packages by their digest, and sets of wheels."""
    for path in _files(store.cache / POOL):
        with suppress(FileNotFoundError):
            yield _dated(POOL, path)
    for path in _children(store.cache / WHEELS):
        with suppress(FileNotFoundError):
            yield _dated(WHEELS, path)


def records(store: Store) -> Iterator[Item]:
    """What is there for people: states that failed, logs, reports of boots and crashes."""
    for path in _children(store.cache / FAILED):
        with suppress(FileNotFoundError):
            yield _dated(FAILED, path)
    for name in (LOGS, "boot", "crashes"):
        for path in _files(store.cache / name):
            with suppress(FileNotFoundError):
                yield _dated(LOGS, path)


def _dated(kind: str, path: Path) -> Item:
    inside = _files(path) if path.is_dir() and not path.is_symlink() else [path]
    return Item(kind, path, disk_usage(path), max(map(_last_use, [path, *inside])))


def _last_use(path: Path) -> float:
    """When a file was read or written last, as far as its file system notes that; for a directory, written."""
    status = path.lstat()
    return status.st_mtime if path.is_dir() else max(status.st_mtime, status.st_atime)


def kept_beside(store: Store) -> dict[str, int]:
    """Bytes of what is never removed to make room, by the directory in the cache."""
    counted = {LAYERS, RESULTS, WHEELS, FAILED, LOGS, "boot", "crashes", "locks", "inuse"}
    found = {}
    for path in _children(store.cache):
        if path.name not in counted and path.is_dir():
            found[path.name] = sum(map(disk_usage, _children(path)))
    if "archives" in found:
        found["archives"] -= sum(one.size for one in downloads(store) if one.kind == POOL)
    return {name: size for name, size in sorted(found.items()) if size > 0}


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _files(directory: Path) -> Iterable[Path]:
    for parent, _, names in os.walk(directory):
        for name in sorted(names):
            yield Path(parent, name)
