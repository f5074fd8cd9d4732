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
* What a mentioned script mentions counts too, and so does what a file mentions that is sourced or run, whatever it
  is.  In the chroot, that holds for every helper from ``bin/`` that is called by name; its bytes, though, are in
  the tree already, so the chain of steps covers them.
* What environment.d, or the spec, puts into a variable that the hook mentions counts as if the hook mentioned it.
* Hooks of other steps are only reached by their own names.  A phase directory that is mentioned by path brings
  all its hooks; only their names, for a script that is known not to look into them.
* A hook that can get at the tree and takes a name from it that the text does not tell reaches everything.
* A hook that asks where it is also reaches whatever its own element brings without a known reader.

Variables count by the same search; see :mod:`imgc.graph.variables`.

What would be missed: files of *elements' own directories* under names that are put together from nothing but
variables, the hooks tree by way of a walk over all of the chroot (``find /``), and a variable of an element whose name
a program of the image puts together.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from imgc.errors import Collector, Place
from imgc.graph.elements import Element
from imgc.graph.mention import ANY, ELSEWHERE, ROOT, Mentions, Word, literal, matches, parse, parse_elsewhere
from imgc.graph.patterns import DECLARATION, Patterns, place_in_tree
from imgc.graph.plan import Plan, dib_directory
from imgc.graph.step import PHASES, Fact
from imgc.graph.tools import HOOKS_PATH, TOOLS, tool_identity
from imgc.graph.tree import ENVIRONMENT, Hook, TreeFile, build_tree, digest_of, runs_by_name
from imgc.graph.variables import Readings, Variables, readings, review_of

#: What lists the elements of the build.
_ELEMENT_VARIABLES = ("ELEMENTS_PATH", "IMAGE_ELEMENT_YAML", "get_image_element_array")
_RUNNERS = frozenset({"run_d", "run_d_in_target"})

#: Programs and modules that take the mode of a file along, or show it.
_COPIERS = frozenset({"cp", "cpio", "find", "install", "ls", "mv", "rsync", "shutil", "stat", "tar", "test"})

#: Directories that a hook collects from all elements, and files that it reads of each: never private to an element.
_COLLECTED = ("bin", "static", "init-scripts")


@dataclass(frozen=True)
class Entry:
    """A file that hooks may reach: its path from its root, whether it is a hook of some step, and its fact."""

    path: Word
    hook: bool
    element: str
    source: str
    fact: Fact
    #: The fact for a hook that sees the mode which the file has on this host.
    as_it_is: Fact

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
    #: Whether it looks at the names of hooks only.
    lists_only: bool = False
    words: set[Word] = field(default_factory=set)
    runs: set[Word] = field(default_factory=set)
    identifiers: set[str] = field(default_factory=set)
    own_directory: bool = False
    tree: bool = False
    unplaced: bool = False
    #: What it reads of the environment: names, beginnings of names, or all of it.
    names: set[str] = field(default_factory=set)
    prefixes: set[str] = field(default_factory=set)
    everything: bool = False
    helpers: set[str] = field(default_factory=set)
    found: dict[Fact, Entry] = field(default_factory=dict)
    lists: bool = False
    #: Whether it reaches all that there is.
    all_files: bool = False
    listed: set[Word] = field(default_factory=set)
    #: Texts of environment.d and of the spec that have been taken up.
    flowed: set[str] = field(default_factory=set)

    def add(self, mentions: Mentions) -> None:
        """Take up what a script mentions that the hook runs."""
        self.words |= mentions.words
        self.runs |= mentions.runs
        self.identifiers |= mentions.identifiers
        self.names |= mentions.identifiers
        self.own_directory |= mentions.own_directory
        self.tree |= "in_target" in mentions.identifiers if self.target else mentions.tree
        self.unplaced |= mentions.unplaced and not self.target

    def read(self, readings: Readings) -> None:
        """Take up which variables a text can read."""
        self.names |= readings.names
        self.prefixes |= readings.prefixes
        self.everything |= readings.everything

    @property
    def elements(self) -> bool:
        return not self.target and not self.identifiers.isdisjoint(_ELEMENT_VARIABLES)

    @property
    def sees_modes(self) -> bool:
        """Whether it copies files with their modes, or asks for them."""
        named = {word[-1] for word in self.words if len(word) == 1 or word[0] == ELSEWHERE}
        return self.all_files or not (named | self.identifiers).isdisjoint(_COPIERS)

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
        self._variables = Variables(plan.environment, plan.environment_files)
        self._answers: dict[tuple[Hook, bool], tuple[Fact, ...]] = {}
        self._known = {file.digest: file.source for file in plan.tree if file.kind == "file"}

    def facts(self, hook: Hook, *, target: bool) -> tuple[Fact, ...]:
        """The facts that ``hook`` reaches beside its own bytes: variables, files, tools of the host."""
        found = self._answers.get((hook, target))
        if found is None:
            found = self._answers[hook, target] = self._reached(hook, target=target)
        return found

    def _reached(self, hook: Hook, *, target: bool) -> tuple[Fact, ...]:
        source = self._known.get(hook.digest)
        search = _Search(hook.phase, target)
        if source is None:
            # Written by an earlier hook of this very build: what it mentions is known only while it runs.
            search.identifiers |= {*_ELEMENT_VARIABLES, "IMAGE_ELEMENT"}
            search.names |= search.identifiers
            search.everything = True
            self._everything(search)
        else:
            text = _read(source)
            review = review_of(text)
            search.lists_only = review is not None and review.lists_only
            self._take(search, text, parse(text))
            self._siblings(search, text)
            self._close(search, hook.element)
            if b"python" in text.partition(b"\n")[0]:
                search.identifiers.add("DIB_PYTHON_EXEC")
        return self._facts_of(search)

    def packages(self) -> tuple[Fact, ...]:
        """The facts that ``install-packages`` reaches in the chroot, beside what the chain of steps covers."""
        search = _Search("", True)
        search.add(parse(b"install-packages"))
        self._close(search, "")
        return self._facts_of(search)

    def _facts_of(self, search: _Search) -> tuple[Fact, ...]:
        """A finished search as facts, together with what environment.d reaches."""
        environment = self._environment
        for entry in {**search.found, **environment.found}.values():
            search.read(readings(_read(entry.source)))
        search.names |= environment.names
        search.prefixes |= environment.prefixes
        search.everything |= environment.everything
        self._flow(search)
        exact = search.sees_modes or environment.sees_modes
        found = [*search.found.values(), *environment.found.values()]
        reached = {entry.as_it_is if exact else entry.fact for entry in found}
        listings = _listings(search.listed | environment.listed)
        tools = () if search.target else self._tools(search, environment)
        return (*self._variable_facts(search), *sorted(reached), *listings, *tools)

    @cached_property
    def _environment(self) -> _Search:
        """What the statements of environment.d reach that concern every hook; it is sourced before each."""
        search = _Search("", False)
        for statement in self._variables.effects:
            data = statement.text.encode()
            self._take(search, data, parse_elsewhere(data))
        for name in self._variables.for_all():
            search.names.add(name)
        search.own_directory = False
        self._close(search, "")
        return search

    def _take(self, search: _Search, data: bytes, mentions: Mentions) -> None:
        """Take up a text that the hook runs."""
        search.add(mentions)
        search.read(readings(data))

    def _flow(self, search: _Search) -> None:
        """Take up what environment.d and the spec put into the variables that are read."""
        while True:
            texts = [statement.text for statement in self._variables.assigning(search.names)]
            texts += [self._variables.values[name] for name in search.names & self._variables.values.keys()]
            new = [text for text in texts if text not in search.flowed]
            if not new:
                return
            for text in new:
                search.flowed.add(text)
                data = text.encode("utf-8", "surrogatepass")
                self._take(search, data, parse_elsewhere(data))

    def _siblings(self, search: _Search, text: bytes) -> None:
        """Python looks for modules beside the script that it runs."""
        for name in parse(text).imports:
            for entry in self._entries:
                if entry.path[:2] in ((search.own_phase, f"{name}.py"), (search.own_phase, name)):
                    search.words.add((ROOT, *entry.path))
                    search.tree = True
                    search.runs.add((f"{name}.py",))

    def _close(self, search: _Search, element: str) -> None:
        """Match, follow the scripts that are reached, and match again, until nothing is added."""
        followed: set[Fact] = set()
        while True:
            self._flow(search)
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
                self._follow(search, entry)
            for name in helpers:
                search.helpers.add(name)
                data = _read(self._helpers[name].source)
                self._take(search, data, parse_elsewhere(data))
        if self._untold(search):
            self._everything(search)
        if search.own_directory:
            self._put(search, (one for one in self._entries if one.element == element and one.private))

    def _follow(self, search: _Search, entry: Entry) -> None:
        """Take up a script that is reached: as one that is sourced, and as one that runs where it is."""
        data = _read(entry.source)
        mentions = parse(data)
        self._take(search, data, mentions)
        if mentions.own_directory and not entry.fact.name.startswith(("elements/", "lib/")):
            search.add(mentions.at(entry.path[:-1]))
            search.tree = True

    def _called(self, search: _Search) -> list[str]:
        """Helpers that are called by name, which is possible in the chroot: install-bin puts them on its PATH."""
        if not search.target:
            return []
        return sorted(word[0] for word in search.words if len(word) == 1 and word[0] in self._helpers)

    def _match(self, search: _Search) -> None:
        if not (search.tree or search.own_directory or search.elements or search.library):
            return
        patterns = Patterns(search.words, search.own_phase if search.own_directory else "")
        if search.tree or search.own_directory:
            self._put(search, (one for one in self._entries if patterns.in_tree(one.path, one.hook)))
            search.lists = patterns.lists_anything()
            listed = [one for one in self._entries if one.hook and patterns.lists(one.path)]
            search.listed |= {one.path for one in listed}
            self._put(search, () if search.lists_only else listed)
        if search.elements:
            found = (one for one in self._element_entries(search) if patterns.in_element(one.path, one.hook))
            self._put(search, found)
        if search.library:
            self._put(search, (one for one in self._library if patterns.in_element(one.path, False)))

    def _put(self, search: _Search, entries: Iterable[Entry]) -> None:
        for entry in entries:
            search.found.setdefault(entry.fact, entry)

    def _runs(self, search: _Search, entry: Entry) -> bool:
        """Whether a reached file may be run or sourced."""
        name = entry.path[-1]
        if entry.fact.name.startswith("lib/"):
            return False
        if any(matches(word[-1], name) for word in search.runs if literal(word[-1])):
            return True
        named = any(word[-1] == name for word in search.words)
        if entry.path[0] in _COLLECTED:
            return named and entry.path[0] == "bin"
        if any(not literal(word[-1]) for word in search.runs) and not DECLARATION.fullmatch(name):
            return b"\0" not in _read(entry.source)
        return _read(entry.source).startswith(b"#!")

    def _untold(self, search: _Search) -> bool:
        """Whether the hook takes from the tree, or from the elements, what its text does not name."""
        if not search.identifiers.isdisjoint(_RUNNERS) and (search.tree or search.own_directory):
            return True
        places = [place for place in map(place_in_tree, search.words) if place is not None]
        if search.unplaced or any(not place or not literal(place[0]) for place in places):
            return True
        if search.found or search.lists or any(literal(part) for place in places for part in place):
            return False
        return search.elements and not any(_told_of_elements(word) for word in search.words)

    def _everything(self, search: _Search) -> None:
        search.all_files = True
        entries = [*self._entries]
        if not search.target:
            entries += [*self._element_entries(search), *self._library]
        self._put(search, entries)
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

    def _variable_facts(self, search: _Search) -> Iterator[Fact]:
        """The variables that are read: the spec's, and those by which the driver lists the elements."""
        counted = self._variables.counted(search.names, search.prefixes, search.everything)
        for name, value in self._plan.environment:
            if name in counted:
                yield Fact("env", name, value)
        names = search.names
        if search.everything or not names.isdisjoint({"IMAGE_ELEMENT", "DIB_ARGS"}):
            yield Fact("env", "IMAGE_ELEMENT", " ".join(element.name for element in self._plan.elements))
        if search.everything or not names.isdisjoint(_ELEMENT_VARIABLES[1:]):
            placed = (f"{element.name}={element.search_path_index}" for element in self._plan.elements)
            yield Fact("env", "IMAGE_ELEMENT_YAML", " ".join(placed))
        if search.everything or "ELEMENTS_PATH" in names:
            yield Fact("env", "ELEMENTS_PATH", str(len(self._plan.search_paths)))

    def _tools(self, search: _Search, environment: _Search) -> Iterator[Fact]:
        words = search.words | environment.words
        named = {word[-1] for word in words if len(word) == 1 or word[0] == ELSEWHERE}
        tools = {*(named & TOOLS)}
        identifiers = search.identifiers | environment.identifiers
        if "DIB_PYTHON_EXEC" in identifiers:
            tools.add("python3")
        if "diskimage_builder" in identifiers:
            tools.add("diskimage-builder")
        for name in sorted(tools):
            yield Fact("tool", name, tool_identity(name, HOOKS_PATH))


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
    fact = as_it_is = Fact("file", prefix + file.dest, value)
    if prefix and file.kind == "file":
        # The hooks tree is a copy with modes of its own; elements' own directories are on this host.
        mode = stat.S_IMODE(os.lstat(file.source).st_mode)
        as_it_is = Fact("file", prefix + file.dest, replace(file, mode=mode).value)
    return Entry(tuple(file.dest.split("/")), _is_hook(file), file.element, file.source, fact, as_it_is)


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
