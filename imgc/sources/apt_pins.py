"""Pins apt archives: which InRelease a suite had, and what that offers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from imgc.errors import ImgcError
from imgc.lock import Pin, Source
from imgc.sources.apt_archive import PINNED_FILES, RELEASE_LIMIT, Suite, suite_directory
from imgc.sources.apt_index import Release, parse_release
from imgc.sources.apt_versions import sort_key
from imgc.sources.archive_fetch import Fetcher
from imgc.sources.archive_offers import Offer, newest_versions
from imgc.sources.archive_store import ArchiveStore
from imgc.sources.download import Gone, fetch_bytes


def pin_apt(source: Source, cache: Path) -> Pin:
    """What the suite ``source`` is now; the file that says so is kept in ``cache``.

    The identity is the sha256 of its InRelease, or of Release and Release.gpg where there is no InRelease.  Raises E601
    and E605.
    """
    files = _files(source)
    try:
        release = parse_release(next(iter(files.values())))
    except ValueError as error:
        raise ImgcError(
            "E605",
            f"{next(iter(files))} of {source.name} cannot be read: {error}.",
            hint="Is its location an apt archive?",
            place=source.place,
        ) from error
    store = ArchiveStore(cache)
    identity = tuple((PINNED_FILES[name], store.put("index", data)) for name, data in files.items())
    return Pin("apt", source.name, identity, _notes(release))


def locked_versions(source: Source, pin: Pin, cache: Path, *, offline: bool = False) -> dict[str, str]:
    """The newest version of every package that the pinned suite offers, by name.  Raises E601, E603 to E605."""

    def packages(store: ArchiveStore, fetcher: Fetcher) -> Iterable[Offer]:
        return Suite(source, pin, store, fetcher.get).packages()

    return newest_versions(packages, sort_key, cache, offline=offline)


def _files(source: Source) -> dict[str, bytes]:
    """InRelease, or Release and its signature, by name; the first one says what the suite is."""
    base = f"{source.location.rstrip('/')}/{suite_directory(source.get('suite'))}"

    def fetch(name: str) -> bytes:
        return fetch_bytes(base + name, f"{name} of {source.name}", RELEASE_LIMIT)

    try:
        return {"InRelease": fetch("InRelease")}
    except Gone:
        files = {"Release": fetch("Release")}
    try:
        files["Release.gpg"] = fetch("Release.gpg")
    except Gone:
        pass  # an archive that nobody signs; whether an image may use it is for its apt to say
    return files


def _notes(release: Release) -> tuple[tuple[str, str], ...]:
    notes = (("date", release.iso_date), ("version", release.fields.get("Version", "")))
    return tuple((name, value) for name, value in notes if value)
