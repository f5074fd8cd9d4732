"""Brings what a pin of the git cache names into the mirrors, where another host or another day has pinned it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imgc import process
from imgc.caches.git_read import has_commits, mirror_of, not_in_mirror
from imgc.caches.mirrors import fetch_commits, known, no_room
from imgc.caches.model import Tree, trees_of
from imgc.caches.projects import appended
from imgc.errors import Collector, ImgcError
from imgc.lock import Pin, Source
from imgc.sources.download import shown


def fetch_git_cache(
    source: Source, pin: Pin, cache: Path, *, offline: bool, tell: Callable[[str], None]
) -> None:
    """Have all pinned commits in the mirrors; no process where they are.  ``tell`` is given a line for each fetch.

    Raises E604 for commits that are not in the cache when ``offline``, E601 when a server cannot be reached, E615 when
    it no longer has them; all problems come together.
    """
    problems = Collector()
    connections = int(source.get("connections") or 8)
    try:
        with ThreadPoolExecutor(min(connections, 2 * (os.cpu_count() or 2))) as pool:
            trees = [tree for tree in trees_of(pin) if tree.heads]
            for future in [pool.submit(ensure, source, tree, cache, offline, tell) for tree in trees]:
                try:
                    future.result()
                except ImgcError as problem:
                    problems.add(problem)
    except OSError as error:
        raise no_room(error) from error
    problems.check()


def ensure(source: Source, tree: Tree, cache: Path, offline: bool, tell: Callable[[str], None]) -> None:
    """Have the pinned commits of one project in its mirror.  Raises as :func:`fetch_git_cache` does."""
    process.INTERRUPT.check()
    mirror = mirror_of(cache, tree.origin)
    commits = [commit for _branch, commit in tree.heads]
    now = known(cache, tree.origin)
    if now is not None and set(commits) <= set(now.refs.values()):
        return
    if has_commits(mirror, commits):
        return
    if offline:
        raise not_in_mirror(tree, *tree.heads[0])
    base, instead = source.get("base"), source.get("mirror")
    from_base = bool(base and instead) and tree.origin == appended(base, tree.name)
    location = appended(instead, tree.name) if from_base else tree.origin
    tell(f"fetching {tree.name}")
    why = fetch_commits(tree.origin, location, commits, cache)
    if has_commits(mirror, commits):
        return
    where = shown(location)
    if why:
        said = f"The repository of {tree.name} ({where}) cannot be fetched: {why}"
        raise ImgcError("E601", said, hint="Is the network there?", place=source.place)
    said = f"{where} no longer has all commits to which {tree.name} is pinned."
    raise ImgcError("E615", said, hint="`imgc lock` pins anew.", place=source.place)
