"""HTTP/1.1 on one connection, as a proxy speaks it: requests in, several of them ahead; replies out, in order."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imgc.errors import ImgcError
from imgc.sources.archive_fetch import Job
from imgc.sources.download import http_date

#: A request line with its headers is never longer.
_HEAD_LIMIT = 64 << 10

_CHUNK = 1 << 18

#: Headers that belong to one connection and go no further.
HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)

#: Packages of so many bytes are sent while they arrive.  Smaller ones, and indexes, wait: so their errors can be told.
_STREAMED = 1 << 20

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class BadRequest(Exception):
    """What a client sent is not HTTP; says why."""


@dataclass(frozen=True)
class Request:
    """One request.  ``headers`` have lower-case names; of a header given twice, the values are joined by commas."""

    method: str
    target: str
    version: str
    headers: Mapping[str, str]

    @property
    def keeps_connection(self) -> bool:
        """Whether the client wants to go on with this connection."""
        words = f"{self.headers.get('connection', '')},{self.headers.get('proxy-connection', '')}".lower()
        return "close" not in words and (self.version != "HTTP/1.0" or "keep-alive" in words)

    @property
    def length(self) -> int | None:
        """The length of its body in bytes; None when it comes in chunks."""
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return None
        text = self.headers.get("content-length", "0")
        if not text.isdigit():
            raise BadRequest("a length that is no number")
        return int(text)


class Connection:
    """One client."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self._buffer = b""

    # --- what comes in ---

    def request(self, *, wait: bool) -> Request | None:
        """The next request: None when the client has closed, or without ``wait`` when it has sent none yet."""
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > _HEAD_LIMIT:
                raise BadRequest("a request without end")
            if not self._receive(0 if wait else socket.MSG_DONTWAIT):
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.lstrip(b"\r\n").decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequest("not a request of HTTP/1")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name.strip():
                raise BadRequest("a header without a colon")
            name, value = name.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Request(words[0], words[1], words[2], headers)

    def _receive(self, flags: int = 0) -> bool:
        try:
            data = self.socket.recv(_CHUNK, flags)
        except BlockingIOError:
            return False
        self._buffer += data
        return bool(data)

    def rest(self) -> bytes:
        """What was received and belongs to no request: the first bytes of a tunnel."""
        data, self._buffer = self._buffer, b""
        return data

    def body(self, request: Request) -> Iterator[bytes]:
        """The body of ``request``, which was the last one read."""
        if "100-continue" in request.headers.get("expect", "").lower():
            self.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.length is None:
            yield from self._chunks()
        else:
            yield from self._exactly(request.length)

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size = self._line().partition(b";")[0].strip()
            try:
                length = int(size, 16)
            except ValueError:
                raise BadRequest("a chunk without its length") from None
            yield from self._exactly(length)
            while self._line() and length == 0:
                pass  # trailers
            if length == 0:
                return

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > _HEAD_LIMIT or not self._receive():
                raise BadRequest("a body that is cut off")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _exactly(self, length: int) -> Iterator[bytes]:
        while length:
            if not self._buffer and not self._receive():
                raise BadRequest("a body that is cut off")
            data, self._buffer = self._buffer[:length], self._buffer[length:]
            length -= len(data)
            yield data

    # --- what goes out ---

    def head(self, status: int, reason: str, headers: Mapping[str, str | int], *, more: bool) -> None:
        """The status line and the headers; ``more`` when a body follows at once."""
        lines = [
            f"HTTP/1.1 {status} {reason}",
            *(f"{name}: {value}" for name, value in headers.items()),
            "",
            "",
        ]
        data = "\r\n".join(lines).encode("latin-1", "replace")
        self.socket.sendall(data, socket.MSG_MORE if more else 0)

    def text(self, request: Request, status: int, reason: str, text: str) -> None:
        """A reply that is a message.  ``reason`` is what apt shows."""
        data = f"{text}\n".encode()
        headers: dict[str, str | int] = {
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": len(data),
        }
        self.head(status, " ".join(reason.split()), headers, more=request.method != "HEAD")
        if request.method != "HEAD":
            self.socket.sendall(data)

    def file(self, request: Request, job: Job) -> None:
        """A file that is in the cache or on its way there.

        Raises what went wrong before the first byte is sent, and ConnectionError after it.
        """
        size = job.wanted.size or job.wait().stat().st_size
        tag = f'"{job.wanted.sha256}"'
        modified = http_date(job.wanted.date) if job.wanted.date else ""
        headers: dict[str, str | int] = {"ETag": tag, "Accept-Ranges": "bytes"}
        if modified:
            headers["Last-Modified"] = modified
        if _unchanged(request, tag, modified):
            self.head(304, "Not Modified", headers, more=False)
            return
        begin, end, status = _part(request, size, tag, modified)
        if status == 416:
            self.head(
                416,
                "Range Not Satisfiable",
                {"Content-Range": f"bytes */{size}", "Content-Length": 0},
                more=False,
            )
            return
        if job.wanted.kind == "pool" and size >= _STREAMED:
            job.wait_beyond(min(begin, size - 1))
        else:
            job.wait()
        if status == 206:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        headers["Content-Length"] = end - begin
        body = request.method != "HEAD" and end > begin
        self.head(status, "OK" if status == 200 else "Partial Content", headers, more=body)
        if body:
            try:
                self._send(job, begin, end)
            except ImgcError as error:
                raise ConnectionError(str(error)) from error

    def _send(self, job: Job, position: int, end: int) -> None:
        """The bytes of a file, as they arrive."""
        opened, file = Path(), -1
        try:
            while position < end:
                path, readable, _ = job.wait_beyond(position)
                if path != opened:
                    if file >= 0:
                        os.close(file)
                    file = -1
                    opened, file = path, _open(path, job)
                count = min(readable, end) - position
                position += os.sendfile(self.socket.fileno(), file, position, count)
        finally:
            if file >= 0:
                os.close(file)


def _open(path: Path, job: Job) -> int:
    """Open the file of a job, which may just have got its final name."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(job.wait(), os.O_RDONLY | os.O_CLOEXEC)


def _unchanged(request: Request, tag: str, modified: str) -> bool:
    """Whether the client has these very bytes.  A date alone must be the same: an older one may be another file's."""
    if "if-none-match" in request.headers:
        return tag in request.headers["if-none-match"]
    return bool(modified) and request.headers.get("if-modified-since") == modified


def _part(request: Request, size: int, tag: str, modified: str) -> tuple[int, int, int]:
    """Which bytes to send, from and to, and the status that says so."""
    wanted = _RANGE.fullmatch(request.headers.get("range", ""))
    condition = request.headers.get("if-range", tag)
    if not wanted or wanted[0] == "bytes=-" or condition not in (tag, modified):
        return 0, size, 200
    if not wanted[1]:
        begin, end = max(0, size - int(wanted[2])), size
    else:
        begin, end = int(wanted[1]), min(size, int(wanted[2]) + 1) if wanted[2] else size
    return (begin, end, 206) if begin < end else (0, 0, 416)
