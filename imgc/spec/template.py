"""Templates: which Jinja2 expressions a value may hold, and rendering one.

A spec's template is an expression over the spec's own fields, not a program.  What it may hold is a list of allowed
syntax, checked before anything runs: no loops, calls, assignments or multiplication.  So a template's work and its
result are bounded by its own length and that of what it refers to, and every reference is known without rendering.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.exceptions import TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.sandbox import SandboxedEnvironment

from imgc.spec.words import did_you_mean, one_of, show

#: Characters in a template, in what it renders to, and levels of nesting in it.
MOST_SOURCE = 4096
MOST_RESULT = 16 * 1024
MOST_LEVELS = 40

#: A reference from a template: ``("base", "release")``, ``("elements", 0)``, ``("env", "IMGC_MIRROR")``.
Reference = tuple["str | int", ...]

_TEXT = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.If)
_VALUES = (nodes.Const, nodes.List, nodes.Tuple, nodes.Filter, nodes.Concat, nodes.Add)
_CONDITIONS = (nodes.CondExpr, nodes.Test, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not)
_ALLOWED = (*_TEXT, *_VALUES, *_CONDITIONS)
_FILTERS = ("default", "first", "int", "join", "last", "length", "lower", "replace", "trim", "upper")
_TESTS = ("defined", "eq", "in", "ne", "undefined")


class BadTemplate(Exception):
    """A template that cannot be used.  ``code`` is E110 or E111, ``said`` one sentence."""

    def __init__(self, code: str, said: str, hint: str = "") -> None:
        super().__init__(said)
        self.code = code
        self.said = said
        self.hint = hint


@dataclass(frozen=True)
class Template:
    """A template whose syntax was checked, and what it refers to, in order, each once."""

    source: str
    references: tuple[Reference, ...]


@functools.lru_cache(maxsize=1024)
def parse(source: str) -> Template:
    """Check a template's syntax.  Raises :class:`BadTemplate` (E110)."""
    if len(source) > MOST_SOURCE:
        raise BadTemplate("E110", f"A template has at most {MOST_SOURCE} characters.")
    try:
        tree = _environment().parse(source)
    except TemplateSyntaxError as error:
        raise BadTemplate(
            "E110", f"The template does not parse: {_said(error)}{_at(source, error.lineno)}."
        ) from None
    except (RecursionError, MemoryError):
        raise BadTemplate("E110", "The template is nested too deeply.") from None
    except (ValueError, OverflowError, UnicodeError) as error:
        # Numbers and escapes are converted by the lexer without a check of their own.
        raise BadTemplate("E110", f"The template does not parse: {error}.") from None
    return Template(source, tuple(dict.fromkeys(_references(tree, source, 0))))


def render(template: Template, context: Mapping[str, Any], missing: tuple[Reference, ...]) -> str:
    """Render with ``context`` (nested dicts and lists); ``missing`` are the references it does not hold.

    Raises :class:`BadTemplate`: E111 when a missing value is needed, E110 when an operation fails.
    """
    try:
        text: str = _environment().from_string(template.source).render(context)
    except BadTemplate:
        raise
    except UndefinedError as error:
        named = [path for path in missing if repr(path[-1]) in str(error)]
        if named:
            raise undefined(named[0]) from None
        raise BadTemplate("E111", f"The template needs a value that is not there: {_said(error)}.") from None
    except (
        TemplateError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        RecursionError,
        MemoryError,
    ) as error:
        raise BadTemplate("E110", f"The template cannot be rendered: {_said(error)}.") from None
    if len(text) > MOST_RESULT:
        raise BadTemplate("E110", f"A template renders to at most {MOST_RESULT} characters.")
    return text


def undefined(path: Reference, hint: str = "") -> BadTemplate:
    """E111 for a reference to nothing."""
    return BadTemplate("E111", f"{show(dotted(path))} is not defined.", hint)


def dotted(path: Reference) -> str:
    """``disk.label`` and ``elements[2]``: a reference as it is written."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _references(node: nodes.Node, source: str, depth: int) -> Iterator[Reference]:
    """Every reference in a syntax tree; E110 at the first construct that is not allowed."""
    if depth > MOST_LEVELS:
        raise BadTemplate("E110", "The template is nested too deeply.")
    if isinstance(node, (nodes.Name, nodes.Getattr, nodes.Getitem)):
        yield _path(node, source)
        return
    if not isinstance(node, _ALLOWED):
        what = type(node).__name__.lower()
        raise BadTemplate(
            "E110",
            f"A template cannot hold this ({what}){_at(source, node.lineno)}.",
            "Templates hold references, filters, comparisons and `if`; no loops, calls or assignments.",
        )
    if isinstance(node, nodes.Filter):
        _known(node.name, _FILTERS, "filter")
    if isinstance(node, nodes.Test):
        _known(node.name, _TESTS, "test")
    for child in node.iter_child_nodes():
        yield from _references(child, source, depth + 1)


def _path(node: nodes.Node, source: str) -> Reference:
    """The reference that a chain of ``.name``, ``["name"]`` and ``[0]`` writes."""
    parts: list[str | int] = []
    while not isinstance(node, nodes.Name):
        if isinstance(node, nodes.Getattr):
            part: Any = node.attr
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
            part = node.arg.value
        else:
            raise BadTemplate(
                "E110",
                f"A template can only take parts of the spec's own fields{_at(source, node.lineno)}.",
                "For example `base.release`, `environment.NAME`, `elements[0]`.",
            )
        if type(part) not in (str, int):  # a boolean is an int too, but no index
            raise BadTemplate("E110", f"{show(str(part))} cannot name a part of a field.")
        parts.append(part)
        node = node.node
        if len(parts) > MOST_LEVELS:
            raise BadTemplate("E110", "The template is nested too deeply.")
    return (node.name, *reversed(parts))


def _known(name: str, known: tuple[str, ...], what: str) -> None:
    if name not in known:
        hint = did_you_mean(name, known, f"There are {one_of(known).replace(' or ', ' and ')}.")
        raise BadTemplate("E110", f"No {what} {show(name)} in templates.", hint)


def _said(error: Exception) -> str:
    """What an exception says, without a full stop of its own."""
    return str(getattr(error, "message", None) or error).rstrip(".")


def _at(source: str, line: int) -> str:
    """Where in a template of several lines something is; nothing for a template of one line."""
    return f" (line {line} of the value)" if "\n" in source.rstrip("\n") else ""


class _Environment(SandboxedEnvironment):
    """Jinja2's sandbox, in which a name after a dot is always a key and never an attribute of a Python object."""

    def getitem(self, obj: Any, argument: Any) -> Any:
        try:
            return obj[argument]
        except (LookupError, TypeError):
            return self.undefined(obj=obj, name=argument)

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)


@functools.lru_cache(maxsize=1)
def _environment() -> _Environment:
    made = _Environment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_written)
    made.globals.clear()
    made.filters = {name: made.filters[name] for name in _FILTERS} | {"replace": _replace}
    made.tests = {name: made.tests[name] for name in _TESTS}
    return made


def _written(value: Any) -> Any:
    """What ``{{ value }}`` writes: booleans as in YAML; a list or a map has no text of its own."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple, dict)):
        raise BadTemplate(
            "E110", "A list or a map cannot be written out as it is.", "Use `join`, or take one item."
        )
    return value


def _replace(text: Any, old: str, new: str) -> str:
    """The filter ``replace``, bounded: a chain of plain ones grows without limit."""
    replaced = str(text).replace(old, new) if old else str(text)
    if len(replaced) > MOST_RESULT:
        raise BadTemplate("E110", f"A template renders to at most {MOST_RESULT} characters.")
    return replaced
