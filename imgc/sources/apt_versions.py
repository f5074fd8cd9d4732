"""Which of two Debian package versions is newer, as deb-version(7) orders them."""

from __future__ import annotations

import re
from functools import cmp_to_key

_PARTS = re.compile(r"([^0-9]*)([0-9]*)")


def compare(one: str, other: str) -> int:
    """Negative when ``one`` is older than ``other``, 0 when they are the same, positive when it is newer."""
    left, right = _split(one), _split(other)
    if left[0] != right[0]:
        return left[0] - right[0]
    return _compare(left[1], right[1]) or _compare(left[2], right[2])


#: For sorted() and max().
sort_key = cmp_to_key(compare)


def _split(version: str) -> tuple[int, str, str]:
    """Epoch, upstream version, revision."""
    epoch, colon, rest = version.partition(":")
    if not colon or not epoch.isdigit():
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return (int(epoch), upstream, revision) if dash else (int(epoch), rest, "")


def _compare(one: str, other: str) -> int:
    """Pieces that are not digits and pieces that are, in turn."""
    left, right = _PARTS.findall(one), _PARTS.findall(other)
    for index in range(max(len(left), len(right))):
        (text, digits), (text2, digits2) = (
            parts[index] if index < len(parts) else ("", "") for parts in (left, right)
        )
        first, second = _weights(text), _weights(text2)
        if first != second:
            return -1 if first < second else 1
        if int(digits or 0) != int(digits2 or 0):
            return int(digits or 0) - int(digits2 or 0)
    return 0


def _weights(text: str) -> list[int]:
    """Numbers that order a piece without digits: tilde before its end, letters before everything else."""
    weights = [-1 if one == "~" else ord(one) if one.isalpha() else ord(one) + 256 for one in text]
    return [*weights, 0]
