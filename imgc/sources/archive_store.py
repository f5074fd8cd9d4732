"""What imgc keeps of package archives: files by their digest, and tables of what an index offers.

Below ``<cache>/archives``: ``index/`` and ``pool/`` hold files as ``sha256/<2 digits>/<digest>``, ``tables/`` one
sqlite file for each index that was read, ``unpinned/`` marks of archives that are also read past their pins.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import NamedTuple

from imgc import process

#: Goes up when the columns of tables change; older files are then not looked at.
_TABLES = "1"

_CHUNK = 1 << 20


class Package(NamedTuple):
    """One package of an index: its ``path`` below the archive, the file's digest (hexadecimal) and size in bytes."""

    path: str
    sha256: str
    size: int
    name: str
    version: str


class ArchiveStore:
    """The files of package archives in one cache directory.  Safe for several threads and processes."""

    def __init__(self, cache_dir: Path) -> None:
        self._root = cache_dir / "archives"
        self._lock = threading.Lock()
        self._tables: dict[str, Table] = {}

    def close(self) -> None:
        """Close the tables that were read."""
        with self._lock:
            for table in self._tables.values():
                table.close()
            self._tables.clear()

    def place(self, kind: str, sha256: str) -> Path:
        """Where the file of a digest belongs; ``kind`` is ``index`` or ``pool``."""
        return self._root / kind / "sha256" / sha256[:2] / sha256

    def find(self, kind: str, sha256: str) -> Path | None:
        """The whole file of a digest; None when there is none.  One that a crash has damaged is removed."""
        place = self.place(kind, sha256)
        try:
            status = place.stat()
            if status.st_ctime < _boot_time():
                # Written before this boot, and never forced to disk: read once, so that a crash then shows now.
                if _digest(place) != sha256:
                    place.unlink()
                    return None
                os.utime(place)
        except OSError:
            return None
        return place

    def put(self, kind: str, data: bytes) -> str:
        """Keep ``data``; returns its digest."""
        sha256 = hashlib.sha256(data).hexdigest()
        place = self.place(kind, sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{sha256}.", suffix=".partial", dir=place.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.rename(name, place)
        return sha256

    def reap(self) -> None:
        """Remove what transfers of a killed imgc left.  Younger than a day, it may be that of one that runs."""
        before = time.time() - 24 * 3600
        for partial in self._root.glob("*/sha256/*/.*.partial"):
            try:
                if partial.stat().st_mtime < before:
                    partial.unlink()
            except OSError:
                continue

    def has_table(self, sha256: str) -> bool:
        """Whether the index of that digest was read already."""
        return self._table(sha256).is_file()

    def table(self, sha256: str) -> Table | None:
        """The table of the index of that digest; None when it was not read yet."""
        with self._lock:
            if sha256 in self._tables:
                return self._tables[sha256]
            place = self._table(sha256)
            if not place.is_file():
                return None
            table = Table(place)
            try:
                table.find("")
            except sqlite3.DatabaseError:
                # Damaged: the index that it was made from can be read again.
                table.close()
                place.unlink(missing_ok=True)
                return None
            self._tables[sha256] = table
            return table

    def make_table(self, sha256: str, packages: Iterable[Package]) -> Table:
        """Keep what the index of that digest offers.  Where two packages have one path, the first counts."""
        place = self._table(sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{sha256}.", suffix=".partial", dir=place.parent)
        os.close(handle)
        try:
            with closing(sqlite3.connect(name, isolation_level=None)) as made:
                made.execute("PRAGMA journal_mode = OFF")
                made.execute("PRAGMA synchronous = OFF")
                made.execute(
                    "CREATE TABLE package (path TEXT PRIMARY KEY, sha256 TEXT, size INTEGER, name TEXT, version TEXT)"
                    " WITHOUT ROWID"
                )
                made.execute("BEGIN")
                made.executemany("INSERT OR IGNORE INTO package VALUES (?, ?, ?, ?, ?)", packages)
                made.execute("COMMIT")
            # Tables are trusted as they are, so a crash must not leave half of one.
            with open(name, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.rename(name, place)
        finally:
            if os.path.exists(name):
                os.unlink(name)
        made_now = self.table(sha256)
        assert made_now
        return made_now

    def _table(self, sha256: str) -> Path:
        return self._root / "tables" / _TABLES / f"{sha256}.sqlite"

    def mark_unpinned(self, location: str) -> None:
        """Remember that packages of this archive are also installed from suites that nobody pinned."""
        mark = self._mark(location)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(f"{location}\n", encoding="utf-8")

    def is_unpinned(self, location: str) -> bool:
        return self._mark(location).is_file()

    def _mark(self, location: str) -> Path:
        return self._root / "unpinned" / hashlib.sha256(location.encode()).hexdigest()[:32]


class Table:
    """What one index offers."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        self._closed = False
        self._open = sqlite3.connect(uri, uri=True, check_same_thread=False)

    def find(self, path: str) -> Package | None:
        """The package at ``path`` below the archive.  Raises E307 when the table was closed meanwhile."""
        with self._lock:
            if self._closed:
                raise process.interrupted()
            row = self._open.execute("SELECT * FROM package WHERE path = ?", (path,)).fetchone()
        return Package(*row) if row else None

    def packages(self) -> list[Package]:
        """Every package, sorted by path."""
        with self._lock:
            return [Package(*row) for row in self._open.execute("SELECT * FROM package ORDER BY path")]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._open.close()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


@cache
def _boot_time() -> float:
    """When this system started, in seconds since 1970; 0 when the kernel does not say."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith("btime ")), 0.0)
