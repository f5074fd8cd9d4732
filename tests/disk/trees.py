"""Small trees that look like images, with everything that a file system must keep."""

from __future__ import annotations

import os
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

#: vfs_cap_data of version 2: cap_net_raw, effective and permitted.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def add_boot(tree: Path) -> None:
    """What the bootloader element leaves in a tree, in the form that GRUB's files have."""
    grub = tree / "boot/grub"
    (grub / "i386-pc").mkdir(parents=True)
    (grub / "x86_64-efi").mkdir()
    (tree / "boot/vmlinuz-6.1.0-test").write_bytes(b"kernel" * 1000)
    (tree / "boot/initrd.img-6.1.0-test").write_bytes(b"initrd" * 1000)
    (grub / "grub.cfg").write_text("menuentry test {}\n")
    boot = bytearray(b"\xeb\x63" + b"\x11" * 508 + b"\x55\xaa")
    boot[0x5C:0x64] = struct.pack("<Q", 1)
    boot[0x66:0x68] = b"\xeb\x05"
    (grub / "i386-pc/boot.img").write_bytes(boot)
    core = bytearray(b"\x22" * (512 * 9 + 100))
    core[500:512] = struct.pack("<QHH", 2, 9, 0x820)
    (grub / "i386-pc/core.img").write_bytes(core)
    (grub / "x86_64-efi/core.efi").write_bytes(b"MZ" + b"\x33" * 70_000)


def add_everything(tree: Path) -> None:
    """Files of every type and with every attribute that the caller may make; root may make more."""
    (tree / "many").mkdir()
    for number in range(200):
        (tree / f"many/a file with a rather long name, number {number}").write_text(f"{number}\n")
    (tree / "one").write_text("linked")
    os.link(tree / "one", tree / "many/two")
    os.link(tree / "one", tree / "three")
    (tree / "sparse").write_bytes(b"begin")
    with open(tree / "sparse", "r+b") as file:
        file.truncate(3_000_000)
        file.seek(2_999_990)
        file.write(b"end")
    (tree / "big").write_bytes(os.urandom(700_001))
    (tree / "empty").touch()
    (tree / ".hidden").write_text("dotfile")
    (tree / "weird\nnäme").write_text("x")
    os.symlink("one", tree / "short link")
    os.symlink("x" * 200, tree / "long link")
    os.mkfifo(tree / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tree / "socket"))
    (tree / "shared").mkdir()
    os.chmod(tree / "shared", 0o1777)
    os.chmod(tree / "empty", 0o600)
    os.setxattr(tree / "big", "user.note", b"a value")
    if os.geteuid() == 0:
        os.chown(tree / "one", 12, 34)
        os.chown(tree / "long link", 5, 6, follow_symlinks=False)
        os.chown(tree / "shared", 100_000, 65_534)
        os.setxattr(tree / "big", "security.capability", CAPABILITY)
        os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(tree / "shared/disk", stat.S_IFBLK | 0o660, os.makedev(259, 3000))
        os.chown(tree, 7, 8)
    # A change of the owner takes the set-user-ID bit away, so the modes come last.
    os.chmod(tree / "one", 0o4751)
    os.utime(tree / "one", (1_600_000_000, 981_173_106))
    os.chmod(tree, 0o751)
    os.utime(tree, (1_600_000_000, 1_500_000_000))


@dataclass(frozen=True)
class Entry:
    """What must survive of one file.  ``group`` names the first path of the same file."""

    mode: int
    uid: int
    gid: int
    links: int
    device: tuple[int, int]
    modified: int
    attributes: tuple[tuple[str, bytes], ...]
    group: str


def describe(tree: Path) -> dict[str, Entry]:
    """Every path of a tree, from ``/``, in the order of their names."""
    paths = ["/"]
    for directory, directories, files in os.walk(tree):
        top = "/" + os.path.relpath(directory, tree) if directory != str(tree) else ""
        paths += [f"{top}/{name}" for name in directories + files]
    groups: dict[int, str] = {}
    found: dict[str, Entry] = {}
    for path in sorted(paths):
        real = f"{tree}{path}"
        status = os.lstat(real)
        link = stat.S_ISLNK(status.st_mode)
        names = [] if link else sorted(os.listxattr(real))
        special = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
        found[path] = Entry(
            mode=status.st_mode,
            uid=status.st_uid,
            gid=status.st_gid,
            links=1 if stat.S_ISDIR(status.st_mode) else status.st_nlink,
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if special else (0, 0),
            modified=int(status.st_mtime),
            attributes=tuple((name, os.getxattr(real, name)) for name in names),
            group=groups.setdefault(status.st_ino, path),
        )
    return found
