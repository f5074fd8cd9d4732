"""The values that files of environment.d give to variables, as far as the plain part of the shell's language goes.

Known are assignments (exported or not), quotes, ``if``, tests of strings and numbers, and the usual expansions of
parameters.  Nothing is run.  A value that would need more (a command, an array) makes its variable unknown; a
construct that is not known ends the reading of its file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: A name, then what assigns: ``=`` or ``+=``.
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?=)(.*)", re.DOTALL)
_PARAMETER = re.compile(r"([A-Za-z_]\w*)(?:(:?[-+=])(.*)|(//?)([^/*?\[\\]+)/?(.*))?", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*")
_PLAIN = re.compile(r"[^\s;\\'\"$`})]+")

#: What makes a special parameter of a ``$`` before it.
_SPECIAL = tuple("0123456789@*#?-$!'\"")

#: First words of constructs whose end is not known here.
_UNKNOWN = ("for", "while", "until", "case", "select", "function", "{", "(", "((", "return", "exit")

_NUMBERS = {
    "-eq": int.__eq__,
    "-ne": int.__ne__,
    "-lt": int.__lt__,
    "-le": int.__le__,
    "-gt": int.__gt__,
    "-ge": int.__ge__,
}


class _UnclearError(Exception):
    """What the text says depends on more than is known here."""


def assign(text: str, values: dict[str, str]) -> None:
    """Apply the assignments of one file to ``values``; what becomes unknown is taken out of it."""
    # For each open `if`: whether its current branch is taken, and whether one has been.
    branches: list[tuple[bool, bool]] = []
    try:
        for statement in _statements(text):
            if not _branch(statement, branches, values) and all(taken for taken, _ in branches):
                _assignments(statement, values)
    except (_UnclearError, IndexError):
        # Whatever else follows, what a file takes back at its end is not there.
        for names in re.findall(r"(?m)^unset ([\w ]+)$", text):
            _assignments(["unset", *names.split()], values)


def _branch(words: list[str], branches: list[tuple[bool, bool]], values: dict[str, str]) -> bool:
    """Follow ``if``, ``elif``, ``else`` and ``fi``.  False for every other statement."""
    word = words[0]
    if word == "if":
        outside = all(taken for taken, _ in branches)
        taken = outside and _holds(words[1:], values)
        branches.append((taken, taken or not outside))
    elif word in ("elif", "else") and branches:
        _, done = branches.pop()
        taken = not done and all(one for one, _ in branches) and (word == "else" or _holds(words[1:], values))
        branches.append((taken, done or taken))
    elif word == "fi" and branches:
        branches.pop()
    else:
        return False
    return True


def _assignments(words: list[str], values: dict[str, str]) -> None:
    """``[export] NAME=value …`` or ``unset NAME …``; any other command changes nothing that is known here."""
    if (
        words[0] in _UNKNOWN
        or words[0].endswith("()")
        or words[-1] == "{"
        or any("<<" in word for word in words)
    ):
        raise _UnclearError
    if words[0] == "unset":
        for name in words[1:]:
            values.pop(name, None)
        return
    exported = words[0] == "export"
    assigned = [_ASSIGNMENT.fullmatch(word) for word in (words[1:] if exported else words)]
    array = assigned and assigned[0] and assigned[0][3].startswith("(")
    if not exported and not array and not all(assigned):
        return
    for one in assigned:
        if one is None:
            continue
        name, sign, raw = one.groups()
        try:
            if raw.startswith("("):
                raise _UnclearError
            values[name] = (values.get(name, "") if sign == "+=" else "") + _expanded(raw, values)
        except _UnclearError:
            values.pop(name, None)


def _statements(text: str) -> Iterator[list[str]]:
    """The words of each statement, still quoted; ``then`` and its like are not words."""
    words: list[str] = []
    word, place = "", 0
    while place <= len(text):
        sign = text[place : place + 1]
        if sign == "" or sign in " \t\n;":
            if word and not (not words and word in ("then", "do")):
                words.append(word)
            word = ""
            if (sign in ("", "\n", ";") or words == ["else"]) and words:
                yield words
                words = []
            place += 1
        elif sign == "#" and not word:
            end = text.find("\n", place)
            place = end if end >= 0 else len(text)
        elif text.startswith("\\\n", place):
            place += 2
        else:
            end = _after(text, place)
            word += text[place:end]
            place = end


def _after(text: str, place: int, *, quoted: bool = False) -> int:
    """The index after the character, quotation or expansion that begins at ``place``."""
    sign = text[place]
    if sign == "\\":
        return place + 2
    if sign == "'" and not quoted:
        end = text.find("'", place + 1)
        if end < 0:
            raise _UnclearError
        return end + 1
    opening = next((one for one in ('"', "${", "$(", "`") if text.startswith(one, place)), "")
    if not opening or (quoted and opening == '"'):
        plain = _PLAIN.match(text, place)
        return plain.end() if plain else place + 1
    closing = {'"': '"', "${": "}", "$(": ")", "`": "`"}[opening]
    place += len(opening)
    while text[place] != closing:
        place = _after(text, place, quoted=opening == '"')
    return place + 1


def _expanded(raw: str, values: dict[str, str], *, quoted: bool = False) -> str:
    """The value of a word: quotes removed, parameters put in."""
    made, place = "", 0
    while place < len(raw):
        end = _after(raw, place, quoted=quoted)
        piece = raw[place:end]
        if piece.startswith(("$(", "`")):
            raise _UnclearError
        if piece.startswith("\\"):
            kept = quoted and piece[1:] not in ('"', "\\", "$", "`", "\n")
            made += piece if kept else piece[1:].replace("\n", "")
        elif piece.startswith("'") and not quoted:
            made += piece[1:-1]
        elif piece.startswith('"') and not quoted:
            made += _expanded(piece[1:-1], values, quoted=True)
        elif piece.startswith("${"):
            made += _parameter(piece[2:-1], values)
        elif piece == "$":
            name = _NAME.match(raw, end)
            if name:
                made += values.get(name[0], "")
                end = name.end()
            elif raw[end : end + 1] in _SPECIAL:
                raise _UnclearError
            else:
                made += piece
        else:
            made += piece
        place = end
    return made


def _parameter(inner: str, values: dict[str, str]) -> str:
    """What stands between the braces of ``${…}``."""
    found = _PARAMETER.fullmatch(inner)
    if not found:
        raise _UnclearError
    name, sign, other, slash, old, new = found.groups()
    value = values.get(name)
    if slash:
        return (value or "").replace(
            _expanded(old, values), _expanded(new, values), -1 if slash == "//" else 1
        )
    if not sign:
        return value or ""
    there = bool(value) if sign.startswith(":") else value is not None
    if sign.endswith("+"):
        return _expanded(other, values) if there else ""
    if there:
        return value or ""
    default = _expanded(other, values)
    if sign.endswith("="):
        values[name] = default
    return default


def _holds(words: list[str], values: dict[str, str]) -> bool:
    """Whether a condition holds: ``[ … ]`` or ``[[ … ]]``.  Files of the host are taken not to be there."""
    if not words or words[0] not in ("[", "[[") or words[-1] not in ("]", "]]"):
        raise _UnclearError
    inside = words[1:-1]
    for sign in ("-o", "||"):
        if sign in inside:
            cut = inside.index(sign)
            return _holds(["[", *inside[:cut], "]"], values) or _holds(["[", *inside[cut + 1 :], "]"], values)
    for sign in ("-a", "&&"):
        if sign in inside:
            cut = inside.index(sign)
            return _holds(["[", *inside[:cut], "]"], values) and _holds(
                ["[", *inside[cut + 1 :], "]"], values
            )
    if inside[:1] == ["!"]:
        return not _holds(["[", *inside[1:], "]"], values)
    return _test(inside, values)


def _test(words: list[str], values: dict[str, str]) -> bool:
    """One test, without what joins several."""
    if len(words) == 1:
        return bool(_expanded(words[0], values))
    if len(words) == 2:
        value = _expanded(words[1], values)
        if words[0] in ("-n", "-z"):
            return bool(value) == (words[0] == "-n")
        if words[0] in ("-e", "-f", "-d", "-s", "-r", "-x"):
            return False
    if len(words) != 3:
        raise _UnclearError
    left, right = _expanded(words[0], values), _expanded(words[2], values)
    if words[1] in ("=", "==", "!="):
        return (left == right) == (words[1] != "!=")
    if words[1] == "=~":
        pattern = re.escape(right) if words[2].startswith(('"', "'")) else right
        try:
            return re.search(pattern, left) is not None
        except re.error:
            raise _UnclearError from None
    if words[1] in _NUMBERS and left.strip("-").isdigit() and right.strip("-").isdigit():
        return bool(_NUMBERS[words[1]](int(left), int(right)))
    raise _UnclearError
