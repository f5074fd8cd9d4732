"""Durations, sizes and other people's output, as a person reads them."""

from __future__ import annotations

import re

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

# CSI sequences (colors, cursor), OSC sequences (titles, links), and the other two-character escapes.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def duration(seconds: float) -> str:
    """``0.4 s``, ``24.1 s``, ``2:05``, ``1:02:03``."""
    return f"{seconds:.1f} s" if seconds < 59.95 else clock(seconds)


def clock(seconds: float) -> str:
    """``0:07``, ``2:05``, ``1:02:03``: minutes and seconds, with hours when there are any."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: int) -> str:
    """A number of bytes in binary units: ``312.4 MiB``."""
    value = float(count)
    for unit in _UNITS:
        if value < 1023.95 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def many(count: int, noun: str, nouns: str = "") -> str:
    """``1 step``, ``2 steps``."""
    return f"{count} {noun}" if count == 1 else f"{count} {nouns or noun + 's'}"


def printable(line: str) -> str:
    """One line as a terminal would have left it, without anything that could command the reader's own terminal.

    Escape sequences go, of what a carriage return overwrote only the last version stays, a tab becomes blanks and
    other control characters question marks.
    """
    line = _ESCAPES.sub("", line).rstrip("\r").rpartition("\r")[2]
    return _CONTROLS.sub("?", line.expandtabs(8))
