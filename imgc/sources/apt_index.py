"""Reads the indexes of apt archives: InRelease and Release files, and Packages."""

from __future__ import annotations

import email.utils
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timezone

from imgc.sources.archive_store import Package
from imgc.sources.download import iso_date

#: The checksums of a Release file by which clients may ask for an index, strongest last.
CHECKSUMS = ("MD5Sum", "SHA1", "SHA256", "SHA512")

_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True)
class Release:
    """What a Release file says.

    ``files`` are the indexes by their path below the suite: sha256 in hexadecimal, and size in bytes.  ``by_hash`` are
    those paths by (checksum, digest).  ``date`` is in seconds since 1970, 0 when none is given.
    """

    fields: Mapping[str, str]
    files: Mapping[str, tuple[str, int]]
    by_hash: Mapping[tuple[str, str], str]
    date: float

    @property
    def has_by_hash(self) -> bool:
        """Whether the archive keeps indexes under their digests as well, so that older ones stay for a while."""
        return self.fields.get("Acquire-By-Hash", "").lower() == "yes"

    @property
    def iso_date(self) -> str:
        return iso_date(self.date) if self.date else ""


def parse_release(data: bytes) -> Release:
    """Read an InRelease or Release file.  Signatures are apt's to check, in the image.  Raises ValueError."""
    fields: dict[str, str] = {}
    files: dict[str, tuple[str, int]] = {}
    by_hash: dict[tuple[str, str], str] = {}
    name = ""
    for line in _signed_text(data).splitlines():
        if line[:1] in (" ", "\t"):
            words = line.split()
            if name in CHECKSUMS and len(words) == 3 and words[1].isdigit():
                digest, size, path = words[0].lower(), int(words[1]), posixpath.normpath(words[2])
                if _HEX.fullmatch(digest):
                    by_hash[name, digest] = path
                    if name == "SHA256":
                        files[path] = (digest, size)
        elif ":" in line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    if not files:
        raise ValueError("it names no index with a SHA256 digest")
    return Release(fields, files, by_hash, _seconds(fields.get("Date", "")))


def _signed_text(data: bytes) -> str:
    """The text of a Release file, without the signature that InRelease wraps around it."""
    text = data.decode("utf-8", "replace")
    if not text.startswith("-----BEGIN PGP SIGNED MESSAGE-----"):
        return text
    _, found, rest = text.partition("\n\n")
    body, end, _signature = rest.partition("\n-----BEGIN PGP SIGNATURE-----")
    if not found or not end:
        raise ValueError("its signature is cut off")
    # RFC 9580, 7.2: lines that begin with a dash are escaped.
    return re.sub(r"^- ", "", body, flags=re.MULTILINE)


def _seconds(date: str) -> float:
    try:
        parsed = email.utils.parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return 0.0
    # `UTC` is not a zone that RFC 5322 knows; it is parsed as a time without one.
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()


def parse_packages(data: bytes) -> Iterator[Package]:
    """The packages of a Packages file (unpacked).  A stanza that names no file, or no SHA256 of it, offers nothing.

    A distribution has tens of thousands: five searches per stanza are several times quicker than reading every line.
    """
    for stanza in data.split(b"\n\n"):
        text = b"\n" + stanza.lstrip(b"\n")
        path, sha256 = _field(text, b"\nFilename:"), _field(text, b"\nSHA256:")
        if path and sha256:
            size, name, version = (_field(text, key) for key in (b"\nSize:", b"\nPackage:", b"\nVersion:"))
            yield Package(
                posixpath.normpath(path), sha256.lower(), int(size) if size.isdigit() else 0, name, version
            )


def _field(text: bytes, key: bytes) -> str:
    begin = text.find(key)
    if begin < 0:
        return ""
    end = text.find(b"\n", begin + len(key))
    return text[begin + len(key) : end if end >= 0 else None].strip().decode("utf-8", "replace")
