"""What a pinned archive offers: the newest version of every package."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from imgc.sources.archive_fetch import Fetcher
from imgc.sources.archive_store import ArchiveStore


class Offer(Protocol):
    """A package of an archive."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...


def newest_versions(
    packages_of: Callable[[ArchiveStore, Fetcher], Iterable[Offer]],
    sort_key: Callable[[str], Any],
    cache: Path,
    *,
    offline: bool,
) -> dict[str, str]:
    """The newest version, by ``sort_key``, of each package that ``packages_of`` finds; archives are in ``cache``."""
    store = ArchiveStore(cache)
    fetcher = Fetcher(store, offline=offline)
    try:
        versions: dict[str, str] = {}
        for package in packages_of(store, fetcher):
            known = versions.get(package.name)
            if known is None or sort_key(package.version) > sort_key(known):
                versions[package.name] = package.version
    finally:
        fetcher.close()
        store.close()
    return versions
