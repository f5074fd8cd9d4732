"""Renders every template of a merged spec, each against the spec's own fields and the allowed host environment.

A field that is itself a template is rendered first when another one refers to it; a circle is E110.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from imgc.errors import Collector, ImgcError
from imgc.spec.nodes import Entry, Mapping, Node, Scalar, Sequence
from imgc.spec.settings import HOST_VARIABLES, REFERABLE, SPEC
from imgc.spec.template import MOST_RESULT, BadTemplate, Reference, Template, dotted, parse, render, undefined
from imgc.spec.types import Boolean, Integer, ListOf, MapOf, Refused, Section, Type
from imgc.spec.words import closest, show

#: How many templates may depend on one another in a row, and how much text all of them may render to.
MOST_CHAINED = 32
MOST_TEXT = 1 << 20


class _Absent:
    """The value of a reference to nothing."""


_ABSENT = _Absent()


def check_templates(node: Node, problems: Collector, *, literal: bool = False) -> None:
    """Find what is wrong with the templates of one file without rendering: syntax, and names that cannot exist."""
    if isinstance(node, Scalar):
        if node.is_template and not literal:
            try:
                _checked(node.text)
            except BadTemplate as bad:
                problems.add(_problem(bad, node))
    elif isinstance(node, Sequence):
        for item in node.items:
            check_templates(item, problems, literal=literal)
    else:
        for entry in node.entries:
            setting = SPEC.by_key.get(entry.key)
            kind = (
                setting.type.item
                if setting and isinstance(setting.type, ListOf)
                else setting and setting.type
            )
            check_templates(entry.value, problems, literal=literal or bool(kind and not kind.templates))


def render_templates(root: Mapping, host_environment: MappingType[str, str], problems: Collector) -> Mapping:
    """The same tree with every template rendered.  One that fails stays as it is, with a problem."""
    renderer = _Renderer(root, host_environment)
    rendered = renderer.tree(root, (), problems)
    return rendered if isinstance(rendered, Mapping) else root


class _Renderer:
    """Renders on demand and remembers; ``_active`` is the chain of fields being rendered."""

    def __init__(self, root: Mapping, host_environment: MappingType[str, str]) -> None:
        self._root = root
        self._host = host_environment
        self._done: dict[Reference, str | ImgcError] = {}
        self._active: list[Reference] = []
        self._written = 0

    def tree(self, node: Node, path: Reference, problems: Collector) -> Node:
        """``node`` with its templates rendered."""
        if isinstance(node, Scalar):
            if not node.is_template:
                return node
            try:
                return replace(node, text=self._text(node, path), kind="text")
            except ImgcError as problem:
                problems.add(problem)
                return node
        if isinstance(node, Sequence):
            items = tuple(self.tree(item, (*path, i), problems) for i, item in enumerate(node.items))
            return replace(node, items=items)
        entries = tuple(_with_value(e, self.tree(e.value, (*path, e.key), problems)) for e in node.entries)
        return replace(node, entries=entries)

    def _text(self, node: Scalar, path: Reference) -> str:
        """The text of a scalar, rendered once."""
        if not node.is_template:
            return node.text
        if path not in self._done:
            self._enter(node, path)
            try:
                self._done[path] = self._render(_checked(node.text))
            except BadTemplate as bad:
                self._done[path] = _problem(bad, node)
            except ImgcError as problem:
                self._done[path] = problem
            finally:
                self._active.pop()
        done = self._done[path]
        if isinstance(done, ImgcError):
            raise done
        return done

    def _enter(self, node: Scalar, path: Reference) -> None:
        """Note that ``path`` is being rendered; E110 when it is already, or when the chain is too long."""
        if path in self._active:
            circle = [*self._active[self._active.index(path) :], path]
            chain = " → ".join(dotted(each) for each in circle)
            raise _problem(
                BadTemplate("E110", f"The templates refer to each other in a circle: {chain}."), node
            )
        if len(self._active) >= MOST_CHAINED:
            said = f"More than {MOST_CHAINED} templates refer to one another in a row."
            raise _problem(BadTemplate("E110", said), node)
        self._active.append(path)

    def _render(self, template: Template) -> str:
        if self._written > MOST_TEXT:
            raise BadTemplate(
                "E110", f"The templates of a platform render to at most {MOST_TEXT} characters."
            )
        values = {path: self._lookup(path) for path in template.references}
        missing = [path for path, value in values.items() if isinstance(value, _Absent)]
        context: dict[str, Any] = {}
        for path in missing:
            # An empty map makes the missing part undefined, and not the map around it.
            _put(context, (*path[:-1], ""), "")
        for path in sorted(values, key=len, reverse=True):  # a whole map after the parts of it that are named
            if path not in missing:
                _put(context, path, values[path])
        try:
            text = render(template, context, tuple(missing))
        except BadTemplate as bad:
            raise self._explained(bad, missing) from None
        self._written += len(text)
        return text

    def _explained(self, bad: BadTemplate, missing: list[Reference]) -> BadTemplate:
        """An E111 with the best hint for what is missing."""
        path = next((each for each in missing if bad.said == undefined(each).said), None)
        if path is None:
            return bad
        if path[0] == "env":
            return undefined(
                path, hint=f"Set {path[1]} in the environment in which imgc runs, or use `default`."
            )
        holder = _find(self._root, path[:-1])
        names = (entry.key for entry in holder.entries) if isinstance(holder, Mapping) else ()
        guess = closest(str(path[-1]), names)
        return undefined(path, f"Did you mean `{dotted((*path[:-1], guess))}`?" if guess else "")

    def _lookup(self, path: Reference) -> Any:
        """What a reference stands for, or :data:`_ABSENT`."""
        if path[0] == "env":
            return self._host_value(str(path[1]))
        node = _find(self._root, path)
        return _ABSENT if node is None else self._plain(node, path, _type_of(path))

    def _host_value(self, name: str) -> str | _Absent:
        value = self._host.get(name)
        if value is None:
            return _ABSENT
        if len(value) > MOST_RESULT or any("\ud800" <= c <= "\udfff" for c in value):
            raise BadTemplate("E110", f"The host's variable {show(name)} is not short UTF-8 text.")
        return value

    def _plain(self, node: Node, path: Reference, kind: Type | None) -> Any:
        if isinstance(node, Sequence):
            return [self._plain(item, (*path, i), _inner(kind, i)) for i, item in enumerate(node.items)]
        if isinstance(node, Mapping):
            return {e.key: self._plain(e.value, (*path, e.key), _inner(kind, e.key)) for e in node.entries}
        text = self._text(node, path)
        if isinstance(kind, (Boolean, Integer)):
            try:
                return kind.read(replace(node, text=text, kind="text"))
            except Refused:
                return text
        return text


def _checked(source: str) -> Template:
    """A template whose references can exist.  Raises :class:`BadTemplate`."""
    template = parse(source)
    for path in template.references:
        _check_reference(path)
    return template


def _check_reference(path: Reference) -> None:
    """E111 for what no spec can define: an unknown name, a part of a scalar, a host variable that is not allowed."""
    if path[0] == "env":
        _check_host_variable(path)
        return
    if path[0] not in REFERABLE:
        raise undefined(path[:1], _meant(path[:1], _anywhere()))
    kind: Type | None = SPEC
    for i, part in enumerate(path):
        if isinstance(kind, Section) and part not in kind.by_key:
            names = {key: dotted((*path[:i], key)) for key in kind.by_key}
            raise undefined(path[: i + 1], _meant(path[: i + 1], names))
        inner = _inner(kind, part)
        if inner is None:
            raise undefined(path[: i + 1], hint=f"`{dotted(path[:i])}` has no such part.")
        kind = inner


def _anywhere() -> dict[str, str]:
    """What a reference may start with, and every setting of a section by its last name."""
    sections = [setting for setting in SPEC.settings if isinstance(setting.type, Section)]
    inner = {
        i.key: f"{s.key}.{i.key}" for s in sections if isinstance(s.type, Section) for i in s.type.settings
    }
    return inner | {name: name for name in (*REFERABLE, "env")}


def _meant(path: Reference, names: MappingType[str, str]) -> str:
    """A hint that names what the last part of ``path`` may have been meant to be; ``names`` are written in full."""
    guess = closest(str(path[-1]), names)
    return f"Did you mean `{names[guess]}`?" if guess else "The spec's own fields and `env` are known here."


def _check_host_variable(path: Reference) -> None:
    allowed = ", ".join(f"`{name}`" for name in HOST_VARIABLES)
    if len(path) != 2:
        raise undefined(path, hint=f"Write `env.NAME`; specs may read {allowed}.")
    if not any(fnmatchcase(str(path[1]), pattern) for pattern in HOST_VARIABLES):
        said = f"Specs may not read {show(str(path[1]))} from the host's environment."
        raise BadTemplate(
            "E111", said, f"They may read {allowed}; anything else would make builds differ by host."
        )


def _inner(kind: Type | None, part: str | int) -> Type | None:
    """The type of one part of a container, or None when it can have no such part."""
    if isinstance(kind, Section) and isinstance(part, str):
        setting = kind.by_key.get(part)
        return setting.type if setting else None
    if isinstance(kind, MapOf) and isinstance(part, str):
        return kind.item
    if isinstance(kind, ListOf) and isinstance(part, int) and part >= 0:
        return kind.item
    return None


def _type_of(path: Reference) -> Type | None:
    kind: Type | None = SPEC
    for part in path:
        kind = _inner(kind, part)
    return kind


def _find(root: Node, path: Reference) -> Node | None:
    """The node at ``path``, or None."""
    node: Node | None = root
    for part in path:
        if isinstance(node, Mapping) and isinstance(part, str):
            node = node.get(part)
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            return None
    return node


def _put(context: dict[str, Any], path: Reference, value: Any) -> None:
    """Place a value where the template looks for it.  A list of which only some items are named is a map of those."""
    holder: dict[Any, Any] = context
    for part in path[:-1]:
        holder = holder.setdefault(part, {})
    holder[path[-1]] = value


def _with_value(entry: Entry, value: Node) -> Entry:
    return replace(entry, value=value)


def _problem(bad: BadTemplate, node: Scalar) -> ImgcError:
    return ImgcError(bad.code, bad.said, hint=bad.hint, place=node.place)
