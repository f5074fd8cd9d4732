"""Which installed packages their archives have newer versions of by now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from imgc.lock import Pins, Source


class Newer(NamedTuple):
    """A package: the version that was installed, and the newest that is offered."""

    name: str
    installed: str
    offered: str


def newer_packages(
    packages: Mapping[str, str], sources: Sequence[Source], pins: Pins, cache: Path
) -> tuple[Newer, ...]:
    """The packages (versions by name) of which the pinned archives among ``sources`` offer newer versions, by name.

    Raises E601 and E603 to E605 when an archive's index cannot be had.
    """
    from imgc.sources import apt_pins, apt_versions, yum_pins, yum_versions

    rooms = {
        "apt": (apt_pins.locked_versions, apt_versions.sort_key),
        "yum": (yum_pins.locked_versions, yum_versions.sort_key),
    }
    newest = dict(packages)
    for source in sources:
        if source.kind in rooms and source.id in pins:
            versions_of, sort_key = rooms[source.kind]
            offered = versions_of(source, pins[source.id], cache)
            for name in newest.keys() & offered.keys():
                newest[name] = max(newest[name], offered[name], key=sort_key)
    found = ((name, packages[name], newest[name]) for name in sorted(packages))
    return tuple(Newer(*one) for one in found if one[1] != one[2])
