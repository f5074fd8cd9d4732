"""Fills in what a spec does not say, before templates are rendered: they may refer to a default, or be one."""

from __future__ import annotations

from dataclasses import replace

from imgc.spec.nodes import Entry, Mapping, Node, Scalar, Sequence
from imgc.spec.settings import SPEC
from imgc.spec.types import ListOf, MapOf, Section, Setting, Type


def with_defaults(root: Mapping) -> Mapping:
    """``root`` with every undeclared setting that has a default, marked as such, after the written keys."""
    return _filled(root, SPEC)


def _filled(node: Mapping, section: Section) -> Mapping:
    entries = []
    for entry in node.entries:
        setting = section.by_key.get(entry.key)
        entries.append(replace(entry, value=_completed(entry.value, setting.type)) if setting else entry)
    written = {entry.key for entry in entries}
    for setting in section.settings:
        made = _default(node, setting) if setting.key not in written else None
        if made is not None:
            entries.append(Entry(setting.key, node.place, made))
    return replace(node, entries=tuple(entries))


def _completed(node: Node, kind: Type) -> Node:
    """A written value in which every map of settings, also as an item of a list, is complete."""
    if isinstance(kind, Section):
        if isinstance(node, Scalar) and kind.short:
            node = Mapping((Entry(kind.short, node.place, node),), node.place)
        return _filled(node, kind) if isinstance(node, Mapping) else node
    if isinstance(kind, ListOf) and isinstance(kind.item, Section) and isinstance(node, Sequence):
        return replace(node, items=tuple(_completed(item, kind.item) for item in node.items))
    return node


def _default(around: Mapping, setting: Setting) -> Node | None:
    """The value of a setting nobody wrote; its place is that of the map it is missing from."""
    if isinstance(setting.type, Section):
        return _filled(Mapping((), around.place, default=True), setting.type)
    if isinstance(setting.type, MapOf):
        return Mapping((), around.place, default=True)
    if isinstance(setting.type, ListOf):
        items = [Scalar(setting.default, "text", around.place, default=True)] if setting.default else []
        return Sequence(tuple(items), around.place, default=True)
    if setting.default is None:
        return None
    # A default that depends on other settings is a template like any a user writes.
    kind = "str" if "{%" in setting.default else "text"
    return Scalar(setting.default, kind, around.place, default=True)
