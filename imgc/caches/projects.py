"""Lists of projects: which repositories the git cache holds.

A list is a file of this host or a URL.  It is YAML (a list of maps with ``project:``, as OpenStack's Gerrit has it;
a list of names; maps of names and URLs) or plain text, a name a line.  What is wrong with an entry is told with its
place, and the rest goes on.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from imgc.errors import ImgcError, Place, Problems
from imgc.lock import Source
from imgc.sources.download import download, shown

#: A list is read whole: OpenStack's has 360 kB.
_MOST_BYTES = 16 << 20

#: Levels of nesting that a list may have.  Gerrit's have three.
_MOST_LEVELS = 32

_NAME = re.compile(r"[A-Za-z0-9._+~-]+(?:/[A-Za-z0-9._+~-]+)*")
_URL = re.compile(r"(?:https?|git|ssh|file)://[^\s\x00-\x1f]+")

#: A line by which YAML is told from plain text: an item, a key, a document's beginning, a collection on one line.
_YAML_LINE = re.compile(r"(-(\s|$)|---|%|\[|\{|[^\s#]+:(\s|$))")

#: Names (of parts) that no directory below /opt/git can have: git's own, and the file with its settings there.
_TAKEN = ("", ".", "..", ".git", ".gitconfig")


@dataclass(frozen=True)
class Project:
    """One repository: its name (a path below the directory of trees), its upstream URL, where it is fetched from."""

    name: str
    origin: str
    location: str
    place: Place


@dataclass(frozen=True)
class _Entry:
    """What a list says in one place: a name, and a URL where there is one."""

    name: str
    url: str
    place: Place


def read_projects(
    source: Source, cache: Path, *, offline: bool = False
) -> tuple[tuple[Project, ...], tuple[ImgcError, ...]]:
    """The projects of all lists of a source, by name, and what is wrong with single entries (E651).

    Raises E651 for a file that cannot be read, or for a URL that cannot when no earlier copy of it is in the cache;
    with ``strict``, for every finding.
    """
    findings: list[ImgcError] = []
    failures: list[ImgcError] = []
    projects: dict[str, Project] = {}
    for listed in source.get("projects").splitlines():
        try:
            entries = _read(listed, source, cache, findings, offline)
        except ImgcError as problem:
            failures.append(problem)
            continue
        for entry in entries:
            try:
                _add(projects, entry, source)
            except ImgcError as problem:
                findings.append(problem)
    findings += _nested(projects)
    if source.get("strict"):
        failures += findings
    if failures:
        raise failures[0] if len(failures) == 1 else Problems(failures)
    return tuple(projects[name] for name in sorted(projects)), tuple(findings)


def asked_for(projects: Sequence[str]) -> str:
    """What a pin says its lists were: for a URL itself, for a file the digest of its bytes (empty without them)."""
    return " ".join(one if _is_url(one) else _digest(Path(one)) for one in projects)


def _digest(path: Path) -> str:
    try:
        return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except OSError:
        return "sha256:"


def _is_url(text: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


# --- where lists come from ----------------------------------------------------------------------------------------


def _read(listed: str, source: Source, cache: Path, findings: list[ImgcError], offline: bool) -> list[_Entry]:
    """The entries of one list; what is wrong with single ones is added to ``findings``."""
    if _is_url(listed):
        return _read_url(listed, source, cache, findings, offline)
    path = Path(listed)
    name = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else listed
    try:
        data = path.read_bytes()
    except OSError as error:
        said = f"The list of projects {name} cannot be read: {error.strerror}."
        raise ImgcError("E651", said, place=source.place) from error
    return _parse_all(data, name, findings)


def _read_url(
    url: str, source: Source, cache: Path, findings: list[ImgcError], offline: bool
) -> list[_Entry]:
    """The same for a URL: what it has now, else (with a finding) what it had when it could be read last."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:32]
    kept = cache / "caches" / "git" / "lists" / digest
    now = kept.with_suffix(".now")
    if offline and kept.is_file():
        return _parse_all(kept.read_bytes(), shown(url), findings)
    if offline:
        said = f"The list of projects at {shown(url)} is not in the cache, and nothing may be fetched."
        raise ImgcError("E604", said, place=source.place)
    try:
        download(url, now, what="the list of projects")
        found: list[ImgcError] = []
        entries = _parse_all(now.read_bytes(), shown(url), found)
    except ImgcError as problem:
        if problem.code == "E307":
            raise
        if not kept.is_file():
            said = f"The list of projects cannot be read: {problem.message}"
            raise ImgcError("E651", said, hint=problem.hint, place=problem.place or source.place) from problem
        said = f"{problem.message} The list that was there last is used."
        findings.append(ImgcError("E651", said, hint=problem.hint, place=problem.place or source.place))
        return _parse_all(kept.read_bytes(), shown(url), findings)
    # A list that can be understood takes the place of the one before.
    now.replace(kept)
    findings += found
    return entries


# --- what is in them ----------------------------------------------------------------------------------------------


def _parse_all(data: bytes, file: str, findings: list[ImgcError]) -> list[_Entry]:
    entries, found = parse(data, file)
    if found and not entries:
        # A page that says "log in first" is no list with thousands of wrong entries.
        first = found[0]
        said = f"{first.message} Nothing in it is a project."
        raise ImgcError("E651", said, hint=first.hint, place=first.place)
    findings += found
    return entries


def parse(data: bytes, file: str) -> tuple[list[_Entry], list[ImgcError]]:
    """The entries of a list, and what is wrong with it; ``file`` is what places call it.

    Raises E651 when it is no text, or no YAML where it looks like that.
    """
    if len(data) > _MOST_BYTES:
        raise ImgcError("E651", f"A list of projects has at most {_MOST_BYTES >> 20} MiB.", place=Place(file))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        place = Place(file, line, column)
        raise ImgcError("E651", "The list of projects is not UTF-8 text.", place=place) from None
    for text_line in text.splitlines():
        stripped = text_line.strip()
        if stripped and not stripped.startswith("#"):
            return _yaml(text, file) if _YAML_LINE.match(stripped) else _lines(text, file)
    return [], []


def _lines(text: str, file: str) -> tuple[list[_Entry], list[ImgcError]]:
    """Plain text: a name a line, ``#`` begins a comment."""
    entries: list[_Entry] = []
    found: list[ImgcError] = []
    for number, line in enumerate(text.split("\n"), 1):
        said = line.partition("#")[0].strip()
        if said:
            place = Place(file, number, line.index(said) + 1)
            _take(said, "", place, entries, found)
    return entries, found


def _take(name: str, url: str, place: Place, entries: list[_Entry], found: list[ImgcError]) -> None:
    """Add an entry, or say what is wrong with its name or URL."""
    wrong = _wrong_name(name)
    if wrong:
        hint = "A project's name is made of letters, digits and `.`, `_`, `+`, `~`, `-`, with `/` in between."
        found.append(
            ImgcError("E651", f"{_quoted(name)} is no name of a project: {wrong}.", hint=hint, place=place)
        )
    elif url and not _URL.fullmatch(url):
        hint = "It begins with https:, http:, git:, ssh: or file: and two slashes, and has no blanks."
        said = f"{_quoted(url)} is no URL of a repository (of {name})."
        found.append(ImgcError("E651", said, hint=hint, place=place))
    else:
        entries.append(_Entry(name, url, place))


def _wrong_name(name: str) -> str:
    """Why a name is none; empty when it is one."""
    parts = name.split("/")
    if not _NAME.fullmatch(name):
        return (
            "it has other characters"
            if name.strip("/") == name and "//" not in name
            else "it has an empty part"
        )
    if bad := next((part for part in parts if part.lower() in _TAKEN), None):
        return f"`{bad}` cannot be a directory there"
    if any(part.startswith(("-", "~")) for part in parts):
        return "a part of it begins with a character that programs take for something else"
    return "it is too long" if len(name) > 250 else ""


def _quoted(text: str) -> str:
    cut = text if len(text) <= 80 else f"{text[:79]}…"
    return "`" + "".join(each if each.isprintable() else "?" for each in cut) + "`"


def _add(projects: dict[str, Project], entry: _Entry, source: Source) -> None:
    """Add the project of an entry.  E651 when another has its name, or it has no URL."""
    base, mirror = source.get("base"), source.get("mirror")
    if entry.name in projects:
        first = projects[entry.name].place
        raise ImgcError("E651", f"{entry.name} is listed twice; the first is at {first}.", place=entry.place)
    if not (entry.url or base):
        hint = "Set `caches.git.base`, which names are appended to, or write `name: url`."
        raise ImgcError("E651", f"{entry.name} has no URL.", hint=hint, place=entry.place)
    upstream = entry.url or appended(base, entry.name)
    location = appended(mirror, entry.name) if mirror and not entry.url else upstream
    projects[entry.name] = Project(entry.name, _public(upstream), location, entry.place)


def _public(url: str) -> str:
    """An upstream URL as images have it: no password, and no token that stands for a user of a web server."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    keep = user.partition(":")[0] + at if parts.scheme == "ssh" else ""
    return urlunsplit(parts._replace(netloc=keep + host))


def appended(base: str, name: str) -> str:
    """The URL of a project below ``base``."""
    return f"{base.rstrip('/')}/{name}"


def _nested(projects: dict[str, Project]) -> list[ImgcError]:
    """Take out projects whose tree would lie in that of another."""
    found = []
    for name in sorted(projects):
        parts = name.split("/")
        around = next((outer for n in range(1, len(parts)) if (outer := "/".join(parts[:n])) in projects), "")
        if around:
            said = f"The tree of {name} would lie in that of {around}."
            found.append(ImgcError("E651", said, place=projects[name].place))
            del projects[name]
    return found


# --- YAML ---------------------------------------------------------------------------------------------------------


@dataclass
class _Node:
    """A node of the document: a ``scalar`` with its text, a ``list``, or a ``map``, whose items are keys and values."""

    kind: str
    place: Place
    text: str = ""
    items: list[_Node] = field(default_factory=list)

    def pairs(self) -> Iterator[tuple[_Node, _Node]]:
        return zip(self.items[::2], self.items[1::2], strict=False)

    @property
    def words(self) -> str:
        return {"list": "a list", "map": "a map"}.get(self.kind, _quoted(self.text))


def _yaml(text: str, file: str) -> tuple[list[_Entry], list[ImgcError]]:
    """The entries of a YAML document."""
    top = _document(text, file)
    entries: list[_Entry] = []
    found: list[ImgcError] = []
    if top.kind == "map":
        _named(top, entries, found)
    elif top.kind == "list":
        for item in top.items:
            if item.kind == "scalar":
                _take(item.text, "", item.place, entries, found)
            elif item.kind == "map":
                _mapped(item, entries, found)
            else:
                said = "An entry of a list of projects is a name or a map, not a list."
                found.append(ImgcError("E651", said, place=item.place))
    elif top.text:
        raise ImgcError("E651", f"A list of projects has to be a list, not {top.words}.", place=top.place)
    return entries, found


def _mapped(item: _Node, entries: list[_Entry], found: list[ImgcError]) -> None:
    """One map of the list: Gerrit's form, or names with URLs."""
    values = {key.text: value for key, value in item.pairs() if key.kind == "scalar"}
    project = values.get("project")
    if project is None:
        _named(item, entries, found)
        return
    if project.kind != "scalar":
        said = f"`project` has to be a name, not {project.words}."
        found.append(ImgcError("E651", said, place=project.place))
    elif not _retired(project.text, values.get("acl-config")):
        _take(project.text, "", project.place, entries, found)


def _named(item: _Node, entries: list[_Entry], found: list[ImgcError]) -> None:
    """A map of names and their URLs."""
    for key, value in item.pairs():
        if key.kind != "scalar" or value.kind != "scalar":
            said = f"A name of a project and its URL are wanted, not {(value if key.kind == 'scalar' else key).words}."
            hint = "A map of Gerrit's form has the key `project`."
            found.append(ImgcError("E651", said, hint=hint, place=key.place))
        elif not value.text:
            found.append(ImgcError("E651", f"{_quoted(key.text)} has no URL.", place=key.place))
        else:
            _take(key.text, value.text, key.place, entries, found)


def _retired(name: str, acl: _Node | None) -> bool:
    """Whether Gerrit's list says that a project is over: by the access rules of such, or by where it is."""
    if name.partition("/")[0].endswith("-attic"):
        return True
    return acl is not None and acl.text.rpartition("/")[2] == "retired.config"


def _document(text: str, file: str) -> _Node:
    """The one document of a text, read by events: nothing recurses, no alias is followed."""
    import yaml
    from yaml import events

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    root = _Node("list", Place(file))
    open_nodes = [root]
    try:
        for event in yaml.parse(text, Loader=loader):
            place = _place(file, event.start_mark)
            if isinstance(event, events.ScalarEvent):
                node = _Node("scalar", place, event.value)
            elif isinstance(event, (events.SequenceStartEvent, events.MappingStartEvent)):
                kind = "list" if isinstance(event, events.SequenceStartEvent) else "map"
                node = _Node(kind, place)
            elif isinstance(event, (events.SequenceEndEvent, events.MappingEndEvent)):
                open_nodes.pop()
                continue
            elif isinstance(event, events.AliasEvent):
                raise ImgcError("E651", "A list of projects has no aliases.", place=place)
            else:
                continue
            if len(open_nodes) > _MOST_LEVELS:
                raise ImgcError("E651", "Too many levels of nesting.", place=place)
            open_nodes[-1].items.append(node)
            if node.kind != "scalar":
                open_nodes.append(node)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        where = _place(file, getattr(error, "problem_mark", None))
        said = f"The list of projects is not YAML: {getattr(error, 'problem', None) or error}."
        raise ImgcError("E651", said, place=where) from None
    documents = root.items
    if len(documents) > 1:
        raise ImgcError("E651", "A second document.", place=documents[1].place)
    return documents[0] if documents else _Node("list", Place(file, 1, 1))


def _place(file: str, mark: Any) -> Place:
    return Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
