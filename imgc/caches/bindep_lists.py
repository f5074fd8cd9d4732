"""Lists of packages in bindep's syntax: read line by line, so that a bad line costs that line only.

bindep's grammar knows no rule of several lines, so each line is parsed by itself, once in this process however many
branches have it; which rules count for a platform is bindep's own decision.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from imgc.errors import ImgcError, Place

#: Files with packages, in the order in which a project is asked for them: the first that is there counts.
FILES = ("bindep.txt", "other-requirements.txt")

#: A larger file is no list of packages (bytes).  The largest of OpenStack have a tenth of that.
MOST_BYTES = 64 << 10

#: Nor is a longer line a rule (characters).
_LONGEST = 1000

#: So many bad lines of a file are told one by one.
_TOLD = 5

#: A rule of bindep: the package's name, its selectors, the versions that will do.
Rule = tuple[str, Any, Any]


@dataclass(frozen=True)
class Bad:
    """A line that cannot be read: ``line`` and ``column`` from 1 (0 is the file as a whole), and why."""

    line: int
    column: int
    why: str


@dataclass(frozen=True)
class Lines:
    """What a file has: lines with a rule, in their order, and what is wrong with the others."""

    rules: tuple[str, ...]
    bad: tuple[Bad, ...] = ()


def read_list(content: bytes) -> Lines:
    """The rules of one file.  Whatever the bytes are, there is an answer."""
    if len(content) > MOST_BYTES:
        why = f"it has {len(content)} bytes, more than a list of packages can have ({MOST_BYTES})"
        return Lines((), (Bad(0, 0, why),))
    rules: list[str] = []
    bad: list[Bad] = []
    # As Python reads text: any of the three ends a line.
    for number, raw in enumerate(re.split(rb"\r\n|\n|\r", content), 1):
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            bad.append(Bad(number, error.start + 1, "this is not UTF-8"))
            continue
        if not line.strip(" ") or line.lstrip(" ").startswith("#"):
            continue
        column = _wrong_at(line)
        if column:
            bad.append(Bad(number, column, f"bindep cannot read `{_shortened(line)}`"))
        else:
            rules.append(line)
    return Lines(tuple(rules), tuple(bad))


def findings(lines: Lines, file: str) -> Iterator[ImgcError]:
    """E656 for the bad lines of a file: the first ones each, the rest in one."""
    for one in lines.bad[:_TOLD]:
        said = f"{file} cannot be read: {one.why}." if not one.line else f"{_capital(one.why)}."
        yield ImgcError("E656", said, place=Place(file, one.line, one.column))
    rest = lines.bad[_TOLD:]
    if rest:
        said = f"{len(rest)} further lines of {file} cannot be read, too."
        yield ImgcError("E656", said, place=Place(file, rest[0].line, rest[0].column))


def packages_of(rules: Iterable[str], profiles: frozenset[str]) -> tuple[str, ...]:
    """The packages that these lines ask for where ``profiles`` are active (the platform's among them), sorted."""
    return tuple(sorted({_rule(line)[0] for line in rules if _is_active(line, profiles)}))


def _wrong_at(line: str) -> int:
    """The column, from 1, at which bindep's grammar does not know what a line means; 0 when it does."""
    if len(line) > _LONGEST:
        return _LONGEST + 1
    found = _parsed(line)
    return found if isinstance(found, int) else 0


def _rule(line: str) -> Rule:
    found = _parsed(line)
    assert not isinstance(found, int), line
    return found


@cache
def _grammar() -> Any:
    """bindep's grammar, compiled: that takes half a second, and bindep does it for every file."""
    from bindep import depends

    return depends.makeGrammar(depends.grammar, {})


@cache
def _parsed(line: str) -> Rule | int:
    """The rule of one line, or the column (from 1) at which it cannot be read."""
    from bindep import depends

    try:
        rules = _grammar()(f"{line}\n").rules()
    # As in bindep: its parser raises whatever it comes across, RecursionError among it.
    except Exception as error:
        position = getattr(error, "position", None)
        # It is behind the character that does not fit.
        return max(1, min(position, len(line) + 1)) if isinstance(position, int) else 1
    (rule,) = rules
    # bindep does not look at versions before it compares them.
    for _operator, version in rule[2]:
        try:
            depends.debversion_compiled(version).debversion()
        except Exception:
            return line.rfind(version) + 1
    return rule[0], rule[1], rule[2]


@cache
def _is_active(line: str, profiles: frozenset[str]) -> bool:
    from bindep import depends

    evaluator = depends.Depends.__new__(depends.Depends)
    # What the constructor does with a text, for a rule that is parsed already.
    evaluator._rules = [_rule(line)]
    return bool(evaluator.active_rules(profiles))


def _shortened(line: str) -> str:
    text = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line
    )
    return text if len(text) <= 60 else f"{text[:59]}…"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] if text[:1] != "b" else text
