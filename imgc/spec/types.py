"""The types a setting can have: how each is read, described to a person, and described to an editor.

A scalar type turns a :class:`~imgc.spec.nodes.Scalar` into a Python value or raises :class:`Refused`.  Container
types only say what they hold; :mod:`imgc.spec.validate` walks them.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field
from typing import Any

from imgc.errors import Place
from imgc.spec.nodes import Scalar, describe
from imgc.spec.words import did_you_mean, one_of, show

#: The JSON Schema of a value that holds a template: it is a string, whatever it renders to.
TEMPLATE = {"type": "string", "pattern": r"\{\{|\{%"}

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
_UNITS = {"KiB": KIB, "K": KIB, "MiB": MIB, "M": MIB, "GiB": GIB, "G": GIB, "TiB": TIB, "T": TIB}
_SIZE = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))? ?([A-Za-z]*)")


class Refused(Exception):
    """Why a scalar is not a value of a type.  ``said`` completes the sentence "`the.setting` …"."""

    def __init__(self, code: str, said: str, hint: str = "") -> None:
        super().__init__(said)
        self.code = code
        self.said = said
        self.hint = hint


class Type(abc.ABC):
    """What all types share.  ``templates`` is whether a value may be a template."""

    templates = True

    @abc.abstractmethod
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of a value as it is written in YAML."""

    @abc.abstractmethod
    def words(self) -> str:
        """What a reader of the documentation may write."""


class ScalarType(Type):
    """A type whose values are written as one scalar."""

    @abc.abstractmethod
    def read(self, scalar: Scalar) -> Any:
        """The value of ``scalar``; :class:`Refused` when it has none."""

    @abc.abstractmethod
    def own_schema(self) -> dict[str, Any]:
        """The JSON Schema of a value that is not a template."""

    def schema(self) -> dict[str, Any]:
        if not self.templates:
            return {**self.own_schema(), "not": TEMPLATE}
        return {"anyOf": [self.own_schema(), TEMPLATE]}


def _string(scalar: Scalar) -> str:
    """The text of a scalar that is a string; other kinds are refused, for YAML would change some of them."""
    if scalar.kind == "null":
        raise Refused("E107", "has no value.", "Give it one, or remove the key.")
    if scalar.kind not in ("str", "text"):
        raise Refused("E107", f"wants a string; {show(scalar.text)} is {describe(scalar)}.", _quoted(scalar))
    return scalar.text


def _quoted(scalar: Scalar) -> str:
    return f'Quote it: "{scalar.text}".'


@dataclass(frozen=True)
class Text(ScalarType):
    """A string.  ``form`` is a regular expression for all of it, ``called`` what that form is called."""

    form: str = r"[^\x00]*"
    called: str = "a string"
    templates: bool = True

    def read(self, scalar: Scalar) -> str:
        text = _string(scalar)
        if not re.fullmatch(self.form, text):
            raise Refused("E109", f"wants {self.called}, not {show(text)}.")
        return text

    def own_schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^(?:{self.form})$"}

    def words(self) -> str:
        return self.called


@dataclass(frozen=True)
class Value(ScalarType):
    """What an environment variable can hold: a string, or a number taken exactly as it is written."""

    def read(self, scalar: Scalar) -> str:
        if scalar.kind in ("int", "float"):
            return scalar.text
        return _string(scalar)

    def own_schema(self) -> dict[str, Any]:
        return {"type": ["string", "number"]}

    def words(self) -> str:
        return "a string or a number"


@dataclass(frozen=True)
class Choice(ScalarType):
    """One of a few words."""

    values: tuple[str, ...]

    def read(self, scalar: Scalar) -> str:
        text = _string(scalar)
        if text not in self.values:
            guess = did_you_mean(text, self.values)
            raise Refused("E108", f"is {one_of(self.values)}, not {show(text)}.", guess)
        return text

    def own_schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}

    def words(self) -> str:
        return one_of(self.values)


@dataclass(frozen=True)
class Url(ScalarType):
    """A URL, or one of a few ``special`` words."""

    special: tuple[str, ...] = ()
    form: str = r"(?:https?|ftp|file)://[^\s\"'`$\\]+"

    def read(self, scalar: Scalar) -> str:
        text = _string(scalar)
        if text in self.special or re.fullmatch(self.form, text):
            return text
        raise Refused("E109", f"wants {self.words()}, not {show(text)}.", did_you_mean(text, self.special))

    def own_schema(self) -> dict[str, Any]:
        url = {"type": "string", "pattern": f"^{self.form}$"}
        return {"anyOf": [{"enum": list(self.special)}, url]} if self.special else url

    def words(self) -> str:
        return " or ".join([*([one_of(self.special).replace(" or ", ", ")] if self.special else []), "a URL"])


@dataclass(frozen=True)
class Boolean(ScalarType):
    """``true`` or ``false``."""

    def read(self, scalar: Scalar) -> bool:
        text = scalar.text
        if scalar.kind in ("bool", "text") and text in ("true", "false", "True", "False", "TRUE", "FALSE"):
            return text.lower() == "true"
        if scalar.kind == "null":
            raise Refused("E107", "has no value.", "Write `true` or `false`.")
        raise Refused(
            "E107", f"wants `true` or `false`, not {show(text)}.", "Write it without quotes, in full."
        )

    def own_schema(self) -> dict[str, Any]:
        return {"type": "boolean"}

    def words(self) -> str:
        return "`true` or `false`"


@dataclass(frozen=True)
class Integer(ScalarType):
    """A whole number, both bounds included."""

    least: int
    most: int
    templates: bool = True

    def read(self, scalar: Scalar) -> int:
        if scalar.kind == "null":
            raise Refused("E107", "has no value.", "Give it one, or remove the key.")
        text = scalar.text.strip() if scalar.kind == "text" else scalar.text
        if scalar.kind not in ("int", "text") or not re.fullmatch(r"[-+]?[0-9]+", text):
            hint = "Write it without quotes." if scalar.kind == "str" and text.isdecimal() else ""
            raise Refused("E107", f"wants a whole number, not {show(text)}.", hint)
        if len(text) > 20 or not self.least <= int(text) <= self.most:
            raise Refused("E109", f"is from {self.least} to {self.most}, not {show(text)}.")
        if re.match(r"[-+]?0[0-9]", text):
            # YAML 1.1 reads such a number as octal, YAML 1.2 as decimal.
            raise Refused("E109", f"is written without leading zeros, not {show(text)}.")
        return int(text)

    def own_schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}

    def words(self) -> str:
        return f"a whole number from {self.least} to {self.most}"


@dataclass(frozen=True)
class Size(ScalarType):
    """An amount of bytes with a binary unit, or one of a few ``special`` words, which read as None."""

    least: int
    most: int = 1024 * TIB
    multiple: int = 1
    special: tuple[str, ...] = ()

    def read(self, scalar: Scalar) -> int | None:
        if scalar.kind in ("int", "float"):
            raise Refused(
                "E109", f"wants a size with a unit, not {show(scalar.text)}.", "For example `4 GiB`."
            )
        text = _string(scalar).strip()
        if text in self.special:
            return None
        size = self._bytes(text)
        if size % self.multiple:
            raise Refused("E109", f"is a whole number of {amount(self.multiple)}, not {show(text)}.")
        if not self.least <= size <= self.most:
            raise Refused("E109", f"is from {amount(self.least)} to {amount(self.most)}, not {show(text)}.")
        return size

    def _bytes(self, text: str) -> int:
        found = _SIZE.fullmatch(text)
        if not found:
            raise Refused(
                "E109", f"wants {self.words()}, not {show(text)}.", did_you_mean(text, self.special)
            )
        whole, fraction, unit = found.groups()
        if unit not in _UNITS:
            guess = next(
                (name for name in _UNITS if unit and name.casefold()[0] == unit.casefold()[0]), "GiB"
            )
            hint = f"Units are KiB, MiB, GiB and TiB: `{whole} {guess}`."
            raise Refused("E109", f"wants a size with a binary unit, not {show(text)}.", hint)
        scale: int = 10 ** len(fraction or "")
        digits: str = whole + (fraction or "")
        size, rest = divmod(int(digits) * _UNITS[unit], scale)
        if rest:
            raise Refused("E109", f"is a whole number of bytes, not {show(text)}.")
        return size

    def own_schema(self) -> dict[str, Any]:
        words = "".join(f"{word}|" for word in self.special)
        return {"type": "string", "pattern": rf"^\s*(?:{words}[0-9]+(?:\.[0-9]+)? ?(?:[KMGT]iB|[KMGT]))\s*$"}

    def words(self) -> str:
        return " or ".join([*(f"`{word}`" for word in self.special), "a size such as `4 GiB`"])


def amount(size: int) -> str:
    """A size in words: the largest binary unit that divides it, or bytes."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]} {unit}"
    return f"{size} bytes"


@dataclass(frozen=True)
class ListOf(Type):
    """A list.  ``least`` items; of equal items only the first counts; ``single`` allows one item without a list."""

    item: Type
    least: int = 0
    single: bool = False

    def schema(self) -> dict[str, Any]:
        many: dict[str, Any] = {"type": "array", "items": self.item.schema()}
        if self.least:
            many["minItems"] = self.least
        return {"anyOf": [many, self.item.schema()]} if self.single else many

    def words(self) -> str:
        return (
            f"{self.item.words()}, or a list of them"
            if self.single
            else f"a list; each item {self.item.words()}"
        )


@dataclass(frozen=True)
class MapOf(Type):
    """A map with names of the user's choice."""

    name_form: str
    name_called: str
    item: ScalarType

    def schema(self) -> dict[str, Any]:
        names = {"pattern": f"^{self.name_form}$"}
        return {"type": "object", "propertyNames": names, "additionalProperties": self.item.schema()}

    def words(self) -> str:
        return f"a map; each key {self.name_called}, each value {self.item.words()}"


@dataclass(frozen=True)
class Setting:
    """One setting, declared once.

    ``default`` is the text a user would write for it; it may be a template over other settings, and then ``usually``
    says it in words.  ``own`` settings belong to the file that holds them and are not inherited.  ``variable`` is
    the environment variable through which elements see the setting.
    """

    key: str
    type: Type
    doc: str
    default: str | None = None
    usually: str = ""
    required: bool = False
    own: bool = False
    variable: str = ""


@dataclass(frozen=True)
class Section(Type):
    """A map of declared settings.  Where ``short`` names one, its value alone stands for a map of it."""

    settings: tuple[Setting, ...]
    short: str = ""
    by_key: MappingType[str, Setting] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_key", {setting.key: setting for setting in self.settings})

    def schema(self) -> dict[str, Any]:
        properties = {setting.key: _setting_schema(setting) for setting in self.settings}
        whole: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        if not self.short:
            return whole
        return {"anyOf": [whole, self.by_key[self.short].type.schema()]}

    def words(self) -> str:
        if self.short:
            return f"{self.by_key[self.short].type.words()}, or a map of settings with `{self.short}`"
        return "a map"


@dataclass(frozen=True)
class Format:
    """One output format, what it is for, and its options (:class:`Choice` settings with a default)."""

    name: str
    doc: str
    options: tuple[Setting, ...]


@dataclass(frozen=True)
class OutputType(Type):
    """An output: a map with ``format`` and that format's options, or the name of the format alone."""

    formats: tuple[Format, ...]
    format: Choice = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", Choice(tuple(each.name for each in self.formats)))

    def named(self, name: str) -> Format:
        return next(each for each in self.formats if each.name == name)

    def schema(self) -> dict[str, Any]:
        unknown = {"type": "object", "properties": {"format": TEMPLATE}, "required": ["format"]}
        return {"anyOf": [self.format.schema(), *(self._one(each) for each in self.formats), unknown]}

    def _one(self, each: Format) -> dict[str, Any]:
        options = {option.key: _setting_schema(option) for option in each.options}
        properties = {"format": {"const": each.name, "description": each.doc}, **options}
        return {
            "type": "object",
            "properties": properties,
            "required": ["format"],
            "additionalProperties": False,
        }

    def words(self) -> str:
        return f"{self.format.words()}, or a map of its options with `format`"


def _setting_schema(setting: Setting) -> dict[str, Any]:
    """The schema of a setting's type with its documentation and its default, unless that depends on others."""
    schema = {"description": setting.doc, **setting.type.schema()}
    if setting.default is not None and not setting.usually and isinstance(setting.type, ScalarType):
        kept = isinstance(setting.type, (Boolean, Integer))
        schema["default"] = (
            setting.type.read(Scalar(setting.default, "text", Place(""))) if kept else setting.default
        )
    return schema
