"""What a script mentions: the paths, globs and variables in its text, without running it.

:func:`parse` turns shell (or Python) text into *words*: paths split into components, in which every expansion is a
wildcard, and the directory of the script and the root of the hooks tree are markers.  Whole-line comments do not
count, unless they may be lines of a here-document or of a string.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

#: Markers, each a component of its own: where the script itself is, the hooks tree, anything, elsewhere for sure.
HERE, ROOT, ANY, ELSEWHERE = "\x01", "\x02", "\x03", "\x04"
#: The script itself, while it is not yet known whether a program takes the directory of it.
_SELF = "\x05"

Word = tuple[str, ...]

#: Variables that hold directories which are neither the hooks tree nor an element.
_ELSEWHERE_VARIABLES = "TMP_MOUNT_PATH|TARGET_ROOT|DIB_IMAGE_CACHE|DIB_LOCKFILES|TMP_IMAGE_DIR|TMPDIR|HOME"

_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\n", " "),
        (r"[\"']", ""),
        (r"\$\{?(?:TMP_MOUNT_PATH|TARGET_ROOT)\}?/\.\./hooks(?![\w.-])", ROOT),
        (r"\$\{?TMP_BUILD_DIR\}?(?:/hooks(?![\w.-])|(?!/?\w))", ROOT),
        (r"\$\{?TMP_HOOKS_PATH(?![A-Za-z0-9_])[^}\s/]*\}?", ROOT),
        (r"(?:/tmp/)?\bin_target\.d\b", ROOT),
        # Looking whether there is a tree, comparing its name, finding flat files in it by name: not the whole of it.
        (rf"(?<=\s)-[nzde]\s+{ROOT}(?=\s|$)|[!=]=?\s+{ROOT}(?=\s|$)", ANY),
        (rf"\bfind\s+{ROOT}(?=\s+-maxdepth 1\s[^;|&\n]*-name\s+(?:[.*?-]*\w){{3}})", ANY),
        (rf"\$(?:{_ELSEWHERE_VARIABLES})\b|\$\{{(?:{_ELSEWHERE_VARIABLES})\}}", ELSEWHERE),
        # The name of a script says nothing about where it is, and $0 is a whole line to awk.
        (r"basename\s+\$\{?0\}?", ANY),
        (r"(?m)^.*\bawk\b.*$", lambda line: line[0].replace("$0", ANY)),
        (r"\$\{0[%#][^}\s]*\}|\$\{BASH_SOURCE(?:\[0\])?[%#][^}\s]*\}", HERE),
        (r"\$\{0[^}\s]*\}|\$0(?!\d)|\$\{?BASH_SOURCE(?:\[0\])?[^}\s/]*\}?", _SELF),
        (r"\b__file__\b|\bsys\.argv\[0\]", HERE),
    )
)
_GROUP = re.compile(r"(\$?)\(([^()]*)\)|`([^`]*)`")
_VARIABLE = re.compile(r"\$\{([^{}]*)\}|\$\w+|\$[@*#?$!-]|\{[^{}\s]*\}|%[sdir]|\[[!^]?\w-\w[\w-]*\]|[*?]+")
_NAME = re.compile(r"[!#]?\w+")
_WORD = re.compile(rf"[\w.@+~/{HERE}{ROOT}{ANY}{ELSEWHERE}{_SELF}-]+")
_ABOUT_SELF = re.compile(rf"\b(?:dirname|readlink|realpath|pwd|cd)\b.*?([{HERE}{_SELF}][^\s;&|]*)", re.DOTALL)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_ALIAS = re.compile(rf"(?m)^\s*(\w+)={ROOT}/?\s*$")
_STRING = re.compile(r"'[^']*'|\"(?:\\\\.|[^\"\\\\])*\"", re.DOTALL)
_RUN = re.compile(
    rf"(?:^|[\s;&|({{])(?:\.|source|exec|sudo|xargs|(?:ba|da|k|z)?sh|python[\d.]*|perl)\s+(?:-\S+\s+)*"
    rf"([\w.@+~/{HERE}{ROOT}{ANY}{ELSEWHERE}{_SELF}-]+)"
)
_IMPORT = re.compile(r"^\s*(?:from|import)\s+(\w+)", re.MULTILINE)
_MARKER = re.compile(f"[{HERE}{ROOT}{ANY}{ELSEWHERE}{_SELF}]")


@dataclass(frozen=True)
class Mentions:
    """``words`` are paths by component, ``identifiers`` every name in the text.

    ``runs`` are those words that are run or sourced, ``imports`` the modules that a Python script imports.
    ``unplaced`` says that it gets at the hooks tree in a way that the words do not show.
    """

    words: frozenset[Word]
    identifiers: frozenset[str]
    runs: frozenset[Word] = frozenset()
    imports: frozenset[str] = frozenset()
    unplaced: bool = False

    @property
    def own_directory(self) -> bool:
        """Whether the script asks where it is."""
        return any(HERE in word for word in self.words)

    @property
    def tree(self) -> bool:
        """Whether the script names the hooks tree."""
        return "TMP_HOOKS_PATH" in self.identifiers or any(ROOT in word for word in self.words)

    def without_own_directory(self) -> Mentions:
        """The same for a copy of the script that runs from somewhere else."""
        words = {tuple(ANY if part == HERE else part for part in word) for word in self.words}
        return replace(self, words=frozenset(words))

    def at(self, directory: Word) -> Mentions:
        """The same for a script of the hooks tree, in ``directory`` below its root."""
        return replace(self, words=frozenset(_placed(word, directory) for word in self.words))


@lru_cache(maxsize=4096)
def parse(data: bytes) -> Mentions:
    """The mentions of a script's bytes."""
    text = _MARKER.sub(" ", _without_comments(data.decode("utf-8", "replace")))
    identifiers = frozenset(_IDENTIFIER.findall(text))
    imports = frozenset(_IMPORT.findall(text)) if b"python" in data.partition(b"\n")[0] else frozenset()
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _without_aliases(text)
    unplaced = "TMP_HOOKS_PATH" in text
    text = _wildcards(_flattened(text)).replace(_SELF, HERE)
    words = {_components(word) for word in _WORD.findall(text)}
    runs = {_components(word) for word in _RUN.findall(text)}
    return Mentions(frozenset(words - {()}), identifiers, frozenset(runs - {()}), imports, unplaced)


@lru_cache(maxsize=4096)
def parse_elsewhere(data: bytes) -> Mentions:
    """The mentions of a script that is not where it says: a copy, or a part of a script that is sourced."""
    return parse(data).without_own_directory()


def literal(component: str) -> bool:
    """Whether a component says anything: a wildcard alone, or with punctuation only, does not."""
    return any(character.isalnum() for character in component)


@lru_cache(maxsize=65536)
def matches(pattern: str, name: str) -> bool:
    """Whether a component of a word can mean the directory entry ``name``."""
    if pattern == name:
        return True
    if ANY not in pattern:
        return False
    return (
        re.fullmatch(".*".join(re.escape(part) for part in pattern.split(ANY)), name, re.DOTALL) is not None
    )


def _without_comments(text: str) -> str:
    """Without the lines that are comments.

    Where a text has a here-document or a string over several lines, a line that looks like a comment may be data, so
    it stays if anything in it would be expanded.
    """
    lines = text.splitlines()
    kept = [line for line in lines if not line.lstrip().startswith("#")]
    code = "\n".join(kept)
    if len(kept) < len(lines) and ("<<" in code or any("\n" in string for string in _STRING.findall(code))):
        kept = [line for line in lines if not line.lstrip().startswith("#") or "$" in line or "`" in line]
        code = "\n".join(kept)
    return code


def _without_aliases(text: str) -> str:
    """With the root of the hooks tree in place of a variable that only ever begins a longer path."""
    for name in _ALIAS.findall(text):
        uses = re.findall(rf"\$\{{?{name}\b\}}?(/+\w)?", text)
        if uses and all(uses):
            text = re.sub(rf"\b{name}={ROOT}/?(?=\s|;|$)", "", text)
            text = re.sub(rf"\$\{{?{name}\b\}}?(?=/+\w)", ROOT, text)
    return text


def _placed(word: Word, directory: Word) -> Word:
    """A path from a script's own directory as one from the root of the hooks tree."""
    if HERE not in word:
        return word
    parts = list(directory)
    for part in word[word.index(HERE) + 1 :]:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return (ROOT, *parts)


def _flattened(text: str) -> str:
    """Replace every command substitution by a marker, and keep what it ran as text of its own; drop other groups."""
    inner: list[str] = []

    def replace(group: re.Match[str]) -> str:
        dollar, content, backticks = group.groups()
        if backticks is None and not dollar:
            return f" {content} "
        content = content if backticks is None else backticks
        about_self = _ABOUT_SELF.search(content)
        if about_self:
            path = about_self[1]
            if "dirname" in content:
                return HERE if path == _SELF else f"{path}/.."
            return path
        inner.append(content)
        return ANY

    while True:
        text, count = _GROUP.subn(replace, text)
        if not count:
            return "\n".join([text, *inner])
        text, inner[:] = "\n".join([text, *inner]), []


def _wildcards(text: str) -> str:
    """Replace expansions and globs by the wildcard; what a ``${name:-default}`` falls back on is text of its own."""
    inner: list[str] = []

    def replace(found: re.Match[str]) -> str:
        content = found[1]
        if content:
            inner.append(_NAME.sub("", content, count=1).lstrip(":-+=?"))
        elif found[0].startswith("{"):
            inner.append(found[0][1:-1].replace(",", " "))
        return ANY

    while True:
        text, count = _VARIABLE.subn(replace, text)
        if not count:
            return "\n".join([text, *inner])
        text, inner[:] = "\n".join([text, *inner]), []


def _components(word: str) -> Word:
    """Split a path; a path from the root of the file system is elsewhere."""
    if word.startswith(("/", "~")):
        word = ELSEWHERE + word
    parts: list[str] = []
    for part in word.split("/"):
        for marker in (ROOT, HERE, ELSEWHERE):
            # `$TMP_HOOKS_PATHx` or a second marker in a component is no place that could be named.
            if marker in part and part != marker:
                part = ANY
        if part not in ("", "."):
            parts.append(re.sub(f"{ANY}+", ANY, part))
    return tuple(parts)
