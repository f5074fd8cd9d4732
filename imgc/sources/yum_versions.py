"""Which of two RPM package versions is newer, as RPM orders them."""

from __future__ import annotations

import re
from functools import cmp_to_key

#: A run of digits, a run of letters, or a sign that counts; everything else only separates.
_PIECES = re.compile(r"[0-9]+|[A-Za-z]+|~|\^")


def compare(one: str, other: str) -> int:
    """Negative when ``[epoch:]version-release`` ``one`` is older than ``other``, positive when it is newer."""
    left, right = _split(one), _split(other)
    if left[0] != right[0]:
        return left[0] - right[0]
    return _compare(left[1], right[1]) or _compare(left[2], right[2])


#: For sorted() and max().
sort_key = cmp_to_key(compare)


def _split(text: str) -> tuple[int, str, str]:
    epoch, colon, rest = text.partition(":")
    if not colon or not epoch.isdigit():
        epoch, rest = "0", text
    version, _, release = rest.rpartition("-")
    return int(epoch), version, release


def _compare(one: str, other: str) -> int:
    """Piece by piece: a tilde is older than the end, a caret newer than it, digits are newer than letters."""
    left, right = _PIECES.findall(one), _PIECES.findall(other)
    for index in range(max(len(left), len(right))):
        first, second = (parts[index] if index < len(parts) else "" for parts in (left, right))
        if first == second:
            continue
        weights = _weight(first), _weight(second)
        if weights[0] != weights[1]:
            return weights[0] - weights[1]
        if first.isdigit():
            if int(first) != int(second):
                return int(first) - int(second)
        else:
            return -1 if first < second else 1
    return 0


def _weight(piece: str) -> int:
    if piece == "~":
        return -1
    if piece == "":
        return 0
    if piece == "^":
        return 1
    return 3 if piece.isdigit() else 2
