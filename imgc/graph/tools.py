"""Which of the build host's programs can change a step's result, and the identity of each."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shutil

from imgc import process
from imgc.graph.tree import digest_of

#: Programs of the host whose version can change what an outside hook leaves behind.  Those that only move bytes
#: (cp, sed, find …) are not among them: their results do not change with their versions.
TOOLS = frozenset(
    {
        # Trees of packages
        "debootstrap",
        "mmdebstrap",
        "dnf",
        "yum",
        "yumdownloader",
        "createrepo",
        "zypper",
        "rpm",
        "rpm2cpio",
        "dpkg",
        "dpkg-deb",
        # Containers
        "buildah",
        "docker",
        "podman",
        "skopeo",
        # Downloads and signatures
        "curl",
        "wget",
        "git",
        "svn",
        "gpg",
        "gpgv",
        "pip",
        "pip3",
        # Archives
        "7z",
        "ar",
        "bsdtar",
        "bzip2",
        "cpio",
        "tar",
        "unzip",
        "xz",
        "zstd",
        "rsync",
        # File systems and images
        "genisoimage",
        "mkisofs",
        "xorriso",
        "guestfish",
        "virt-customize",
        "mkfs.btrfs",
        "mkfs.ext4",
        "mkfs.vfat",
        "mkfs.xfs",
        "mksquashfs",
        "unsquashfs",
        "qemu-img",
        "sgdisk",
        "syslinux",
        # Building and labelling
        "fakeroot",
        "gcc",
        "go",
        "make",
        "semanage",
        "setfiles",
    }
)

#: Files that a program reads its behaviour from, beside the executable.
_COMPANIONS = {
    "debootstrap": ("/usr/share/debootstrap/functions",),
    "mmdebstrap": ("/usr/bin/apt-get", "/usr/bin/dpkg"),
    # Its program is a few lines; the version is in its package.
    "dnf": ("/usr/bin/rpm", "/usr/lib/python3/dist-packages/dnf/const.py"),
}

ABSENT = "absent"


#: Where hooks outside the chroot find the host's programs, whoever builds.
HOOKS_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@functools.cache
def tool_identity(name: str, path: str | None = None) -> str:
    """What a program is on this host: the digest of its executable and companions, or ``absent``.

    It is looked for in ``path``, or (None) where imgc itself finds programs.  ``python3`` and ``diskimage-builder``,
    which hooks use as libraries, are identified by version.
    """
    if name == "python3":
        return platform.python_version()
    if name == "diskimage-builder":
        return importlib.metadata.version(name)
    found = process.which(name) if path is None else shutil.which(name, path=path)
    if found is None:
        return ABSENT
    data = b""
    for path in (found, *_COMPANIONS.get(name, ())):
        if os.path.exists(path):
            with open(path, "rb") as file:
                data += digest_of(file.read()).encode()
    return digest_of(data)
