"""bindep's view of a platform that is not this host: its platform profiles, as bindep on that platform would find them.

bindep asks the library `distro`, which reads /etc/os-release.  Here it is answered with what os-release of the target
says.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache

#: Versions as os-release of Debian and Ubuntu has them, by the name under which archives have the release.
_DEBIAN = {
    "wheezy": "7",
    "jessie": "8",
    "stretch": "9",
    "buster": "10",
    "bullseye": "11",
    "bookworm": "12",
    "trixie": "13",
    # Releases that are not out have no version there.
    "forky": "",
    "sid": "",
}
_UBUNTU = {
    "precise": "12.04",
    "trusty": "14.04",
    "xenial": "16.04",
    "bionic": "18.04",
    "focal": "20.04",
    "jammy": "22.04",
    "noble": "24.04",
    "oracular": "24.10",
    "plucky": "25.04",
    "questing": "25.10",
    "resolute": "26.04",
}
#: Code names that are more than the name of the release, in the lower case that bindep gives them.
_CODENAMES = {
    ("ubuntu", "precise"): "precise pangolin",
    ("ubuntu", "trusty"): "trusty tahr",
    ("centos", "7"): "core",
    ("centos", "8"): "core",
    ("rocky", "8"): "green obsidian",
    ("rocky", "9"): "blue onyx",
    ("rocky", "10"): "red quartz",
}
_NAMES = {"rhel": "Red Hat Enterprise Linux"}

#: In place of the version of a release that is newer than these tables; no list can name it.
_NEWER = "9999"

_PATCHING = threading.Lock()


@dataclass(frozen=True)
class Target:
    """The platform that an image is: ``distro`` and ``release`` as specs name them, ``arch`` as Debian does."""

    distro: str
    release: str
    arch: str = "amd64"

    @property
    def apt(self) -> bool:
        """Whether its packages are Debian's kind."""
        return self.distro in ("debian", "ubuntu")

    def id(self) -> str:
        return self.distro

    def name(self) -> str:
        return _NAMES.get(self.distro, self.distro)

    def codename(self) -> str:
        known = _CODENAMES.get((self.distro, self.release))
        return known if known is not None else self.release if self.apt else ""

    def version(self) -> str:
        if self.distro == "debian":
            return _DEBIAN.get(self.release, "")
        if self.distro == "ubuntu":
            return _UBUNTU.get(self.release, _NEWER)
        # `9-stream` is version 9.
        return self.release.partition("-")[0] or _NEWER

    @property
    def devstack_name(self) -> str:
        """What devstack calls it in its lists of packages: ``bookworm``, ``trusty``, ``f41``, ``rhel9``."""
        if self.apt:
            return self.release
        major = self.version().partition(".")[0]
        return f"f{major}" if self.distro == "fedora" else f"rhel{major}"


@cache
def platform_profiles(target: Target) -> frozenset[str]:
    """``platform:dpkg``, ``platform:debian-12`` and so on: what bindep evaluates lists with on ``target``."""
    from bindep import depends

    # platform_profiles() needs nothing of an instance but its methods; to construct one takes a third of a second.
    asked = depends.Depends.__new__(depends.Depends)
    with _PATCHING:
        of_host = depends.distro
        depends.distro = target
        try:
            found: list[str] = asked.platform_profiles()
        finally:
            depends.distro = of_host
    return frozenset(one for one in found if _NEWER not in one)
