"""What a file of environment.d assigns, and from what: read off its text, without running it.

:func:`statements` splits a file into its top-level statements (an ``if`` with all that is in it is one).  Within a
statement everything that is mentioned is taken to flow into everything that is assigned, conditions included.  A
statement that may do anything else (fail, write a file, run a program that is not known to be harmless) has an
*effect*: what it mentions can then change the hook that comes after it, whatever that hook mentions.

The reader knows the plain part of the language.  A file with anything else in it (functions, arrays, here-documents)
is one statement with an effect, so what is not understood counts as too much, never as too little.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


@dataclass(frozen=True)
class Statement:
    """One statement of a file.

    ``assigned`` are the names that it may set or unset, ``exported`` those of them that programs see, ``sure``
    those that are set after it in any case, ``required`` those that must be set before it (the shell would stop).
    """

    text: str
    assigned: frozenset[str] = frozenset()
    exported: frozenset[str] = frozenset()
    sure: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    effect: bool = False


class _UnclearError(Exception):
    """The text has something that this reader does not know."""


class _Token(NamedTuple):
    """A word, or an operator (then ``text`` has nothing but its characters), and where it begins."""

    kind: str
    text: str
    start: int


#: Programs that only turn their arguments and their input into output, and do not fail over either.
_HARMLESS = frozenset({":", "true", "echo", "printf", "tr", "sort", "uniq", "sed", "unset", "export"})
_PARTICULAR = frozenset({"tr", "sort", "uniq", "sed"})
_OPENING = frozenset({"if", "while", "until", "for", "case"})
_CLOSING = {"fi", "done", "esac"}
_CONDITIONS = frozenset({"if", "elif", "while", "until"})
_FILLERS = frozenset({"then", "else", "do", "!", "time"})

_OPERATOR = re.compile(r";;&?|;&|&&|\|\||\|&|[0-9]*(?:>>|>\||>&|&>>|&>|<<<|<<-?|<&|<>|>|<)|[;&|()\n]")
_PLAIN = re.compile(r"[^\s;&|<>()'\"\\$`]+")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)\+?=")
_NAME = re.compile(r"[A-Za-z_]\w*")
_REFERENCE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{[#!]?([A-Za-z_]\w*)(?:\[[^\]]*\])?(:?[-+=?])?)")
_NOWHERE = re.compile(r"/dev/null|[0-9]")
_ALL_EXPORTED = re.compile(r"\bset\s+-\w*a|\ballexport\b")


@lru_cache(maxsize=1024)
def statements(data: bytes) -> tuple[Statement, ...]:
    """The statements of a file of environment.d, in order."""
    text = data.decode("utf-8", "replace").replace("\\\n", "")
    try:
        if _ALL_EXPORTED.search(text):
            raise _UnclearError
        return tuple(_Reader(text).statements())
    except (_UnclearError, IndexError):
        names = frozenset(_NAME.findall(text))
        return (Statement(text, names, names, required=_required(text), effect=True),)


class _Reader:
    """Reads one text; ``nested`` for the inside of a command substitution."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._at = 0

    def statements(self) -> Iterator[Statement]:
        """Every statement up to the end of the text."""
        while self._at < len(self._tokens):
            if self._tokens[self._at].kind == "operator":
                if self._tokens[self._at].text not in ("\n", ";"):
                    raise _UnclearError
                self._at += 1
                continue
            start = self._tokens[self._at].start
            commands = list(self._statement())
            end = self._tokens[self._at].start if self._at < len(self._tokens) else len(self._text)
            yield _made(self._text[start:end], commands)

    def _statement(self) -> Iterator[_Command]:
        """The simple commands of one statement, from the cursor to where it ends."""
        open_words: list[str] = []
        condition = False
        before = ""
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            if token.kind == "operator":
                if token.text in ("\n", ";") and not open_words and before not in ("&&", "||", "|"):
                    return
                if token.text == ";;" and open_words and open_words[-1] == "case":
                    self._patterns()
                elif token.text not in ("\n", ";", "&&", "||", "|"):
                    raise _UnclearError
                else:
                    self._at += 1
                before = token.text if token.text != "\n" or before not in ("&&", "||", "|") else before
                continue
            if token.text in _OPENING:
                open_words.append(token.text)
                condition = token.text in _CONDITIONS
                yield from self._head(token.text, before)
            elif token.text in _CLOSING:
                if not open_words:
                    raise _UnclearError
                open_words.pop()
                self._at += 1
            elif token.text in _FILLERS or token.text == "elif":
                condition = token.text == "elif" or (condition and token.text in ("!", "time"))
                self._at += 1
            else:
                yield self._command(condition, before, bool(open_words))
            before = ""
        if open_words:
            raise _UnclearError

    def _head(self, word: str, before: str) -> Iterator[_Command]:
        """What follows the word that opens a compound command, as far as it is no command."""
        self._at += 1
        if word == "for":
            name = self._word()
            words = [self._word()]
            while self._tokens[self._at].kind == "word":
                words.append(self._word())
            if words[0] != "in" or not _NAME.fullmatch(name):
                raise _UnclearError
            yield _Command((f"{name}=", *words), True, before, "", True)
        elif word == "case":
            value = self._word()
            if self._word() != "in":
                raise _UnclearError
            yield _Command((":", value), True, before, "", True)
            self._patterns(first=True)

    def _patterns(self, first: bool = False) -> None:
        """Step over the patterns of the next branch of a ``case``, or up to its end."""
        self._at += 0 if first else 1
        while self._tokens[self._at].text == "\n":
            self._at += 1
        if self._tokens[self._at].text == "esac":
            return
        while self._tokens[self._at].text != ")":
            if self._tokens[self._at].kind == "operator" and self._tokens[self._at].text not in ("|", "("):
                raise _UnclearError
            self._at += 1
        self._at += 1

    def _word(self) -> str:
        token = self._tokens[self._at]
        if token.kind != "word":
            raise _UnclearError
        self._at += 1
        return token.text

    def _command(self, condition: bool, before: str, inside: bool) -> _Command:
        """One simple command, or a ``[[ … ]]`` with any operators in it."""
        words: list[str] = []
        if self._tokens[self._at].text == "[[":
            while self._tokens[self._at].text != "]]":
                words.append(self._tokens[self._at].text)
                self._at += 1
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            if token.kind == "word":
                words.append(token.text)
                self._at += 1
            elif token.text[-1:] in "<>&|" and ("<" in token.text or ">" in token.text):
                self._at += 1
                target = self._word()
                if "<<<" not in token.text and ("<" in token.text or not _NOWHERE.fullmatch(target)):
                    raise _UnclearError
                words.append(target)
            else:
                break
        after = self._tokens[self._at].text if self._at < len(self._tokens) else ""
        return _Command(tuple(words), condition, before, after, inside)


class _Command(NamedTuple):
    """A simple command: whether it is a condition, the operators around it, whether it is in a compound one."""

    words: tuple[str, ...]
    condition: bool
    before: str
    after: str
    inside: bool


def _made(text: str, commands: list[_Command]) -> Statement:
    """The statement that ``commands`` make up."""
    assigned: set[str] = set()
    exported: set[str] = set()
    sure: set[str] = set()
    effect = False
    for command in commands:
        names, run = _assignments(command.words)
        assigned |= names
        if run and run[0] in ("export", "unset"):
            found = {match[0] for word in run[1:] if (match := _NAME.match(word))}
            assigned |= found
            exported |= found
            names = {match[1] for word in run[1:] if (match := _ASSIGNMENT.match(word))}
            effect |= any(not _NAME.match(word) for word in run[1:])
        elif run and not _harmless(run, command):
            effect = True
        if not (command.inside or command.before or command.after not in ("", "\n", ";")):
            sure |= names if not run or run[0] == "export" else set()
        effect |= any(_substitutes(word) for word in command.words)
    # bash stops at `${name:?}`, and a program that a substitution runs may do anything.
    return Statement(text, frozenset(assigned), frozenset(exported), frozenset(sure), _required(text), effect)


def _assignments(words: tuple[str, ...]) -> tuple[set[str], tuple[str, ...]]:
    """The names that a simple command assigns before its first other word, and the words from that one on."""
    names: set[str] = set()
    for number, word in enumerate(words):
        match = _ASSIGNMENT.match(word)
        if not match:
            return names, words[number:]
        names.add(match[1])
    return names, ()


def _harmless(run: tuple[str, ...], command: _Command) -> bool:
    """Whether a command neither changes anything nor can stop the shell."""
    if run[0] in ("[", "[[", "test"):
        return command.condition or command.after == "||"
    if run[0] == "in" and command.words[0].endswith("="):
        return True
    # Their arguments are a program, a format or a number, over which they can fail.
    told = run[1:2] if run[0] == "printf" else run[1:] if run[0] in _PARTICULAR else ()
    if any("$" in word and not word.startswith("'") for word in told):
        return False
    if run[0] in _PARTICULAR and any(word.startswith("-") and word not in ("-n", "-e") for word in told):
        return False
    return run[0] in _HARMLESS and not (run[0] == "printf" and run[1:2] == ("-v",))


def _substitutes(word: str) -> bool:
    """Whether a word runs a program that is not harmless, to take its output."""
    for inner in _substitutions(word):
        try:
            inside = list(_Reader(inner).statements())
        except (_UnclearError, IndexError):
            return True
        if any(one.effect for one in inside):
            return True
    return False


def _substitutions(word: str) -> Iterator[str]:
    """The texts of the command substitutions in a word."""
    at = 0
    while at < len(word):
        if word[at] == "\\":
            at += 2
        elif word[at] == "'" and '"' not in word[:at]:
            at = word.index("'", at + 1) + 1
        elif word.startswith("$(", at):
            end = _end(word, at)
            yield word[at + 2 : end - 1]
            at = end
        elif word[at] == "`":
            raise _UnclearError
        else:
            at += 1


def _required(text: str) -> frozenset[str]:
    """The names that must be set: the shell runs with ``set -u``."""
    found = set()
    for match in _REFERENCE.finditer(text):
        plain, braced, operator = match.groups()
        if plain or (braced and not (operator and operator[-1] in "-+=")):
            found.add(plain or braced)
    return frozenset(found)


def _tokens(text: str) -> Iterator[_Token]:
    """The words and operators of a text; comments and blanks are left out."""
    at = 0
    while at < len(text):
        character = text[at]
        if character in " \t\r":
            at += 1
        elif character == "#":
            at = text.find("\n", at)
            at = len(text) if at < 0 else at
        elif operator := _OPERATOR.match(text, at):
            yield _Token("operator", operator[0], at)
            at = operator.end()
        else:
            end = at
            while end < len(text) and text[end] not in " \t\r\n;&|<>()":
                end = _end(text, end)
            yield _Token("word", text[at:end], at)
            at = end


def _end(text: str, at: int) -> int:
    """Where the piece of a word that begins at ``at`` ends: a quotation, an expansion, or plain characters."""
    character = text[at]
    if character == "\\":
        return at + 2
    if character == "'":
        return _found(text, "'", at + 1) + 1
    if character == "`":
        return _found(text, "`", at + 1) + 1
    if character == '"':
        return _closed(text, at + 1, '"')
    if text.startswith("$((", at):
        raise _UnclearError
    if text.startswith("$(", at):
        return _closed(text, at + 2, ")")
    if text.startswith("${", at):
        return _closed(text, at + 2, "}")
    if character == "$":
        # $'…' has escapes of its own.
        if text.startswith("$'", at):
            raise _UnclearError
        return at + 1
    plain = _PLAIN.match(text, at)
    if not plain:
        raise _UnclearError
    return plain.end()


def _found(text: str, what: str, start: int) -> int:
    at = text.find(what, start)
    if at < 0:
        raise _UnclearError
    return at


def _closed(text: str, at: int, closing: str) -> int:
    """Just behind ``closing``, over whatever is nested in between."""
    while text[at] != closing:
        if text[at] == "\\":
            at += 2
        elif text[at] in '"`' or text.startswith(("$(", "${"), at) or (text[at] == "'" and closing == ")"):
            at = _end(text, at)
        elif closing == ")" and text[at] in "(#":
            # A subshell, a branch of a case or a comment: too much for this reader.
            raise _UnclearError
        else:
            at += 1
    return at + 1
