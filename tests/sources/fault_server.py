"""A web server on loopback that serves a directory, counts what is asked for, and fails in the ways it is told to."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

#: Looks at a request and the file's bytes; True when it has answered in its own way.
Fault = Callable[["Handler", bytes], bool]


class Handler(BaseHTTPRequestHandler):
    """Answers with ETag and Last-Modified, and with parts of files."""

    protocol_version = "HTTP/1.1"
    server: FaultServer

    def do_GET(self) -> None:
        name = unquote(self.path.partition("?")[0])
        self.server.requests.append((name, dict(self.headers.items())))
        path = self.server.root / name.lstrip("/")
        data = path.read_bytes() if path.is_file() else b""
        faults = self.server.faults.get(name, [])
        if faults and faults.pop(0)(self, data):
            return
        if not path.is_file():
            self.answer(404, b"no such file")
            return
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        if self.headers.get("If-None-Match") == tag:
            self.answer(304, b"", {"ETag": tag})
            return
        part = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if part and self.headers.get("If-Range", tag) == tag:
            begin = int(part[1])
            where = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            self.answer(206, data[begin:], {"ETag": tag, "Content-Range": where})
            return
        self.answer(200, data, {"ETag": tag})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.requests.append((self.path, dict(self.headers.items())))
        self.answer(200, b"you sent " + body)

    def answer(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, length: int = -1
    ) -> None:
        """Send an answer; ``length`` is a Content-Length that may be a lie."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length if length >= 0 else len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class FaultServer(ThreadingHTTPServer):
    """``faults[path]`` are used up one by one; ``requests`` are (path, headers) in order."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is not worth a word."""

    def asked(self, end: str) -> int:
        """How often something whose path ends like that was asked for."""
        return sum(path.endswith(end) for path, _ in self.requests)


@contextmanager
def serving(root: Path) -> Iterator[FaultServer]:
    with FaultServer(root) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def status(code: int, **headers: str) -> Fault:
    """Answer with a status."""

    def fault(handler: Handler, data: bytes) -> bool:
        handler.answer(code, b"fault", {name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return fault


def cut(after: int, *, validated: bool = True) -> Fault:
    """Promise the whole file and hang up after some bytes of it."""

    def fault(handler: Handler, data: bytes) -> bool:
        tag = {"ETag": f'"{hashlib.md5(data).hexdigest()}"'} if validated else {}
        handler.answer(200, data[:after], tag, length=len(data))
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)
        return True

    return fault


def stall(after: int, seconds: float) -> Fault:
    """Send some bytes, then nothing for a while, then hang up."""

    def fault(handler: Handler, data: bytes) -> bool:
        handler.answer(200, data[:after], length=len(data))
        handler.wfile.flush()
        time.sleep(seconds)
        handler.close_connection = True
        return True

    return fault


def instead(other: bytes) -> Fault:
    """Send other bytes."""

    def fault(handler: Handler, data: bytes) -> bool:
        handler.answer(200, other)
        return True

    return fault


def slow(seconds: float) -> Fault:
    """Answer as usual, later."""

    def fault(handler: Handler, data: bytes) -> bool:
        time.sleep(seconds)
        return False

    return fault
