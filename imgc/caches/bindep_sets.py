"""Who asks for which packages: the lists of all projects, evaluated for one platform, and their union.

A **set** is what one job installs: the packages that one list of one branch has with one choice of profiles.  Jobs
install sets, not the union, so each distinct one must be installable from the cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imgc.caches.bindep_lists import FILES, Lines, findings, packages_of, read_list
from imgc.caches.bindep_platform import Target, platform_profiles
from imgc.caches.devstack_lists import read_devstack_list
from imgc.errors import ImgcError

#: Texts of the lists of one project, by branch and path.
Texts = Mapping[tuple[str, str], bytes]

#: The name under which the fallback list asks for packages.
FALLBACK = "fallback list"


@dataclass
class Asked:
    """What all lists together ask for.

    ``by`` has, for each package, who asks for it (``org/repo@branch``, sorted); ``sets`` are the distinct sets with
    those who install them; ``findings`` what could not be read; ``lists`` the number of lists; ``fallback`` the text of
    the fallback list.
    """

    by: dict[str, set[str]] = field(default_factory=dict)
    sets: dict[tuple[str, ...], set[str]] = field(default_factory=dict)
    findings: list[ImgcError] = field(default_factory=list)
    lists: int = 0
    fallback: bytes = b""

    def add(self, packages: tuple[str, ...], who: str) -> None:
        """Somebody installs these packages together."""
        for package in packages:
            self.by.setdefault(package, set()).add(who)
        if packages:
            self.sets.setdefault(packages, set()).add(who)

    def files(self) -> dict[str, bytes]:
        """The files whose digest is the pin: the same bytes for the same packages, sets and fallback list."""
        return {
            "packages": _lines(sorted(self.by)),
            "sets": _lines(" ".join(packages) for packages in sorted(self.sets)),
            "fallback": self.fallback,
        }

    def digest(self) -> str:
        """SHA-256 of :meth:`files`, in hexadecimal digits."""
        found = hashlib.sha256()
        for name, content in sorted(self.files().items()):
            found.update(f"{name} {len(content)}\n".encode() + content)
        return found.hexdigest()

    def further_files(self) -> dict[str, bytes]:
        """What is offered beside them, for messages; it may change while the pin does not."""
        asked = (f"{package}\t{','.join(sorted(who))}" for package, who in sorted(self.by.items()))
        users = (
            f"{' '.join(packages)}\t{','.join(sorted(who))}" for packages, who in sorted(self.sets.items())
        )
        return {"asked-by": _lines(asked), "sets-by": _lines(users)}

    def report(self, target: Target) -> bytes:
        """All of it as JSON, for people and programs; docs/package-cache.md has its form."""
        told: dict[str, Any] = {
            "platform": {"distro": target.distro, "release": target.release, "arch": target.arch},
            "lists": self.lists,
            "packages": {package: sorted(who) for package, who in sorted(self.by.items())},
            "sets": [
                {"packages": list(packages), "for": sorted(who)}
                for packages, who in sorted(self.sets.items())
            ],
            "findings": [finding_as_json(one) for one in self.findings],
        }
        return json.dumps(told, indent=1, ensure_ascii=False).encode() + b"\n"


class Evaluation:
    """Adds up lists for one platform; ``profiles`` are those of bindep that jobs use beside none at all."""

    def __init__(self, target: Target, profiles: Sequence[str]) -> None:
        self.asked = Asked()
        self._target = target
        self._choices = profile_choices(platform_profiles(target), profiles)

    def fallback(self, content: bytes, file: str) -> None:
        """The list for projects that declare nothing.  Every bad line of it is E656, raised together by the caller."""
        lines = read_list(content)
        self.asked.fallback = content
        self._add(lines, FALLBACK, file)

    def project(self, name: str, texts: Texts) -> None:
        """What the branches of one project declare: of a branch's files only the first one counts."""
        for branch in sorted({branch for branch, _path in texts}):
            path = next((path for path in FILES if (branch, path) in texts), None)
            if path:
                who = f"{name}@{branch}"
                self._add(read_list(texts[branch, path]), who, f"{who}:{path}")

    def devstack(self, name: str, texts: Texts) -> None:
        """devstack's lists: each file is what one service needs, and all of a branch are installed together, too."""
        for branch in sorted({branch for branch, _path in texts}):
            who, together = f"{name}@{branch}", set[str]()
            for path in sorted(path for of, path in texts if of == branch):
                lines = read_devstack_list(texts[branch, path], self._target)
                self._found(lines, f"{who}:{path}")
                self.asked.add(lines.rules, who)
                together.update(lines.rules)
            self.asked.add(tuple(sorted(together)), who)

    def _add(self, lines: Lines, who: str, file: str) -> None:
        self._found(lines, file)
        for profiles in self._choices:
            self.asked.add(packages_of(lines.rules, profiles), who)

    def _found(self, lines: Lines, file: str) -> None:
        self.asked.lists += 1
        self.asked.findings += findings(lines, file)


def profile_choices(platform: frozenset[str], profiles: Sequence[str]) -> list[frozenset[str]]:
    """What jobs may have active: no profile, each of ``profiles``, and all of them together."""
    alone = [frozenset(), *(frozenset([one]) for one in profiles), frozenset(profiles)]
    return [platform | chosen for chosen in dict.fromkeys(alone)]


def finding_as_json(finding: ImgcError) -> dict[str, Any]:
    """A finding as a report has it."""
    told: dict[str, Any] = {"code": finding.code, "message": finding.message}
    if finding.place:
        told |= {"file": finding.place.file, "line": finding.place.line, "column": finding.place.column}
    return told


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
