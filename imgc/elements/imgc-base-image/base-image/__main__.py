"""``python3 base-image BASE TARGET``: puts the tree of a base (disk image, tarball, directory) into a directory.

Disk images are read without mounting them: no loop device, no privileges but those that writing the files takes.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import contents
import disks
import ext4
from nodes import Unreadable, damaged
from writer import Writer

#: What every operating system has at its top: enough to tell a root file system from something else.
_TOP = ("etc", "usr")


def main(arguments: list[str]) -> int:
    base, target = Path(arguments[0]), Path(arguments[1])
    # Modes are the base's own.
    os.umask(0o022)
    try:
        found = contents.look(base)
        if found.kind == "disk":
            _disk(found, target)
        elif found.kind == "squashfs":
            _squashfs(found, target)
        else:
            _pack(found, target)
        _check(target)
    except Unreadable as problem:
        hint = f"\n{problem.hint}" if problem.hint else ""
        print(f"{problem.code}: {problem}{hint}", file=sys.stderr)
        return 1
    except (struct.error, IndexError, ValueError, OverflowError, RecursionError) as error:
        # What a number on a damaged disk leads to is found where it is used.
        print(f"E665: The file system of the image is damaged: {error}.", file=sys.stderr)
        return 1
    except OSError as error:
        code = "E902" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "E304"
        where = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "the tree"
        print(f"{code}: The base cannot be unpacked: {where}: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


def _disk(base: contents.Base, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="imgc-base-image.") as name:
        scratch = Path(name)
        raw = contents.raw_disk(base, scratch)
        raw = _replayed(raw, scratch)
        with raw.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = disks.partitions(raw, data)
            disks.open_readable(found)
            writer = Writer(file.fileno(), target)
            for mount in disks.mounts(found, disks.root_of(found)):
                print(f"/{mount.below}: {mount.partition}")
                _partition(mount, writer, raw)
            for what, count in sorted(writer.missing.items()):
                print(f"{count} {what} of the base cannot be made here; they are left out.")
            print(f"{writer.files} files, links and device nodes")


def _partition(mount: disks.Mount, writer: Writer, raw: Path) -> None:
    one = mount.partition
    if one.system:
        writer.write(one.system, mount.below)
    elif one.kind == "vfat":
        where = writer.directory(mount.below)
        times = os.stat(where)
        # Its times are those of some clock, taken for UTC on any host.
        os.environ["TZ"] = "UTC"
        contents.run("mcopy", "-s", "-n", "-Q", "-m", "-i", f"{raw}@@{one.begin}", "::*", f"{where}/")
        os.utime(where, ns=(times.st_mtime_ns, times.st_mtime_ns))
    elif one.kind != "swap":
        said = f"The base mounts {one} on /{mount.below}, which cannot be read without mounting it."
        raise Unreadable("E666", said)


def _replayed(raw: Path, scratch: Path) -> Path:
    """The disk with all journals of its ext4 replayed, in a copy where there is something to do."""
    with raw.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = disks.partitions(raw, data)
        begins = [one.begin for one in found if one.kind == "ext4" and one.image and ext4.is_dirty(one.image)]
    if not begins:
        return raw
    if raw.parent != scratch:
        copy = scratch / "disk.copy"
        contents.run("cp", "--sparse=always", "--", str(raw), str(copy))
        raw = copy
    contents.need("e2fsck")
    for begin in begins:
        argv = ["e2fsck", "-f", "-y", "-E", "journal_only", f"{raw}?offset={begin}"]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
        # 1 says that something was corrected, which is what it is for.
        if done.returncode > 1:
            raise damaged("its journal cannot be replayed")
    return raw


def _squashfs(base: contents.Base, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="imgc-base-image.") as name:
        path = contents.raw_disk(contents.Base(base.path, "disk", "raw", base.compression), Path(name))
        contents.run("unsquashfs", "-quiet", "-no-progress", "-force", "-dest", str(target), str(path))


def _pack(base: contents.Base, target: Path) -> None:
    """A tarball or a directory, by tar, with everything that tar knows to keep."""
    keep = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--xattrs-exclude=security.selinux"]
    unpack = ["tar", "-C", str(target), "-xpf", "-", "--same-owner", "--delay-directory-restore", *keep]
    if not _may_make_devices(target):
        print("Device nodes below /dev are left out: this user may not make them.")
        unpack += ["--anchored", "--exclude=./dev/*", "--exclude=dev/*"]
    contents.need("tar")
    if base.kind == "tar":
        with contents.decompressed(base) as stream:
            status = subprocess.run(unpack, stdin=stream, check=False).returncode
    else:
        pack = [
            "tar",
            "-C",
            str(base.path),
            "--one-file-system",
            "--sparse",
            "--acls",
            *keep,
            "-cf",
            "-",
            ".",
        ]
        with subprocess.Popen(pack, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
            status = subprocess.run(unpack, stdin=child.stdout, check=False).returncode
        status = status or child.returncode
    if status:
        raise Unreadable("E665", f"tar cannot unpack the base (exit status {status}, see above).")


def _may_make_devices(target: Path) -> bool:
    probe = target / ".imgc-device"
    try:
        os.mknod(probe, 0o020600, os.makedev(1, 3))
    except PermissionError:
        return False
    probe.unlink()
    return True


def _check(target: Path) -> None:
    """Raise E665 when what was unpacked is no root file system."""
    missing = [name for name in _TOP if not (target / name).is_dir()]
    if missing:
        inside = sorted(one.name for one in target.iterdir())
        if len(inside) == 1 and all((target / inside[0] / name).is_dir() for name in _TOP):
            hint = f"Everything is below {inside[0]}/: pack it from inside (`tar -C {inside[0]} …`)."
        else:
            hint = f"At its top are: {', '.join(inside[:10]) or 'nothing'}."
        said = f"The base is no root file system: it has no /{' and no /'.join(missing)}."
        raise Unreadable("E665", said, hint)
    if shutil.which("true", path=f"{target}/usr/bin:{target}/bin") is None:
        raise Unreadable("E665", "The base is no root file system that can be used: it has no programs.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
