"""Reach by mention: which files and variables of the build a hook can read, judged by its text.

Every file of every element is there for every hook to read.  If all of them counted, a change to the last
element's least file would build everything again; so a file counts for a hook only when the hook can get at it and
mentions it.

* A hook gets at the hooks tree by asking where it is itself (``$(dirname $0)``), or by the name of the tree
  (``TMP_HOOKS_PATH``; in the chroot ``/tmp/in_target.d``).  It gets at the elements' own directories by
  ``ELEMENTS_PATH``, ``IMAGE_ELEMENT_YAML`` or ``get_image_element_array``, and at the stock driver's files by
  ``_LIB``.  A hook that can do none of these reaches nothing.
* A file is mentioned when a path, a name or a glob in the text fits its path from the root of the tree or of its
  element, or from the hook's own phase directory; a directory that is mentioned brings all that is in it.
* What a mentioned script mentions counts too.  In the chroot, that holds for every helper from ``bin/`` that is
  called by name; its bytes, though, are in the tree already, so the chain of steps covers them.
* Hooks of other steps are only reached by their own names.  A phase directory that is mentioned by path brings
  the list of its hooks.
* A hook that can get at the tree and takes a name from it that the text does not tell reaches everything.
* A hook that asks where it is also reaches whatever its own element brings without a known reader.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from imgc.errors import Collector, Place
from imgc.graph.elements import Element
from imgc.graph.mention import ANY, ELSEWHERE, Mentions, Word, literal, parse
from imgc.graph.patterns import DECLARATION, Patterns, place_in_tree
from imgc.graph.plan import Plan, dib_directory
from imgc.graph.step import PHASES, Fact
from imgc.graph.tools import TOOLS, tool_identity
from imgc.graph.tree import ENVIRONMENT, Hook, TreeFile, build_tree, digest_of, runs_by_name

#: Variables that list the elements of the build.  They count only for a hook that mentions them.
_BY_MENTION = ("IMAGE_NAME",)
_ELEMENT_VARIABLES = ("ELEMENTS_PATH", "IMAGE_ELEMENT_YAML", "get_image_element_array")
_RUNNERS = frozenset({"run_d", "run_d_in_target"})

#: Directories that a hook collects from all elements, and files that it reads of each: never private to an element.
_COLLECTED = ("bin", "static", "init-scripts")
_DOCUMENTATION = re.compile(r"README.*|LICENSE.*|.*\.(rst|md)")


@dataclass(frozen=True)
class Entry:
    """A file that hooks may reach: its path from its root, whether it is a hook of some step, and its fact."""

    path: Word
    hook: bool
    element: str
    source: str
    fact: Fact

    @property
    def private(self) -> bool:
        """Whether nothing but its own element's hooks can be meant to read it."""
        name = self.path[-1]
        declared = DECLARATION.fullmatch(name) or name.startswith("source-repository-")
        return not self.hook and self.path[0] not in _COLLECTED and not declared


@dataclass
class _Search:
    """One hook's search: what it mentions so far, and what it reached."""

    own_phase: str
    target: bool
    words: set[Word] = field(default_factory=set)
    identifiers: set[str] = field(default_factory=set)
    own_directory: bool = False
    tree: bool = False
    helpers: set[str] = field(default_factory=set)
    found: dict[Fact, Entry] = field(default_factory=dict)
    lists: bool = False
    listed: set[Word] = field(default_factory=set)

    def add(self, mentions: Mentions) -> None:
        self.words |= mentions.words
        self.identifiers |= mentions.identifiers
        self.own_directory |= mentions.own_directory
        self.tree |= "in_target" in mentions.identifiers if self.target else mentions.tree

    @property
    def elements(self) -> bool:
        return not self.target and not self.identifiers.isdisjoint(_ELEMENT_VARIABLES)

    @property
    def library(self) -> bool:
        return not self.target and "_LIB" in self.identifiers


class Reach:
    """Answers for one plan.  Every answer is a tuple of facts in a canonical order."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._entries = [
            _entry("", file)
            for file in plan.tree
            if file.kind != "directory" or ("/" in file.dest and file.dest.split("/")[0] not in PHASES)
            if not file.dest.startswith(f"{ENVIRONMENT}/")
        ]
        self._helpers = {
            entry.path[1]: entry for entry in self._entries if entry.path[0] == "bin" and len(entry.path) == 2
        }
        self._known = {file.digest: file.source for file in plan.tree if file.kind == "file"}

    def facts(self, hook: Hook, *, target: bool) -> tuple[Fact, ...]:
        """The facts that ``hook`` reaches beside its own bytes: files, variables by mention, tools of the host."""
        source = self._known.get(hook.digest)
        search = _Search(hook.phase, target)
        if source is None:
            # Written by an earlier hook of this very build: what it mentions is known only while it runs.
            search.identifiers |= {*_ELEMENT_VARIABLES, *_BY_MENTION}
            self._everything(search)
        else:
            text = _read(source)
            search.add(parse(text))
            self._close(search, hook.element)
            if b"python" in text.partition(b"\n")[0]:
                search.identifiers.add("DIB_PYTHON_EXEC")
        environment = self._environment
        reached = {*search.found, *environment.found}
        identifiers = search.identifiers | environment.identifiers
        listings = _listings(search.listed | environment.listed)
        tools = () if target else self._tools(search)
        return (*self._variables(identifiers, target), *sorted(reached), *listings, *tools)

    @cached_property
    def _environment(self) -> _Search:
        """What environment.d reaches; it is sourced before every hook."""
        search = _Search("", False)
        for file in self._plan.environment_files:
            search.add(parse(_read(file.source)).without_own_directory())
        search.own_directory = False
        if search.tree or search.elements or search.library:
            self._close(search, "")
        return search

    def _close(self, search: _Search, element: str) -> None:
        """Match, follow the scripts that are reached, and match again, until nothing is added."""
        followed: set[Fact] = set()
        while True:
            self._match(search)
            new = [
                entry
                for fact, entry in search.found.items()
                if fact not in followed and self._runs(search, entry)
            ]
            helpers = [name for name in self._called(search) if name not in search.helpers]
            if not new and not helpers:
                break
            for entry in new:
                followed.add(entry.fact)
                search.add(parse(_read(entry.source)))
            for name in helpers:
                search.helpers.add(name)
                search.add(parse(_read(self._helpers[name].source)).without_own_directory())
        if self._untold(search):
            self._everything(search)
        if search.own_directory:
            self._put(search, (one for one in self._entries if one.element == element and one.private))

    def _called(self, search: _Search) -> list[str]:
        """Helpers that are called by name, which is possible in the chroot: install-bin puts them on its PATH."""
        if not search.target:
            return []
        return sorted(word[0] for word in search.words if len(word) == 1 and word[0] in self._helpers)

    def _match(self, search: _Search) -> None:
        patterns = Patterns(search.words, search.own_phase if search.own_directory else "")
        if search.tree or search.own_directory:
            self._put(search, (one for one in self._entries if patterns.in_tree(one.path, one.hook)))
            search.lists = patterns.lists_anything()
            search.listed |= {one.path for one in self._entries if one.hook and patterns.lists(one.path)}
        if search.elements:
            found = (one for one in self._element_entries(search) if patterns.in_element(one.path, one.hook))
            self._put(search, found)
        if search.library:
            self._put(search, (one for one in self._library if patterns.in_element(one.path, False)))

    def _put(self, search: _Search, entries: Iterable[Entry]) -> None:
        for entry in entries:
            search.found.setdefault(entry.fact, entry)

    def _runs(self, search: _Search, entry: Entry) -> bool:
        """Whether a reached file is a script that the hook runs or sources: its very name is in the text."""
        named = any(word[-1] == entry.path[-1] for word in search.words)
        if not named or entry.fact.name.startswith("lib/") or entry.path[0] in _COLLECTED[1:]:
            return False
        return entry.path[0] == "bin" or _read(entry.source).startswith(b"#!")

    def _untold(self, search: _Search) -> bool:
        """Whether the hook takes from the tree, or from the elements, what its text does not name."""
        if not search.identifiers.isdisjoint(_RUNNERS) and (search.tree or search.own_directory):
            return True
        places = [place for place in map(place_in_tree, search.words) if place is not None]
        if any(place and not literal(place[0]) for place in places):
            return True
        if search.found or search.lists or any(literal(part) for place in places for part in place):
            return False
        if search.elements and not any(_told_of_elements(word) for word in search.words):
            return True
        return search.tree or () in places

    def _everything(self, search: _Search) -> None:
        entries = [*self._entries]
        if not search.target:
            entries += [*self._element_entries(search), *self._library]
        readable = (one for one in entries if not one.hook and not _DOCUMENTATION.fullmatch(one.path[-1]))
        self._put(search, readable)
        search.listed |= {one.path for one in self._entries if one.hook}

    def _element_entries(self, search: _Search) -> Sequence[Entry]:
        """The files of the elements' own directories: of the included ones, or of all when no list is asked for."""
        if "ELEMENTS_PATH" not in search.identifiers:
            return self._included
        if {"IMAGE_ELEMENT", *_ELEMENT_VARIABLES[1:]} & search.identifiers:
            return self._included_everywhere
        return self._all_elements

    @cached_property
    def _included(self) -> list[Entry]:
        """The files of the included elements."""
        return [entry for element in self._plan.elements for entry in self._of_element(element.name, False)]

    @cached_property
    def _included_everywhere(self) -> list[Entry]:
        """The files of every directory on the search paths that has the name of an included element.

        An overridden element's directory is among them: package-installs reads it.
        """
        return [entry for element in self._plan.elements for entry in self._of_element(element.name, True)]

    @cached_property
    def _all_elements(self) -> list[Entry]:
        """The files of every element that there is."""
        names = {name for path in self._plan.search_paths for name in os.listdir(path)}
        return [entry for name in sorted(names) for entry in self._of_element(name, True)]

    def _of_element(self, name: str, overridden: bool) -> Iterator[Entry]:
        for index, path in enumerate(self._plan.search_paths):
            directory = os.path.join(path, name)
            if os.path.isdir(directory) and (index == self._owner(name) or overridden):
                where = f"{name}" if index == self._owner(name) else f"{name} (overridden)"
                for file in _files(Element(name, directory, index, (), ())):
                    yield _entry(f"elements/{where}/", file)

    def _owner(self, name: str) -> int:
        return next((one.search_path_index for one in self._plan.elements if one.name == name), -1)

    @cached_property
    def _library(self) -> list[Entry]:
        directory = str(dib_directory() / "lib")
        return [_entry("lib/", file) for file in _files(Element("", directory, 0, (), ()))]

    def _variables(self, identifiers: set[str], target: bool) -> Iterator[Fact]:
        """The environment: all of it, except what lists the elements or names the image, which needs a mention."""
        for name, value in self._plan.environment:
            if name not in _BY_MENTION or name in identifiers:
                yield Fact("env", name, value)
        if not identifiers.isdisjoint({"IMAGE_ELEMENT", "DIB_ARGS"}):
            yield Fact("env", "IMAGE_ELEMENT", " ".join(element.name for element in self._plan.elements))
        if not identifiers.isdisjoint(_ELEMENT_VARIABLES[1:]):
            placed = (f"{element.name}={element.search_path_index}" for element in self._plan.elements)
            yield Fact("env", "IMAGE_ELEMENT_YAML", " ".join(placed))
        if "ELEMENTS_PATH" in identifiers:
            yield Fact("env", "ELEMENTS_PATH", str(len(self._plan.search_paths)))

    def _tools(self, search: _Search) -> Iterator[Fact]:
        named = {word[-1] for word in search.words if len(word) == 1 or word[0] == ELSEWHERE}
        tools = {*(named & TOOLS)}
        if "DIB_PYTHON_EXEC" in search.identifiers:
            tools.add("python3")
        if "diskimage_builder" in search.identifiers:
            tools.add("diskimage-builder")
        for name in sorted(tools):
            yield Fact("tool", name, tool_identity(name))


def _listings(paths: Iterable[Word]) -> Iterator[Fact]:
    """The names of hooks that are seen, by phase."""
    for phase, group in itertools.groupby(sorted(paths), key=lambda path: path[0]):
        yield Fact("file", f"{phase}/", f"hooks {' '.join('/'.join(path[1:]) for path in group)}")


def _told_of_elements(word: Word) -> bool:
    """Whether a word names something to take from an element's directory."""
    if len(word) == 1:
        return DECLARATION.fullmatch(word[0].replace(ANY, "x")) is not None
    return word[0] == ANY and literal(word[1])


def _files(element: Element) -> Iterator[TreeFile]:
    """The files below one directory, as the hooks tree would hold them."""
    tree = build_tree([element], Collector(), Place)
    return (file for file in tree.entries.values() if file.kind != "directory")


def _entry(prefix: str, file: TreeFile) -> Entry:
    """``prefix`` is what the fact's name has before the path, and says which root the path is from."""
    value = file.value
    if file.kind == "link" and os.path.isfile(file.source):
        value += f" {digest_of(_read(file.source))}"
    fact = Fact("file", prefix + file.dest, value)
    return Entry(tuple(file.dest.split("/")), _is_hook(file), file.element, file.source, fact)


def _is_hook(file: TreeFile) -> bool:
    """Whether dib-run-parts may run it in a step of its own: in a phase directory, or linked there by install-types."""
    phase, *rest = file.dest.split("/")
    if phase not in PHASES or not rest or not file.mode & 0o111 or file.kind == "directory":
        return False
    return runs_by_name(rest[-1]) and (len(rest) == 1 or (len(rest) == 2 and rest[0].endswith("-install")))


def _read(source: str) -> bytes:
    """The bytes of a file; none for what has none (a directory, a link to nothing)."""
    if not os.path.isfile(source):
        return b""
    with open(source, "rb") as file:
        return file.read()
