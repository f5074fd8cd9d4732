"""What branches and tags a repository has now: one question over the connection, without a git process.

git: and smart HTTP are spoken here (protocol version 2, where a server answers with the wanted refs only; older ones
as well).  Whatever else there is, or the user has settings of git for, is left to ``git ls-remote``.
"""

from __future__ import annotations

import functools
import os
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from imgc import process
from imgc.errors import ImgcError
from imgc.sources.download import root_cause, session
from imgc.sources.git_program import environment, git_on_network, last_words

#: Seconds that the other side may be silent.
TIMEOUT = 30.0

#: An answer is read whole; 100,000 refs have some 7 MB.
_MOST_BYTES = 64 << 20

_PORT = 9418
_WANTED = ("refs/heads/", "refs/tags/")
_END = "end"
_ID = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")

#: How git and servers say that there is no such repository.
_UNKNOWN = re.compile(
    r"repository .*not (found|exported)|not found|does not appear to be a git repository|does not exist|no such file",
    re.IGNORECASE,
)

#: Variables and settings of git by which it reaches a server in a way that is not followed here.
_OWN_VARIABLES = ("GIT_SSL_NO_VERIFY", "GIT_SSL_CERT", "GIT_SSL_KEY", "GIT_PROXY_COMMAND", "GIT_CONFIG_COUNT")
_OWN_SETTINGS = r"^(url\..*\.insteadof|http\..*|core\.gitproxy)$"


class Unknown(Exception):
    """The server is well and has no such repository."""


class Unreachable(Exception):
    """Why a repository could not be asked."""


class _Unspoken(Exception):
    """Something that only the program git knows how to handle."""


@dataclass(frozen=True)
class Refs:
    """Branches and tags by their whole names (``refs/heads/…``), and the one that HEAD is (empty when not known)."""

    head: str = ""
    refs: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """As a mirror keeps it: HEAD, then a ref a line, then a line by which a file that was cut is told."""
        lines = [f"{self.refs[name]} {name}" for name in sorted(self.refs)]
        return "".join(f"{line}\n" for line in (self.head, *lines, _END))

    @classmethod
    def parse(cls, text: str) -> Refs | None:
        """Refs from their text; None when it is none (a file that was cut)."""
        head, *lines = text.split("\n")
        if lines[-2:] != [_END, ""]:
            return None
        pairs = [line.partition(" ") for line in lines[:-2]]
        if any(not _ID.fullmatch(commit) or not name.startswith(_WANTED) for commit, _, name in pairs):
            return None
        return cls(head, {name: commit for commit, _, name in pairs})


def ask(location: str) -> Refs:
    """The refs of the repository at a URL.  Raises Unknown and Unreachable, and E307 when interrupted."""
    process.INTERRUPT.check()
    scheme = urlsplit(location).scheme.lower()
    speak = {"git": _over_git, "http": _over_http, "https": _over_http}.get(scheme)
    if speak and not _own_settings():
        try:
            return speak(location)
        except _Unspoken:
            pass
    return _by_git(location)


@functools.cache
def _own_settings() -> bool:
    """Whether the user has settings by which git reaches servers in another way.  Asked once, where there are any."""
    if any(os.environ.get(name) for name in _OWN_VARIABLES):
        return True
    home = Path.home()
    files = ["/etc/gitconfig", str(home / ".gitconfig"), str(home / ".config/git/config")]
    files += [os.environ[name] for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM") if os.environ.get(name)]
    if not any(os.path.getsize(file) for file in files if os.path.isfile(file)):
        return False
    argv = ["git", "config", "--includes", "--name-only", "--get-regexp", _OWN_SETTINGS]
    done = process.run(argv, env=environment(), cwd="/", check=False)
    names = [
        line for line in done.output.splitlines() if not line.startswith(("credential.", "http.sslcainfo"))
    ]
    return done.status == 0 and bool(names)


# --- by the program -----------------------------------------------------------------------------------------------


def _by_git(location: str) -> Refs:
    arguments = ["ls-remote", "--quiet", "--symref", "--", location, "HEAD", "refs/heads/*", "refs/tags/*"]
    try:
        done = git_on_network(arguments, timeout=4 * TIMEOUT)
    except ImgcError as problem:
        if problem.code == "E307":
            raise
        raise Unreachable(problem.message) from problem
    if done.status:
        raise unreachable(last_words(done))
    head, at_head = "", ""
    refs: dict[str, str] = {}
    for line in done.output.splitlines():
        value, _, name = line.partition("\t")
        if name == "HEAD":
            if value.startswith("ref: "):
                head = value.removeprefix("ref: ")
            else:
                at_head = value
        elif _ID.fullmatch(value) and name.startswith(_WANTED) and not name.endswith("^{}"):
            refs[name] = value
    return Refs(head_of(head, at_head, refs), refs)


def unreachable(said: str) -> Exception:
    """Unknown or Unreachable, by what git or a server says."""
    kind = Unknown if _UNKNOWN.search(said) and "host" not in said.lower() else Unreachable
    return kind(f"git says: {said}")


def head_of(named: str, at_head: str, refs: Mapping[str, str]) -> str:
    """The branch that HEAD is; where a server does not say, one that is where HEAD is."""
    if named in refs:
        return named
    heads = [name for name in refs if name.startswith("refs/heads/")]
    first = ("refs/heads/master", "refs/heads/main")
    heads.sort(key=lambda name: (refs[name] != at_head, name not in first, name))
    return heads[0] if heads else ""


# --- packets ------------------------------------------------------------------------------------------------------

#: The packets that are none: end of a section, delimiter.
_FLUSH, _DELIMITER = b"0000", b"0001"


def _packet(text: str) -> bytes:
    data = text.encode()
    return b"%04x" % (len(data) + 4) + data


def _section(read: Callable[[int], bytes]) -> Iterator[str]:
    """The packets up to the next flush, as lines.  ``read`` gives exactly as many bytes as asked for."""
    left = _MOST_BYTES
    while True:
        length = read(4)
        try:
            size = int(length, 16)
        except ValueError:
            raise _Unspoken from None
        if size == 0:
            return
        if size == 1:
            continue
        left -= size
        if size < 4 or left < 0:
            raise _Unspoken
        line = read(size - 4).decode("utf-8", "surrogateescape").removesuffix("\n")
        if line.startswith("ERR "):
            raise unreachable(f"remote error: {line.removeprefix('ERR ')}")
        yield line


def _question(capabilities: Iterable[str]) -> bytes:
    """The command of version 2 that asks for branches, tags and HEAD."""
    known = {name: value for name, _, value in (one.partition("=") for one in capabilities)}
    if "ls-refs" not in known:
        raise _Unspoken
    extra = [f"object-format={known['object-format']}"] if "object-format" in known else []
    wanted = ["symrefs", "ref-prefix HEAD", *(f"ref-prefix {prefix}" for prefix in _WANTED)]
    command = [_packet(text) for text in ("command=ls-refs\n", *(f"{one}\n" for one in extra))]
    return b"".join([*command, _DELIMITER, *(_packet(f"{text}\n") for text in wanted), _FLUSH])


def _answer(lines: Iterable[str]) -> Refs:
    """The refs in the answer to it."""
    head, at_head = "", ""
    refs: dict[str, str] = {}
    for line in lines:
        commit, name, *attributes = line.split(" ")
        if name == "HEAD":
            at_head = commit
            named = [one for one in attributes if one.startswith("symref-target:")]
            head = named[0].removeprefix("symref-target:") if named else ""
        elif _ID.fullmatch(commit) and name.startswith(_WANTED):
            refs[name] = commit
    return Refs(head_of(head, at_head, refs), refs)


def _advertised(lines: Iterable[str]) -> Refs:
    """The refs that a server of an older version names of its own accord: all of them."""
    head, at_head = "", ""
    refs: dict[str, str] = {}
    for line in lines:
        said, _, capabilities = line.partition("\0")
        commit, _, name = said.partition(" ")
        for one in capabilities.split(" "):
            if one.startswith("symref=HEAD:"):
                head = one.removeprefix("symref=HEAD:")
        if name == "HEAD":
            at_head = commit
        elif _ID.fullmatch(commit) and name.startswith(_WANTED) and not name.endswith("^{}"):
            refs[name] = commit
    return Refs(head_of(head, at_head, refs), refs)


def _talk(lines: Iterator[str], put: Callable[[bytes], Callable[[int], bytes]]) -> Refs:
    """Read a server's first section; where it speaks version 2, ask.  ``put`` sends and gives what reads the answer."""
    first = next(lines, None)
    if first == "version 2":
        return _answer(_section(put(_question(list(lines)))))
    if first is None:
        return Refs()
    if first == "version 1":
        return _advertised(lines)
    return _advertised(_chain(first, lines))


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


# --- git: ---------------------------------------------------------------------------------------------------------


class _Wire:
    """A connection that ends its waiting with an interrupt, or when the other side is silent for too long."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), TIMEOUT)
        self._socket.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._selector.register(process.INTERRUPT, selectors.EVENT_READ)
        self._buffer = bytearray()

    def close(self) -> None:
        self._selector.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        # Questions are far smaller than what the kernel takes at once.
        self._socket.sendall(data)

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        while len(self._buffer) < size:
            ready = self._selector.select(TIMEOUT)
            process.INTERRUPT.check()
            if not ready:
                raise Unreachable(f"no answer for {TIMEOUT:g} s.")
            data = self._socket.recv(1 << 16)
            if not data:
                raise Unreachable("the connection was cut.")
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def _over_git(location: str) -> Refs:
    parts = urlsplit(location)
    path = unquote(parts.path)
    try:
        host, port = parts.hostname or "", parts.port or _PORT
        with closing(_Wire(host, port)) as wire:
            name = f"[{host}]" if ":" in host else host
            at = f"{name}:{parts.port}" if parts.port else name
            wire.send(_packet(f"git-upload-pack {path}\0host={at}\0\0version=2\0"))

            def put(question: bytes) -> Callable[[int], bytes]:
                wire.send(question)
                return wire.read

            return _talk(_section(wire.read), put)
    except ValueError as error:
        raise _Unspoken from error
    except OSError as error:
        raise Unreachable(f"{(error.strerror or str(error) or 'no answer in time').lower()}.") from error


# --- HTTP ---------------------------------------------------------------------------------------------------------


def _over_http(location: str) -> Refs:
    """Ask a smart server; everything about it that is not plain is left to git."""
    import requests

    base = location.rstrip("/")
    tail = "/info/refs?service=git-upload-pack"
    headers = {"Git-Protocol": "version=2", "Pragma": "no-cache"}
    for number in range(3):
        try:
            url, read = _get(base + tail, headers, "application/x-git-upload-pack-advertisement")
            lines = _section(read)
            # Some servers say first what they serve, in a section of its own; some only in older versions.
            first = next(lines, None)
            if first == "# service=git-upload-pack" and not list(lines):
                lines = _section(read)
            elif first is not None:
                lines = _chain(first, lines)

            def put(question: bytes, url: str = url) -> Callable[[int], bytes]:
                kind = "application/x-git-upload-pack-{}"
                asked = {**headers, "Content-Type": kind.format("request"), "Accept": kind.format("result")}
                return _get(
                    url.removesuffix(tail) + "/git-upload-pack", asked, kind.format("result"), question
                )[1]

            return _talk(lines, put)
        except (requests.ConnectionError, requests.Timeout) as error:
            if isinstance(error, requests.exceptions.SSLError):
                # The user's settings of git may have other certificates.
                raise _Unspoken from error
            said = root_cause(error, TIMEOUT)
            if number == 2:
                raise Unreachable(f"{said}.") from error
        except requests.RequestException as error:
            raise Unreachable(f"{root_cause(error)}.") from error
        time.sleep(0.2 * (number + 1))
        process.INTERRUPT.check()
    raise AssertionError("the last try returns or raises")


def _get(
    url: str, headers: Mapping[str, str], kind: str, body: bytes | None = None
) -> tuple[str, Callable[[int], bytes]]:
    """The URL that answered, and what reads the answer, which has to be of a content type."""
    from io import BytesIO

    method = "GET" if body is None else "POST"
    with session().request(
        method, url, headers=dict(headers), data=body, stream=True, timeout=TIMEOUT
    ) as response:
        if response.status_code in (404, 410):
            raise Unknown(f"the server answers {response.status_code} {response.reason}.")
        if response.status_code != 200 or response.headers.get("Content-Type", "") != kind:
            # A password is wanted, an old server without smart HTTP, a page that says no: git knows.
            raise _Unspoken
        data = bytearray()
        for piece in response.iter_content(1 << 16):
            process.INTERRUPT.check()
            data += piece
            if len(data) > _MOST_BYTES:
                raise _Unspoken
    stream = BytesIO(bytes(data))

    def read(size: int) -> bytes:
        taken = stream.read(size)
        if len(taken) < size:
            raise Unreachable("the server's answer is cut.")
        return taken

    return response.url, read
