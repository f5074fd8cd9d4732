"""Every setting of the spec language, declared once.

Validation, defaults, the JSON Schema, the reference in docs/spec.md, what a template may refer to, and which
environment variables belong to a setting all derive from :data:`SPEC`.
"""

from __future__ import annotations

from imgc.spec.types import (
    MIB,
    TIB,
    Boolean,
    Choice,
    Format,
    Integer,
    ListOf,
    MapOf,
    OutputType,
    Section,
    Setting,
    Size,
    Text,
    Url,
    Value,
)

#: The schema version this imgc reads.
VERSION = 1

#: The longest spec file, in bytes.
MOST_BYTES = 256 * 1024

#: Variables of the host that a template may read as ``env.NAME``; a trailing ``*`` stands for any ending.
HOST_VARIABLES = ("IMGC_*", "CI", "SOURCE_DATE_EPOCH")

NAME_FORM = r"[a-z0-9][a-z0-9.-]*"
_ELEMENT = Text(r"[A-Za-z0-9][A-Za-z0-9._+-]*", "the name of an element")
_PACKAGE = Text(r"[A-Za-z0-9@][A-Za-z0-9@.,_+:=~*/-]*", "the name of a package")
_MODULE = Text(r"[A-Za-z0-9][A-Za-z0-9_-]*", "the name of a kernel module")
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_FILE = Text(r"[^\s:](?:[^\n]*\S)?", "a URL, or a path relative to the file that says it")
_SHA256 = Text(r"[0-9a-f]{64}", "a SHA-256 digest (64 hexadecimal digits)")
_PROJECT = Text(r"[A-Za-z0-9][A-Za-z0-9._+/-]*", "the name of a project, such as `org/project`")
_IN_IMAGE = Text(r"(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._+-]+)+/?", "an absolute path")
_GIT_SERVER = Url(form=r"(?:https?|git|ssh|file)://[^\s\"'`$\\]+")

#: How long a label each file system can hold, in bytes.
LABEL_LENGTH = {"ext4": 16, "btrfs": 255}

_BASE = Section(
    (
        Setting(
            "kind",
            Choice(("minimal", "cloud-image", "tree")),
            "How the tree starts: from the distribution's packages (`minimal`), from the disk image that the "
            "distribution publishes for clouds (`cloud-image`), or from a tarball or directory (`tree`).",
            "minimal",
        ),
        Setting(
            "image",
            _FILE,
            "What `cloud-image` and `tree` start from: a disk image, a tarball, a directory.",
        ),
        Setting("sha256", _SHA256, "What the file that `base.image` names must be."),
        Setting(
            "distro",
            Text(r"[a-z][a-z0-9-]*", "the name of a distribution, such as `debian`"),
            "The distribution. The element `<distro>-minimal` provides it.",
            required=True,
        ),
        Setting(
            "release",
            Text(_WORD, "the name of a release, such as `bookworm`"),
            "The release, as the distribution calls it.",
            required=True,
            variable="DIB_RELEASE",
        ),
        Setting("arch", Choice(("amd64", "arm64")), "The architecture.", "amd64", variable="ARCH"),
        Setting(
            "mirror",
            Url(("auto", "host", "default")),
            "Where packages come from: `host` takes over the apt sources of the build host, `default` what the "
            "distribution's element uses, `auto` is `host` where the host runs the same distribution, else `default`.",
            "auto",
            variable="DIB_DISTRIBUTION_MIRROR",
        ),
        Setting(
            "security_mirror",
            Url(),
            "Where the security suite comes from, where the distribution keeps it apart.",
            usually="follows `base.mirror`",
            variable="DIB_DEBIAN_SECURITY_MIRROR",
        ),
        Setting(
            "baseline",
            Boolean(),
            "Whether the element `base`, diskimage-builder's own set of tools and settings, is part of the image.",
            "true",
        ),
    )
)

_INITRAMFS = Section(
    (
        Setting(
            "modules",
            Choice(("cloud", "all")),
            "Which drivers the initramfs holds: those of cloud hypervisors, or all that the kernel has.",
            "cloud",
            variable="IMGC_INITRAMFS_MODULES",
        ),
        Setting(
            "extra", ListOf(_MODULE), "Further modules for the initramfs.", variable="IMGC_INITRAMFS_EXTRA"
        ),
    )
)

_USER = Section(
    (
        Setting(
            "name",
            Text(r"[a-z_][a-z0-9_-]{0,31}", "the name of a user"),
            "What the user logs in as.",
            required=True,
        ),
        Setting("keys", ListOf(Text()), "Public SSH keys, one line each as in authorized_keys."),
        Setting("groups", ListOf(Text(r"[a-z_][a-z0-9_-]{0,31}", "the name of a group")), "Further groups."),
        Setting("sudo", Boolean(), "Whether the user may do everything, without a password.", "false"),
        Setting("uid", Integer(1, 2**31 - 1), "The number of the user.", usually="the next free one"),
        Setting("shell", _IN_IMAGE, "The login shell.", "/bin/bash"),
        Setting("home", _IN_IMAGE, "The home directory.", usually="`/home/` and the name"),
    )
)

_CACHES = Section(
    (
        Setting(
            "git",
            Section(
                (
                    Setting(
                        "projects",
                        ListOf(_FILE, single=True),
                        "Lists of projects: Gerrit's projects.yaml, or a plain list. None: no git trees.",
                    ),
                    Setting(
                        "base", _GIT_SERVER, "What a project's name is appended to for its upstream URL."
                    ),
                    Setting(
                        "mirror", _GIT_SERVER, "Where to fetch from instead.", usually="the upstream URL"
                    ),
                    Setting(
                        "directory",
                        _IN_IMAGE,
                        "Where the trees are in the image.",
                        "/opt/git",
                        variable="DIB_CACHE_GIT_DIRECTORY",
                    ),
                    Setting(
                        "branches", Text(r"\S+", "a regular expression"), "Which branches, as a whole.", ".*"
                    ),
                    Setting(
                        "connections", Integer(1, 256), "How many connections to one host at a time.", "8"
                    ),
                    Setting(
                        "strict",
                        Boolean(),
                        "Whether a repository that cannot be refreshed fails the build, instead of staying as it was.",
                        "false",
                    ),
                )
            ),
            "Git trees of many projects, all branches.",
        ),
        Setting(
            "bindep",
            Section(
                (
                    Setting(
                        "fallback",
                        Text(r"[^\s:](?:[^\n]*\S)?", "a path relative to the file that says it"),
                        "What a project needs that declares nothing: a list as bindep reads it.",
                    ),
                    Setting(
                        "profiles",
                        ListOf(Text(_WORD, "the name of a profile")),
                        "The profiles for which lists are evaluated, beside none.",
                        "test",
                    ),
                    Setting(
                        "devstack", _PROJECT, "The project whose files/debs and files/rpms count as well."
                    ),
                )
            ),
            "The packages that these projects declare for bindep, downloaded and not installed.",
        ),
        Setting(
            "files",
            Section(
                (
                    Setting(
                        "list",
                        ListOf(
                            Section(
                                (
                                    Setting("url", Url(), "Where it is.", required=True),
                                    Setting("sha256", _SHA256, "What it must be."),
                                    Setting(
                                        "name",
                                        Text(r"[A-Za-z0-9][A-Za-z0-9._+~-]*", "the name of a file"),
                                        "What it is called in the image.",
                                        usually="the last part of the URL",
                                    ),
                                ),
                                short="url",
                            )
                        ),
                        "The files.",
                    ),
                    Setting(
                        "directory",
                        _IN_IMAGE,
                        "Where they are in the image.",
                        "/opt/cache/files",
                        variable="DIB_CACHE_FILES_DIRECTORY",
                    ),
                    Setting(
                        "devstack", _PROJECT, "The project whose tools/image_list.sh names further files."
                    ),
                    Setting(
                        "strict",
                        Boolean(),
                        "Whether a file that cannot be had fails the build, instead of staying as it was.",
                        "false",
                    ),
                )
            ),
            "Files from the network.",
        ),
    )
)

_DISK = Section(
    (
        Setting(
            "size",
            Size(64 * MIB, 64 * TIB, MIB, ("auto",)),
            "The size of the disk; `auto` fits the tree and `disk.free`.",
            "auto",
        ),
        Setting(
            "free",
            Size(0, 64 * TIB),
            "Free space in the root file system of a disk of size `auto`.",
            "256 MiB",
        ),
        Setting(
            "filesystem",
            Choice(tuple(LABEL_LENGTH)),
            "The root file system.",
            "ext4",
            variable="DIB_ROOT_FSTYPE",
        ),
        Setting(
            "label",
            Text(_WORD, "a file system label: letters, digits, `.`, `_` and `-`"),
            "The label of the root file system, by which the image finds it.",
            "cloudimg-rootfs",
            variable="DIB_ROOT_LABEL",
        ),
        Setting(
            "partitioning",
            Choice(("gpt", "mbr")),
            "The kind of partition table.",
            "gpt",
            variable="IMGC_PARTITIONING",
        ),
        Setting(
            "boot",
            Choice(("bios", "efi", "both")),
            "Which firmware can boot the image.",
            "{% if base.arch == 'arm64' %}efi{% elif disk.partitioning == 'gpt' %}both{% else %}bios{% endif %}",
            usually="`both` on gpt, `bios` on mbr, `efi` on arm64",
            variable="IMGC_BOOT",
        ),
        Setting(
            "kernel_command_line",
            Text(r"[^\n\"$`\\]*", "one line without quotes, `$` and backslashes"),
            "What the kernel's command line holds beside the root device and the consoles.",
            "nofb nomodeset gfxpayload=text",
            variable="DIB_BOOTLOADER_DEFAULT_CMDLINE",
        ),
        Setting(
            "timeout",
            Integer(0, 3600),
            "Seconds for which the boot menu waits.",
            "1",
            variable="DIB_GRUB_TIMEOUT",
        ),
    )
)

OUTPUT = OutputType(
    (
        Format(
            "qcow2",
            "The format of QEMU and most OpenStack clouds.",
            (
                Setting(
                    "compression",
                    Choice(("zstd", "zlib", "none")),
                    "`zstd` is fast and small; `zlib` is for readers older than QEMU 5.1.",
                    "zstd",
                ),
                Setting("compat", Choice(("1.1", "0.10")), "The version of the format. Quote it.", "1.1"),
            ),
        ),
        Format(
            "vhd",
            "The format of Xen and Hyper-V clouds.",
            (
                Setting(
                    "variant",
                    Choice(("dynamic", "fixed", "xenserver")),
                    "`dynamic` leaves out empty blocks, `fixed` does not, `xenserver` is `dynamic` with the footer "
                    "that XenServer clouds ask for.",
                    "dynamic",
                ),
            ),
        ),
        Format("raw", "The plain disk, sparse.", ()),
        Format(
            "tar",
            "The tree without a disk.",
            (
                Setting(
                    "compression", Choice(("zstd", "gzip", "none")), "How the archive is compressed.", "zstd"
                ),
            ),
        ),
    )
)

SPEC = Section(
    (
        Setting(
            "schema",
            Integer(0, 1_000_000, templates=False),
            f"The version of this language. This imgc reads version {VERSION}.",
            required=True,
            own=True,
        ),
        Setting(
            "extends",
            ListOf(Text(r"\S(?:.*\S)?", "the path of a spec file", templates=False), single=True),
            "The files this one builds on, relative to it. Later ones win over earlier ones, this file over all.",
            own=True,
        ),
        Setting(
            "name",
            Text(NAME_FORM, "a name of small letters, digits, `.` and `-`", templates=False),
            "The platform's name: the file's name without `.yaml`. Parts need none.",
            usually="required of a platform",
            own=True,
        ),
        Setting("description", Text(), "One line about this file.", "", own=True),
        Setting("base", _BASE, "What the image is made from."),
        Setting("elements", ListOf(_ELEMENT), "The elements that make the image, beside those imgc adds."),
        Setting(
            "element_paths",
            ListOf(Text(r"[^\s:](?:[^:\n]*[^\s:])?", "the path of a directory")),
            "Directories with further elements, relative to the file that names them. The first one that holds an "
            "element wins; all of them win over imgc's own and diskimage-builder's.",
        ),
        Setting(
            "environment",
            MapOf(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a variable", Value()),
            "Environment variables for the elements.",
        ),
        Setting("packages", ListOf(_PACKAGE), "Packages to install, as the distribution names them."),
        Setting("users", ListOf(_USER), "Who can log in with an SSH key."),
        Setting("caches", _CACHES, "What jobs find in the image, so that they need no network."),
        Setting("initramfs", _INITRAMFS, "What the image's initial file system holds."),
        Setting("disk", _DISK, "The disk that the tree is put on."),
        Setting("outputs", ListOf(OUTPUT, least=1), "The files to make.", "qcow2"),
    )
)

#: Top-level settings a template may refer to.
REFERABLE = tuple(s.key for s in SPEC.settings if s.key not in ("schema", "extends", "outputs", "users"))


def _variables(section: Section, prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for setting in section.settings:
        path = f"{prefix}{setting.key}"
        if setting.variable:
            found[setting.variable] = path
        if isinstance(setting.type, Section):
            found |= _variables(setting.type, f"{path}.")
    return found


#: Environment variables that a setting decides, and that setting.
VARIABLES: dict[str, str] = {"DIB_CI_USERS": "users", **_variables(SPEC, "")}
