"""How problems are worded: quoting what the user wrote, and guessing what the user meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: The longest piece of a user's text that a message repeats.
LONGEST = 60

#: The most candidates among which to look for what was meant; comparing takes a while.
MOST_CANDIDATES = 500


def show(text: str) -> str:
    """``text`` between backquotes, on one line, printable, and cut when it is long."""
    cut = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    return "`" + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut) + "`"


def closest(word: str, candidates: Iterable[str]) -> str:
    """The candidate that looks most like ``word``, or an empty string when none does."""
    names = list(candidates)
    if len(names) > MOST_CANDIDATES:
        return ""
    # The comparison takes time in the product of both lengths; nobody means a name by a page of text.
    by_folded = {candidate.casefold(): candidate for candidate in sorted(names, reverse=True)}
    found = difflib.get_close_matches(word[:LONGEST].casefold(), by_folded, n=1, cutoff=0.65)
    return by_folded[found[0]] if found else ""


def did_you_mean(word: str, candidates: Iterable[str], otherwise: str = "") -> str:
    """A hint that names the candidate most like ``word``, or ``otherwise`` when none is."""
    guess = closest(word, candidates)
    return f"Did you mean `{guess}`?" if guess else otherwise


def one_of(values: Iterable[str]) -> str:
    """``a``, ``b`` or ``c``, each between backquotes."""
    shown = [f"`{value}`" for value in values]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"
