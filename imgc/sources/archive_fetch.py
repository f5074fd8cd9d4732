"""Fetches files of package archives into the cache: each once, however many ask for it, and verified.

A file can be read while it arrives (:class:`Job`), all but its last byte: that one is given only once the digest is
known to be right.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from imgc import process
from imgc.errors import ImgcError
from imgc.sources.archive_store import ArchiveStore
from imgc.sources.download import Gone, download, shown

#: How many files are fetched side by side.  Mirrors take that many; each needs little of a processor.
PARALLEL = 8

#: Seconds that transfers have to clean up after themselves when the server ends.
_GRACE = 0.5


@dataclass(frozen=True)
class Wanted:
    """One file of a pinned archive.

    ``what`` names it, and its source, in messages.  ``kind`` is ``index`` or ``pool``.  ``sha256`` is in hexadecimal,
    ``size`` in bytes (0: not known).  ``urls`` are tried in turn.  ``date`` is that of the pinned index, in seconds
    since 1970.  ``now`` says what the archive has in the place of what was pinned.
    """

    what: str
    kind: str
    sha256: str
    size: int
    urls: tuple[str, ...]
    date: float = 0.0
    now: Callable[[], str] = field(default=lambda: "", compare=False)


class Job:
    """A file that is in the cache, or on its way there."""

    def __init__(self, wanted: Wanted, place: Path | None = None) -> None:
        self.wanted = wanted
        self._changed = threading.Condition()
        self._path, self._count, self._done = place, place.stat().st_size if place else 0, place is not None
        self._error: BaseException | None = None

    def wait(self) -> Path:
        """The whole file.  Raises what went wrong."""
        with self._changed:
            self._changed.wait_for(lambda: self._done)
            if self._error:
                raise self._error
            assert self._path
            return self._path

    def wait_beyond(self, position: int) -> tuple[Path, int, bool]:
        """Wait until more than ``position`` bytes may be read: the file to read, how many, and whether it is whole.

        Raises what went wrong.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._done or self._readable() > position)
            if self._error:
                raise self._error
            assert self._path
            return self._path, self._readable(), self._done

    def _readable(self) -> int:
        return self._count if self._done else min(self._count, self.wanted.size - 1)

    def arrived(self, path: Path, count: int) -> None:
        """More of it is there.  Raises E307 when nobody waits for it any more."""
        with self._changed:
            if self._done:
                raise process.interrupted()
            self._path, self._count = path, count
            self._changed.notify_all()

    def give_up(self) -> None:
        """Nobody waits for it any more; what there is of it is removed."""
        with self._changed:
            partial = self._path if not self._done else None
            self._error, self._done = process.interrupted(), True
            self._changed.notify_all()
        if partial:
            partial.unlink(missing_ok=True)

    def finish(self, path: Path | None, error: BaseException | None = None) -> None:
        """It is whole, or will not come."""
        with self._changed:
            self._path, self._error, self._done = path, error, True
            self._count = path.stat().st_size if path else 0
            self._changed.notify_all()


class Fetcher:
    """Brings files into the cache.  ``offline``: finds those that are there, and raises E604 for others.

    ``fetched`` and ``fetched_bytes`` count what came from archives.
    """

    def __init__(self, store: ArchiveStore, *, offline: bool = False) -> None:
        self.store, self.offline = store, offline
        self.fetched = self.fetched_bytes = 0
        self._lock = threading.Lock()
        self._running: dict[str, Job] = {}
        self._threads: set[threading.Thread] = set()
        self._closed = False
        self._slots = threading.BoundedSemaphore(PARALLEL)

    def close(self) -> None:
        """End the transfers that are under way.  One whose other side is silent ends later, and writes nothing more."""
        with self._lock:
            self._closed = True
            running = list(self._running.values())
        for job in running:
            job.give_up()
        until = time.monotonic() + _GRACE
        for thread in list(self._threads):
            thread.join(max(0.0, until - time.monotonic()))

    def get(self, wanted: Wanted) -> Path:
        """The file, once it is whole."""
        return self.start(wanted).wait()

    def start(self, wanted: Wanted) -> Job:
        """The file, or the one transfer that brings it.  Raises E604, and E307 once closed."""
        with self._lock:
            running = self._running.get(wanted.sha256)
        if running:
            return running
        place = self.store.find(wanted.kind, wanted.sha256)
        if place:
            return Job(wanted, place)
        if self.offline:
            raise _absent(wanted)
        with self._lock:
            if self._closed:
                raise process.interrupted()
            job = self._running.get(wanted.sha256)
            if job is None:
                job = self._running[wanted.sha256] = Job(wanted)
                # Not of a pool: the interpreter would wait for its threads, and so for a silent mirror, at its end.
                thread = threading.Thread(target=self._fetch, args=(job,), name="archive", daemon=True)
                self._threads.add(thread)
                thread.start()
        return job

    def _fetch(self, job: Job) -> None:
        wanted = job.wanted
        try:
            # Another transfer of it may have ended between the look into the cache and this one's start.
            with self._slots:
                job.finish(self.store.find(wanted.kind, wanted.sha256) or self._from_any(job))
        except BaseException as error:
            job.finish(None, error)
        finally:
            with self._lock:
                self._running.pop(wanted.sha256, None)
                self._threads.discard(threading.current_thread())

    def _from_any(self, job: Job) -> Path:
        """Try each URL in turn; the error is that of the last."""
        wanted = job.wanted
        for number, url in enumerate(wanted.urls, 1):
            try:
                place = self.store.place(wanted.kind, wanted.sha256)
                done = download(url, place, what=wanted.what, sha256=wanted.sha256, watch=job.arrived)
            except ImgcError as error:
                other = isinstance(error, Gone) or error.code == "E602"
                if not other or number < len(wanted.urls):
                    if other:
                        continue
                    raise
                raise _moved(wanted, url, error) from error
            with self._lock:
                self.fetched += 1
                self.fetched_bytes += done.size
            return done.path
        raise AssertionError("a wanted file has a URL")


def _absent(wanted: Wanted) -> ImgcError:
    return ImgcError(
        "E604",
        f"{wanted.what} is not in the cache, and nothing may be fetched.",
        hint="Build once without --offline: everything that was pinned is kept then.",
        detail=f"pinned: sha256 {wanted.sha256}\nfrom:   {shown(wanted.urls[0])}",
    )


def _moved(wanted: Wanted, url: str, error: ImgcError) -> ImgcError:
    """The archive no longer has what was pinned."""
    why = "has other bytes there now" if error.code == "E602" else "no longer has it"
    lines = [f"pinned: sha256 {wanted.sha256}", *error.detail.splitlines()[1:], wanted.now()]
    return ImgcError(
        "E603",
        f"{wanted.what} was pinned, and {shown(url)} {why}.",
        hint="`imgc lock` (or --refresh) pins anew what the archive has now.",
        detail="\n".join(line for line in lines if line),
    )
