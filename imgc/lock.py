"""What a build takes from outside, and what it was when it was pinned.

A :class:`Source` is something that neither the spec nor an element holds: a package archive, a git ref, a file, Python
packages.  A :class:`Pin` says which bytes it was.  A :class:`Lock` is the pins of one platform: a YAML file beside
the spec, written by :func:`write` and read by :func:`read`.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from imgc.errors import Collector, ImgcError, Place

if TYPE_CHECKING:
    from yaml.nodes import MappingNode, Node

#: The kinds of sources, in the order in which a lock file shows them.
KINDS = ("apt", "yum", "git", "file", "wheels", "base", "git-cache", "bindep", "file-cache")

#: The version of the form of lock files.
VERSION = 1

#: A lock is read whole; a larger file is not one.
_MOST_BYTES = 4 << 20

#: SOURCE_DATE_EPOCH where no pin has a date: the first day of 1980, which every archive format can express.
EARLIEST_EPOCH = 315532800


class _Form(NamedTuple):
    """What the values of an identity must look like where they have such names, and what a message calls that."""

    names: re.Pattern[str]
    values: re.Pattern[str]
    words: str


_FORMS = (
    _Form(
        re.compile(r"sha256|.*\.whl"),
        re.compile("(sha256:)?[0-9a-f]{64}"),
        "a SHA-256 digest (64 hexadecimal digits)",
    ),
    _Form(
        re.compile("commit|heads/.*"),
        re.compile("[0-9a-f]{40}|[0-9a-f]{64}"),
        "a commit (40 hexadecimal digits)",
    ),
)

#: What an identity must have, by kind.
_NEEDED = {"git": "commit", "file": "sha256", "base": "sha256", "bindep": "sha256"}

#: Kinds whose identities are made of names that are not imgc's: projects, files.  They may be without any.
_NAMED = ("git-cache", "file-cache")

#: Settings of a cache that do not say what is in it: where things are on this host, and how they are fetched.
_NOT_ASKED = ("projects", "fallback", "mirror", "connections", "strict")

_HINT = "`imgc lock` writes the file anew."


@dataclass(frozen=True)
class Source:
    """Something outside that a build reads.

    ``kind`` is one of :data:`KINDS`.  ``name`` is what a lock calls it, unique within its kind.  ``location`` is
    where it is fetched from (a URL; empty for wheels, which come from pip's index) and is not part of what is pinned.
    ``detail`` has what else says which one it is: ``suite`` of an archive, ``ref`` of a git repository, ``sha256``
    that a file must have, ``requirements`` (one per line) and ``python`` (``3.11``) of wheels, the settings of caches.
    """

    kind: str
    name: str
    location: str
    detail: tuple[tuple[str, str], ...] = ()
    place: Place | None = field(default=None, compare=False)
    #: Where each of several things in it was written, in their order; empty where it is one thing.
    places: tuple[Place, ...] = field(default=(), compare=False)

    def get(self, name: str) -> str:
        """One of ``detail``; empty when it is not there."""
        return dict(self.detail).get(name, "")

    @property
    def id(self) -> tuple[str, str]:
        """Kind and name: the key under which a lock has its pin."""
        return self.kind, self.name

    @property
    def asked(self) -> tuple[tuple[str, str], ...]:
        """What a pin of it was made for, as the pin's notes say it; a pin with other notes is for something else."""
        if self.kind == "git":
            return (("ref", self.get("ref")),)
        if self.kind == "file":
            return (("path", urlsplit(self.location).path),)
        if self.kind == "base":
            # Of a path of this host, only the last part means something elsewhere.
            stamp = self.get("stamp")
            return (("name", self.location.rpartition("/")[2]), *((("stamp", stamp),) if stamp else ()))
        if self.kind == "wheels":
            requirements = ", ".join(self.get("requirements").splitlines())
            return (("requirements", requirements), ("python", self.get("python")))
        if self.kind in ("git-cache", "bindep", "file-cache"):
            told = [pair for pair in self.detail if pair[0] not in _NOT_ASKED]
            return (("settings", hashlib.sha256(repr(told).encode()).hexdigest()[:16]),)
        return ()


@dataclass(frozen=True)
class Pin:
    """What a source was.

    ``identity`` names its bytes and is what keys cover (``sha256:…``, a commit, file names with digests).  ``notes``
    is what else a lock shows about it (a date, an ETag); it never changes what a build makes.
    """

    kind: str
    name: str
    identity: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def value(self) -> str:
        """The identity on one line: the value of the fact that a step's key covers."""
        return " ".join(f"{name}:{value}" for name, value in self.identity)

    def get(self, name: str) -> str:
        """One of ``identity``; empty when it is not there."""
        return dict(self.identity).get(name, "")

    def note(self, name: str) -> str:
        """One of ``notes``; empty when it is not there."""
        return dict(self.notes).get(name, "")

    def is_for(self, source: Source) -> bool:
        """Whether it was made for what ``source`` asks for now: the same ref, file, requirements."""
        notes = dict(self.notes)
        return (self.kind, self.name) == source.id and all(
            notes.get(name) == value for name, value in source.asked
        )


#: Pins by kind and name.
Pins = Mapping[tuple[str, str], Pin]


@dataclass(frozen=True)
class Lock:
    """The pins of one platform, by kind and name.

    ``epoch`` is SOURCE_DATE_EPOCH for everything that is built from them: seconds since 1970.  ``packages`` are the
    versions that were installed, by name, once an image has been built from these pins.
    """

    platform: str
    pins: Pins
    epoch: int
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Move:
    """One pin that differs between two locks.  ``before`` is None for a new one, ``after`` for one that is gone."""

    kind: str
    name: str
    before: Pin | None
    after: Pin | None


def path_of(spec_dir: Path, platform: str) -> Path:
    """Where the lock of a platform is: beside its spec."""
    return spec_dir / f"{platform}.lock"


def moves(before: Pins, after: Pins) -> tuple[Move, ...]:
    """What differs between the pins of two locks, in the order of lock files.  Notes do not count."""
    ids = sorted({*before, *after}, key=_order)
    pairs = ((id, before.get(id), after.get(id)) for id in ids)
    return tuple(
        Move(*id, old, new) for id, old, new in pairs if not (old and new and old.value == new.value)
    )


def stale(lock: Lock, sources: Iterable[Source]) -> list[ImgcError]:
    """Why a lock is not for these sources (E613 each); empty when it is."""
    wanted = {source.id: source for source in sources}
    hint = f"`imgc lock {lock.platform}` pins anew."
    found = []
    for id, source in wanted.items():
        pin, what = lock.pins.get(id), f"{source.kind} {source.name}"
        if pin is None:
            said = f"The lock of {lock.platform} has no pin for {what}."
        elif not pin.is_for(source):
            changed = [name for name, value in source.asked if pin.note(name) != value]
            said = f"The lock of {lock.platform} pins {what} for another {' and '.join(changed)}."
        else:
            continue
        found.append(ImgcError("E613", said, hint=hint, place=source.place))
    for kind, name in sorted(set(lock.pins) - set(wanted), key=_order):
        said = f"The lock of {lock.platform} pins {kind} {name}, which it no longer takes."
        found.append(ImgcError("E613", said, hint=hint))
    return found


def check(path: Path, platform: str, sources: Iterable[Source]) -> Lock:
    """The lock at ``path``, which has to be for ``platform`` and these sources.  Raises E611 and E613."""
    lock = read(path)
    problems = Collector()
    if lock.platform != platform:
        said = f"{_shown(path)} is the lock of {lock.platform}, not of {platform}."
        problems.add(ImgcError("E613", said, hint=f"`imgc lock {platform}` pins anew."))
    else:
        for problem in stale(lock, sources):
            problems.add(problem)
    problems.check()
    return lock


def epoch_of(pins: Pins) -> int:
    """The newest date of the package archives, else of all pins, else :data:`EARLIEST_EPOCH`; never the clock."""
    archives = [date for pin in pins.values() if pin.kind in ("apt", "yum") for date in _dates(pin)]
    return max(archives or [date for pin in pins.values() for date in _dates(pin)] or [EARLIEST_EPOCH])


def _dates(pin: Pin) -> Iterator[int]:
    """The date in a pin's notes in seconds since 1970: ISO 8601 (``date``), else as HTTP has it."""
    import datetime
    import email.utils

    iso, http = pin.note("date"), pin.note("last_modified")
    try:
        if iso:
            found = datetime.datetime.fromisoformat(re.sub("Z$", "+00:00", iso))
        elif http:
            found = email.utils.parsedate_to_datetime(http)
        else:
            return
        # What a server says about a file may be nonsense; it is a note, not a reason to fail.
        aware = found if found.tzinfo else found.replace(tzinfo=datetime.timezone.utc)
        yield max(int(aware.timestamp()), EARLIEST_EPOCH)
    except (ValueError, TypeError, OverflowError):
        return


def _order(id: tuple[str, str]) -> tuple[int, str]:
    return KINDS.index(id[0]), id[1]


# --- writing ------------------------------------------------------------------------------------------------------


def write(lock: Lock, path: Path) -> None:
    """Write a lock: whole or not at all, and the same text for the same lock.  E405 when that cannot be done."""
    data = text_of(lock).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                os.fchmod(handle, 0o666 & ~_umask())
            os.rename(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise ImgcError("E405", f"Cannot write {path}: {error.strerror}.") from error


def _umask() -> int:
    """This process's umask, read where reading does not change it for other threads."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def text_of(lock: Lock) -> str:
    """The text of a lock file: one value a line, in an order that keeps differences small."""
    lines = [
        "# Written by `imgc lock`: what builds of this platform take from outside, as it was then.",
        f"version: {VERSION}",
        f"platform: {_scalar(lock.platform)}",
        f"epoch: {lock.epoch}",
    ]
    kind = ""
    for id in sorted(lock.pins, key=_order):
        pin = lock.pins[id]
        if pin.kind != kind:
            kind = pin.kind
            lines += ["", f"{kind}:"]
        lines.append(f"  {_scalar(pin.name)}:")
        lines += [f"    {_scalar(name)}: {_scalar(value)}" for name, value in pin.identity]
        if pin.notes:
            lines.append("    notes:")
            lines += [f"      {_scalar(name)}: {_scalar(value)}" for name, value in pin.notes]
    if lock.packages:
        lines += ["", "packages:"]
        lines += [f"  {_scalar(name)}: {_scalar(lock.packages[name])}" for name in sorted(lock.packages)]
    return "".join(f"{line}\n" for line in lines)


_PLAIN = re.compile(r"[A-Za-z0-9_./+][A-Za-z0-9_./+~:=<> -]*")

#: What YAML takes for something else than a string: numbers, booleans, dates and their like begin and end so.
_TYPED = re.compile(
    r"0[xobXOB]\w*|[-+.]?[0-9][0-9_,.:eExXoT+ -]*Z?|[-+]?\.[A-Za-z]+|(?i:y|n|yes|no|true|false|on|off|null)|=|<<"
)


def _scalar(value: str) -> str:
    """A string as YAML: bare where every reader takes that for the same string, else in double quotes."""
    bare = _PLAIN.fullmatch(value) and not _TYPED.fullmatch(value)
    if bare and ": " not in value and not value.endswith((":", " ")):
        return value
    return f'"{"".join(map(_escaped, value))}"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    return f"\\U{ord(character):08x}"


# --- reading ------------------------------------------------------------------------------------------------------


def read(path: Path) -> Lock:
    """Read a lock.  E613 when there is none; what is wrong with it is E611 with its place, all of it in one run."""
    shown = _shown(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        hint = f"`imgc lock {path.stem}` writes it."
        raise ImgcError("E613", f"There is no lock {shown}.", hint=hint) from None
    except OSError as error:
        said = f"{shown} cannot be read: {error.strerror}."
        raise ImgcError("E611", said, place=Place(shown)) from error
    return parse(data, shown)


def _shown(path: Path) -> str:
    """A path as a user would name it: relative to the working directory when it lies below it."""
    return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)


def parse(data: bytes, file: str) -> Lock:
    """The lock that ``data`` is the text of; ``file`` is what places call it.  Raises E611."""
    return _Reader(file).lock(data)


class _Reader:
    """Turns the nodes of a YAML document into a lock, and gathers what is wrong."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._problems = Collector()
        self._seen: set[int] = set()
        #: The key of each value, by the value's id: they live as long as the document.
        self._keys: dict[int, Node] = {}

    def lock(self, data: bytes) -> Lock:
        top = self._document(data)
        known = ("version", "platform", "epoch", *KINDS, "packages")
        found = self._entries(top, "a lock")
        if "version" in found:
            version = self._text(found["version"])
            if version != str(VERSION):
                said = f"This lock has version {version}; this imgc reads version {VERSION}."
                raise self._problem(found["version"], said)
        for name, node in found.items():
            if name not in known:
                self._add(self._keys[id(node)], f"Unknown key `{name}`.", f"A lock has {', '.join(known)}.")
        for name in ("version", "platform", "epoch"):
            if name not in found:
                self._add(top, f"`{name}` is missing.")
        pins: dict[tuple[str, str], Pin] = {}
        for kind in (kind for kind in KINDS if kind in found):
            for name, node in self._entries(found[kind], f"`{kind}`").items():
                pins[kind, name] = self._pin(kind, name, node)
        epoch = self._epoch(found["epoch"]) if "epoch" in found else 0
        platform = self._text(found["platform"]) if "platform" in found else ""
        packages = self._texts(found["packages"], "`packages`") if "packages" in found else {}
        self._problems.check()
        return Lock(platform, pins, epoch, packages)

    def _document(self, data: bytes) -> Node:
        """The one document of the file."""
        import yaml

        place = Place(self._file)
        if len(data) > _MOST_BYTES:
            said = f"A lock has at most {_MOST_BYTES >> 20} MiB."
            raise ImgcError("E611", said, hint=_HINT, place=place)
        try:
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            top: Node | None = yaml.compose(data.decode("utf-8"), Loader=loader)
        except UnicodeDecodeError:
            raise ImgcError("E611", "Not UTF-8 text.", hint=_HINT, place=place) from None
        except RecursionError:
            raise ImgcError("E611", "Too many levels of nesting.", hint=_HINT, place=place) from None
        except (yaml.YAMLError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            where = Place(self._file, mark.line + 1, mark.column + 1) if mark else place
            said = f"Not YAML: {getattr(error, 'problem', None) or error}."
            raise ImgcError("E611", said, hint=_HINT, place=where) from None
        if top is None:
            raise ImgcError("E611", "The file is empty.", hint=_HINT, place=place)
        return top

    def _pin(self, kind: str, name: str, node: Node) -> Pin:
        entries = self._entries(node, f"`{name}`")
        notes = self._texts(entries.pop("notes"), "`notes`") if "notes" in entries else {}
        identity = {key: self._text(value) for key, value in entries.items()}
        for key, value in identity.items():
            form = next((form for form in _FORMS if form.names.fullmatch(key)), None)
            if kind not in _NAMED and form and not form.values.fullmatch(value):
                self._add(entries[key], f"`{key}` of {kind} {name} is not {form.words}.")
        needed = _NEEDED.get(kind, "")
        if needed not in identity if needed else not (identity or kind in _NAMED):
            self._add(node, f"{kind} {name} has no {needed or 'identity'}.")
        return Pin(kind, name, tuple(identity.items()), tuple(notes.items()))

    def _epoch(self, node: Node) -> int:
        text = self._text(node)
        if re.fullmatch("[0-9]{1,12}", text):
            return int(text)
        self._add(node, "`epoch` is not a number of seconds since 1970.")
        return 0

    def _texts(self, node: Node, what: str) -> dict[str, str]:
        return {name: self._text(value) for name, value in self._entries(node, what).items()}

    def _entries(self, node: Node, what: str) -> dict[str, Node]:
        """The entries of a map by name; a problem where it is no map, or has a name twice."""
        from yaml.nodes import MappingNode, ScalarNode

        if not isinstance(node, MappingNode):
            self._add(node, f"{what[0].upper()}{what[1:]} has to be a map.")
            return {}
        if id(node) in self._seen:
            self._add(node, f"{what[0].upper()}{what[1:]} is an alias; a lock has none.")
            return {}
        self._seen.add(id(node))
        found: dict[str, Node] = {}
        for key, value in _pairs(node):
            if not isinstance(key, ScalarNode):
                self._add(key, "A key that is itself a list or a map.")
            elif key.value in found:
                self._add(key, f"`{key.value}` is written twice.", "Keep one of them.")
            else:
                found[key.value] = value
                self._keys[id(value)] = key
        return found

    def _text(self, node: Node) -> str:
        """The text of a scalar."""
        from yaml.nodes import ScalarNode

        if not isinstance(node, ScalarNode):
            self._add(node, "A list or a map where a value has to be.")
            return ""
        return str(node.value)

    def _add(self, node: Node, message: str, hint: str = _HINT) -> None:
        self._problems.add(self._problem(node, message, hint))

    def _problem(self, node: Node, message: str, hint: str = _HINT) -> ImgcError:
        mark = node.start_mark
        return ImgcError("E611", message, hint=hint, place=Place(self._file, mark.line + 1, mark.column + 1))


def _pairs(node: MappingNode) -> list[tuple[Node, Node]]:
    pairs: list[tuple[Node, Node]] = node.value
    return pairs
