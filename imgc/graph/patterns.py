"""Whether the words of a script fit a file's path.

A word fits a path from the root of the hooks tree (or of an element), or from the script's own phase directory.
It may stop early, at a directory: then everything below fits.  It may begin in the middle, after a variable, a
marker or ``..``; after anything else it would be some other path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from imgc.graph.mention import ANY, ELSEWHERE, HERE, ROOT, Word, literal, matches
from imgc.graph.step import PHASES

#: Files that every element may have.  Their copies in the hooks tree overwrite each other, so only a path to
#: them, not their name, counts as a mention of the copy.
DECLARATION = re.compile(
    r"README.*|LICENSE.*|.*\.(rst|md)|__init__\.py|element-(deps|provides)|pkg-map|svc-map"
    r"|package-installs\.\w+|python-wheels|block-device-.*\.yaml"
)

#: A glob without a path before it says something from so many letters and digits on; `s*` is rarely a file.
_TELLING = 3


class _Rest(NamedTuple):
    """What is left of a word at the place where a path begins; ``rooted`` when that place is surely in the tree."""

    parts: Word
    rooted: bool


@dataclass
class _Index:
    """Rests by their first component, those that begin with a wildcard apart."""

    by_first: dict[str, list[_Rest]] = field(default_factory=dict)
    wild: list[_Rest] = field(default_factory=list)

    def add(self, rest: _Rest) -> None:
        first = rest.parts[0]
        if ANY in first:
            self.wild.append(rest)
        elif first in self.by_first:
            self.by_first[first].append(rest)
        else:
            self.by_first[first] = [rest]

    def fits(self, path: Word, hook: bool, rooted: bool) -> bool:
        """Whether a rest fits ``path``; for a ``hook`` to the end and by name, and ``rooted`` only from the root."""
        for rest in (*self.by_first.get(path[0], ()), *self.wild):
            parts = rest.parts
            if len(parts) > len(path) or (rooted and not rest.rooted):
                continue
            if hook and not (len(parts) == len(path) and literal(parts[-1])):
                continue
            if all(matches(pattern, part) for pattern, part in zip(parts, path, strict=False)):
                return True
        return False


class Patterns:
    """The words of one script (and all that it runs), ready to be matched.  ``base`` is its own phase directory."""

    def __init__(self, words: Iterable[Word], base: str) -> None:
        self._base = base
        self._root = _Index()
        self._own = _Index()
        self._globs: set[Word] = set()
        self._whole_base = False
        self._root_itself = False
        #: Phase directories that a path leads to, and whether it takes all entries.
        self._listed: dict[str, bool] = {}
        for word in words:
            self._add(word)

    def _add(self, word: Word) -> None:
        self._root_itself = self._root_itself or place_in_tree(word) == ()
        if self._base and word in ((HERE,), (HERE, ANY)):
            self._whole_base = True
            if len(word) == 2:
                self._listed[self._base] = True
        for before, parts in _suffixes(word):
            rooted = before in (ROOT, "..", ANY, "hooks")
            if rooted and parts[0] in PHASES and (len(parts) == 1 or not literal(parts[1])):
                self._listed[parts[0]] = self._listed.get(parts[0], False) or len(parts) > 1
            if not _tells(parts, before in (ROOT, "..", HERE)):
                continue
            if before == "" and ANY in parts[0]:
                self._globs.add(parts)
            # The bare name of a phase is an argument far more often than a directory to go to.
            if before != HERE and not (before == "" and parts[0] in PHASES and len(parts) == 1):
                self._root.add(_Rest(parts, rooted))
            if self._base and before in ("", ANY, HERE):
                self._own.add(_Rest(parts, rooted))

    def in_tree(self, path: Word, hook: bool) -> bool:
        """Whether an entry of the hooks tree is mentioned."""
        if self._base and path[0] == self._base and len(path) > 1:
            if self._own.fits(path[1:], hook, False):
                return True
            if self._whole_base and not hook:
                return True
        shared = len(path) == 1 and DECLARATION.fullmatch(path[0]) is not None
        return self._root.fits(path, hook, shared and not self._root_itself)

    def in_element(self, path: Word, hook: bool) -> bool:
        """Whether a file of an element's own directory is mentioned."""
        return self._root.fits(path, hook, False)

    def lists(self, path: Word) -> bool:
        """Whether the name of the hook at ``path`` is seen: its phase is listed, and any globs fit it."""
        whole = self._listed.get(path[0])
        if whole is None:
            return False
        if whole or not self._globs:
            return True
        return any(all(map(matches, parts, path[1:])) for parts in self._globs if len(parts) < len(path))

    def lists_anything(self) -> bool:
        """Whether a path leads to a phase directory."""
        return bool(self._listed)


def place_in_tree(word: Word) -> Word | None:
    """Where in the hooks tree a word leads: the components from its root, or None when it does not go there."""
    if ROOT in word:
        return word[word.index(ROOT) + 1 :]
    if ".." in word and (HERE in word or word[0] == ANY):
        return word[len(word) - word[::-1].index("..") :]
    return None


@lru_cache(maxsize=16384)
def _suffixes(word: Word) -> tuple[tuple[str, Word], ...]:
    """The ends of a word that may be a path from some root, each with the component before it (none: empty)."""
    if word[0] == ELSEWHERE and ".." not in word and ROOT not in word:
        return ()
    ends = [
        (word[start - 1], word[start:])
        for start in range(1, len(word))
        if word[start - 1] in (ANY, ROOT, HERE, "..", "hooks") and word[start] != ".."
    ]
    return (("", word), *ends) if literal(word[0]) else tuple(ends)


@lru_cache(maxsize=16384)
def _tells(parts: Word, rooted: bool) -> bool:
    """Whether a rest says enough to be a mention."""
    if not any(literal(part) for part in parts):
        return False
    if rooted or not any(ANY in part for part in parts):
        return True
    return sum(character.isalnum() for part in parts for character in part) >= _TELLING
