"""Compile a platform: choose its elements, lay out the hooks tree, find the hooks of every phase in run order.

Pure and quick: reads spec values and element files, needs neither root nor network, and reports every problem of
the elements in one run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from imgc.errors import Collector, ImgcError, Place
from imgc.graph import implied as implications
from imgc.graph.descriptions import check_descriptions
from imgc.graph.elements import Catalogue, Element, Resolution, resolution, with_own_paths
from imgc.graph.step import PHASES
from imgc.graph.tree import (
    Hook,
    Tree,
    TreeFile,
    build_tree,
    check_not_run,
    environment_files,
    hooks_of,
    predicted_install_types,
    run_order,
)
from imgc.spec.model import Platform

#: The extra-data.d hook that links install types into install.d.
_INSTALL_TYPES = "99-enable-install-types"


@dataclass(frozen=True)
class Plan:
    """A compiled platform.

    ``search_paths`` are absolute, the first wins; ``search_paths[e.search_path_index]/e.name`` is the directory of
    every element ``e``.  ``implied`` says which elements the settings brought and why.  ``hooks`` has the hooks that
    the elements ship, by phase in run order; ``predicted`` those that install-types is foreseen to link into
    install.d.  ``tree`` is the whole hooks tree, ``environment_files`` what is sourced before each phase, in
    order.  ``environment`` is what the spec tells the elements; nothing in it is a path of this host.
    """

    platform: Platform
    elements: tuple[Element, ...]
    search_paths: tuple[str, ...]
    implied: tuple[tuple[str, str], ...]
    hooks: Mapping[str, tuple[Hook, ...]]
    predicted: tuple[Hook, ...]
    tree: tuple[TreeFile, ...]
    environment_files: tuple[TreeFile, ...]
    environment: tuple[tuple[str, str], ...]
    install_type: str
    distro: str
    warnings: tuple[str, ...]
    entries: Mapping[str, TreeFile] = field(compare=False, repr=False)

    def phase(self, phase: str) -> tuple[Hook, ...]:
        """The hooks of one phase in run order, the predicted ones among them."""
        static = {hook.name: hook for hook in self.hooks.get(phase, ())}
        static.update({hook.name: hook for hook in self.predicted if hook.phase == phase})
        return tuple(sorted(static.values(), key=lambda hook: run_order(hook.name)))


def compile_plan(
    platform: Platform, *, mirrors: Mapping[str, str] | None = None, elements_dir: Path | None = None
) -> Plan:
    """Compile ``platform``.

    ``mirrors`` is further environment (DIB_DISTRIBUTION_MIRROR and the like) that the spec's own wins over.
    ``elements_dir`` is where imgc's own elements are (default: those installed with it).  Raises E115, E201 to
    E209; several problems come together.
    """
    shipped = elements_dir or Path(__file__).parent.parent / "elements"
    stock = dib_directory() / "elements"
    paths = [*(os.path.abspath(path) for path in platform.element_paths), str(shipped), str(stock)]
    catalogue = Catalogue(tuple(paths))
    implied = implications.implied_elements(platform, catalogue)
    place_of_requested = _requested_places(platform, implied)
    names = [*platform.elements, *(one.element for one in implied)]
    resolved = resolution(names, catalogue, place_of=place_of_requested)

    problems = Collector()
    place_of = _element_places(resolved, place_of_requested)
    tree = build_tree(resolved.elements, problems, place_of)
    by_name = {element.name: element for element in resolved.elements}
    check_not_run(tree, problems, place_of, lambda name: by_name[name].search_path_index == len(paths) - 1)
    tree.warnings.extend(check_descriptions(resolved.elements, problems))
    environment = implications.environment(platform, mirrors or {}, problems)
    sourced = environment_files(tree)
    predicted, install_type = _install_types(tree, sourced, environment, problems, place_of)
    problems.check()

    elements, search_paths = with_own_paths(resolved.elements, paths)
    return Plan(
        platform=platform,
        elements=elements,
        search_paths=search_paths,
        implied=tuple((one.element, one.reason) for one in implied),
        hooks=MappingProxyType({phase: tuple(hooks_of(tree, phase)) for phase in PHASES}),
        predicted=predicted,
        tree=tuple(tree.entries[dest] for dest in sorted(tree.entries)),
        environment_files=sourced,
        environment=environment,
        install_type=install_type,
        distro=platform.base.distro,
        warnings=tuple(dict.fromkeys(tree.warnings)),
        entries=MappingProxyType(tree.entries),
    )


def element_texts(plan: Plan) -> Iterator[str]:
    """What a plan's elements say: the text of each of their files but for documentation."""
    for element in plan.elements:
        for parent, _, names in os.walk(element.path):
            for name in names:
                path = Path(parent, name)
                if path.suffix not in (".rst", ".md", ".pyc") and path.is_file():
                    yield path.read_text(encoding="utf-8", errors="replace")


def dib_directory() -> Path:
    """Where diskimage-builder is installed (its ``elements`` and ``lib`` are below); E302 when it is not."""
    found = importlib.util.find_spec("diskimage_builder")
    if found is None or not found.submodule_search_locations:
        hint = "Install imgc with its dependencies (`./dev setup` does it)."
        raise ImgcError("E302", "Not installed: diskimage-builder.", hint=hint)
    return Path(os.path.abspath(found.submodule_search_locations[0]))


def _requested_places(
    platform: Platform, implied: tuple[implications.Implied, ...]
) -> Callable[[str], Place]:
    """Where a requested name or a search path was written."""
    places = {one.element: platform.place(one.setting) for one in implied}
    for index, path in reversed(list(enumerate(platform.element_paths))):
        places[path] = places[os.path.abspath(path)] = platform.place(f"element_paths[{index}]")
    for index, name in reversed(list(enumerate(platform.elements))):
        places[name] = platform.place(f"elements[{index}]")
    fallback = platform.place("elements")
    return lambda name: places.get(name, fallback)


def _element_places(
    resolved: Resolution, place_of_requested: Callable[[str], Place]
) -> Callable[[str], Place]:
    """Where the spec brings an element in: at the requested name through which it came."""
    return lambda name: place_of_requested(resolved.requested_by[name])


def _install_types(
    tree: Tree,
    sourced: tuple[TreeFile, ...],
    environment: tuple[tuple[str, str], ...],
    problems: Collector,
    place_of: Callable[[str], Place],
) -> tuple[tuple[Hook, ...], str]:
    """What install-types will link, and the default install type that the driver writes into the environment."""
    default = dict(environment).get("DIB_DEFAULT_INSTALLTYPE", "source")
    if f"extra-data.d/{_INSTALL_TYPES}" not in tree.entries:
        return (), default
    known = implications.plain_environment((*environment, ("DIB_DEFAULT_INSTALLTYPE", default)), sourced)
    linked, overwritten = predicted_install_types(tree, known)
    for dest in overwritten:
        name = os.path.basename(dest)
        element = tree.entries[dest].element
        problems.add(
            ImgcError(
                "E205",
                f"{dest} of element `{element}` is linked over another install.d/{name}.",
                hint="Rename one of them.",
                place=place_of(element),
            )
        )
    return tuple(linked), default
