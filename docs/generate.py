#!/usr/bin/env python3
"""Writes the pages of this directory that say what the code declares.  ``tests/test_docs.py`` holds them current."""

from __future__ import annotations

from pathlib import Path

from imgc.cli import reference
from imgc.errors import CODES
from imgc.spec.reference import with_reference

#: The first digit of a code says which part of imgc found the problem.
PARTS = {
    "1": "Reading specs",
    "2": "Resolving elements",
    "3": "Running steps",
    "4": "Disks and formats",
    "5": "Booting",
    "6": "Taking things from outside",
    "9": "imgc itself",
}

ERRORS = """\
# Error codes

This page is written by `docs/generate.py` from the table in `imgc/errors.py`; a test keeps it current.

Every problem that imgc reports has a code, which never changes its meaning, and says where it is
(`file:line:column`) where that can be said. `imgc explain-error CODE` prints the lines below.
"""


def errors() -> str:
    """``errors.md``: every code by part."""
    parts = [ERRORS]
    for digit, title in PARTS.items():
        rows = "".join(f"| {code} | {text} |\n" for code, text in CODES.items() if code[1] == digit)
        parts.append(f"## {title}\n\n| code | meaning |\n| --- | --- |\n{rows}")
    return "\n".join(parts)


def pages() -> dict[str, str]:
    """The text of each written page, by its name in this directory."""
    spec = (Path(__file__).parent / "spec.md").read_text(encoding="utf-8")
    return {"cli.md": reference.markdown(), "errors.md": errors(), "spec.md": with_reference(spec)}


if __name__ == "__main__":
    for name, text in pages().items():
        (Path(__file__).parent / name).write_text(text, encoding="utf-8")
