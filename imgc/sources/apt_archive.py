"""A pinned apt archive: which bytes belong to which of its URLs."""

from __future__ import annotations

import hashlib
import posixpath
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from imgc.errors import ImgcError
from imgc.lock import Pin, Source
from imgc.sources.apt_index import Release, parse_packages, parse_release
from imgc.sources.archive_fetch import Wanted
from imgc.sources.archive_places import NotPinned
from imgc.sources.archive_store import ArchiveStore, Package, Table
from imgc.sources.archive_unpack import unpacked
from imgc.sources.download import Gone, fetch_bytes, iso_date, shown

#: The files that hold what a suite consists of, and the names of their digests in a pin's identity.
PINNED_FILES = {"InRelease": "sha256", "Release": "release-sha256", "Release.gpg": "signature-sha256"}

#: How Packages files are packed; the first that an archive offers is read.
_PACKED = (".xz", ".gz", ".zst", ".bz2", "")

_BY_HASH = re.compile(r"(?:.*/)?by-hash/(\w+)/([0-9a-f]+)")
_PACKAGES = re.compile(r"(?:.*/)?Packages(?:\.\w+)?")

#: What is never handed out unless the pinned index has it.
_PACKAGE_FILES = (".deb", ".udeb", ".ddeb")

#: An InRelease file is some 150 kB.
RELEASE_LIMIT = 16 << 20

Get = Callable[[Wanted], Path]


class AptArchive:
    """The pinned suites of one location."""

    def __init__(self, location: str, store: ArchiveStore, suites: Iterable[Suite]) -> None:
        self._location, self._store = location, store
        # A suite's directory may lie in another's (`bookworm/updates`): the longest is the right one.
        self._suites = sorted(suites, key=lambda one: len(one.directory), reverse=True)

    def find(self, path: str) -> Wanted | None:
        for suite in self._suites:
            if path.startswith(suite.directory):
                index = suite.index(path[len(suite.directory) :])
                if index or suite.directory:
                    return index
        if path.startswith("dists/"):
            raise NotPinned(f"the suite {path.split('/')[1]} of {shown(self._location)}")
        for others in (False, True):
            for suite in self._suites:
                package = suite.package(path, others=others)
                if package:
                    return package
        if not path.endswith(_PACKAGE_FILES) or self._store.is_unpinned(self._location):
            raise NotPinned(f"what no pinned index of {shown(self._location)} has")
        names = ", ".join(sorted(suite.source.name for suite in self._suites))
        raise ImgcError(
            "E606",
            f"{posixpath.basename(path)} is not in what was pinned of {names}.",
            hint="Every package that an image gets must be in a pinned index; `imgc lock` pins anew.",
            detail=f"asked for: {shown(self._location)}/{path}",
        )


class Suite:
    """One pinned suite.  Its indexes are fetched and read when they are first needed."""

    def __init__(self, source: Source, pin: Pin, store: ArchiveStore, get: Get) -> None:
        self.source = source
        self.directory = suite_directory(source.get("suite"))
        self._url = f"{source.location.rstrip('/')}/{self.directory}"
        self._identity = dict(pin.identity)
        self._store, self._get = store, get
        self._lock = threading.RLock()
        self._release: Release | None = None

    def index(self, path: str) -> Wanted | None:
        """The index at ``path`` below the suite."""
        if path in PINNED_FILES:
            return self._pinned_file(path)
        release = self.release()
        hashed = _BY_HASH.fullmatch(path)
        name = release.by_hash.get((hashed[1], hashed[2])) if hashed else path
        return self._wanted(name) if name and name in release.files else None

    def package(self, path: str, *, others: bool = False) -> Wanted | None:
        """The package at ``path`` below the archive, from the suite's own indexes or from the others."""
        for name in self._other_indexes() if others else self._own_indexes():
            found = self._table(name).find(path)
            if found:
                url = f"{self.source.location.rstrip('/')}/{quote(path, safe='/+~:')}"
                what = f"{found.name} {found.version} of {self.source.name}"
                date = self.release().date
                return Wanted(what, "pool", found.sha256, found.size, (url,), date, self._now)
        return None

    def packages(self) -> Iterator[Package]:
        """Everything that the suite offers for its architecture."""
        for name in self._own_indexes():
            yield from self._table(name).packages()

    def release(self) -> Release:
        """What the pinned InRelease says.  Raises E603, E604 or E605."""
        with self._lock:
            if self._release is None:
                name = "InRelease" if "sha256" in self._identity else "Release"
                wanted = self._pinned_file(name)
                if wanted is None:
                    raise self._unreadable(name, "its pin names no InRelease or Release file")
                try:
                    self._release = parse_release(self._get(wanted).read_bytes())
                except ValueError as error:
                    raise self._unreadable(name, str(error)) from error
            return self._release

    def _pinned_file(self, name: str) -> Wanted | None:
        digest = self._identity.get(PINNED_FILES[name])
        if not digest:
            return None
        date = self._release.date if self._release else self._known_date(digest)
        what = f"{name} of {self.source.name}"
        return Wanted(what, "index", digest, 0, (self._url + name,), date, self._now)

    def _known_date(self, digest: str) -> float:
        """The date of a pinned file that is in the cache already."""
        place = self._store.find("index", digest)
        try:
            return parse_release(place.read_bytes()).date if place else 0.0
        except ValueError:
            return 0.0

    def _wanted(self, name: str) -> Wanted:
        release = self.release()
        digest, size = release.files[name]
        hashed = f"{self._url}{posixpath.join(posixpath.dirname(name), 'by-hash/SHA256', digest)}"
        urls = (hashed, self._url + name) if release.has_by_hash else (self._url + name,)
        what = f"{name} of {self.source.name}"
        return Wanted(what, "index", digest, size, urls, release.date, self._now)

    def _other_indexes(self) -> Iterator[str]:
        """Further Packages files that somebody has fetched: of components and architectures added in the image."""
        own = self._own_indexes()
        for name, (digest, _) in self.release().files.items():
            if not _PACKAGES.fullmatch(name) or name in own:
                continue
            if self._store.has_table(digest) or self._store.find("index", digest):
                yield name

    def _own_indexes(self) -> list[str]:
        """One Packages file for each component, of the suite's architecture and of `all` where that is apart."""
        release = self.release()
        if not self.directory.startswith("dists/"):
            bases = [""]
        else:
            # Where the field is there, the architecture's own index has the packages of `all` as well.
            apart = "No-Support-for-Architecture-all" not in release.fields
            architectures = [self.source.get("architecture"), *(["all"] if apart else [])]
            components = self.source.get("components").split()
            bases = [f"{component}/binary-{arch}/" for component in components for arch in architectures]
        named = ([f"{base}Packages{packed}" for packed in _PACKED] for base in bases)
        found = (next((name for name in names if name in release.files), "") for names in named)
        return [name for name in found if name]

    def _table(self, name: str) -> Table:
        with self._lock:
            return self._store.table(self.release().files[name][0]) or self._read(name)

    def _read(self, name: str) -> Table:
        wanted = self._wanted(name)
        try:
            return self._store.make_table(wanted.sha256, parse_packages(unpacked(self._get(wanted))))
        except ValueError as error:
            raise self._unreadable(name, str(error)) from error

    def _unreadable(self, name: str, why: str) -> ImgcError:
        return ImgcError(
            "E605",
            f"{name} of {self.source.name} cannot be read: {why}.",
            hint="Is its location an apt archive?",
            place=self.source.place,
        )

    def _now(self) -> str:
        """What the archive has in the place of the pinned suite by now."""
        for name in ("InRelease", "Release"):
            try:
                what = f"{name} of {self.source.name}"
                data = fetch_bytes(self._url + name, what, RELEASE_LIMIT, tries=1, timeout=5.0)
                dated = iso_date(parse_release(data).date)
            except (Gone, ValueError):
                continue
            except ImgcError:
                break
            return f"the archive now: {name} sha256 {hashlib.sha256(data).hexdigest()} of {dated}"
        return ""


def suite_directory(suite: str) -> str:
    """Where a suite's indexes are below the archive; a suite that ends with a slash is such a directory itself."""
    if not suite.endswith("/"):
        return f"dists/{suite}/"
    path = posixpath.normpath(suite).strip("/")
    return "" if path == "." or not path else f"{path}/"
