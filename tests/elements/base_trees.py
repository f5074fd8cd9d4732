"""Trees with everything that a file system can hold, disks made of them, and the program that reads these."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import imgc

ELEMENT = Path(imgc.__file__).parent / "elements/imgc-base-image"

#: Seconds since 1970 of everything in a tree.
TIME = 1_600_000_000

_NOBODY = 0xFFFFFFFF


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)


#: Who may read: owner, a named user, group, a named group, mask, others.
ACL = acl((1, 6, _NOBODY), (2, 5, 1234), (4, 4, _NOBODY), (8, 6, 777), (16, 7, _NOBODY), (32, 4, _NOBODY))

#: cap_net_raw, permitted and effective, as security.capability has it.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def minimal(tree: Path, distro: str = "debian") -> Path:
    """The least that is a root file system."""
    for name in ("etc", "usr/bin", "usr/lib"):
        (tree / name).mkdir(parents=True)
    (tree / "usr/lib/os-release").write_text(f'ID="{distro}"\n')
    (tree / "etc/os-release").symlink_to("../usr/lib/os-release")
    shutil.copy("/bin/true", tree / "usr/bin/true")
    return tree


def full(tree: Path) -> Path:
    """A root file system with all that is easily lost.  What only root can make is there for root."""
    minimal(tree)
    (tree / "bin").symlink_to("usr/bin")
    os.link(tree / "usr/bin/true", tree / "usr/bin/also-true")
    (tree / "usr/bin/true").chmod(0o4755)
    (tree / "tmp").mkdir()
    (tree / "tmp").chmod(0o1777)
    data = tree / "var/data"
    data.mkdir(parents=True)
    with (data / "sparse").open("wb") as file:
        file.seek(50_000_000)
        file.write(b"x")
    with (data / "fragments").open("wb") as file:
        for number in range(400):
            file.seek(number * 3 * 4096)
            file.write(bytes([number % 255 + 1]) * 1000)
    (data / "large").write_bytes(os.urandom(3_000_000))
    (data / "ünusual\nname").write_text("name")
    (data / "link").symlink_to("L" * 900)
    (data / "short").symlink_to("sparse")
    many = tree / "var/many"
    many.mkdir()
    for number in range(1500):
        (many / f"a-file-with-a-rather-long-name-{number}").touch()
    (data / "attributes").write_text("a")
    os.setxattr(data / "attributes", "user.small", b"value")
    os.setxattr(data / "attributes", "user.large", b"x" * 2500)
    os.setxattr(data / "attributes", "system.posix_acl_access", ACL)
    os.mkfifo(data / "fifo")
    if os.geteuid() == 0:
        _as_root(tree)
    for directory, names, files in os.walk(tree):
        for name in (*names, *files):
            os.utime(Path(directory, name), (TIME, TIME), follow_symlinks=False)
    os.utime(tree, (TIME, TIME))
    # Beyond 2038, and before 1970.
    os.utime(data / "large", (2_600_000_000, 2_600_000_000))
    os.utime(data / "fragments", (-1000, -1000))
    return tree


def _as_root(tree: Path) -> None:
    (tree / "dev").mkdir()
    os.mknod(tree / "dev/null", 0o020666, os.makedev(1, 3))
    os.mknod(tree / "dev/disk", 0o060640, os.makedev(259, 70000))
    os.lchown(tree / "var/data/short", 70000, 12345)
    os.chown(tree / "var/data/large", 12345, 70000)
    shutil.copy("/bin/false", tree / "usr/bin/false")
    os.setxattr(tree / "usr/bin/false", "security.capability", CAPABILITY)


def seen(tree: Path) -> dict[str, tuple[object, ...]]:
    """Everything in a tree, in a form that can be compared.  Hard links are seen by their names."""
    found: dict[str, tuple[object, ...]] = {}
    links: dict[int, list[str]] = {}
    for directory, names, files in os.walk(tree):
        for name in (*names, *files):
            path = Path(directory, name)
            status = path.lstat()
            what: object = None
            if stat.S_ISREG(status.st_mode):
                links.setdefault(status.st_ino, []).append(name)
                what = (status.st_size, path.read_bytes(), status.st_blocks * 512 < status.st_size + 65536)
            elif stat.S_ISLNK(status.st_mode):
                what = os.readlink(path)
            names_of = os.listxattr(path, follow_symlinks=False)
            attributes = {one: os.getxattr(path, one, follow_symlinks=False) for one in sorted(names_of)}
            owner = (status.st_uid, status.st_gid)
            rest = (owner, status.st_mtime, status.st_rdev, attributes, what)
            found[str(path.relative_to(tree))] = (oct(status.st_mode), *rest)
    found["hard links"] = tuple(sorted(tuple(sorted(one)) for one in links.values() if len(one) > 1))
    return found


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same in two trees, by path."""
    first, second = seen(one), seen(other)
    return [
        f"{path}: {str(first.get(path))[:300]} is {str(second.get(path))[:300]}"
        for path in sorted({*first, *second} - {"lost+found"})
        if first.get(path) != second.get(path)
    ]


def run(*argv: str | Path) -> str:
    words = [str(one) for one in argv]
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(words, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def ext4(path: Path, tree: Path, size: str = "200M", *options: str) -> Path:
    """A file system that is made of a tree."""
    run("truncate", "-s", size, path)
    run(
        "mkfs.ext4",
        "-q",
        "-F",
        "-b",
        "4096",
        "-E",
        f"root_owner={os.getuid()}:{os.getgid()}",
        *options,
        "-d",
        tree,
        path,
    )
    return path


def disk(path: Path, parts: Sequence[tuple[Path, str, Mapping[str, str]]], label: str = "gpt") -> Path:
    """A disk of partitions: the file with the file system, the type, further fields as sfdisk takes them."""
    begin, script = 2048, [f"label: {label}"]
    for part, kind, fields in parts:
        size = -(-part.stat().st_size // (1 << 20)) * 2048
        more = "".join(f", {name}={value}" for name, value in fields.items())
        script.append(f"start={begin}, size={size}, type={kind}{more}")
        begin += size
    run("truncate", "-s", str((begin + 2048) * 512), path)
    process = ["sfdisk", "--quiet", str(path)]
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(process, input="\n".join(script), text=True, check=True, env=env)
    at = 1
    for part, _, _ in parts:
        run("dd", f"if={part}", f"of={path}", "bs=1M", f"seek={at}", "conv=notrunc,sparse", "status=none")
        at += -(-part.stat().st_size // (1 << 20))
    return path


def unpack(base: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Run the element's program on a base."""
    target.mkdir(exist_ok=True)
    argv = [sys.executable, "-B", str(ELEMENT / "base-image"), str(base), str(target)]
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    return subprocess.run(argv, env=env, capture_output=True, text=True)


def unpacked(base: Path, target: Path) -> Path:
    done = unpack(base, target)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def hook(name: str, target: Path, scratch: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one of the element's hooks, with imgc's stand-in for sudo."""
    programs = scratch / "bin"
    programs.mkdir(exist_ok=True)
    sudo = programs / "sudo"
    shutil.copy(Path(imgc.__file__).parent / "engine/sandbox_files/sudo", sudo)
    sudo.chmod(0o755)
    target.mkdir(exist_ok=True)
    path = f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin"
    given = {"PATH": path, "TARGET_ROOT": str(target), "DIB_PYTHON_EXEC": sys.executable, **env}
    return subprocess.run([str(ELEMENT / name)], env=given, capture_output=True, text=True)
