"""How the parts of imgc that deal with package archives name things: URLs, and what is not pinned."""

from __future__ import annotations

import posixpath
from typing import Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

from imgc.sources.archive_fetch import Wanted

_PORTS = {"http": 80, "https": 443}


class NotPinned(Exception):
    """A request below a pinned archive that no pin covers; says what was asked for."""


class Archive(Protocol):
    """What was pinned of one archive."""

    def find(self, path: str) -> Wanted | None:
        """The file at ``path`` below the archive; None when the pinned archive has none there.

        Raises :class:`NotPinned`, and an ImgcError when it cannot be known or must not be given.
        """


def plain_url(url: str) -> str:
    """The ``http://`` URL under which a client asks the archive server for a location; without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(scheme="http", netloc=parts.netloc.rpartition("@")[2]))


def place_of(url: str) -> tuple[str, str]:
    """Host (with a port that is not the scheme's own) and path (unquoted, no slash at its end) of a URL.

    The scheme does not count: a client asks with http for what is fetched with https.  Raises ValueError.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    port = f":{parts.port}" if parts.port and parts.port != _PORTS.get(parts.scheme.lower()) else ""
    path = posixpath.normpath(unquote(parts.path)).strip("/") if parts.path.strip("/") else ""
    return host + port, path


def below(url: str, base: tuple[str, str]) -> str | None:
    """The path of ``url`` below the place ``base``; None when it is not below it."""
    host, path = place_of(url)
    if host != base[0]:
        return None
    if not base[1]:
        return path
    return path.removeprefix(base[1] + "/") if path.startswith(base[1] + "/") else None
