"""What a platform's settings imply: elements that need not be listed, and the environment that elements read.

A spec says what the image is; the element protocol wants to be told by element names and variables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

from imgc.errors import Collector, ImgcError
from imgc.graph.elements import Catalogue, provided_by
from imgc.graph.shell_values import assign
from imgc.graph.tree import TreeFile
from imgc.spec.model import Platform

#: Formats that are made from a disk, not from the tree.
DISK_FORMATS = ("qcow2", "raw", "vhd")

#: Variables that the stock driver always sets and no setting of a spec is about.
_DEFAULTS = {"DIB_BOOT_LABEL": ""}

#: Distributions of apt packages: imgc's own elements bootstrap them, and make their initramfs.
_APT = ("debian", "ubuntu")


#: Kinds of bases that somebody else has made.
_IMAGES = ("cloud-image", "tree")

#: Those of the Red Hat family.
_RED_HAT = ("centos", "fedora", "rocky", "almalinux", "rhel")

#: What elements need of a system that none of them has bootstrapped, by distribution.
_FAMILIES = {
    "debian": ("dpkg",),
    "ubuntu": ("dpkg", "ubuntu-common"),
    **dict.fromkeys(_RED_HAT, ("redhat-common", "rpm-distro", "yum")),
}


class Implied(NamedTuple):
    """An element that the settings imply, why, and the setting that it is from."""

    element: str
    reason: str
    setting: str


def has_disk(platform: Platform) -> bool:
    """Whether any output is made from a disk."""
    return any(output.format in DISK_FORMATS for output in platform.outputs)


def implied_elements(platform: Platform, catalogue: Catalogue) -> tuple[Implied, ...]:
    """The elements that ``platform`` implies and does not list; none that a listed element already provides."""
    present = provided_by(platform.elements, catalogue)
    found: list[Implied] = []
    for implied, role in _candidates(platform):
        if implied.element not in platform.elements and not (role and role in present):
            found.append(implied)
    return tuple(found)


def _candidates(platform: Platform) -> Iterator[tuple[Implied, str]]:
    """Each implied element, and the virtual name which another element may take over from it."""
    base, disk = platform.base, platform.disk
    if base.kind == "minimal":
        yield Implied(f"{base.distro}-minimal", f"base is a minimal {base.distro}", "base.distro"), ""
    if base.kind in _IMAGES:
        yield Implied("imgc-base-image", f"base is a {base.kind}", "base.kind"), ""
        for element in _FAMILIES.get(base.distro, ()):
            yield Implied(element, f"base is {base.distro}", "base.distro"), ""
    if base.baseline:
        yield Implied("base", "base.baseline is on", "base.baseline"), ""
    if has_disk(platform):
        yield Implied("vm", "an output is a disk", "outputs"), ""
        efi = disk.boot in ("efi", "both")
        name = "block-device-efi" if efi else f"block-device-{disk.partitioning}"
        setting = "disk.boot" if efi else "disk.partitioning"
        why = f"disk.boot is {disk.boot}" if efi else f"disk.partitioning is {disk.partitioning}"
        yield Implied(name, why, setting), "block-device"
        yield Implied("bootloader", "an output is a disk", "outputs"), "bootloader"
    yield from _candidates_of_caches(platform)
    if base.kind == "minimal" and base.distro in _APT:
        yield Implied("imgc-bootstrap", f"base is a minimal {base.distro}", "base.distro"), ""
    if base.distro in _RED_HAT:
        yield Implied("imgc-dracut", f"{base.distro} has dracut", "base.distro"), ""
    if base.distro in _APT:
        yield Implied("imgc-initramfs", f"{base.distro} has initramfs-tools", "base.distro"), ""


def _candidates_of_caches(platform: Platform) -> Iterator[tuple[Implied, str]]:
    """What users and caches imply."""
    caches = platform.caches
    if platform.users:
        yield Implied("ci-users", "users are listed", "users"), "ci-users"
    if caches.git.projects:
        yield Implied("cache-git", "caches.git names projects", "caches.git.projects"), ""
    if caches.bindep.fallback or caches.bindep.devstack:
        yield Implied("cache-bindep", "caches.bindep names lists", "caches.bindep"), ""
    if caches.files.files or caches.files.devstack:
        yield Implied("cache-files", "caches.files names files", "caches.files"), ""


def environment(
    platform: Platform, mirrors: Mapping[str, str], problems: Collector
) -> tuple[tuple[str, str], ...]:
    """Everything the spec says to elements, sorted by name: its ``environment``, and what its settings imply.

    The spec's own environment wins over ``mirrors`` and over defaults; where it contradicts a setting, that is
    E115.
    """
    settings = dict(_from_settings(platform))
    values = {**_DEFAULTS, **mirrors, **{name: value for name, (value, _) in settings.items()}}
    for name, value in platform.environment:
        if name in settings and settings[name][0] != value:
            expected, setting = settings[name]
            message = f"environment.{name} is `{value}`, but {setting} makes it `{expected}`."
            hint = f"Set {setting} and drop {name} from the environment."
            problems.add(ImgcError("E115", message, hint=hint, place=platform.place(f"environment.{name}")))
        values[name] = value
    return tuple(sorted(values.items()))


def _from_settings(platform: Platform) -> Iterator[tuple[str, tuple[str, str]]]:
    """Variables that repeat a setting: name, value, setting."""
    base, disk = platform.base, platform.disk
    yield "ARCH", (base.arch, "base.arch")
    yield "IMAGE_NAME", (platform.name, "name")
    yield "DIB_RELEASE", (base.release, "base.release")
    if base.kind in _IMAGES:
        # Otherwise the distribution's own element says so.
        yield "DISTRO_NAME", (base.distro, "base.distro")
    if not base.baseline:
        yield "SKIP_BASE", ("1", "base.baseline")
    yield "FS_TYPE", (disk.filesystem, "disk.filesystem")
    yield "DIB_ROOT_FSTYPE", (disk.filesystem, "disk.filesystem")
    yield "DIB_ROOT_LABEL", (disk.label, "disk.label")
    efi = has_disk(platform) and disk.boot in ("efi", "both")
    yield "DIB_MOUNTPOINTS", ("/|/boot/efi" if efi else "/", "disk.boot")
    yield "IMGC_BOOT", (disk.boot, "disk.boot")
    yield "IMGC_PARTITIONING", (disk.partitioning, "disk.partitioning")
    yield "IMGC_INITRAMFS_MODULES", (platform.initramfs.modules, "initramfs.modules")
    yield "IMGC_INITRAMFS_EXTRA", (" ".join(platform.initramfs.extra), "initramfs.extra")
    if disk.kernel_command_line:
        yield "DIB_BOOTLOADER_DEFAULT_CMDLINE", (disk.kernel_command_line, "disk.kernel_command_line")
    yield "DIB_GRUB_TIMEOUT", (str(disk.timeout), "disk.timeout")
    if platform.users:
        users = [asdict(user) for user in platform.users]
        yield "DIB_CI_USERS", (json.dumps(users, sort_keys=True), "users")
    if platform.caches.git.projects:
        yield "DIB_CACHE_GIT_DIRECTORY", (platform.caches.git.directory, "caches.git.directory")
    if platform.caches.files.files or platform.caches.files.devstack:
        yield "DIB_CACHE_FILES_DIRECTORY", (platform.caches.files.directory, "caches.files.directory")


def plain_environment(
    values: Sequence[tuple[str, str]], environment_files: Sequence[TreeFile]
) -> dict[str, str]:
    """The environment after environment.d, as far as its plain assignments tell it.

    environment.d is shell, so this is a guess (:mod:`imgc.graph.shell_values`).
    """
    found = dict(values)
    for file in environment_files:
        with open(file.source, encoding="utf-8", errors="replace") as opened:
            assign(opened.read(), found)
    return found
