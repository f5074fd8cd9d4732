"""Single files: which bytes are behind a URL, and those bytes in the cache by their digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from imgc.errors import ImgcError
from imgc.lock import Pin, Source
from imgc.sources.download import Validators, download, shown


def pin_file(source: Source, cache: Path, *, known: Pin | None = None) -> Pin:
    """The digest of the file that is behind the location of ``source`` now.  It is in the cache afterwards.

    ``known`` is what it was: when the server says that it still is, nothing is transferred.  Raises E601, and E602
    when the source demands another digest.
    """
    demanded = source.get("sha256")
    previous = Validators()
    # That nothing has changed does not help a file that is to be another one.
    fits = known and known.is_for(source) and demanded in ("", known.get("sha256"))
    if known and fits and _path(known, cache).is_file():
        previous = Validators(known.note("etag"), known.note("last_modified"))
    arrived = cache / "files" / f".new.{hashlib.sha256(source.location.encode()).hexdigest()}"
    keep = _partial(source, cache)
    got = download(
        source.location, arrived, what=_what(source), sha256=demanded, previous=previous, keep=keep
    )
    if got.unchanged and known:
        return known
    notes = {"etag": got.validators.etag, "last_modified": got.validators.last_modified}
    kept = tuple((name, value) for name, value in notes.items() if value)
    pin = Pin(source.kind, source.name, (("sha256", got.sha256),), (*source.asked, *kept))
    got.path.replace(_path(pin, cache))
    return pin


def fetch_file(source: Source, pin: Pin, cache: Path, *, offline: bool) -> Path:
    """The pinned file, in the cache.  Raises E601, E602 when the location has other bytes now, E604 when offline."""
    path = _path(pin, cache)
    if path.is_file() and sha256_of(path) == pin.get("sha256"):
        return path
    if offline:
        said = f"The file of {source.name} ({shown(source.location)}) is not in the cache, and nothing may be fetched."
        raise ImgcError("E604", said, hint="Build once without --offline.", place=source.place)
    keep = _partial(source, cache)
    return download(source.location, path, what=_what(source), sha256=pin.get("sha256"), keep=keep).path


def _what(source: Source) -> str:
    return f"the file of {source.name}"


def _partial(source: Source, cache: Path) -> Path:
    """Where a transfer of a file waits that did not come to its end."""
    return cache / "files" / f".part.{hashlib.sha256(source.location.encode()).hexdigest()}"


def _path(pin: Pin, cache: Path) -> Path:
    return cache / "files" / pin.get("sha256")


def sha256_of(path: Path) -> str:
    """The digest of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
