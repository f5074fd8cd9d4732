"""What the protocol says about who reads which file: the expectations of the mutation test.

Written and reviewed by hand from the texts of the hooks, not computed by the code that is tested.  A file that no
rule knows fails the test: say here who reads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from imgc.graph.step import PHASES, Kind, Step

#: Stands for every hook, and the spec's own packages: all that source environment.d.
SOURCED = "every hook and the packages"

_INSTALL_BIN = "pre-install.d/01-install-bin"
_SQUASH = "extra-data.d/99-squash-package-install"
_PKG_MAPS = "extra-data.d/10-create-pkg-map-dir"
_STATIC = "install.d/10-install-static-files"
_INIT_SCRIPTS = ("install.d/20-install-init-scripts", "post-install.d/10-enable-init-scripts")
_REPOSITORIES = "extra-data.d/98-source-repositories"
_BOOTLOADER = "finalise.d/50-bootloader"
_INITRAMFS = "finalise.d/45-imgc-initramfs"

#: Hooks that install and remove packages in the chroot, through bin/package-installs-v2 and bin/pkg-map.
_PACKAGE_HOOKS = (
    "pre-install.d/10-package-installs",
    "pre-install.d/99-package-uninstalls",
    "install.d/01-package-installs",
    "install.d/99-package-uninstalls",
    "post-install.d/00-package-installs",
    "post-install.d/95-package-uninstalls",
)


class Rule(NamedTuple):
    """``element`` and ``path`` are regular expressions; ``readers`` the steps that read such a file.

    ``also`` are steps that count as readers though they are none: the engine cannot know better, and ``reason``
    says why.
    """

    element: str
    path: str
    readers: tuple[str, ...]
    also: tuple[str, ...] = ()
    reason: str = ""


#: The first that fits counts.
RULES = (
    # What is about the element and not for any hook.
    Rule(".*", r"__init__\.py", ()),
    Rule(".*", r"(.*/)?(README|LICENSE)[^/]*|.*\.(rst|md)", ()),
    Rule(".*", r"tests/.*|test-elements/.*", ()),
    Rule(".*", r"element-(deps|provides)", ()),
    Rule(".*", r"environment\.d/.*", (SOURCED,)),
    # Read by the compiler alone: what comes of it shows in pins.
    Rule(".*", r"python-wheels", ()),
    # Declarations, each with its collector.
    Rule(".*", r"pkg-map", (_PKG_MAPS,)),
    Rule(".*", r"package-installs\.(yaml|json)", (_SQUASH,)),
    Rule(".*", r"source-repository-.*", (_REPOSITORIES,)),
    # Helpers: install-bin copies all of them into the image, where what comes after stands on it.
    Rule("package-installs", r"bin/package-installs-squash", (_INSTALL_BIN, _SQUASH)),
    Rule("cache-url", r"bin/cache-url", (_INSTALL_BIN,), (_REPOSITORIES,)),
    Rule(
        "pkg-map",
        r"bin/pkg-map",
        (_INSTALL_BIN,),
        _PACKAGE_HOOKS,
        "package-installs-v2 calls it by a name that is also the path of it below the hooks' own directory",
    ),
    Rule(".*", r"bin/[^/]+", (_INSTALL_BIN,)),
    Rule(".*", r"static/.*", (_STATIC,)),
    Rule(".*", r"init-scripts/.*", _INIT_SCRIPTS),
    # Files of one element for one hook of it.
    Rule("bootloader", r"grub/.*", (_BOOTLOADER,)),
    Rule("imgc-initramfs", r"initramfs-tools/.*", (_INITRAMFS,)),
    Rule("simple-init", r"glean/.*", ("install.d/50-simple-init",)),
)


def readers(element: str, path: str, overridden: bool, steps: Mapping[str, Step]) -> set[str] | None:
    """The steps that read a file of an element, or count as if; None when no rule knows it.

    Of a directory that another one overrides, only the package lists are read.
    """
    if overridden:
        return _there((_SQUASH,), steps) if re.fullmatch(r"package-installs\.(yaml|json)", path) else set()
    if hook_of(path, steps):
        return {hook_of(path, steps)}
    for rule in RULES:
        if re.fullmatch(rule.element, element) and re.fullmatch(rule.path, path):
            return _there((*rule.readers, *rule.also), steps)
    return None


#: Hooks that read their whole phase directory, or count as if: what is in it and is no hook is theirs.
_DIRECTORY_READERS = {
    # They are given the directory, for the package lists of old that elements may have there.
    "pre-install.d": ("pre-install.d/10-package-installs", "pre-install.d/99-package-uninstalls"),
    "post-install.d": ("post-install.d/00-package-installs", "post-install.d/95-package-uninstalls"),
    # Likewise; 50-simple-init counts because it goes from there to the directory beside it.
    "install.d": (
        "install.d/01-package-installs",
        "install.d/99-package-uninstalls",
        "install.d/50-simple-init",
    ),
    # `ext*`, meant as a file system, could mean the directory as well.
    "extra-data.d": (_BOOTLOADER,),
}
_ASKS_WHERE_IT_IS = re.compile(r"dirname \"?\$0|dirname \"?\$\{?BASH_SOURCE")


def readers_of_no_hook(path: str, texts: Mapping[str, str], steps: Mapping[str, Step]) -> set[str]:
    """The steps that count as readers of a script in a phase directory that has lost its exec bit.

    ``texts`` has the scripts of the hooks of the same element by step: those that ask where they are might read it.
    """
    asking = {step for step, text in texts.items() if _ASKS_WHERE_IT_IS.search(text) and step != path}
    return _there(_DIRECTORY_READERS.get(path.partition("/")[0], ()), steps) | (asking & set(steps))


def readers_in_place(steps: Mapping[str, Step]) -> set[str]:
    """The steps that read files in the elements' own directories, not in the hooks tree."""
    return _there((_PKG_MAPS, _SQUASH), steps)


def hook_of(path: str, steps: Mapping[str, Step]) -> str:
    """The step that runs the script at ``path`` of its element; empty when it is not a hook's."""
    phase, *rest = path.split("/")
    if phase in PHASES and len(rest) == 1 and path in steps:
        return path
    return ""


def _there(names: tuple[str, ...], steps: Mapping[str, Step]) -> set[str]:
    """Those of ``names`` that are steps of the platform."""
    if SOURCED in names:
        return {id for id, step in steps.items() if step.kind in (Kind.HOOK, Kind.PACKAGES)}
    return {name for name in names if name in steps}


# --- settings -----------------------------------------------------------------------------------------------------

#: What reads the DIB_ variables of a build whatever they are called: it writes them into the image.
_DIB_ENV = "cleanup.d/01-copy-manifests-dir"
_ELEMENT_LISTS = (_PKG_MAPS, "extra-data.d/50-modprobe-blacklist", _SQUASH, _DIB_ENV)
_BLACKLIST = "install.d/80-modprobe-blacklist"

#: An element of the mutation test's own.
EXTRA_ELEMENT = "mutant"


class Change(NamedTuple):
    """A change of one setting of a shipped platform.

    ``setting`` is its path in the spec language, ``overlay`` the YAML that changes it, ``readers`` the steps that read
    it, ``cause`` kind and name of the fact that `imgc why` names first.  ``came`` and ``went`` are steps; an element's
    name there stands for all its hooks.  ``before`` is YAML of the platform that is changed; ``rejected`` the code
    with which the compiler refuses.  ``reason`` says why steps count that read nothing of it.
    """

    setting: str
    overlay: str
    readers: tuple[str, ...] = ()
    cause: tuple[str, str] = ("", "")
    came: tuple[str, ...] = ()
    went: tuple[str, ...] = ()
    before: str = ""
    rejected: str = ""
    reason: str = ""


_COMMANDS = "commands of environment.d, which run before every hook, read it"

CHANGES = (
    Change("schema", "schema: 2", rejected="E114"),
    Change("extends", "extends: [start-{name}.yaml, common/ssh.yaml]"),
    Change("description", "description: another"),
    Change("base.kind", "base: {kind: none}", rejected="E108"),
    Change("base.distro", "base: {distro: nowhere}", rejected="E201"),
    Change("base.release", "base: {release: bullseye}", (SOURCED,), ("env", "DIB_RELEASE"), reason=_COMMANDS),
    Change("base.arch", "base: {arch: arm64}", rejected="E115"),
    Change(
        "base.arch",
        "base: {arch: arm64}\ndisk: {boot: efi}",
        (SOURCED,),
        ("env", "ARCH"),
        before="base: {arch: amd64}\ndisk: {boot: efi}",
        reason="any program may read ARCH",
    ),
    Change(
        "base.mirror",
        'base: {mirror: "http://other.test/debian"}',
        (SOURCED,),
        ("env", "DIB_DISTRIBUTION_MIRROR"),
        reason=_COMMANDS,
    ),
    Change(
        "base.security_mirror",
        'base: {security_mirror: "http://other.test/security"}',
        (SOURCED,),
        ("env", "DIB_DEBIAN_SECURITY_MIRROR"),
        reason=_COMMANDS,
    ),
    Change(
        "elements",
        f"elements: [{EXTRA_ELEMENT}]",
        _ELEMENT_LISTS,
        ("env", "IMAGE_ELEMENT_YAML"),
        (EXTRA_ELEMENT,),
    ),
    Change(
        "element_paths",
        "element_paths: [more]",
        (_PKG_MAPS, "extra-data.d/50-modprobe-blacklist", _SQUASH),
        ("env", "IMAGE_ELEMENT_YAML"),
        reason="elements are told by their numbers in the search path; all of them are searched",
    ),
    Change("environment", "environment: {DIB_UNHEARD_OF: 1}", (_DIB_ENV,), ("env", "DIB_UNHEARD_OF")),
    Change("environment", "environment: {IMGC_UNHEARD_OF: 1}"),
    Change(
        "environment",
        "environment: {EDITOR: vi}",
        (SOURCED,),
        ("env", "EDITOR"),
        reason="any program may read it",
    ),
    Change(
        "environment",
        "environment: {DIB_MODPROBE_BLACKLIST: floppy}",
        (_BLACKLIST, _DIB_ENV),
        ("env", "DIB_MODPROBE_BLACKLIST"),
    ),
    Change(
        "environment",
        "environment: {DIB_APT_LOCAL_CACHE: 0}",
        ("root.d/50-shared-apt-cache", _DIB_ENV),
        ("env", "DIB_APT_LOCAL_CACHE"),
    ),
    Change(
        "environment",
        "environment: {DIB_ADD_APT_KEYS: /keys}",
        (SOURCED,),
        ("env", "DIB_ADD_APT_KEYS"),
        reason=_COMMANDS,
    ),
    Change("base.image", "base: {image: image.qcow2}", rejected="E115"),
    Change("base.sha256", f"base: {{sha256: {'a' * 64}}}", rejected="E115"),
    Change(
        "users",
        "users: [{name: other}]",
        ("post-install.d/60-ci-users", _DIB_ENV),
        ("env", "DIB_CI_USERS"),
        before="users: [{name: zuul}]",
    ),
    Change(
        "caches.git",
        'caches: {git: {projects: "https://example.org/p", base: "https://example.org", directory: /srv/git}}',
        ("git-trees", "extra-data.d/55-cache-git", "install.d/50-cache-git", _DIB_ENV),
        ("env", "DIB_CACHE_GIT_DIRECTORY"),
        before='caches: {git: {projects: "https://example.org/p", base: "https://example.org"}}',
    ),
    Change(
        "caches.files",
        'caches: {files: {list: ["https://example.org/f"], directory: /srv/files}}',
        ("cached-files", "extra-data.d/55-cache-files", _DIB_ENV),
        ("env", "DIB_CACHE_FILES_DIRECTORY"),
        before='caches: {files: {list: ["https://example.org/f"]}}',
    ),
    # What comes of it shows in pins.
    Change(
        "caches.bindep",
        "elements: [cache-bindep]\ncaches: {bindep: {profiles: [docs]}}",
        before="elements: [cache-bindep]",
    ),
    Change("packages", "packages: [vim]", (), ("new", "packages"), ("packages",)),
    Change(
        "packages", "packages: [vim, nano]", ("packages",), ("option", "packages"), before="packages: [vim]"
    ),
    Change(
        "initramfs.modules", "initramfs: {modules: all}", (_INITRAMFS,), ("env", "IMGC_INITRAMFS_MODULES")
    ),
    Change("initramfs.extra", "initramfs: {extra: [floppy]}", (_INITRAMFS,), ("env", "IMGC_INITRAMFS_EXTRA")),
    Change("disk.size", "disk: {size: 4 GiB}", ("disk",), ("option", "size")),
    Change("disk.free", "disk: {free: 1 GiB}", ("disk",), ("option", "free")),
    Change(
        "disk.filesystem",
        "disk: {filesystem: btrfs}",
        (_SQUASH, "post-install.d/85-vm-grow-btrfs", "fstab", _BOOTLOADER, _DIB_ENV, "disk"),
        ("env", "DIB_ROOT_FSTYPE"),
    ),
    Change(
        "disk.label", "disk: {label: other}", ("fstab", _BOOTLOADER, _DIB_ENV, "disk"), ("option", "label")
    ),
    Change(
        "disk.partitioning",
        "disk: {partitioning: mbr}",
        (_SQUASH, _BOOTLOADER, "disk"),
        ("env", "IMGC_PARTITIONING"),
    ),
    Change("disk.boot", "disk: {boot: efi}", (_SQUASH, _BOOTLOADER, "disk"), ("env", "IMGC_BOOT")),
    Change(
        "disk.boot",
        "disk: {boot: bios}",
        (SOURCED, "fstab", "disk"),
        ("file", "environment.d/15-block-device.bash"),
        reason="another block-device element, with an environment file of its own",
    ),
    Change(
        "disk.kernel_command_line",
        "disk: {kernel_command_line: quiet}",
        (_BOOTLOADER, _DIB_ENV),
        ("env", "DIB_BOOTLOADER_DEFAULT_CMDLINE"),
    ),
    Change("disk.timeout", "disk: {timeout: 3}", (_BOOTLOADER, _DIB_ENV), ("env", "DIB_GRUB_TIMEOUT")),
    Change("outputs", "outputs: [raw]", (), ("new", "raw"), ("raw",)),
    Change("outputs", "outputs: !replace [qcow2]", (), ("gone", "vhd"), went=("vhd",)),
    Change(
        "outputs.qcow2.compression",
        "outputs: !replace [{format: qcow2, compression: zlib}, vhd]",
        ("qcow2",),
        ("option", "compression"),
    ),
    Change(
        "outputs.qcow2.compat",
        'outputs: !replace [{format: qcow2, compression: zlib, compat: "0.10"}, vhd]',
        ("qcow2",),
        ("option", "compat"),
        before="outputs: !replace [{format: qcow2, compression: zlib}, vhd]",
    ),
    Change(
        "outputs.vhd.variant",
        "outputs: !replace [qcow2, {format: vhd, variant: fixed}]",
        ("vhd",),
        ("option", "variant"),
    ),
    Change(
        "outputs.tar.compression",
        "outputs: [{format: tar, compression: gzip}]",
        (),
        ("new", "tar.gz"),
        ("tar.gz",),
        ("tar.zst",),
        before="outputs: [tar]",
    ),
)

#: Settings that no mutant can change alone; each has a test of its own.
APART = {"name": "the platform's other name", "base.baseline": "brings an element with a hook in every phase"}


def steps_read_by(change: Change, steps: Mapping[str, Step]) -> set[str]:
    """The steps that read a setting, or count as if."""
    return _there(change.readers, steps) | {name for name in change.readers if name in steps}


def settings() -> set[str]:
    """The path of every setting of the spec language, from its declarations."""
    from imgc.spec.settings import OUTPUT, SPEC
    from imgc.spec.types import Section

    found = set()
    for outer in SPEC.settings:
        if isinstance(outer.type, Section):
            found |= {f"{outer.key}.{inner.key}" for inner in outer.type.settings}
        else:
            found.add(outer.key)
    return found | {f"outputs.{form.name}.{option.key}" for form in OUTPUT.formats for option in form.options}


#: Programs of the host, and the steps whose results depend on their versions.
TOOLS = {
    "mmdebstrap": ("root.d/08-debootstrap",),
    "debootstrap": ("root.d/08-debootstrap",),
    "tar": ("root.d/08-debootstrap",),
    # The wheels hook names them, though under imgc, which offers the wheels itself, it does not come to use them.
    "python3": (_SQUASH, "extra-data.d/50-simple-init-wheels"),
    "pip": ("extra-data.d/50-simple-init-wheels",),
    "diskimage-builder": (_SQUASH,),
    "mke2fs": ("disk",),
    "sfdisk": ("disk",),
    "mkfs.vfat": ("disk",),
    "mcopy": ("disk",),
    "qemu-img": ("qcow2", "vhd", "check"),
    "e2fsck": ("check",),
    # Programs that only move bytes, or that no step uses.
    "sed": (),
    "virt-customize": (),
}
