"""Fetches files over HTTP (and from ``file:`` URLs): whole and verified under the final name, or not there at all.

A transfer is written beside its final name and renamed once its length and digest are right.  Faults of networks and
servers are tried again with growing pauses; a transfer that was cut goes on where it stopped when the server can do
that.  All of it ends within moments of an interrupt.
"""

from __future__ import annotations

import email.utils
import errno
import hashlib
import os
import random
import re
import select
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from imgc import certificates, process
from imgc.errors import ImgcError

if TYPE_CHECKING:
    import requests

#: Bytes read at a time.
_CHUNK = 1 << 18

#: Seconds of the first pause between tries (each further one is twice as long), and of the longest.
_PAUSE, _LONGEST_PAUSE = 0.5, 30.0

#: Parameters of a URL that hold what nobody else may read.
_SECRET = re.compile(
    r"([?&][^=&]*(?:token|key|sign|secret|passw|auth|credential)[^=&]*=)[^&]*", re.IGNORECASE
)


@dataclass(frozen=True)
class Validators:
    """What a server says by which a file can be recognised later.  Empty where it says nothing."""

    etag: str = ""
    last_modified: str = ""

    def __bool__(self) -> bool:
        return bool(self.etag or self.last_modified)


@dataclass(frozen=True)
class Downloaded:
    """A file that is whole.  ``sha256`` is in hexadecimal, ``size`` in bytes.

    ``unchanged``: the server says that it still is what ``previous`` described.  Nothing was transferred then, and
    ``sha256`` and ``size`` are those of the file under the final name; empty and 0 when there is none.
    """

    path: Path
    sha256: str
    size: int
    validators: Validators
    unchanged: bool = False


class Gone(ImgcError):
    """E601 where the server is well and does not have the file."""


#: Told of a running transfer: the file it is written to, and how many bytes of it are there.  The count falls to 0
#: when a transfer has to start over.
Watch = Callable[[Path, int], None]


def download(
    url: str,
    final: Path,
    *,
    what: str,
    sha256: str = "",
    previous: Validators | None = None,
    tries: int = 4,
    timeout: float = 30.0,
    watch: Watch | None = None,
    keep: Path | None = None,
) -> Downloaded:
    """Fetch ``url`` to ``final``, whose directory is made.

    ``what`` names it in messages (`the git bundle of nova`).  ``sha256`` (hexadecimal) is what the bytes must have.
    ``previous`` asks only for what has changed since.  ``timeout`` is how many seconds the other side may be silent.
    ``keep``, in the directory of ``final``, is where a transfer that was cut or interrupted waits for the next call,
    which goes on with it; it is for one URL only.
    Raises E601 when it cannot be had, E602 when it has another digest, E307 when interrupted.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{final.name[:100]}.", suffix=".partial", dir=final.parent)
    except OSError as error:
        raise _local(error) from error
    os.close(handle)
    transfer: _Transfer | None = None
    try:
        begun, digest = _take_up(keep, name) if keep else (Validators(), "")
        with open(name, "r+b", buffering=0) as file:
            part = _Part(file, watch)
            if part.sha256 != digest:
                part.restart()
            if watch:
                watch(Path(name), part.size)
            transfer = _Transfer(url, what, sha256.lower(), previous or Validators(), timeout, part)
            transfer.validators = begun if part.size else Validators()
            if not transfer.run(tries):
                return _unchanged(final, transfer.validators)
        try:
            os.chmod(name, 0o644)
            os.rename(name, final)
            if keep:
                _beside(keep).unlink(missing_ok=True)
        except OSError as error:
            raise _local(error) from error
        return Downloaded(final, part.sha256, part.size, transfer.validators)
    finally:
        if os.path.exists(name):
            if keep and transfer and transfer.can_go_on:
                _put_by(keep, name, transfer)
            else:
                os.unlink(name)


def _take_up(keep: Path, name: str) -> tuple[Validators, str]:
    """Make the kept part of an earlier transfer the file ``name``; what its server said about it, and its digest."""
    try:
        # Whoever renames it has it, so two imgc never go on with the same one.
        os.rename(keep, name)
        etag, last_modified, sha256 = _beside(keep).read_text(encoding="utf-8").splitlines()
        return Validators(etag, last_modified), sha256
    except (OSError, ValueError):
        return Validators(), ""


def _put_by(keep: Path, name: str, transfer: _Transfer) -> None:
    """Keep the part of a transfer that did not come to its end."""
    told = (transfer.validators.etag, transfer.validators.last_modified, transfer.part.sha256)
    try:
        # A thread that was abandoned may have written more than it has told.
        os.truncate(name, transfer.part.size)
        _beside(keep).write_text("\n".join(told), encoding="utf-8")
        os.rename(name, keep)
    except OSError:
        os.unlink(name)


def _beside(keep: Path) -> Path:
    """Where it is written what the server said about a kept part."""
    return keep.with_name(f"{keep.name}.validators")


def fetch_bytes(
    url: str, what: str, limit: int = 64 << 20, *, tries: int = 4, timeout: float = 30.0
) -> bytes:
    """The bytes behind ``url``, at most ``limit`` of them.  Raises E601 and E307."""
    with tempfile.TemporaryFile() as file:
        _Transfer(url, what, "", Validators(), timeout, _Part(file, None, limit)).run(tries)
        file.seek(0)
        return file.read()


def shown(url: str) -> str:
    """A URL as messages may show it: without user and password, and without the values of secret parameters."""
    parts = urlsplit(url)
    return _SECRET.sub(r"\1…", urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))


def _unchanged(final: Path, validators: Validators) -> Downloaded:
    if not final.is_file():
        return Downloaded(final, "", 0, validators, unchanged=True)
    digest = hashlib.sha256()
    with final.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return Downloaded(final, digest.hexdigest(), final.stat().st_size, validators, unchanged=True)


class _Fault(Exception):
    """Why one try failed, where another may not.  ``after``: the pause in seconds that the server asks for."""

    def __init__(self, cause: str, after: float = 0.0) -> None:
        super().__init__(cause)
        self.after = after


class _Refused(Exception):
    """Why it is no use to try again.  ``gone``: because there is no such file."""

    def __init__(self, cause: str, *, gone: bool = False) -> None:
        super().__init__(cause)
        self.gone = gone


class _Part:
    """The bytes of a transfer so far, and their running digest.

    A transfer may be ``abandoned`` while its thread still waits for the network; what comes then is dropped.
    """

    def __init__(self, file: IO[bytes], watch: Watch | None, limit: int = 0) -> None:
        self.abandoned = False
        self.size = 0
        self._file, self._watch, self._limit = file, watch, limit
        self._digest = hashlib.sha256()
        # What an earlier transfer left.
        while data := file.read(_CHUNK):
            self._digest.update(data)
            self.size += len(data)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def add(self, data: bytes) -> None:
        """Append ``data``.  Raises E902 and E304 for faults of this host, which are not the other side's."""
        if self.abandoned:
            raise _Refused("abandoned")
        if self._limit and self.size + len(data) > self._limit:
            raise _Refused(f"it is larger than {self._limit} bytes")
        try:
            self._file.write(data)
        except OSError as error:
            raise _local(error) from error
        self._digest.update(data)
        self.size += len(data)
        self._tell()

    def restart(self) -> None:
        """Drop everything."""
        if self.size and not self.abandoned:
            self._file.seek(0)
            self._file.truncate()
            self.size = 0
            self._digest = hashlib.sha256()
            self._tell()

    def _tell(self) -> None:
        if self._watch:
            self._watch(Path(self._file.name), self.size)


class _Transfer:
    """One file on its way, through several tries."""

    def __init__(
        self, url: str, what: str, sha256: str, previous: Validators, timeout: float, part: _Part
    ) -> None:
        self.url, self.what, self.part = url, what, part
        self._sha256, self._previous, self._timeout = sha256, previous, timeout
        #: What the server said about the bytes in ``part``.
        self.validators = Validators()
        self._resumed = False
        #: The whole file came, and is not the one that was wanted.
        self._wrong = False

    @property
    def can_go_on(self) -> bool:
        """Whether another transfer may go on with the part, and find out when it does not fit."""
        return bool(self.part.size and (self.validators or self._sha256) and not self._wrong)

    def run(self, tries: int) -> bool:
        """Try until the file is there and right.  False when the server says that it has not changed."""
        cause = ""
        for number in range(1, tries + 1):
            process.INTERRUPT.check()
            try:
                changed = self._try()
                if changed:
                    self._check()
                return changed
            except _Fault as fault:
                cause = str(fault)
                if number < tries:
                    _pause(fault.after or _PAUSE * 2 ** (number - 1) * random.uniform(0.75, 1.25))
            except _Refused as refused:
                raise self._error(str(refused), number, Gone if refused.gone else ImgcError) from None
        raise self._error(cause, tries)

    def _error(self, cause: str, tries: int, kind: type[ImgcError] = ImgcError) -> ImgcError:
        times = "" if tries == 1 else f" ({tries} tries)"
        return kind(
            "E601",
            f"{_capital(self.what)} cannot be fetched from {shown(self.url)}: {cause}{times}.",
            hint="Is the URL right, and can this host reach it? http_proxy and https_proxy are honoured.",
        )

    def _try(self) -> bool:
        """One try, in a thread of its own: an interrupt need not wait for a name server or a silent peer."""
        result: list[bool | BaseException] = []
        done = threading.Event()

        def work() -> None:
            try:
                result.append(self._fetch())
            except BaseException as error:
                result.append(error)
            finally:
                done.set()

        threading.Thread(target=work, name=f"fetch {self.what}", daemon=True).start()
        while not done.wait(0.1):
            if process.INTERRUPT.is_set():
                self.part.abandoned = True
                raise process.interrupted()
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    def _check(self) -> None:
        """Raise E602 when the digest is not the pinned one; a fault when only the seam of two pieces may be wrong."""
        found, resumed = self.part.sha256, self._resumed
        if not self._sha256 or found == self._sha256:
            return
        self._resumed = False
        if resumed:
            self.part.restart()
            raise _Fault("the pieces of a cut transfer do not fit together")
        self._wrong = True
        raise ImgcError(
            "E602",
            f"{_capital(self.what)} is not what was pinned: {shown(self.url)} has other bytes now.",
            hint="`imgc lock` pins anew, once you know why it changed.",
            detail=f"pinned: sha256 {self._sha256}\nfound:  sha256 {found}",
        )

    def _fetch(self) -> bool:
        scheme = urlsplit(self.url).scheme.lower()
        if scheme == "file":
            return self._fetch_file()
        if scheme not in ("http", "https"):
            raise _Refused(f"imgc fetches http:, https: and file: URLs, not `{scheme}:`")
        import requests
        import urllib3

        try:
            return self._fetch_http()
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            if isinstance(error, requests.exceptions.SSLError):
                raise _Refused(root_cause(error)) from error
            raise _Fault(root_cause(error, self._timeout)) from error
        except requests.RequestException as error:
            raise _Refused(root_cause(error)) from error

    def _fetch_file(self) -> bool:
        path = Path(unquote(urlsplit(self.url).path))
        try:
            file = path.open("rb")
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            raise _Refused((error.strerror or str(error)).lower(), gone=gone) from error
        with file:
            status = os.fstat(file.fileno())
            now = Validators(f'"{status.st_mtime_ns:x}-{status.st_size:x}"', http_date(status.st_mtime))
            if self._previous and self._previous == now:
                self.validators = now
                return False
            self.validators = now
            self.part.restart()
            try:
                while data := file.read(_CHUNK):
                    self.part.add(data)
            except OSError as error:
                raise _Refused((error.strerror or str(error)).lower()) from error
        return True

    def _fetch_http(self) -> bool:
        import requests

        headers = {"Accept-Encoding": "identity", **self._conditions()}
        with session().get(self.url, headers=headers, stream=True, timeout=self._timeout) as response:
            if response.status_code == requests.codes.not_modified and not self.part.size:
                told = _validators(response.headers)
                self.validators = told or self._previous
                return False
            self._settle(response)
            self._receive(response)
        return True

    def _conditions(self) -> dict[str, str]:
        """Headers that ask for the rest of a cut transfer, or only for what has changed since ``previous``."""
        if self.part.size:
            # A weak entity tag says nothing about bytes; without a validator, the pinned digest has to tell.
            strong = "" if self.validators.etag.startswith("W/") else self.validators.etag
            same = strong or self.validators.last_modified
            return {"Range": f"bytes={self.part.size}-", **({"If-Range": same} if same else {})}
        found = {"If-None-Match": self._previous.etag, "If-Modified-Since": self._previous.last_modified}
        return {name: value for name, value in found.items() if value}

    def _settle(self, response: requests.Response) -> None:
        """What the status means: go on, start over, try again later, or give up."""
        status = response.status_code
        text = f"the server answers {status} {response.reason}".rstrip()
        if status == 206 and self.part.size:
            begin = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if begin and int(begin[1]) == self.part.size:
                self._resumed = True
                return
        if status == 206 or (status == 416 and self.part.size):
            self.part.restart()
            raise _Fault(f"{text} with another part than asked for")
        if status in (408, 425, 429) or status >= 500:
            raise _Fault(text, _retry_after(response.headers.get("Retry-After", "")))
        if status != 200:
            raise _Refused(text, gone=status in (404, 410))
        self.part.restart()
        self._resumed = False
        self.validators = _validators(response.headers)

    def _receive(self, response: requests.Response) -> None:
        """Take the body in.  A transfer that cannot go on later is dropped when it is cut."""
        length = response.headers.get("Content-Length", "")
        begin = self.part.size
        try:
            while data := response.raw.read1(_CHUNK, decode_content=False):
                self.part.add(data)
            received = self.part.size - begin
            if length.isdigit() and received != int(length):
                raise _Fault(f"the transfer ended after {received} of {length} bytes")
        except Exception:
            if not (self.validators or self._sha256):
                self.part.restart()
            raise


def session() -> requests.Session:
    """The connections of this process: kept alive, for all threads, without cookies."""
    from http.cookiejar import DefaultCookiePolicy

    import requests
    from requests.adapters import HTTPAdapter

    from imgc import __version__

    with _LOCK:
        if not _SESSIONS:
            made = requests.Session()
            made.headers["User-Agent"] = f"imgc/{__version__}"
            made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
            for scheme in ("http://", "https://"):
                made.mount(scheme, HTTPAdapter(pool_connections=32, pool_maxsize=32))
            made.verify = certificates.bundle() or True
            _SESSIONS.append(made)
        return _SESSIONS[0]


_LOCK = threading.Lock()
_SESSIONS: list[requests.Session] = []


def root_cause(error: BaseException, timeout: float = 0.0) -> str:
    """The one thing that went wrong below the layers of a HTTP library's exception, as a phrase."""
    import requests
    import urllib3.exceptions as faults

    seen: list[BaseException] = []
    below: object = error
    while isinstance(below, BaseException) and below not in seen:
        seen.append(below)
        inner = [one for one in below.args if isinstance(one, BaseException)]
        below = (
            getattr(below, "reason", None) or below.__cause__ or (inner[0] if inner else below.__context__)
        )
    if any(isinstance(one, faults.NameResolutionError) for one in seen):
        return "its host name cannot be resolved"
    for one in reversed(seen):
        if isinstance(one, faults.IncompleteRead):
            return "the connection was cut"
        if isinstance(one, OSError) and one.errno and one.strerror:
            return one.strerror[0].lower() + one.strerror[1:]
    if any(isinstance(one, (requests.Timeout, faults.TimeoutError, TimeoutError)) for one in seen):
        return f"no answer for {timeout:g} s" if timeout else "no answer in time"
    return str(error).rstrip(".") or type(error).__name__


def http_date(seconds: float) -> str:
    """A time (seconds since 1970) as HTTP headers write it."""
    return email.utils.formatdate(seconds, usegmt=True)


def iso_date(seconds: float) -> str:
    """A time (seconds since 1970) as locks write it: ``2026-05-16T09:45:00Z``."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _validators(headers: Mapping[str, str]) -> Validators:
    return Validators(headers.get("ETag", ""), headers.get("Last-Modified", ""))


def _retry_after(value: str) -> float:
    """Seconds from a Retry-After header (seconds or a date), not longer than the longest pause; 0 without one."""
    if value.strip().isdigit():
        return min(float(value), _LONGEST_PAUSE)
    try:
        until = email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, min(until - time.time(), _LONGEST_PAUSE))


def _pause(seconds: float) -> None:
    """Wait; raises E307 as soon as imgc is interrupted."""
    poll = select.poll()
    poll.register(process.INTERRUPT, select.POLLIN)
    poll.poll(seconds * 1000)
    process.INTERRUPT.check()


def _local(error: OSError) -> ImgcError:
    """A fault of this host's own disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ImgcError(
            "E902", "No room is left for downloads.", hint="`imgc clean` makes room in the cache."
        )
    where = f" {error.filename}" if error.filename else ""
    return ImgcError("E304", f"A download cannot be written:{where} {error.strerror}.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
