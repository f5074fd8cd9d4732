"""Keeping a cache below a size: what was used least recently goes first, a layer never before those on top of it."""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imgc.engine import store_census, store_locks
from imgc.engine.store import LAYERS, RESULTS, Store
from imgc.engine.store_census import FAILED, LOGS, POOL, WHEELS, Item
from imgc.errors import ImgcError, Place

#: The variable that says how large the cache may become.
VARIABLE = "IMGC_CACHE_SIZE"
#: Without it: this share of the file system, but at least so many bytes.
SHARE = 0.2
LEAST = 10 * 2**30

#: What is there for people goes after so many seconds, whatever room there is.
DAY = 86400.0
KEPT_FOR = {FAILED: 7 * DAY, LOGS: 30 * DAY}


@dataclass(frozen=True)
class Collected:
    """What was removed (or would be), what is left of what can be removed, in bytes, and the limit for that."""

    removed: tuple[Item, ...]
    left: int
    limit: int
    #: Names of the builds whose results were left alone.
    builds: tuple[str, ...] = ()

    @property
    def freed(self) -> int:
        return sum(one.size for one in self.removed)


def size_limit(text: str, name: str = VARIABLE) -> int:
    """Bytes of a size such as ``30G`` or ``1.5 TiB``; raises E622, which calls the setting ``name``."""
    from imgc.spec.nodes import Scalar
    from imgc.spec.types import Refused, Size

    try:
        found = Size(least=0).read(Scalar(text, "text", Place("")))
    except Refused as refused:
        raise ImgcError("E622", f"{name} {refused.said}", hint=refused.hint) from refused
    return found or 0


def limit_of(cache: Path, environment: Mapping[str, str]) -> int:
    """How many bytes a cache may take: what the environment says, else by the size of its file system."""
    if environment.get(VARIABLE):
        return size_limit(environment[VARIABLE])
    status = os.statvfs(cache)
    return max(LEAST, int(status.f_blocks * status.f_frsize * SHARE))


def in_order(items: Iterable[Item]) -> list[Item]:
    """Items in the order in which they may go: by last use, a layer after every layer that lies on it.

    A layer was used whenever one on top of it was.
    """
    from graphlib import TopologicalSorter

    everything = list(items)
    layers = {one.key: one for one in everything if one.kind == LAYERS}
    upward = list(TopologicalSorter({key: one.below for key, one in layers.items()}).static_order())
    used: dict[str, float] = {key: one.used for key, one in layers.items()}
    height = {key: number for number, key in enumerate(upward)}
    for key in reversed(upward):
        for below in layers[key].below if key in layers else ():
            if below in layers:
                used[below] = max(used[below], used[key])

    def rank(one: Item) -> tuple[float, int, str]:
        is_layer = one.kind == LAYERS
        return (
            used[one.key] if is_layer else one.used,
            -height[one.key] if is_layer else 0,
            str(one.path),
        )

    return sorted(everything, key=rank)


def chosen(
    items: Sequence[Item], limit: int, *, now: float, in_use: Set[str] = frozenset(), downloads: bool = True
) -> list[Item]:
    """What must go for the rest to take at most ``limit`` bytes.

    Always goes what no build can use and what people had time to look at.  Never go the results of the keys
    ``in_use`` with all they lie on, and without ``downloads`` no packages and wheels.
    """
    kept = _with_below(items, in_use)

    def may_go(one: Item) -> bool:
        if one.kind in (LAYERS, RESULTS):
            return one.key not in kept
        return downloads or one.kind not in (POOL, WHEELS)

    candidates = [one for one in items if may_go(one)]
    going = {one.path: one for one in candidates if not one.usable or _is_old(one, now)}
    total = sum(one.size for one in items if one.path not in going)
    lost = _with_above(items, {one.key for one in going.values() if one.kind == LAYERS})
    for one in in_order(one for one in candidates if one.path not in going):
        if total > limit or (one.kind == LAYERS and one.key in lost):
            going[one.path] = one
            total -= one.size
    return list(going.values())


def _is_old(one: Item, now: float) -> bool:
    return one.kind in KEPT_FOR and now - one.used > KEPT_FOR[one.kind]


def _with_below(items: Iterable[Item], keys: Iterable[str]) -> set[str]:
    """Keys with those of all layers below them."""
    below = {one.key: one.below for one in items if one.kind == LAYERS}
    found, waiting = set[str](), list(keys)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting.extend(below.get(key, ()))
    return found


def _with_above(items: Iterable[Item], keys: Iterable[str]) -> set[str]:
    """Keys with those of all layers that lie on them."""
    above = defaultdict[str, list[str]](list)
    for one in items:
        for key in one.below:
            above[key].append(one.key)
    found, waiting = set[str](), list(keys)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting.extend(above[key])
    return found


def gc(
    store: Store,
    remove: Callable[[Sequence[Path]], None],
    limit: int,
    *,
    dry_run: bool = False,
    wait: bool = True,
    ended: store_locks.Use | None = None,
) -> Collected:
    """Remove what :func:`chosen` says, sparing what running builds use.

    ``remove`` is what :meth:`Store.work` wants.  Without ``wait`` nothing is removed when others hold the store
    steady just then.  ``ended`` is the use of a build that needs no downloads any more.  Raises E304, and E307 on an
    interrupt.
    """
    if dry_run:
        # Whoever only looks keeps nobody waiting, and is allowed a moment's error.
        return _collect(store, limit, None, ended)
    try:
        with store.work("gc", remove) as work, store_locks.removing(store.cache, wait=wait) as alone:
            if not alone:
                return Collected((), sum(one.size for one in store_census.items(store)), limit)
            found = _collect(store, limit, work.path, ended)
            _remove_free_locks(store.cache)
    except OSError as problem:
        raise store_locks.unusable(store.cache, problem) from problem
    return found


def trim(
    store: Store,
    remove: Callable[[Sequence[Path]], None],
    limit: int,
    *,
    ended: store_locks.Use | None = None,
) -> Collected | None:
    """What a build does at its end: :func:`gc` if the cache has grown above ``limit``; None if it has not."""
    with store_locks.removing(store.cache, wait=False) as alone:
        if alone:
            # For the lists of dead builds to go.
            store_locks.keys_in_use(store.cache)
    if sum(one.size for one in store_census.items(store)) <= limit:
        return None
    return gc(store, remove, limit, wait=False, ended=ended)


def _collect(store: Store, limit: int, trash: Path | None, ended: store_locks.Use | None) -> Collected:
    """Choose, and move into ``trash`` if there is one."""
    uses = store_locks.keys_in_use(store.cache, reap=trash is not None)
    found = store_census.items(store)
    in_use = frozenset[str]().union(*uses.values())
    # A running build may be about to read any of the downloads.
    others = set(uses) - ({ended.path.name} if ended else set())
    going = chosen(found, limit, now=time.time(), in_use=in_use, downloads=not others)
    if trash:
        for one in going:
            _take_out(store, one, trash)
    left = sum(one.size for one in found) - sum(one.size for one in going)
    return Collected(tuple(going), left, limit, tuple(uses))


def _take_out(store: Store, one: Item, trash: Path) -> None:
    if one.kind in (LAYERS, RESULTS, FAILED):
        store.drop(one.path, trash)
        return
    # Downloads may be on another file system, behind a symbolic link.
    with suppress(FileNotFoundError):
        if one.path.is_dir() and not one.path.is_symlink():
            shutil.rmtree(one.path)
        else:
            one.path.unlink()


def _remove_free_locks(cache: Path) -> None:
    """Remove the files of claims whose holders were killed."""
    directory = cache / "locks"
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        store_locks.remove_if_free(path)
