"""From the name of a platform to a :class:`~imgc.spec.model.Platform`, or to every problem of every file involved.

The steps: find the file, read it and what it extends, check each file alone, merge, fill in defaults, render
templates, check the whole, and look for settings that contradict each other.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping as MappingType
from collections.abc import Sequence as SequenceType
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from imgc.errors import Collector, ImgcError, Place
from imgc.spec.defaults import with_defaults
from imgc.spec.merge import merge
from imgc.spec.model import Platform
from imgc.spec.nodes import Mapping, Node, Scalar, Sequence
from imgc.spec.platform import build
from imgc.spec.settings import MOST_BYTES, SPEC, VERSION
from imgc.spec.types import Integer, Refused
from imgc.spec.validate import Validator
from imgc.spec.words import did_you_mean, show


class PlatformFile(NamedTuple):
    """A platform that there is: its name and its file."""

    name: str
    path: Path


@dataclass(frozen=True)
class SpecFile:
    """One file that was read.  ``shown`` is its name in places; ``root`` is None when it cannot be used."""

    path: Path
    shown: str
    root: Mapping | None
    extends: tuple[Scalar, ...]


@dataclass
class Library:
    """Reads each file once per run, and keeps what was found wrong in it."""

    problems: Collector = field(default_factory=Collector)
    files: dict[str, SpecFile] = field(default_factory=dict)

    def read(self, path: Path, reference: Place | None = None) -> SpecFile:
        """The file at ``path``; ``reference`` is where another file names it."""
        real = os.path.realpath(path)
        if real in self.files:
            return self.files[real]
        shown = shown_path(path)
        try:
            data = _bytes(path)
        except OSError as error:
            # Not remembered: every reference to a missing file is a problem of its own.
            self.problems.add(_unreadable(path, shown, error, reference))
            return SpecFile(path, shown, None, ())
        self.files[real] = self._parse(data, path, shown)
        return self.files[real]

    def _parse(self, data: bytes, path: Path, shown: str) -> SpecFile:
        from imgc.spec.reader import parse  # PyYAML, which most commands never need

        root = parse(data, shown, self.problems)
        if root is None or not self._is_readable(root):
            return SpecFile(path, shown, None, ())
        self._check(root)
        if not isinstance(root, Mapping):
            return SpecFile(path, shown, None, ())
        return SpecFile(path, shown, root, _extends(root))

    def _is_readable(self, root: Node) -> bool:
        """Whether the file speaks this version of the language; another version's keys are not ours to judge."""
        written = root.get("schema") if isinstance(root, Mapping) else None
        kind = SPEC.by_key["schema"].type
        if not isinstance(written, Scalar) or not isinstance(kind, Integer):
            return True
        try:
            version = kind.read(written)
        except Refused:
            return True
        if version == VERSION:
            return True
        said = f"This file has schema version {version}; this imgc reads version {VERSION}."
        hint = "Use the imgc that the file was written for." if version > VERSION else ""
        self.problems.add(ImgcError("E114", said, hint=hint, place=written.place))
        return False

    def _check(self, root: Node) -> None:
        """Everything that can be wrong in one file alone."""
        Validator(self.problems, partial=True).spec(root)
        if _has_template(root):
            from imgc.spec.render import check_templates  # Jinja2 takes as long to import as the rest of imgc

            check_templates(root, self.problems)


def find(specs_dir: Path) -> list[PlatformFile]:
    """The platforms in ``specs_dir``, by name.  Raises E117 when the directory cannot be read."""
    try:
        names = sorted(os.listdir(specs_dir))
    except OSError as error:
        said = f"The directory {show(str(specs_dir))} cannot be read: {error.strerror}."
        raise ImgcError("E117", said, hint="Run imgc where `specs/` is, or name the directory.") from None
    return [
        PlatformFile(name[: -len(".yaml")], Path(specs_dir, name))
        for name in names
        if name.endswith(".yaml") and not name.startswith(".") and not Path(specs_dir, name).is_dir()
    ]


def load(name_or_path: str, *, specs_dir: Path, host_environment: MappingType[str, str]) -> Platform:
    """The platform of that name in ``specs_dir``, or in that file when it is a path to a ``.yaml`` file.

    ``host_environment`` is what templates may read from as ``env``, by the allow-list.  Raises an
    :class:`~imgc.errors.ImgcError`, or :class:`~imgc.errors.Problems` with every problem of every file involved.
    """
    return load_all([name_or_path], specs_dir=specs_dir, host_environment=host_environment)[0]


def load_all(
    names: SequenceType[str], *, specs_dir: Path, host_environment: MappingType[str, str]
) -> list[Platform]:
    """Several platforms, in the order of ``names``.  The problems of all of them are raised together."""
    library = Library()
    platforms = []
    for name in names:
        try:
            platform = _load(locate(name, specs_dir), library, host_environment)
        except ImgcError as problem:
            library.problems.add(problem)
            continue
        if platform:
            platforms.append(platform)
    library.problems.check()
    return platforms


def locate(name_or_path: str, specs_dir: Path) -> Path:
    """The file of a platform.  E116 when ``specs_dir`` has no platform of that name."""
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        return Path(name_or_path)
    there = {platform.name: platform.path for platform in find(specs_dir)}
    if name_or_path in there:
        return there[name_or_path]
    hint = did_you_mean(name_or_path, there, f"`imgc list` shows what {show(str(specs_dir))} holds.")
    raise ImgcError("E116", f"No platform {show(name_or_path)} in {show(str(specs_dir))}.", hint=hint)


def gather(path: Path, library: Library) -> tuple[list[SpecFile], bool]:
    """The file at ``path`` and all it extends, each once, every file after those it extends.

    The second value is whether that is all of them: no file is missing or unreadable, and none extends itself.
    """
    chain: dict[str, SpecFile] = {}
    first = library.read(path)
    open_files = [(os.path.realpath(path), first, iter(first.extends))]
    complete = True
    while open_files:
        real, current, references = open_files[-1]
        reference = next(references, None)
        if reference is None:
            open_files.pop()
            chain[real] = current
            complete = complete and current.root is not None
            continue
        target = current.path.parent / reference.text
        real = os.path.realpath(target)
        waiting = [each for each, _, _ in open_files]
        if real in waiting:
            circle = [spec.shown for _, spec, _ in open_files[waiting.index(real) :]]
            library.problems.add(_circle(circle, reference))
            complete = False
        elif real not in chain or chain[real].root is None:  # a missing file is a problem of each reference
            found = library.read(target, reference.place)
            open_files.append((real, found, iter(found.extends)))
    return list(chain.values()), complete


def shown_path(path: Path) -> str:
    """``path`` as a user would name it: relative to the current directory when it is below that, else absolute."""
    absolute = os.path.abspath(path)
    here = os.getcwd()
    inside = absolute.startswith(here.rstrip("/") + "/")
    shown = os.path.relpath(absolute, here) if inside else absolute
    return shown.encode("utf-8", "backslashreplace").decode()


def _load(path: Path, library: Library, host_environment: MappingType[str, str]) -> Platform | None:
    """One platform, or None when ``library.problems`` says why there is none."""
    chain, complete = gather(path, library)
    platform_file = chain[-1]
    if platform_file.root is not None:
        _check_name(platform_file, platform_file.root, library.problems)
    if not complete:
        return None
    tree = with_defaults(_merged([each.root for each in chain if each.root is not None]))
    if _has_template(tree):
        from imgc.spec.render import render_templates

        tree = render_templates(tree, host_environment, library.problems)
    validator = Validator(library.problems, partial=False)
    values = validator.spec(tree)
    directories = {each.shown: each.path.parent for each in chain}
    return build(values, validator.places, platform_file.shown, directories, library.problems)


def _merged(roots: SequenceType[Mapping]) -> Mapping:
    """The files of a chain laid over one another, without what belongs to the inherited files alone."""
    own = {setting.key for setting in SPEC.settings if setting.own}
    tree: Node = roots[0]
    for i, root in enumerate(roots):
        last = i == len(roots) - 1
        inherited = (
            root if last else replace(root, entries=tuple(e for e in root.entries if e.key not in own))
        )
        tree = merge(tree, inherited) if i else inherited
    if not isinstance(tree, Mapping):
        raise TypeError("maps merge to a map")
    return tree


def _check_name(spec: SpecFile, root: Mapping, problems: Collector) -> None:
    """A platform has a name, and the file is called by it."""
    name = root.get("name")
    if name is None:
        hint = f"Add `name: {spec.path.stem}`."
        problems.add(ImgcError("E106", "`name` is required of a platform.", hint=hint, place=root.place))
    elif isinstance(name, Scalar) and name.kind == "str" and name.text != spec.path.stem:
        said = f"The platform {show(name.text)} is in a file called {show(spec.path.name)}."
        hint = f"Write `name: {spec.path.stem}`, or rename the file."
        problems.add(ImgcError("E109", said, hint=hint, place=name.place))


def _bytes(path: Path) -> bytes:
    """The start of a regular file, a little more than a spec may hold.  Raises OSError."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, "Is a directory" if stat.S_ISDIR(mode) else "Not a regular file")
    with open(path, "rb") as stream:
        return stream.read(MOST_BYTES + 1)


def _unreadable(path: Path, shown: str, error: OSError, reference: Place | None) -> ImgcError:
    """E112 for a reference to nothing, E101 for a file that cannot be read."""
    if reference and isinstance(error, (FileNotFoundError, NotADirectoryError)):
        beside = {each.name: each for each in path.parent.glob("*.yaml")} if path.parent.is_dir() else {}
        hint = did_you_mean(path.name, beside, "Paths in `extends` are relative to the file that holds them.")
        return ImgcError("E112", f"No file {show(shown)}.", hint=hint, place=reference)
    said = f"{show(shown)} cannot be read: {error.strerror}."
    return ImgcError("E101", said, place=reference or Place(shown))


def _circle(files: list[str], reference: Scalar) -> ImgcError:
    chain = " → ".join([*files, files[0]])
    hint = "Move what the files share into a part that both extend."
    return ImgcError("E113", f"`extends` goes round in a circle: {chain}.", hint=hint, place=reference.place)


def _extends(root: Mapping) -> tuple[Scalar, ...]:
    """The references of a file that can be followed."""
    written = root.get("extends")
    items = written.items if isinstance(written, Sequence) else (written,)
    return tuple(
        item
        for item in items
        if isinstance(item, Scalar) and item.kind == "str" and item.text and not item.is_template
    )


def _has_template(node: Node) -> bool:
    if isinstance(node, Scalar):
        return node.is_template
    inner = node.items if isinstance(node, Sequence) else [entry.value for entry in node.entries]
    return any(_has_template(each) for each in inner)
