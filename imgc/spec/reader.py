"""Bytes of a YAML file to a tree of nodes with places.  No input gives anything but a tree and problems.

PyYAML's pure-Python parser is used on purpose: its events, marks and messages are the same on every machine, and
nothing in it recurses over the input.  The tree is composed here, with bounds on depth and size, because PyYAML's
own composer recurses, loses duplicate keys, and lets a few aliases grow without limit.
"""

from __future__ import annotations

import re

import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)
from yaml.nodes import ScalarNode

from imgc.errors import Collector, ImgcError, Place
from imgc.spec.nodes import Entry, Mapping, Node, Scalar, Sequence
from imgc.spec.settings import MOST_BYTES
from imgc.spec.words import show

#: Bounds: levels of nesting, and nodes in the tree with every alias written out.
MOST_LEVELS = 32
MOST_NODES = 10_000

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CORE = "tag:yaml.org,2002:"
_KINDS = ("str", "int", "float", "bool", "null")
#: What YAML 1.1 has types for and specs do not: their text is a string.
_AS_STRING = ("timestamp", "merge", "value")


def parse(data: bytes, file: str, problems: Collector) -> Node | None:
    """The tree of one document, or None (and a problem) when the bytes are not one YAML document.

    Problems that leave the rest of the file readable, such as a duplicate key, are added and reading goes on.
    ``file`` is the name that places carry.
    """
    try:
        return _Composer(_text(data, file), file, problems).document()
    except ImgcError as problem:
        problems.add(problem)
        return None


def _text(data: bytes, file: str) -> str:
    """The file's text, or E102 where it stops being text."""
    if len(data) > MOST_BYTES:
        raise ImgcError("E102", f"A spec has at most {MOST_BYTES // 1024} KiB.", place=Place(file))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", "replace")
        raise ImgcError(
            "E102",
            f"Not UTF-8: the byte 0x{data[error.start]:02x}.",
            hint="Save the file as UTF-8 text.",
            place=_place(before, len(before), file),
        ) from None
    found = _UNPRINTABLE.search(text)
    if found:
        raise ImgcError(
            "E102",
            f"The control character U+{ord(found.group()):04X}.",
            hint="Is this a text file? In YAML, control characters are written as escapes in double quotes.",
            place=_place(text, found.start(), file),
        )
    return text


def _place(text: str, offset: int, file: str) -> Place:
    """The place of ``text[offset]``, counting lines as YAML does."""
    breaks = list(_BREAK.finditer(text, 0, offset))
    return Place(file, len(breaks) + 1, offset - (breaks[-1].end() if breaks else 0) + 1)


class _Composer:
    """Builds the tree of one file from the parser's events."""

    def __init__(self, text: str, file: str, problems: Collector) -> None:
        self._loader = yaml.SafeLoader(text)
        self._file = file
        self._problems = problems
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._open: set[str] = set()
        self._nodes = 0

    def document(self) -> Node:
        """The one document of the stream; an empty stream is an empty value."""
        self._next()  # the start of the stream
        event = self._next()
        if isinstance(event, StreamEndEvent):
            return Scalar("", "null", Place(self._file, 1, 1))
        root = self._node(self._next(), 0)
        self._next()  # the end of the document
        event = self._next()
        if isinstance(event, DocumentStartEvent):
            self._refuse(
                event, "A second document.", "One file holds one spec: remove `---` and what follows it."
            )
        return root

    def _next(self) -> Event:
        """The parser's next event; E102 when the text is not YAML."""
        try:
            event: Event = self._loader.get_event()  # type: ignore[no-untyped-call]
            return event
        except yaml.YAMLError as error:
            raise self._syntax(error) from None
        except (ValueError, OverflowError):
            # The scanner converts escapes and version numbers without checking their range.
            mark = self._loader.get_mark()
            place = Place(self._file, mark.line + 1, mark.column + 1)
            raise ImgcError("E102", "Not YAML: a number or an escape out of range.", place=place) from None

    def _syntax(self, error: yaml.YAMLError) -> ImgcError:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = Place(self._file, mark.line + 1, mark.column + 1) if mark else Place(self._file)
        said = str(getattr(error, "problem", None) or getattr(error, "context", None) or error)
        hint = ""
        if "'\\t'" in said:
            hint = "Indent with spaces; YAML does not allow tabs there."
        elif "mapping values are not allowed" in said:
            hint = "Check the indentation, and quote a value that contains `: `."
        elif "'%'" in said or "'@'" in said or "'`'" in said:
            hint = "Quote a value that starts with this character."
        return ImgcError("E102", f"Not YAML: {said}.", hint=hint, place=place)

    def _node(self, event: Event, depth: int) -> Node:
        """The tree that starts with ``event``."""
        self._count(1, event)
        if depth > MOST_LEVELS:
            raise self._error(event, f"More than {MOST_LEVELS} levels of nesting.", "")
        if isinstance(event, AliasEvent):
            return self._alias(event)
        anchor = getattr(event, "anchor", None)
        before = self._nodes
        if anchor:
            self._open.add(anchor)
        if isinstance(event, ScalarEvent):
            node: Node = self._scalar(event)
        elif isinstance(event, MappingStartEvent):
            node = self._mapping(event, depth)
        else:
            node = self._sequence(event, depth)
        if anchor:
            self._open.discard(anchor)
            self._anchors[anchor] = (node, self._nodes - before + 1)
        return node

    def _alias(self, event: AliasEvent) -> Node:
        name = str(event.anchor)
        if name in self._open:
            raise self._error(event, f"The alias {show(f'*{name}')} stands inside what it names.", "")
        if name not in self._anchors:
            raise self._error(event, f"No anchor {show(f'&{name}')} before this alias.", "")
        node, size = self._anchors[name]
        self._count(size, event)
        return node

    def _scalar(self, event: ScalarEvent) -> Scalar:
        place = self._place(event)
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._loader.resolve(ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]
        kind = tag[len(_CORE) :] if tag.startswith(_CORE) else ""
        if tag == "!replace":
            self._refuse(
                event, "`!replace` stands before a list or a map.", "Write `!replace []` for an empty list."
            )
        elif kind not in _KINDS and kind not in _AS_STRING:
            self._refuse(event, f"The tag {show(_tag_words(tag))}.", "Specs know one tag, `!replace`.")
        bad = next((c for c in event.value if c == "\0" or "\ud800" <= c <= "\udfff"), None)
        if bad is not None:
            raise self._error(event, f"The character U+{ord(bad):04X} cannot be part of a value.", "")
        return Scalar(event.value, kind if kind in _KINDS else "str", place)

    def _sequence(self, event: Event, depth: int) -> Sequence:
        replace = self._replaces(event, "seq")
        items = []
        while not isinstance(inner := self._next(), SequenceEndEvent):
            items.append(self._node(inner, depth + 1))
        return Sequence(tuple(items), self._place(event), replace)

    def _mapping(self, event: Event, depth: int) -> Mapping:
        replace = self._replaces(event, "map")
        entries: dict[str, Entry] = {}
        while not isinstance(inner := self._next(), MappingEndEvent):
            key = self._node(inner, depth + 1)
            value = self._node(self._next(), depth + 1)
            place = self._place(inner)
            if not isinstance(key, Scalar):
                hint = "A value that starts with `{{` has to be quoted."
                self._refuse(inner, "A key that is itself a list or a map.", hint)
            elif key.text == "<<" and isinstance(inner, ScalarEvent) and inner.implicit[0]:
                hint = "Put what is shared into a file of its own and use `extends`."
                self._refuse(inner, "The merge key `<<`.", hint)
            elif key.text in entries:
                first = entries[key.text].place
                said = (
                    f"{show(key.text)} is written twice, first at line {first.line}, column {first.column}."
                )
                self._problems.add(ImgcError("E104", said, hint="Join the two, or remove one.", place=place))
            else:
                entries[key.text] = Entry(key.text, place, value)
        return Mapping(tuple(entries.values()), self._place(event), replace)

    def _replaces(self, event: Event, own: str) -> bool:
        """Whether a collection is tagged ``!replace``; any tag but that and its own is a problem."""
        tag = event.tag if isinstance(event, CollectionStartEvent) else None
        if tag not in (None, "!", "!replace", _CORE + own):
            self._refuse(event, f"The tag {show(_tag_words(tag))}.", "Specs know one tag, `!replace`.")
        return tag == "!replace"

    def _count(self, nodes: int, event: Event) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            raise self._error(event, f"More than {MOST_NODES} values, with every alias written out.", "")

    def _place(self, event: Event) -> Place:
        mark = event.start_mark
        return Place(self._file, mark.line + 1, mark.column + 1) if mark else Place(self._file)

    def _error(self, event: Event, message: str, hint: str) -> ImgcError:
        return ImgcError("E103", message, hint=hint, place=self._place(event))

    def _refuse(self, event: Event, message: str, hint: str) -> None:
        self._problems.add(self._error(event, message, hint))


def _tag_words(tag: str) -> str:
    """A tag as a user writes it: ``!!set`` for ``tag:yaml.org,2002:set``."""
    return "!!" + tag[len(_CORE) :] if tag.startswith(_CORE) else tag
