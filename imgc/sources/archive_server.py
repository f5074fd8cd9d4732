"""A forward proxy on loopback, for the time of a build: package managers see the archives as they were pinned.

Clients are told of it as their http proxy and keep the URLs they have.  What lies below a pinned archive comes with
the pinned bytes, from the cache or, verified, from the archive; what nobody pinned is passed through, and told.
"""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from imgc.errors import ImgcError
from imgc.lock import Pin, Source
from imgc.sources.apt_archive import AptArchive, Suite
from imgc.sources.archive_fetch import PARALLEL, Fetcher, Job
from imgc.sources.archive_http import BadRequest, Connection, Request
from imgc.sources.archive_passage import forward, tunnel
from imgc.sources.archive_places import Archive, NotPinned, below, place_of, plain_url
from imgc.sources.archive_store import ArchiveStore
from imgc.sources.download import shown
from imgc.sources.yum_archive import YumArchive

__all__ = ["Server", "plain_url", "serve"]

#: How many requests of one connection are looked at ahead; apt sends ten before it waits.
_AHEAD = 16

#: How often, in seconds, the thread that accepts connections looks whether it is to end.
_POLL = 0.05

Tell = Callable[[str], None]


class Server:
    """The proxy while it runs.

    ``url`` is what clients are told.  ``problems`` are what kept a client from getting what it asked for, in order,
    without repeats; they explain why a package manager failed.  A problem does not mean that a build fails.
    """

    def __init__(self, archives: Mapping[tuple[str, str], Archive], fetcher: Fetcher, tell: Tell) -> None:
        # The longest place is the right one: an archive may lie below another.
        self._archives = sorted(archives.items(), key=lambda one: len(one[0][1]), reverse=True)
        self._fetcher, self._tell = fetcher, tell
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self.problems: list[ImgcError] = []
        self.url = ""

    @property
    def fetched(self) -> tuple[int, int]:
        """How many files came from the archives, and their size in bytes; the others were in the cache."""
        return self._fetcher.fetched, self._fetcher.fetched_bytes

    def find(self, url: str) -> Job | None:
        """The file of a pinned archive behind ``url``; None when the pinned archive has none there.

        Raises :class:`NotPinned` where no pin covers it, and an ImgcError when it cannot be given.
        """
        for place, archive in self._archives:
            path = below(url, place)
            if path is None:
                continue
            try:
                wanted = archive.find(path)
                return self._fetcher.start(wanted) if wanted else None
            except NotPinned:
                if path.startswith("dists/"):
                    self._fetcher.store.mark_unpinned(f"http://{'/'.join(place)}")
                raise
        raise NotPinned(f"http://{place_of(url)[0]}")

    def admit(self, what: str) -> None:
        """Let something through that no pin covers: told once.  Raises E604 when nothing may be fetched."""
        if self._fetcher.offline:
            problem = ImgcError(
                "E604",
                f"{_capital(what)} is not pinned, and nothing may be fetched.",
                hint="A build without network can use only what is pinned and in the cache.",
            )
            self.note(problem)
            raise problem
        with self._lock:
            new = what not in self._told
            self._told.add(what)
        if new:
            self._tell(f"{_capital(what)} is not pinned: the build takes it as it is now.")

    def note(self, problem: ImgcError) -> None:
        """Remember what went wrong."""
        with self._lock:
            known = {(one.code, one.message) for one in self.problems}
            if problem.code != "E307" and (problem.code, problem.message) not in known:
                self.problems.append(problem)


class _Client:
    """One connection: its requests are looked at ahead, so that files come side by side, and answered in order."""

    def __init__(self, sock: socket.socket, server: Server, finders: ThreadPoolExecutor) -> None:
        self._connection = Connection(sock)
        self._server, self._finders = server, finders
        self._waiting: deque[tuple[Request, Future[Job | None]]] = deque()

    def serve(self) -> None:
        """Answer until the client closes."""
        try:
            while self._read():
                request, found = self._waiting.popleft()
                if request.method == "CONNECT":
                    self._tunnel(request)
                    return
                if not self._answer(request, found) or not request.keeps_connection:
                    return
        except BadRequest as bad:
            self._connection.text(Request("GET", "", "HTTP/1.1", {}), 400, f"Bad Request ({bad})", str(bad))

    def _read(self) -> bool:
        """Read what the client has sent, up to a request that has a body; False when it has closed."""
        while len(self._waiting) < _AHEAD:
            request = self._connection.request(wait=not self._waiting)
            if request is None:
                break
            self._waiting.append((request, self._finders.submit(self._find, request)))
            if request.method == "CONNECT" or request.length != 0:
                break
        return bool(self._waiting)

    def _find(self, request: Request) -> Job | None:
        if request.method not in ("GET", "HEAD") or not request.target.lower().startswith("http://"):
            raise NotPinned(f"http://{urlsplit(request.target).netloc.rpartition('@')[2]}")
        try:
            return self._server.find(request.target)
        except ValueError as error:
            raise BadRequest(str(error)) from error

    def _answer(self, request: Request, found: Future[Job | None]) -> bool:
        """Answer one request.  False when the connection cannot go on."""
        if request.method != "CONNECT" and not request.target.lower().startswith("http://"):
            raise BadRequest("this is a proxy: it takes http:// URLs")
        try:
            job = found.result()
            if job is None:
                where = shown(request.target)
                self._connection.text(request, 404, "Not Found", f"{where} is not in the pinned archive.")
            else:
                self._connection.file(request, job)
            return True
        except NotPinned as unpinned:
            try:
                self._server.admit(str(unpinned))
            except ImgcError as problem:
                self._refuse(request, problem)
                return request.length == 0
            return forward(self._connection, request, request.target)
        except ImgcError as problem:
            self._server.note(problem)
            self._refuse(request, problem)
            return True
        except ConnectionError as cut:
            if isinstance(cut.__cause__, ImgcError):
                self._server.note(cut.__cause__)
            raise

    def _refuse(self, request: Request, problem: ImgcError) -> None:
        """Say in the reason, which package managers show, what is wrong; 404 ends their tries, 502 does not."""
        status = 404 if problem.code in ("E603", "E604", "E606") else 502
        text = "\n".join(one for one in (str(problem), problem.detail, problem.hint) if one)
        self._connection.text(request, status, problem.message, text)

    def _tunnel(self, request: Request) -> None:
        try:
            self._server.admit(f"https://{request.target.removesuffix(':443')}")
        except ImgcError as problem:
            self._refuse(request, problem)
            return
        tunnel(self._connection, request)


class _Listener(socketserver.ThreadingTCPServer):
    """Accepts connections; each has a thread, and is closed when the server ends."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, server: Server, finders: ThreadPoolExecutor) -> None:
        self._archive_server, self._finders = server, finders
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        self._closing = False
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)

    def finish_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        with self._open_lock:
            self._open.add(request)
        try:
            _Client(request, self._archive_server, self._finders).serve()
        except (ConnectionError, OSError):
            pass  # the client is gone, or must see that its file is not whole
        finally:
            with self._open_lock:
                self._open.discard(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A defect in one connection is told with the others' problems, and ends only that one."""
        if not self._closing:
            self._archive_server.note(ImgcError("E901", f"The archive server failed: {sys.exc_info()[1]!r}."))

    def close_connections(self) -> None:
        self._closing = True
        with self._open_lock:
            for one in self._open:
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


@contextmanager
def serve(
    sources: Iterable[Source],
    pins: Mapping[tuple[str, str], Pin],
    cache: Path,
    *,
    offline: bool = False,
    tell: Tell,
) -> Iterator[Server]:
    """A running server for the apt and yum archives among ``sources`` that have a pin in ``pins`` (by kind and name).

    ``offline``: nothing leaves this host; what is not in ``cache`` is refused.  ``tell`` is called, from any thread,
    once for each thing that is not pinned.
    """
    store = ArchiveStore(cache)
    store.reap()
    fetcher = Fetcher(store, offline=offline)
    server = Server(_archives(sources, pins, store, fetcher), fetcher, tell)
    finders = ThreadPoolExecutor(PARALLEL, thread_name_prefix="find")
    with _Listener(server, finders) as listener:
        server.url = f"http://127.0.0.1:{listener.server_address[1]}"
        accepting = threading.Thread(target=listener.serve_forever, args=(_POLL,), daemon=True)
        accepting.start()
        try:
            yield server
        finally:
            listener.shutdown()
            fetcher.close()
            listener.close_connections()
            # They wait for no transfer any more; one may still be reading an index.
            finders.shutdown(cancel_futures=True)
            store.close()


def _archives(
    sources: Iterable[Source], pins: Mapping[tuple[str, str], Pin], store: ArchiveStore, fetcher: Fetcher
) -> dict[tuple[str, str], Archive]:
    """The pinned archives by their place; the suites of one location are one archive."""
    archives: dict[tuple[str, str], Archive] = {}
    suites: dict[tuple[str, str], list[Suite]] = {}
    for source in sources:
        pin = pins.get((source.kind, source.name))
        if pin and source.kind == "apt":
            suites.setdefault(place_of(source.location), []).append(Suite(source, pin, store, fetcher.get))
        elif pin and source.kind == "yum":
            archives[place_of(source.location)] = YumArchive(source, pin, store, fetcher.get)
    for place, some in suites.items():
        archives[place] = AptArchive(f"http://{'/'.join(place)}", store, some)
    return archives


def _capital(text: str) -> str:
    return text if text.startswith("http") else text[:1].upper() + text[1:]
