"""The validated form of a spec file: what :func:`imgc.spec.load` returns and every later room reads.

All classes are frozen and hold plain values.  Where a value came from is kept beside them in
:attr:`Platform.places`, keyed by its path (``"disk.label"``, ``"elements[2]"``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from imgc.errors import Place

#: The label of the EFI system partition, by which /etc/fstab finds it.
ESP_LABEL = "UEFI"


@dataclass(frozen=True)
class Base:
    """Where the tree starts.  ``security_mirror`` is a URL or None.

    ``mirror`` is a URL or one of three words: ``"host"`` is the build host's own apt sources, ``"default"`` what the
    distribution's element uses, ``"auto"`` the first where the host runs the same distribution, else the second.
    """

    kind: str
    distro: str
    release: str
    arch: str
    mirror: str
    security_mirror: str | None
    baseline: bool
    #: A URL or an absolute path of this host, and the digest it must have; both None for what needs none.
    image: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Disk:
    """The disk to assemble.  ``size`` is in bytes, or None to fit the tree (plus ``free`` bytes)."""

    size: int | None
    free: int
    filesystem: str
    label: str
    partitioning: str
    boot: str
    kernel_command_line: str
    timeout: int


@dataclass(frozen=True)
class Initramfs:
    """``modules`` is ``"cloud"`` (drivers of cloud hypervisors) or ``"all"``; ``extra`` names further modules."""

    modules: str
    extra: tuple[str, ...]


@dataclass(frozen=True)
class User:
    """Who can log in.  ``keys`` are lines of authorized_keys."""

    name: str
    uid: int | None
    groups: tuple[str, ...]
    sudo: bool
    shell: str
    home: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class GitCache:
    """Git trees of many projects.  ``projects`` are absolute paths of this host or URLs; none: no trees.

    ``base`` and ``mirror`` are what a project's name is appended to: for its upstream URL, and for where it is
    fetched from (empty: the same).  ``branches`` is a regular expression for whole names.
    """

    projects: tuple[str, ...] = ()
    base: str = ""
    mirror: str = ""
    directory: str = "/opt/git"
    branches: str = ".*"
    connections: int = 8
    strict: bool = False


@dataclass(frozen=True)
class BindepCache:
    """Packages that projects declare.  ``fallback`` is an absolute path of this host or empty."""

    fallback: str = ""
    profiles: tuple[str, ...] = ("test",)
    devstack: str = ""


@dataclass(frozen=True)
class CachedFile:
    """A file of the file cache; ``sha256`` and ``name`` may be empty."""

    url: str
    sha256: str = ""
    name: str = ""


@dataclass(frozen=True)
class FileCache:
    """Files from the network, in ``directory`` of the image."""

    files: tuple[CachedFile, ...] = ()
    directory: str = "/opt/cache/files"
    devstack: str = ""
    strict: bool = False


@dataclass(frozen=True)
class Caches:
    """What jobs find in the image."""

    git: GitCache = GitCache()
    bindep: BindepCache = BindepCache()
    files: FileCache = FileCache()


@dataclass(frozen=True)
class Output:
    """One file to make.  ``suffix`` is what follows the image's name: ``qcow2``, ``vhd``, ``raw``, ``tar.zst`` …

    ``options`` holds the settings of that format only, as strings, in declaration order.
    """

    format: str
    suffix: str
    options: tuple[tuple[str, str], ...]

    def option(self, name: str) -> str:
        return dict(self.options)[name]


@dataclass(frozen=True)
class Platform:
    """One platform, ready to be compiled."""

    name: str
    description: str
    base: Base
    elements: tuple[str, ...]
    element_paths: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    packages: tuple[str, ...]
    initramfs: Initramfs
    disk: Disk
    outputs: tuple[Output, ...]
    file: str
    users: tuple[User, ...] = ()
    caches: Caches = Caches()
    places: Mapping[str, Place] = field(
        default_factory=lambda: MappingProxyType({}), compare=False, repr=False
    )

    def place(self, path: str) -> Place:
        """Where the value at ``path`` was written; the nearest enclosing value, else the file, when it was not."""
        while path:
            if path in self.places:
                return self.places[path]
            cut = max(path.rfind("."), path.rfind("["))
            path = path[:cut] if cut > 0 else ""
        return Place(self.file)
