"""Which elements a platform is made of: the stock rules of element-deps and element-provides, in a stable order.

An element is a directory on the search path.  An earlier search path overrides a later one, directory by directory.
``element-deps`` pulls other elements in; ``element-provides`` makes an element stand for a virtual name.  Unlike
the stock resolver, whether a dependency names a real element or a virtual one does not depend on the order of the
arguments: a name that any included element provides is always the virtual one.

The order of the result is depth-first: an element comes after everything it depends on, and otherwise names are
taken alphabetically.  In a cycle of dependencies, the element that is met first comes last.  Neither the order of
the arguments nor a hash seed has a part in it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from imgc.errors import Collector, ImgcError, Place

#: What an element that starts a tree provides.
OPERATING_SYSTEM = "operating-system"


@dataclass(frozen=True)
class Element:
    """One element: ``path`` is its real directory, ``search_path_index`` the search path that it was found on."""

    name: str
    path: str
    search_path_index: int
    depends: tuple[str, ...]
    provides: tuple[str, ...]


class ElementError(ImgcError):
    """A problem with the choice of elements.  ``names`` holds what it is about.

    E201: the missing name.  E202: the virtual name, then those that provide it.  E204: the missing directory.
    E208: the virtual name.  E203: nothing.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        names: Sequence[str] = (),
        hint: str = "",
        place: Place | None = None,
    ) -> None:
        super().__init__(code, message, hint=hint, place=place)
        self.names = tuple(names)


@dataclass(frozen=True)
class Resolution:
    """The included elements in order, and for each the requested name through which it came in."""

    elements: tuple[Element, ...]
    requested_by: Mapping[str, str]


@dataclass
class Catalogue:
    """Every element on the search paths, read when it is first asked for."""

    paths: tuple[str, ...]
    problems: Collector = field(default_factory=Collector)
    _found: dict[str, tuple[str, int]] = field(default_factory=dict)
    _read: dict[str, Element] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, path in enumerate(self.paths):
            if not os.path.isdir(path):
                self.problems.add(
                    ElementError("E204", f"Element search path {path} is not a directory.", names=(path,))
                )
                continue
            with os.scandir(path) as entries:
                found = [os.path.realpath(entry.path) for entry in entries if entry.is_dir()]
            for real in sorted(found):
                self._found.setdefault(os.path.basename(real), (real, index))

    def names(self) -> list[str]:
        return sorted(self._found)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def get(self, name: str) -> Element:
        """The element of that name; KeyError when there is none.  An unreadable description is a problem (E209)."""
        if name not in self._read:
            path, index = self._found[name]
            depends = self._names_in(os.path.join(path, "element-deps"))
            provides = self._names_in(os.path.join(path, "element-provides"))
            self._read[name] = Element(name, path, index, depends, provides)
        return self._read[name]

    def _names_in(self, path: str) -> tuple[str, ...]:
        try:
            with open(path, encoding="utf-8") as file:
                return tuple(sorted({line.strip() for line in file} - {""}))
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            directory, name = os.path.split(path)
            message = f"{name} of element `{os.path.basename(directory)}` cannot be read: {error}."
            self.problems.add(ImgcError("E209", message, place=Place(shown(path))))
            return ()


def resolve(
    names: Sequence[str], paths: Sequence[str], *, place_of: Callable[[str], Place] | None = None
) -> tuple[Element, ...]:
    """The requested elements with all that they depend on, in the order that this module describes.

    ``names`` are the requested elements, ``paths`` the search paths, the first of which wins; ``place_of`` says
    where a requested name (or a search path) was written.  Raises E201, E202, E203, E204, E208 and E209, all of
    one run together.
    """
    return resolution(names, Catalogue(tuple(paths)), place_of=place_of).elements


def resolution(
    names: Sequence[str], catalogue: Catalogue, *, place_of: Callable[[str], Place] | None = None
) -> Resolution:
    """:func:`resolve`, on a catalogue that was read before, with what brought each element in."""
    requested = list(dict.fromkeys(names))
    virtual, included, requested_by = _expand(requested, catalogue)
    resolver = _Checker(catalogue, requested, virtual, included, requested_by, place_of)
    resolver.check()
    return Resolution(_ordered(included, virtual), requested_by)


def provided_by(names: Iterable[str], catalogue: Catalogue) -> set[str]:
    """Every name, real or virtual, that a request for ``names`` brings in."""
    virtual, included, _ = _expand(list(dict.fromkeys(names)), catalogue)
    return {*virtual, *included}


def shown(path: str) -> str:
    """A path as a user would name it: relative to the working directory when it lies below it."""
    here = os.getcwd()
    return os.path.relpath(path, here) if os.path.commonpath([here, os.path.abspath(path)]) == here else path


def _expand(
    requested: list[str], catalogue: Catalogue
) -> tuple[dict[str, list[str]], dict[str, Element], dict[str, str]]:
    """Follow dependencies until nothing is added.

    Returns the virtual names with their providers, the included elements, and the requested name that brought
    each.  A name once known to be virtual stays so; that makes the result independent of any order.
    """
    virtual: set[str] = set()
    while True:
        included, requested_by = _closure(requested, catalogue, virtual)
        providers: dict[str, list[str]] = {}
        for name in sorted(included):
            for provided in included[name].provides:
                providers.setdefault(provided, []).append(name)
        if virtual.issuperset(providers):
            return {name: providers.get(name, []) for name in sorted(virtual)}, included, requested_by
        virtual.update(providers)


def _closure(
    requested: list[str], catalogue: Catalogue, virtual: set[str]
) -> tuple[dict[str, Element], dict[str, str]]:
    included: dict[str, Element] = {}
    requested_by: dict[str, str] = {}
    queue = [(name, name) for name in requested]
    for name, root in queue:
        if name in requested_by:
            continue
        requested_by[name] = root
        if name in virtual or name not in catalogue:
            continue
        included[name] = catalogue.get(name)
        queue.extend((dependency, root) for dependency in included[name].depends)
    return included, requested_by


def _ordered(included: Mapping[str, Element], virtual: Mapping[str, Sequence[str]]) -> tuple[Element, ...]:
    """Depth-first, dependencies first, names alphabetically (without recursion: chains may be long)."""
    order: dict[str, Element] = {}
    entered: set[str] = set()
    stack = [(name, False) for name in sorted(included, reverse=True)]
    while stack:
        name, left = stack.pop()
        if left:
            order[name] = included[name]
        elif name not in entered:
            entered.add(name)
            stack.append((name, True))
            depends = included[name].depends
            targets = {target for dependency in depends for target in virtual.get(dependency, [dependency])}
            stack.extend((target, False) for target in sorted(targets & set(included), reverse=True))
    return tuple(order.values())


@dataclass
class _Checker:
    """Finds everything wrong with an expansion."""

    catalogue: Catalogue
    requested: list[str]
    virtual: Mapping[str, Sequence[str]]
    included: Mapping[str, Element]
    requested_by: Mapping[str, str]
    place_of: Callable[[str], Place] | None

    def check(self) -> None:
        problems = Collector()
        for problem in self.catalogue.problems.problems:
            problems.add(self._placed(problem))
        missing = [
            name for name in self.requested_by if name not in self.virtual and name not in self.catalogue
        ]
        for name in missing:
            problems.add(self._missing(name))
        for name, providers in self.virtual.items():
            for problem in self._virtual_problems(name, list(providers)):
                problems.add(problem)
        if not missing and OPERATING_SYSTEM not in self.virtual:
            hint = "List an element that starts a tree, such as debian-minimal, or set `base.distro`."
            message = "No element provides an operating system."
            problems.add(ElementError("E203", message, hint=hint, place=self._place(self.requested)))
        problems.check()

    def _virtual_problems(self, name: str, providers: list[str]) -> Iterable[ElementError]:
        if len(providers) > 1:
            listed = _listed(providers)
            yield ElementError(
                "E202",
                f"Several elements provide `{name}`: {listed}.",
                names=(name, *providers),
                hint="Keep one of them.",
                place=self._place([self.requested_by[provider] for provider in providers]),
            )
        if name in self.requested and providers:
            yield ElementError(
                "E202",
                f"`{name}` is requested, but {_listed(providers)} already provides it.",
                names=(name, *providers),
                hint=f"Drop `{name}` from the elements.",
                place=self._place([name]),
            )
        if not providers and name in self.requested_by:
            yield ElementError(
                "E208",
                f"`{name}` is a virtual element whose only providers depend on `{name}` itself.",
                names=(name,),
                hint="List an element that provides it.",
                place=self._place([self.requested_by[name]]),
            )

    def _missing(self, name: str) -> ElementError:
        root = self.requested_by[name]
        users = [one.name for one in self.included.values() if name in one.depends]
        place = self._place([root])
        provider = [other for other in self.catalogue.names() if name in self.catalogue.get(other).provides]
        if provider and users:
            message = f"No listed element provides `{name}`, which {_listed(users)} depends on."
            return ElementError(
                "E208", message, names=(name,), hint=f"List one of {_listed(provider)}.", place=place
            )
        wanted_by = f", which {_listed(users)} depends on" if users and name != root else ""
        close = difflib.get_close_matches(name, self.catalogue.names(), n=1)
        if provider:
            hint = f"`{name}` is a virtual name. List one of {_listed(provider)}."
        elif close:
            hint = f"Did you mean `{close[0]}`?"
        else:
            hint = f"Searched in {', '.join(shown(path) for path in self.catalogue.paths)}."
        return ElementError("E201", f"No element `{name}`{wanted_by}.", names=(name,), hint=hint, place=place)

    def _placed(self, problem: ImgcError) -> ImgcError:
        if isinstance(problem, ElementError) and problem.place is None:
            problem.place = self._place(problem.names)
        return problem

    def _place(self, names: Iterable[str]) -> Place | None:
        """The last of the places where ``names`` were written: the one that a reader of the spec meets second."""
        place_of = self.place_of
        return max((place_of(name) for name in names), default=None) if place_of else None


def _listed(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def with_own_paths(
    elements: Sequence[Element], paths: Sequence[str]
) -> tuple[tuple[Element, ...], tuple[str, ...]]:
    """Give an element that is only linked into a search path (its real directory lies elsewhere) a path of its own.

    Afterwards ``search_paths[element.search_path_index]/element.name`` is every element's real directory.  The
    added paths come last, so they override nothing.
    """
    search_paths = [os.path.realpath(path) for path in paths]
    placed = []
    for element in elements:
        parent = os.path.dirname(element.path)
        if parent not in search_paths:
            search_paths.append(parent)
        own = element.search_path_index
        index = own if search_paths[own] == parent else search_paths.index(parent)
        placed.append(replace(element, search_path_index=index))
    return tuple(placed), tuple(search_paths)
