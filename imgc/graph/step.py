"""A step: one node of the build graph, and everything that can change its result.

A step is frozen and complete: its ``facts`` and the keys of its ``inputs`` are the whole of what its key covers
(see :mod:`imgc.graph.keys`).  What the engine needs to *run* it beyond that (paths on this host) is looked up in
the :class:`~imgc.graph.plan.Plan`, and must never change a result.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

#: Changes whenever the engine would give a step another result for the same facts.
PROTOCOL = "2"

#: The phases of the DIB protocol in the order in which they run, and whether a phase runs inside the chroot.
PHASES: dict[str, bool] = {
    "root.d": False,
    "extra-data.d": False,
    "pre-install.d": True,
    "install.d": True,
    "post-install.d": True,
    "post-root.d": False,
    "block-device.d": False,
    "pre-finalise.d": False,
    "finalise.d": True,
    "cleanup.d": False,
}


class Kind(str, enum.Enum):
    """What a step does."""

    HOOK = "hook"  # one DIB hook script, outside or inside the chroot
    PACKAGES = "packages"  # the spec's own package list, through install-packages in the chroot
    DRIVER = "driver"  # what the stock driver does between phases: resolv.conf, fstab, finalise …
    ASSEMBLE = "assemble"  # tree -> raw disk
    COLLECT = "collect"  # what hooks wrote beside the image: manifests, a kernel …
    SIDE = "side"  # a tree that depends on no platform, laid over the rootfs
    CONVERT = "convert"  # raw disk, or tree, -> one output file
    CHECK = "check"  # the finished outputs are sound and equal
    BOOT = "boot"  # the image boots

    def __str__(self) -> str:
        return self.value


class Fact(NamedTuple):
    """One thing that can change a step's result: ``("script", "install.d/50-x", "0755 sha256:…")``.

    ``kind`` is one of ``protocol script file env option tool pin``; ``name`` is what a user would call it, without any
    path of this host; ``value`` is text, or a mode and a digest for bytes.
    """

    kind: str
    name: str
    value: str


@dataclass(frozen=True)
class Step:
    """One node.  ``id`` is unique in a graph and reads ``<platform>/<phase>/<name>`` (no phase: two parts).

    ``phase`` is a key of :data:`PHASES` or empty, ``element`` who brought it (empty: imgc itself), ``target``
    whether it runs inside the chroot, ``inputs`` the ids of the steps whose results it reads, in order.
    """

    id: str
    kind: Kind
    platform: str
    phase: str
    name: str
    element: str
    target: bool
    inputs: tuple[str, ...]
    facts: tuple[Fact, ...]

    def option(self, name: str) -> str:
        """The value of the fact ``("option", name)``; KeyError when there is none."""
        for fact in self.facts:
            if fact.kind == "option" and fact.name == name:
                return fact.value
        raise KeyError(name)

    @property
    def changes_state(self) -> bool:
        """Whether its result is a layer of the build's state (rootfs, hooks tree, side outputs)."""
        return self.kind in (Kind.HOOK, Kind.PACKAGES, Kind.DRIVER)
