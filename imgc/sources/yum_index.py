"""Reads the indexes of yum repositories: repomd.xml and the primary list of packages."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from xml.parsers import expat

from imgc.sources.archive_store import Package

#: Bytes of XML that are parsed at a time.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Repomd:
    """What a repomd.xml says.

    ``files`` are the indexes by their path below the repository: sha256 in hexadecimal and size in bytes (0: not
    known).  ``primary`` is the path of the list of packages.  ``date`` is the newest of its timestamps, in seconds
    since 1970, 0 when there is none.
    """

    revision: str
    files: Mapping[str, tuple[str, int]]
    primary: str
    date: float


class _Reader:
    """Collects (path of elements, attributes, text) with expat; subclasses look at each element as it ends."""

    def __init__(self) -> None:
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._character_data
        # Neither file has a document type; one that declares entities may be made to explode.
        self._parser.StartDoctypeDeclHandler = self._doctype
        self.open: list[tuple[str, dict[str, str]]] = []
        self._text = ""

    def feed(self, data: bytes, *, last: bool = False) -> None:
        """Parse some more.  Raises ValueError."""
        try:
            self._parser.Parse(data, last)
        except expat.ExpatError as error:
            raise ValueError(f"it is not XML ({error})") from error

    def _doctype(self, *_: object) -> None:
        raise ValueError("it has a document type declaration")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.open.append((name.rpartition(":")[2], attributes))
        self._text = ""
        if len(self.open) == 2:
            self.begin(*self.open[-1])

    def _character_data(self, text: str) -> None:
        self._text += text

    def _end(self, _: str) -> None:
        name, attributes = self.open.pop()
        self.end(name, attributes, self._text.strip())
        self._text = ""

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        """A child of the document begins."""

    def end(self, name: str, attributes: dict[str, str], text: str) -> None:
        """An element has ended; those around it are ``open``."""


class _RepomdReader(_Reader):
    def __init__(self) -> None:
        super().__init__()
        self.root = self.revision = self.primary = ""
        self.date = 0.0
        self.files: dict[str, tuple[str, int]] = {}
        self._data: dict[str, str] = {}

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        self._data = {}

    def end(self, name: str, attributes: dict[str, str], text: str) -> None:
        if not self.open:
            self.root = name
        elif len(self.open) == 1 and name == "revision":
            self.revision = text
        elif len(self.open) == 1 and name == "data":
            self._file(attributes.get("type", ""))
        elif name == "location":
            self._data["location"] = attributes.get("href", "")
        elif name == "checksum":
            self._data["checksum"] = text.lower() if attributes.get("type") == "sha256" else ""
        elif name in ("size", "timestamp"):
            self._data[name] = text

    def _file(self, kind: str) -> None:
        path, digest, size = (self._data.get(name, "") for name in ("location", "checksum", "size"))
        if path and digest:
            path = posixpath.normpath(path)
            self.files[path] = (digest, int(size) if size.isdigit() else 0)
            self.primary = path if kind == "primary" else self.primary
        stamp = self._data.get("timestamp", "").partition(".")[0]
        self.date = max(self.date, float(stamp) if stamp.isdigit() else 0.0)


def parse_repomd(data: bytes) -> Repomd:
    """Read a repomd.xml.  Raises ValueError when it is none, or when it names no list of packages by its sha256."""
    reader = _RepomdReader()
    reader.feed(data, last=True)
    if reader.root != "repomd" or not reader.primary:
        raise ValueError("it names no list of packages with a sha256 checksum")
    return Repomd(reader.revision, reader.files, reader.primary, reader.date)


class _PrimaryReader(_Reader):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Package] = []
        self._facts: dict[str, str] = {}

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        self._facts = {}

    def end(self, name: str, attributes: dict[str, str], text: str) -> None:
        depth = len(self.open)
        if depth == 1 and name == "package":
            self._package()
        elif depth == 2 and name == "name":
            self._facts["name"] = text
        elif depth == 2 and name == "checksum":
            self._facts["sha256"] = text.lower() if attributes.get("type") == "sha256" else ""
        elif depth == 2 and name == "version":
            epoch = attributes.get("epoch", "0")
            version = f"{attributes.get('ver', '')}-{attributes.get('rel', '')}"
            self._facts["version"] = version if epoch in ("", "0") else f"{epoch}:{version}"
        elif depth == 2 and name == "size":
            self._facts["size"] = attributes.get("package", "")
        elif depth == 2 and name == "location":
            self._facts["path"] = attributes.get("href", "")

    def _package(self) -> None:
        facts = self._facts
        if facts.get("path") and facts.get("sha256"):
            size = facts.get("size", "")
            path = posixpath.normpath(facts["path"])
            self.found.append(
                Package(
                    path,
                    facts["sha256"],
                    int(size) if size.isdigit() else 0,
                    facts.get("name", ""),
                    facts.get("version", ""),
                )
            )


def parse_primary(data: bytes) -> Iterator[Package]:
    """The packages of a primary list (unpacked); those without a sha256 checksum are left out.  Raises ValueError."""
    reader = _PrimaryReader()
    for begin in range(0, len(data), _CHUNK):
        reader.feed(data[begin : begin + _CHUNK])
        yield from reader.found
        reader.found.clear()
    reader.feed(b"", last=True)
    yield from reader.found
