"""A spec file as a tree: scalars, lists and maps, each with the place where it was written.

The tree is plain and frozen.  It is bounded when it is read (:mod:`imgc.spec.reader`), so walking it recursively is
safe everywhere else.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from imgc.errors import Place


@dataclass(frozen=True)
class Scalar:
    """One value.  ``text`` is what was written, before any conversion.

    ``kind`` is what YAML takes it for: ``str int float bool null``; or ``text`` when it did not come from YAML (a
    rendered template, a default) and is to be converted to whatever type is wanted.  A ``default`` was written by
    nobody: its place is that of the value around it.
    """

    text: str
    kind: str
    place: Place
    default: bool = False

    @property
    def is_template(self) -> bool:
        """Whether the text has to be rendered first."""
        return self.kind == "str" and ("{{" in self.text or "{%" in self.text)


@dataclass(frozen=True)
class Sequence:
    """A list.  With ``replace`` it takes the place of an inherited list instead of being appended to it."""

    items: tuple[Node, ...]
    place: Place
    replace: bool = False
    default: bool = False


@dataclass(frozen=True)
class Entry:
    """One key of a map, where it was written, and its value."""

    key: str
    place: Place
    value: Node


@dataclass(frozen=True)
class Mapping:
    """A map with distinct keys.  With ``replace`` it takes the place of an inherited map instead of merging."""

    entries: tuple[Entry, ...]
    place: Place
    replace: bool = False
    default: bool = False

    def get(self, key: str) -> Node | None:
        """The value of ``key``, or None when it is not there."""
        return self._values.get(key)

    @functools.cached_property
    def _values(self) -> dict[str, Node]:
        return {entry.key: entry.value for entry in self.entries}


Node = Scalar | Sequence | Mapping

#: What a message calls each kind of scalar.
KIND_WORDS = {
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "a boolean",
    "null": "nothing",
}


def describe(node: Node) -> str:
    """What a message calls ``node``: "a list", "a boolean" …"""
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Mapping):
        return "a map"
    return KIND_WORDS.get(node.kind, "a string")
