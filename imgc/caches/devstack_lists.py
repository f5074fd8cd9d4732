"""devstack's own lists of packages: a file for each service, one package a line, with markers in comments.

``# dist:trusty,f21`` limits a line to these distributions, ``# not:…`` to all others.  ``# NOPRIME`` says that
stack.sh installs the package later, ``# testonly`` that only tests need it: for a cache, both count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from imgc.caches.bindep_lists import MOST_BYTES, Bad, Lines
from imgc.caches.bindep_platform import Target

#: Where the lists are, by the kind of packages.
_DIRECTORIES = {True: "files/debs", False: "files/rpms"}

_MARKER = re.compile(r"(?:^|[\s,;])(dist|not):(\S*)")

#: What both package managers' names are made of.
_NAME = re.compile(r"[A-Za-z0-9/][A-Za-z0-9.+_:()/-]*")


def directory_of(target: Target) -> str:
    """Where devstack has the lists for this platform."""
    return _DIRECTORIES[target.apt]


def read_devstack_list(content: bytes, target: Target) -> Lines:
    """The packages that one of devstack's lists has for a platform, sorted; the distribution is found as devstack does:
    its name anywhere in the marker's list, in any case."""
    if len(content) > MOST_BYTES:
        why = f"it has {len(content)} bytes, more than a list of packages can have ({MOST_BYTES})"
        return Lines((), (Bad(0, 0, why),))
    packages: set[str] = set()
    bad: list[Bad] = []
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            line = raw.decode().rstrip("\r")
        except UnicodeDecodeError as error:
            bad.append(Bad(number, error.start + 1, "this is not UTF-8"))
            continue
        text, _, comment = line.partition("#")
        if not _counts(comment, target.devstack_name.lower()):
            continue
        for word in re.finditer(r"\S+", text):
            if _NAME.fullmatch(word.group()):
                packages.add(word.group())
            else:
                bad.append(Bad(number, word.start() + 1, f"`{_shown(word.group())}` is no name of a package"))
    return Lines(tuple(sorted(packages)), tuple(bad))


def _counts(comment: str, name: str) -> bool:
    """Whether the markers of a line let it count for a distribution."""
    markers: Iterator[re.Match[str]] = _MARKER.finditer(comment)
    return all((name in match.group(2).lower()) == (match.group(1) == "dist") for match in markers)


def _shown(word: str) -> str:
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in word[:40])
