"""What the caches of an image are made of, as pins say it."""

from __future__ import annotations

from dataclasses import dataclass

from imgc.errors import ImgcError
from imgc.lock import Pin


@dataclass(frozen=True)
class Pinned:
    """A cache that has been pinned.

    ``findings`` are what did not go as asked and did not stop anything: each has a code, a message and its place.
    None when nobody looked, because the pin was known.
    """

    pin: Pin
    findings: tuple[ImgcError, ...] | None = ()


@dataclass(frozen=True)
class Tree:
    """One project of the git cache, as it is pinned.

    ``origin`` is its upstream URL.  ``heads`` are pairs of a branch and its commit, the default branch first; empty
    when the repository could never be fetched.  ``tags`` are 16 hexadecimal digits of a digest of its tags, or empty.
    """

    name: str
    origin: str
    heads: tuple[tuple[str, str], ...] = ()
    tags: str = ""

    def text(self) -> str:
        """The pin's value: ``<origin> <branch>=<commit> … tags=<digits>``."""
        heads = [f"{branch}={commit}" for branch, commit in self.heads]
        return " ".join([self.origin, *heads, *([f"tags={self.tags}"] if self.tags else [])])

    @classmethod
    def parse(cls, name: str, text: str) -> Tree:
        """The tree of which ``text`` is the text.  No URL, branch or commit has a blank in it."""
        origin, *rest = text.split(" ")
        # A branch may be called `tags`: the digest is told by its length, and comes last.
        tags = rest[-1].removeprefix("tags=") if rest and rest[-1].startswith("tags=") else ""
        if len(tags) == 16:
            rest.pop()
        else:
            tags = ""
        heads = tuple((branch, commit) for branch, _, commit in (one.rpartition("=") for one in rest))
        return cls(name, origin, heads, tags)


def trees_of(pin: Pin) -> tuple[Tree, ...]:
    """The projects of a git cache's pin, by name."""
    return tuple(Tree.parse(name, text) for name, text in pin.identity)
