"""A pinned yum repository: which bytes belong to which of its URLs."""

from __future__ import annotations

import hashlib
import posixpath
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from imgc.errors import ImgcError
from imgc.lock import Pin, Source
from imgc.sources.archive_fetch import Wanted
from imgc.sources.archive_places import NotPinned
from imgc.sources.archive_store import ArchiveStore, Package, Table
from imgc.sources.archive_unpack import unpacked
from imgc.sources.download import fetch_bytes, iso_date, shown
from imgc.sources.yum_index import Repomd, parse_primary, parse_repomd

#: The files that hold what a repository consists of, and the names of their digests in a pin's identity.
PINNED_FILES = {"repodata/repomd.xml": "sha256", "repodata/repomd.xml.asc": "signature-sha256"}

#: A repomd.xml is a few kB.
REPOMD_LIMIT = 4 << 20

_INDEX = "repodata/repomd.xml"


class YumArchive:
    """One pinned repository.  Its indexes are fetched and read when they are first needed."""

    def __init__(self, source: Source, pin: Pin, store: ArchiveStore, get: Callable[[Wanted], Path]) -> None:
        self._source, self._store, self._get = source, store, get
        self._base = f"{source.location.rstrip('/')}/"
        self._identity = dict(pin.identity)
        self._lock = threading.RLock()
        self._repomd: Repomd | None = None
        self._table: Table | None = None

    def find(self, path: str) -> Wanted | None:
        if path in PINNED_FILES:
            return self._pinned_file(path)
        repomd = self.repomd()
        if path in repomd.files:
            return self._index(path)
        if path.startswith("repodata/"):
            return None
        found = self._packages().find(path)
        if found:
            what = f"{found.name} {found.version} of {self._source.name}"
            return self._wanted(what, "pool", found.sha256, found.size, path)
        if not path.endswith(".rpm"):
            raise NotPinned(f"what the pinned index of {shown(self._base)} does not have")
        raise ImgcError(
            "E606",
            f"{posixpath.basename(path)} is not in what was pinned of {self._source.name}.",
            hint="Every package that an image gets must be in a pinned index; `imgc lock` pins anew.",
            detail=f"asked for: {shown(self._base)}{path}",
        )

    def packages(self) -> list[Package]:
        """Everything that the repository offers."""
        return self._packages().packages()

    def repomd(self) -> Repomd:
        """What the pinned repomd.xml says.  Raises E603, E604 or E605."""
        with self._lock:
            if self._repomd is None:
                wanted = self._pinned_file(_INDEX)
                if wanted is None:
                    raise self._unreadable(_INDEX, "its pin has no sha256")
                try:
                    self._repomd = parse_repomd(self._get(wanted).read_bytes())
                except ValueError as error:
                    raise self._unreadable(_INDEX, str(error)) from error
            return self._repomd

    def _pinned_file(self, path: str) -> Wanted | None:
        digest = self._identity.get(PINNED_FILES[path])
        return self._wanted(f"{path} of {self._source.name}", "index", digest, 0, path) if digest else None

    def _index(self, path: str) -> Wanted:
        digest, size = self.repomd().files[path]
        return self._wanted(f"{path} of {self._source.name}", "index", digest, size, path)

    def _wanted(self, what: str, kind: str, sha256: str, size: int, path: str) -> Wanted:
        date = self._repomd.date if self._repomd else 0.0
        return Wanted(what, kind, sha256, size, (self._base + quote(path, safe="/+~:"),), date, self._now)

    def _packages(self) -> Table:
        with self._lock:
            if self._table is None:
                wanted = self._index(self.repomd().primary)
                self._table = self._store.table(wanted.sha256) or self._read(wanted)
            return self._table

    def _read(self, wanted: Wanted) -> Table:
        try:
            return self._store.make_table(wanted.sha256, parse_primary(unpacked(self._get(wanted))))
        except ValueError as error:
            raise self._unreadable(self.repomd().primary, str(error)) from error

    def _unreadable(self, name: str, why: str) -> ImgcError:
        return ImgcError(
            "E605",
            f"{name} of {self._source.name} cannot be read: {why}.",
            hint="Is its location a yum repository?",
            place=self._source.place,
        )

    def _now(self) -> str:
        """What the repository is by now."""
        try:
            data = fetch_bytes(
                self._base + _INDEX, f"{_INDEX} of {self._source.name}", REPOMD_LIMIT, tries=1, timeout=5.0
            )
            dated = iso_date(parse_repomd(data).date)
        except (ImgcError, ValueError):
            return ""
        return f"the archive now: repomd.xml sha256 {hashlib.sha256(data).hexdigest()} of {dated}"
