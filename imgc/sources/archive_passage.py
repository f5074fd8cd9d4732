"""What goes through the archive server and belongs to no pinned archive: http requests, and tunnels for https."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from imgc.sources.archive_http import HOP_BY_HOP, BadRequest, Connection, Request
from imgc.sources.download import root_cause, session

if TYPE_CHECKING:
    import requests

#: Seconds that the other side may be silent.
_TIMEOUT = 60.0

_CHUNK = 1 << 18

#: Answers that never have a body.
_BODILESS = (204, 304)


class _Body:
    """The body of a request, of known length, as requests wants to read it."""

    def __init__(self, pieces: Iterator[bytes], length: int) -> None:
        self._pieces, self._length = pieces, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def read(self, _: int = -1) -> bytes:
        return next(self._pieces, b"")


def forward(connection: Connection, request: Request, url: str) -> bool:
    """Pass a request on and its answer back.  False when the connection cannot be used for another one."""
    import requests
    import urllib3

    try:
        answer = _ask(connection, request, url)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        why = root_cause(error, _TIMEOUT)
        connection.text(request, 502, f"Bad Gateway ({why})", f"{url}: {why}")
        return request.length == 0
    with answer:
        try:
            return _pass_back(connection, request, answer)
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            return False


def _ask(connection: Connection, request: Request, url: str) -> requests.Response:
    named = {name.strip().lower() for name in request.headers.get("connection", "").split(",")}
    dropped = HOP_BY_HOP | named | {"host", "expect", "content-length"}
    # None takes out what the library would add by itself.
    headers: dict[str, str | None] = {"Accept": None, "Accept-Encoding": None, "User-Agent": None}
    headers.update({name.title(): value for name, value in request.headers.items() if name not in dropped})
    pieces = connection.body(request)
    body = pieces if request.length is None else _Body(pieces, request.length) if request.length else None
    return session().request(
        request.method,
        url,
        headers=headers,  # type: ignore[arg-type]
        data=body,
        stream=True,
        allow_redirects=False,
        timeout=_TIMEOUT,
        # Who the client is, the client says: the user's ~/.netrc is not for what runs in an image.
        auth=lambda prepared: prepared,
    )


def _pass_back(connection: Connection, request: Request, answer: requests.Response) -> bool:
    headers: dict[str, str | int] = {
        name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP
    }
    bodiless = request.method == "HEAD" or answer.status_code in _BODILESS
    chunked = not bodiless and "Content-Length" not in answer.headers
    closing = chunked and request.version == "HTTP/1.0"
    if closing:
        headers["Connection"] = "close"
    elif chunked:
        headers["Transfer-Encoding"] = "chunked"
    connection.head(answer.status_code, answer.reason or "", headers, more=not bodiless)
    while not bodiless and (data := answer.raw.read1(_CHUNK, decode_content=False)):
        framed = b"%x\r\n%b\r\n" % (len(data), data) if chunked and not closing else data
        connection.socket.sendall(framed)
    if chunked and not closing:
        connection.socket.sendall(b"0\r\n\r\n")
    return not closing


def tunnel(connection: Connection, request: Request) -> None:
    """Connect the client with the host it names, and pass bytes both ways until both have ended."""
    host, _, port = request.target.rpartition(":")
    if not host or not port.isdigit():
        raise BadRequest("CONNECT without host and port")
    try:
        other = _connect(host.strip("[]"), int(port))
    except (OSError, ValueError) as error:
        why = root_cause(error, _TIMEOUT)
        connection.text(request, 502, f"Bad Gateway ({why})", f"{request.target}: {why}")
        return
    with other:
        connection.head(200, "Connection established", {}, more=False)
        other.sendall(connection.rest())
        back = threading.Thread(target=_copy, args=(other, connection.socket), daemon=True)
        back.start()
        _copy(connection.socket, other)
        back.join()


def _connect(host: str, port: int) -> socket.socket:
    """A connection to ``host``, through the proxy for https that this host has, if any."""
    proxy = urllib.request.getproxies().get("https", "")
    if not proxy or urllib.request.proxy_bypass(host):
        made = socket.create_connection((host, port), timeout=_TIMEOUT)
    else:
        made = _through(proxy if "://" in proxy else f"http://{proxy}", f"{host}:{port}")
    made.settimeout(None)
    return made


def _through(proxy: str, target: str) -> socket.socket:
    parts = urlsplit(proxy)
    secure = parts.scheme == "https"
    made = socket.create_connection((parts.hostname, parts.port or (443 if secure else 80)), timeout=_TIMEOUT)
    try:
        if secure:
            made = ssl.create_default_context().wrap_socket(made, server_hostname=parts.hostname)
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if parts.username:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}")
        made.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = made.recv(1)  # not a byte of what comes after the answer
            if not data:
                raise OSError("the proxy has closed the connection")
            answer += data
        status = answer.split(b"\r\n")[0].decode("latin-1")
        if status.split()[1:2] != ["200"]:
            raise OSError(f"the proxy answers {status}")
    except BaseException:
        made.close()
        raise
    return made


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what comes until it ends, then say that it has ended."""
    try:
        while data := source.recv(_CHUNK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
