"""Pins yum repositories: which repomd.xml they had, and what that offers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from imgc.errors import ImgcError
from imgc.lock import Pin, Source
from imgc.sources.archive_fetch import Fetcher
from imgc.sources.archive_offers import Offer, newest_versions
from imgc.sources.archive_store import ArchiveStore
from imgc.sources.download import Gone, fetch_bytes, iso_date
from imgc.sources.yum_archive import PINNED_FILES, REPOMD_LIMIT, YumArchive
from imgc.sources.yum_index import parse_repomd
from imgc.sources.yum_versions import sort_key


def pin_yum(source: Source, cache: Path) -> Pin:
    """What the repository ``source`` is now; the files that say so are kept in ``cache``.

    The identity is the sha256 of its repomd.xml, and of the signature beside that where there is one.  Raises E601 and
    E605.
    """
    files: dict[str, bytes] = {}
    for path in PINNED_FILES:
        try:
            what = f"{path} of {source.name}"
            files[path] = fetch_bytes(f"{source.location.rstrip('/')}/{path}", what, REPOMD_LIMIT)
        except Gone:
            if not files:
                raise
    try:
        repomd = parse_repomd(next(iter(files.values())))
    except ValueError as error:
        raise ImgcError(
            "E605",
            f"repodata/repomd.xml of {source.name} cannot be read: {error}.",
            hint="Is its location a yum repository?",
            place=source.place,
        ) from error
    store = ArchiveStore(cache)
    identity = tuple((PINNED_FILES[path], store.put("index", data)) for path, data in files.items())
    notes = (("date", iso_date(repomd.date) if repomd.date else ""), ("revision", repomd.revision))
    return Pin("yum", source.name, identity, tuple((name, value) for name, value in notes if value))


def locked_versions(source: Source, pin: Pin, cache: Path, *, offline: bool = False) -> dict[str, str]:
    """The newest version of every package that the pinned repository offers, by name.  Raises E601, E603 to E605."""

    def packages(store: ArchiveStore, fetcher: Fetcher) -> Iterable[Offer]:
        return YumArchive(source, pin, store, fetcher.get).packages()

    return newest_versions(packages, sort_key, cache, offline=offline)
