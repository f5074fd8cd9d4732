"""Writes what a file system of an image has into a directory: owners, modes, times, links, attributes, devices."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections import Counter
from pathlib import Path

from nodes import Extent, FileSystem, Unreadable, damaged

#: Attributes that images get at their end, or that mean something only where they were set.
_LEFT_OUT = ("security.selinux", "trusted.overlay.")


class Writer:
    """Writes trees.  ``missing`` counts what could not be made here, by what it is."""

    def __init__(self, source: int, target: Path) -> None:
        """``source`` is a descriptor of the raw image, ``target`` an existing directory."""
        self._source = source
        self._target = os.fsencode(target)
        self.files = 0
        self.missing: Counter[str] = Counter()

    def write(self, system: FileSystem, below: str = "") -> None:
        """Write the whole file system; ``below`` is where it was mounted (``boot/efi``)."""
        links: dict[int, bytes] = {}
        path = self._mount_point(below)
        self._directory(system, system.root, path, links)
        self._finish(system, system.root, path)

    def directory(self, below: str) -> str:
        """The directory for a file system that somebody else writes."""
        return os.fsdecode(self._mount_point(below))

    def _mount_point(self, below: str) -> bytes:
        """The directory for a file system, made when it is not there; never by way of a symbolic link.

        What is in it would be hidden where the file system is mounted, and is removed.
        """
        path = self._target
        for part in (one for one in below.split("/") if one):
            path = os.path.join(path, os.fsencode(part))
            try:
                if not stat.S_ISDIR(os.lstat(path).st_mode):
                    raise damaged(f"it mounts something on /{below}, which is no directory")
            except FileNotFoundError:
                os.mkdir(path, 0o755)
        for name in os.listdir(path) if below else ():
            hidden = os.path.join(path, name)
            if stat.S_ISDIR(os.lstat(hidden).st_mode):
                shutil.rmtree(hidden)
            else:
                os.unlink(hidden)
        return path

    def _directory(self, system: FileSystem, number: int, path: bytes, links: dict[int, bytes]) -> None:
        """Write what is in a directory that is there already."""
        above: list[tuple[int, bytes]] = [(number, path)]
        done: list[tuple[int, bytes]] = []
        seen = {number}
        while above:
            number, path = above.pop()
            for name, inode in system.entries(number):
                if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
                    raise damaged(f"a name in a directory makes no sense: {name!r}")
                below = os.path.join(path, name)
                if name == b"lost+found" and number == system.root:
                    # Each file system has its own.
                    continue
                if system.node(inode).type == stat.S_IFDIR:
                    if inode in seen:
                        raise damaged("a directory is in two places")
                    seen.add(inode)
                    os.mkdir(below, 0o700)
                    above.append((inode, below))
                    done.append((inode, below))
                else:
                    self._leaf(system, inode, below, links)
        # What is in a directory changes its time.
        for number, path in reversed(done):
            self._finish(system, number, path)

    def _leaf(self, system: FileSystem, number: int, path: bytes, links: dict[int, bytes]) -> None:
        node = system.node(number)
        if number in links:
            os.link(links[number], path, follow_symlinks=False)
            return
        if node.type == stat.S_IFREG:
            self._file(system, number, path, node.size)
        elif node.type == stat.S_IFLNK:
            target = system.link(number)
            if not target or b"\0" in target:
                raise damaged(f"the symbolic link {number} makes no sense")
            os.symlink(target, path)
        elif node.type in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
            try:
                os.mknod(path, node.mode, os.makedev(*node.device))
            except PermissionError:
                self.missing["device nodes"] += 1
                return
        else:
            raise damaged(f"inode {number} is of no type (mode {node.mode:o})")
        if node.links > 1:
            links[number] = path
        self._finish(system, number, path)
        self.files += 1

    def _file(self, system: FileSystem, number: int, path: bytes, size: int) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "wb", buffering=0) as out:
            inline = system.inline(number)
            if inline is not None:
                out.write(inline)
            else:
                for extent in system.extents(number):
                    self._copy(extent, out.fileno())
            out.truncate(size)

    def _copy(self, extent: Extent, out: int) -> None:
        os.lseek(out, extent.at, os.SEEK_SET)
        done = 0
        while done < extent.length:
            moved = os.sendfile(out, self._source, extent.image + done, extent.length - done)
            if not moved:
                raise damaged("a file is cut")
            done += moved

    def _finish(self, system: FileSystem, number: int, path: bytes) -> None:
        """Owner, attributes, mode and time, in the order in which none undoes another."""
        node = system.node(number)
        try:
            os.lchown(path, node.uid, node.gid)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            said = f"{_shown(path, self._target)} belongs to {node.uid}:{node.gid}, which cannot be here."
            hint = "A user's ranges in /etc/subuid and /etc/subgid have to be long enough, or build as root."
            raise Unreadable("E665", said, hint) from error
        for name, value in system.xattrs(number).items():
            self._attribute(path, name, value)
        if node.type != stat.S_IFLNK:
            os.chmod(path, stat.S_IMODE(node.mode))
        os.utime(path, ns=(node.mtime, node.mtime), follow_symlinks=False)

    def _attribute(self, path: bytes, name: str, value: bytes) -> None:
        if name.startswith(_LEFT_OUT):
            return
        try:
            os.setxattr(path, os.fsencode(name), value, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise
            self.missing[f"attributes {name.partition('.')[0]}.*"] += 1


def _shown(path: bytes, target: bytes) -> str:
    return "/" + os.fsdecode(os.path.relpath(path, target))
