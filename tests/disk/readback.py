"""Reading file systems back without mounting them, into the form of :func:`.trees.describe`."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path

from .trees import Entry

_TYPES = {
    "regular": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "character": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "FIFO": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}


def run(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True)
    return done.stdout


def ext4(image: str, tmp: Path) -> dict[str, Entry]:
    """Everything on an ext4 (``file?offset=N``) but lost+found."""
    numbers = dict(_walk_ext4(image))
    script = tmp / "commands"
    script.write_text("".join(f"stat <{number}>\nea_list <{number}>\n" for number in numbers.values()))
    output = run("debugfs", "-f", str(script), image)
    blocks = re.split(r"^debugfs: stat <\d+>\n", output, flags=re.M)[1:]
    groups: dict[int, str] = {}
    found: dict[str, Entry] = {}
    for (path, number), block in zip(numbers.items(), blocks, strict=True):
        kind = _one(r"Type: (\w+)", block)
        links = 1 if kind == "directory" else int(_one(r"Links: (\d+)", block))
        device = re.search(r"Device major/minor number: (\d+):(\d+)", block)
        attributes = re.findall(r"^  ([a-z]+\.\S+) \(\d+\)(?: = (.*))?$", block, flags=re.M)
        if path == "/lost+found":
            continue
        found[path] = Entry(
            mode=_TYPES[kind] | int(_one(r"Mode: +(\d+)", block), 8),
            uid=int(_one(r"User: +(\d+)", block)),
            gid=int(_one(r"Group: +(\d+)", block)),
            links=links,
            device=(int(device[1]), int(device[2])) if device else (0, 0),
            modified=int(_one(r"mtime: 0x([0-9a-f]+)", block), 16),
            attributes=tuple(sorted((name, _value(text)) for name, text in set(attributes))),
            group=groups.setdefault(number, path),
        )
    return found


def btrfs(image: str) -> dict[str, Entry]:
    """Everything on a btrfs that begins at the beginning of the file ``image``.

    The tool prints the values of attributes up to their first zero byte.
    """
    dump = subprocess.run(
        ["btrfs", "inspect-internal", "dump-tree", "-t", "5", image], capture_output=True, check=True
    ).stdout.decode("latin-1")
    inodes: dict[int, str] = {}
    entries: dict[int, list[tuple[int, str]]] = {}
    attributes: dict[int, list[tuple[str, bytes]]] = {}
    for item in re.split(r"^\titem \d+ key ", dump, flags=re.M)[1:]:
        number, kind = int(_one(r"\((\d+) ", item)), _one(r"\(\d+ (\w+)", item)
        if kind == "INODE_ITEM":
            inodes[number] = item
        elif kind in ("DIR_INDEX", "XATTR_ITEM"):
            lengths = re.search(r"data_len (\d+) name_len (\d+)\n\t\tname: ", item)
            assert lengths, item
            end = lengths.end() + int(lengths[2])
            name = item[lengths.end() : end].encode("latin-1").decode()
            if kind == "DIR_INDEX":
                child = int(_one(r"location key \((\d+)", item))
                entries.setdefault(number, []).append((child, name))
            else:
                start = end + len("\n\t\tdata ")
                value = item[start : start + int(lengths[1])].removesuffix("\n").encode("latin-1")
                attributes.setdefault(number, []).append((name, value))
    paths = {"/": 256}
    todo = [("", 256)]
    while todo:
        above, number = todo.pop()
        for child, name in entries.get(number, []):
            paths[f"{above}/{name}"] = child
            todo.append((f"{above}/{name}", child))
    groups: dict[int, str] = {}
    found: dict[str, Entry] = {}
    for path in sorted(paths):
        number = paths[path]
        inode = inodes[number]
        mode = int(_one(r"mode (\d+)", inode), 8)
        special = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        device = int(_one(r"rdev (\d+)", inode))
        found[path] = Entry(
            mode=mode,
            uid=int(_one(r"uid (\d+)", inode)),
            gid=int(_one(r"gid (\d+)", inode)),
            links=1 if stat.S_ISDIR(mode) else int(_one(r"links (\d+)", inode)),
            device=(device >> 20, device & 0xFFFFF) if special else (0, 0),
            modified=int(_one(r"mtime (\d+)", inode)),
            attributes=tuple(sorted(attributes.get(number, []))),
            group=groups.setdefault(number, path),
        )
    return found


def _walk_ext4(image: str) -> list[tuple[str, int]]:
    found = [("/", 2)]
    todo = [("", 2)]
    while todo:
        above, number = todo.pop()
        listing = subprocess.run(
            ["debugfs", "-R", f"ls -p <{number}>", image], capture_output=True, check=True
        )
        # A name may hold a line feed; an entry begins with a slash and an inode number, and ends with a slash.
        pattern = r"^/(\d+)/(\d+)/\d*/\d*/([^/]*)/\d*/$"
        for child, mode, name in re.findall(pattern, listing.stdout.decode(), flags=re.M):
            if name in (".", "..") or child == "0":
                continue
            found.append((f"{above}/{name}", int(child)))
            if stat.S_ISDIR(int(mode, 8)):
                todo.append((f"{above}/{name}", int(child)))
    return sorted(found)


def _value(text: str) -> bytes:
    """A value as debugfs prints it: quoted text, or bytes in hexadecimal."""
    return text[1:-1].encode() if text.startswith('"') else bytes.fromhex(text)


def _one(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, (pattern, text)
    return match[1]
