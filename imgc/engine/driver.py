"""What the DIB driver itself does to the tree between phases.  Runs inside the sandbox, as root, outside the chroot.

Started as ``python3 -I -S driver.py ACTION JSON`` where JSON holds the step's options; free of imports beyond the
standard library.  Each action says which of the stock driver's steps it stands for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import sys

BUILD = "/imgc/build.0"
ROOTFS = BUILD + "/mnt"
HOOKS = BUILD + "/hooks"
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: A step's options, by name.
    Options = dict[str, Any]

HOOK_NAME = re.compile(r"[0-9A-Za-z_-]+")


def resolv_conf(options: Options) -> None:
    """Put the host's name servers into the tree; elements find the tree's own file as resolv.conf.ORIG.

    A file that is the host's is not the tree's own: mmdebstrap copies it there and leaves it.
    """
    path = ROOTFS + "/etc/resolv.conf"
    if holds(path, options["resolv_conf"]):
        os.unlink(path)
    elif os.path.lexists(path):
        os.rename(path, path + ".ORIG")
    for name in (path, BUILD + "/resolv.conf"):
        with open(name, "w", encoding="utf-8") as file:
            file.write(options["resolv_conf"])
    os.chmod(path, 0o777)


def install_type(options: Options) -> None:
    """Tell every later phase the default install type, as the stock driver does from extra-data.d on."""
    os.makedirs(HOOKS + "/environment.d", exist_ok=True)
    default = '${DIB_DEFAULT_INSTALLTYPE:-"' + options["install-type"] + '"}'
    with open(HOOKS + "/environment.d/11-dib-install-type.bash", "w", encoding="utf-8") as file:
        file.write(f"export DIB_DEFAULT_INSTALLTYPE={default}\n")


def fstab(options: Options) -> None:
    """Describe the disk that the assembler is going to make; an image that is only a tree has none."""
    if not options:
        return
    # A btrfs checks itself when it is mounted.
    passes = 1 if options["filesystem"].startswith("ext") else 0
    lines = [f"LABEL={options['label']} / {options['filesystem']} defaults 0 {passes}\n"]
    if options["esp"]:
        # nofail: the loader there is found by the firmware; a machine must come up without the mount.
        lines.append(f"LABEL={options['esp']} /boot/efi vfat umask=0077,nofail 0 0\n")
        os.makedirs(ROOTFS + "/boot/efi", exist_ok=True)
    with open(ROOTFS + "/etc/fstab", "w", encoding="utf-8") as file:
        file.writelines(lines)


#: What programs left of this build alone, and make anew when they miss it: /tree/path, and why it is never the same.
LEFTOVERS = (
    # times and inode numbers of the libraries
    "/var/cache/ldconfig/aux-cache",
    # a memory image, with the times of apt's lists
    "/var/cache/apt/pkgcache.bin",
    "/var/cache/apt/srcpkgcache.bin",
    # random, and worth nothing once two machines have the same
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/urandom/random-seed",
    "/var/lib/misc/random-seed",
)

MACHINE_ID = re.compile(rb"[0-9a-f]{32}\n?")


def finalise(options: Options) -> None:
    """Leave no trace of the build: the tree's own resolv.conf, an empty /tmp, empty logs, no identity of a machine."""
    restore_resolv_conf()
    forget_machine_id()
    name_by_https(options.get("https", "").split())
    for name in LEFTOVERS:
        path = ROOTFS + name
        if within_tree(path) and os.path.isfile(path) and not os.path.islink(path):
            os.unlink(path)
    for directory in ("/tmp", "/var/tmp"):
        empty(ROOTFS + directory)
    for directory, _, names in os.walk(ROOTFS + "/var/log"):
        for name in names:
            truncate(os.path.join(directory, name))
    for directory, _, names in os.walk(ROOTFS + "/root"):
        for name in names:
            if name.endswith(".log") and stat.S_ISREG(os.lstat(os.path.join(directory, name)).st_mode):
                os.unlink(os.path.join(directory, name))
    for name in ("/proc", "/sys", "/dev"):
        empty(ROOTFS + name)


def name_by_https(archives: list[str]) -> None:
    """Put ``https://`` back where apt's sources name these archives: the build knew them by ``http://``."""
    for directory, _, names in os.walk(ROOTFS + "/etc/apt"):
        for name in names:
            path = os.path.join(directory, name)
            if name != "sources.list" and os.path.basename(directory) != "sources.list.d":
                continue
            if stat.S_ISREG(os.lstat(path).st_mode):
                with open(path, encoding="utf-8", errors="surrogateescape") as file:
                    before = after = file.read()
                for archive in archives:
                    after = after.replace("http" + archive.removeprefix("https"), archive)
                if after != before:
                    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
                        file.write(after)


def restore_resolv_conf() -> None:
    """An element that made resolv.conf a link wants it kept; everything else gets its original back."""
    path = ROOTFS + "/etc/resolv.conf"
    if os.path.islink(path):
        if os.path.lexists(path + ".ORIG"):
            os.unlink(path + ".ORIG")
        return
    if os.path.lexists(path):
        os.unlink(path)
    if os.path.lexists(path + ".ORIG"):
        os.rename(path + ".ORIG", path)


def forget_machine_id() -> None:
    """Take away the identity that some package gave the tree; each machine makes its own when it starts.

    An empty file is what systemd fills in.  A file that says something else (``uninitialized``) is left alone: with it
    systemd treats the next start as the first one, which is for the elements to decide.
    """
    path = ROOTFS + "/etc/machine-id"
    if within_tree(path) and is_machine_id(path):
        os.truncate(path, 0)
    path = ROOTFS + "/var/lib/dbus/machine-id"
    if within_tree(path) and is_machine_id(path):
        os.unlink(path)


def is_machine_id(path: str) -> bool:
    """Whether a path is a file (not a link) with the identity of a machine."""
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return MACHINE_ID.fullmatch(file.read(64)) is not None


def within_tree(path: str) -> bool:
    """Whether the directory of a path is itself in the tree; a link in its place could lead out of it."""
    directory = os.path.dirname(path)
    return os.path.realpath(directory) == directory


def holds(path: str, text: str) -> bool:
    """Whether a path is a file (not a link) with just this text."""
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read() == text.encode()


def empty(directory: str) -> None:
    if not os.path.isdir(directory) or os.path.islink(directory):
        return
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def truncate(path: str) -> None:
    if stat.S_ISREG(os.lstat(path).st_mode) and os.path.getsize(path):
        os.truncate(path, 0)


def discover(options: Options) -> None:
    """List the hooks that can run, by phase, as they are after extra-data.d wrote into the hooks tree."""
    found: dict[str, list[tuple[str, str, int]]] = {}
    for phase in options["phases"]:
        directory = os.path.join(HOOKS, phase)
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
            path = os.path.join(directory, name)
            if HOOK_NAME.fullmatch(name) and os.path.isfile(path) and os.access(path, os.X_OK):
                with open(path, "rb") as file:
                    digest = "sha256:" + hashlib.sha256(file.read()).hexdigest()
                mode = stat.S_IMODE(os.stat(path).st_mode)
                found.setdefault(phase, []).append((name, digest, mode))
    with open("/imgc/work/discovered.json", "w", encoding="utf-8") as file:
        json.dump(found, file)


ACTIONS = {
    "resolv-conf": resolv_conf,
    "install-type": install_type,
    "fstab": fstab,
    "finalise": finalise,
    "discover": discover,
}

if __name__ == "__main__":
    ACTIONS[sys.argv[1]](json.loads(sys.argv[2]))
