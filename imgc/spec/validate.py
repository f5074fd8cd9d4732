"""A tree of nodes against the declared settings: plain values, where each was written, and every problem.

The same walk serves twice.  A file alone is checked ``partial``: keys may be missing and templates are left alone.
The merged and rendered tree of a platform is checked in full.  Messages do not depend on which of the two found a
problem, so that a problem found by both is reported once.
"""

from __future__ import annotations

import re
from typing import Any

from imgc.errors import Collector, ImgcError, Place
from imgc.spec.nodes import Entry, Mapping, Node, Scalar, Sequence, describe
from imgc.spec.settings import SPEC
from imgc.spec.types import ListOf, MapOf, OutputType, Refused, ScalarType, Section, Setting, Type
from imgc.spec.words import did_you_mean, show

_INDEX = re.compile(r"\[[0-9]+\]")


class Invalid:
    """The value of whatever has a problem."""


INVALID = Invalid()


class Validator:
    """One walk.  ``problems`` collects what is wrong, ``places`` where each valid or invalid value was written."""

    def __init__(self, problems: Collector, *, partial: bool) -> None:
        self._problems = problems
        self._partial = partial
        self.places: dict[str, Place] = {}

    def spec(self, root: Node) -> Any:
        """The values of a whole spec as nested dicts and tuples, or :data:`INVALID`."""
        return self._value(root, SPEC, "")

    def _value(self, node: Node, kind: Type, path: str) -> Any:
        if not _is_default(node):
            self.places[path] = node.place
        if isinstance(kind, Section):
            return self._section(node, kind, path)
        if isinstance(kind, ListOf):
            return self._list(node, kind, path)
        if isinstance(kind, MapOf):
            return self._map(node, kind, path)
        if isinstance(kind, OutputType):
            return self._output(node, kind, path)
        if not isinstance(kind, ScalarType):
            raise TypeError(f"no walk over {type(kind).__name__}")
        return self._scalar(node, kind, path)

    def _scalar(self, node: Node, kind: ScalarType, path: str) -> Any:
        if not isinstance(node, Scalar):
            return self._refuse(node, "E107", path, f"wants {kind.words()}, not {describe(node)}.")
        if node.is_template:
            if not kind.templates:
                return self._refuse(node, "E110", path, "cannot be a template.")
            return INVALID
        try:
            return kind.read(node)
        except Refused as refused:
            return self._refuse(node, refused.code, path, refused.said, refused.hint)

    def _section(self, node: Node, kind: Section, path: str) -> Any:
        if isinstance(node, Scalar) and kind.short:
            node = Mapping((Entry(kind.short, node.place, node),), node.place)
        if not isinstance(node, Mapping):
            return self._refuse(node, "E107", path, f"wants {kind.words()}, not {describe(node)}.")
        values: dict[str, Any] = {setting.key: None for setting in kind.settings}
        for entry in node.entries:
            setting = kind.by_key.get(entry.key)
            if setting is None:
                self._unknown(entry, path, kind)
            else:
                values[entry.key] = self._value(entry.value, setting.type, _join(path, entry.key))
        for setting in kind.settings:
            if node.get(setting.key) is None and self._required(setting, path):
                values[setting.key] = self._missing(node, _join(path, setting.key))
        return values

    def _required(self, setting: Setting, path: str) -> bool:
        """Whether a missing key is a problem.  What a file must say itself it must say in a partial walk too."""
        return setting.required and (setting.own or not self._partial)

    def _list(self, node: Node, kind: ListOf, path: str) -> Any:
        if isinstance(node, Scalar) and kind.single:
            value = self._value(node, kind.item, path)
            return INVALID if value is INVALID else (value,)
        if not isinstance(node, Sequence):
            return self._refuse(node, "E107", path, f"wants a list, not {describe(node)}.")
        if len(node.items) < kind.least:
            return self._refuse(node, "E109", path, f"wants at least {kind.least} item.")
        values = [self._value(item, kind.item, f"{path}[{i}]") for i, item in enumerate(node.items)]
        return INVALID if any(value is INVALID for value in values) else tuple(values)

    def _map(self, node: Node, kind: MapOf, path: str) -> Any:
        if not isinstance(node, Mapping):
            return self._refuse(node, "E107", path, f"wants a map, not {describe(node)}.")
        values: dict[str, Any] = {}
        for entry in node.entries:
            if not re.fullmatch(kind.name_form, entry.key):
                said = f"The key {show(entry.key)} in `{path}` is not {kind.name_called}."
                self._problems.add(ImgcError("E109", said, place=entry.place))
                continue
            values[entry.key] = self._value(entry.value, kind.item, _join(path, entry.key))
        return INVALID if any(value is INVALID for value in values.values()) else values

    def _output(self, node: Node, kind: OutputType, path: str) -> Any:
        if isinstance(node, Scalar):
            return self._output_of(node, kind, self._scalar(node, kind.format, path), (), path)
        if isinstance(node, Mapping):
            written = node.get("format")
            if written is None:
                return self._missing(node, f"{path}.format")
            chosen = self._value(written, kind.format, f"{path}.format")
            given = tuple(entry for entry in node.entries if entry.key != "format")
            return self._output_of(node, kind, chosen, given, path)
        return self._refuse(node, "E107", path, f"wants {kind.words()}, not {describe(node)}.")

    def _output_of(
        self, node: Node, kind: OutputType, chosen: Any, given: tuple[Entry, ...], path: str
    ) -> Any:
        """The format and all its options, in the order of their declaration."""
        if chosen is INVALID:
            return INVALID
        options = {option.key: option for option in kind.named(chosen).options}
        by_key = {entry.key: entry for entry in given}
        for key, entry in by_key.items():
            if key not in options:
                self._unknown_option(entry, chosen, kind)
        values: dict[str, Any] = {"format": chosen}
        for key, option in options.items():
            default = Scalar(option.default or "", "text", node.place, default=True)
            written = by_key[key].value if key in by_key else default
            values[key] = self._value(written, option.type, f"{path}.{key}")
        return INVALID if any(value is INVALID for value in values.values()) else values

    def _unknown(self, entry: Entry, path: str, section: Section) -> None:
        where = f" in {_named(path)}" if path else ""
        hint = did_you_mean(entry.key, section.by_key) or _elsewhere(entry.key)
        hint = hint or f"Known here: {', '.join(section.by_key)}."
        self._problems.add(
            ImgcError("E105", f"Unknown key {show(entry.key)}{where}.", hint=hint, place=entry.place)
        )

    def _unknown_option(self, entry: Entry, chosen: str, kind: OutputType) -> None:
        options = [option.key for option in kind.named(chosen).options]
        known = f"Known here: {', '.join(options)}." if options else f"`{chosen}` has no options."
        hint = did_you_mean(entry.key, [*options, "format"], known)
        owners = [each.name for each in kind.formats if entry.key in {option.key for option in each.options}]
        if owners:
            hint = f"It is an option of {' and '.join(owners)}."
        said = f"Unknown option {show(entry.key)} of the output format `{chosen}`."
        self._problems.add(ImgcError("E105", said, hint=hint, place=entry.place))

    def _missing(self, node: Node, path: str) -> Invalid:
        """E106, at the map in which the key is missing."""
        self._problems.add(ImgcError("E106", f"{_named(path)} is required.", place=node.place))
        return INVALID

    def _refuse(self, node: Node, code: str, path: str, said: str, hint: str = "") -> Invalid:
        if (
            isinstance(node, Scalar)
            and node.kind == "null"
            and code == "E107"
            and not said.startswith("has no")
        ):
            said, hint = "has no value.", "Give it one, or remove the key."
            if not path:
                said, hint = "wants a map of settings; this file is empty.", ""
        self._problems.add(ImgcError(code, f"{_named(path)} {said}", hint=hint, place=node.place))
        return INVALID


def _is_default(node: Node) -> bool:
    return node.default


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _named(path: str) -> str:
    """A path in a message.  Without indices: they differ between a file and what it is merged into."""
    return f"`{_INDEX.sub('', path)}`" if path else "A spec"


def _elsewhere(key: str) -> str:
    """A hint for a key that exists, but in another section."""
    for setting in SPEC.settings:
        if setting.key == key:
            return f"`{key}` belongs at the top level."
        if isinstance(setting.type, Section) and key in setting.type.by_key:
            return f"Did you mean `{setting.key}.{key}`?"
    return ""
