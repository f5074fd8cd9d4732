"""Reading finished images back, without mounting anything.

The checks start from what is on the disk, not from what was meant to be written: the partition table is read
from the raw image, and the file system is known by its magic number.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from imgc import process
from imgc.disk import sparse, vhd
from imgc.disk.convert import qemu_format
from imgc.disk.layout import SECTOR, Layout
from imgc.errors import ImgcError
from imgc.spec.model import Output

#: qemu-img's exit status for a format that it has no check for.
_NO_CHECK = 63


def check_outputs(raw: str, outputs: Sequence[tuple[str, Output]]) -> None:
    """Check the file system on ``raw`` and that every (path, output) is sound and holds the same disk (else
    E404).

    An archive is checked for being readable to its end.  The checks run side by side; each reads a whole file.
    """
    with ThreadPoolExecutor() as pool:
        checks = [pool.submit(check_filesystem, raw)]
        for path, output in outputs:
            if output.format == "tar":
                checks.append(pool.submit(check_archive, path, output))
            else:
                checks.append(pool.submit(_check_image, raw, path, output))
        for check in checks:
            check.result()


def check_filesystem(raw: str) -> None:
    """Run the file system's own checker over the root partition of ``raw``, which it does not change."""
    offset, size = root_partition(raw)
    kind = filesystem_at(raw, offset)
    if kind == "ext4":
        process.need("e2fsck", package="e2fsprogs")
        _demand("The root file system", ["e2fsck", "-f", "-n", f"{raw}?offset={offset}"])
        return
    process.need("btrfs", package="btrfs-progs")
    with _Part(raw, offset, size) as part:
        _demand("The root file system", ["btrfs", "check", "--readonly", part])


def inspect_boot(raw: str, layout: Layout) -> dict[str, list[str]]:
    """The kernels, initial RAM disks and menus in ``/boot`` of ``raw``: lists of paths under those three
    names.

    Raises E404 when the disk lacks any of them, or the code that the firmware starts.
    """
    names = list_boot(raw)
    found = {
        "kernels": [name for name in names if re.fullmatch(r"/boot/vmlinu[xz]-.+", name)],
        "initrds": [name for name in names if re.fullmatch(r"/boot/init(rd\.img|ramfs)-.+", name)],
        "menus": [name for name in names if re.fullmatch(r"/boot/grub2?/grub\.cfg", name)],
    }
    missing = [what for what, paths in found.items() if not paths]
    with open(raw, "rb") as file:
        start = file.read(SECTOR)
    if layout.bios and (not any(start[:440]) or start[-2:] != b"\x55\xaa"):
        missing.append("boot sector")
    if layout.efi and not _loaders(raw, layout.partition("esp").offset):
        missing.append("EFI loader")
    if missing:
        raise ImgcError("E404", f"The disk would not start; it lacks: {', '.join(missing)}.")
    return found


def root_partition(raw: str) -> tuple[int, int]:
    """(offset, size) in bytes of partition 1, from the partition table on the disk."""
    process.need("sfdisk", package="fdisk")
    done = process.run(["sfdisk", "--json", raw], check=False)
    if done.status == 0:
        for part in json.loads(done.output)["partitiontable"].get("partitions", []):
            if part["node"] == f"{raw}1" or part["node"] == f"{raw}p1":
                return int(part["start"]) * SECTOR, int(part["size"]) * SECTOR
    raise ImgcError("E404", f"{os.path.basename(raw)} has no partition 1.", detail=done.output)


def filesystem_at(raw: str, offset: int) -> str:
    """``ext4`` or ``btrfs``, by the magic number of the file system that begins at ``offset``."""
    with open(raw, "rb") as file:
        if os.pread(file.fileno(), 2, offset + 1024 + 56) == b"\x53\xef":
            return "ext4"
        if os.pread(file.fileno(), 8, offset + 65536 + 64) == b"_BHRfS_M":
            return "btrfs"
    raise ImgcError("E404", f"{os.path.basename(raw)} has no file system that imgc knows on partition 1.")


def list_boot(raw: str) -> list[str]:
    """Every path in ``/boot`` and ``/boot/grub`` (``grub2``) of the root file system, sorted."""
    offset, size = root_partition(raw)
    if filesystem_at(raw, offset) == "ext4":
        return sorted(_list_ext4(f"{raw}?offset={offset}"))
    with _Part(raw, offset, size) as part, tempfile.TemporaryDirectory() as nowhere:
        pattern = r"^/(|boot(|/[^/]*|/grub2?/[^/]*))$"
        # Said twice, -v names every file.
        command = ["btrfs", "restore", "-D", "-v", "-v", f"--path-regex={pattern}", part, nowhere]
        output = _demand("The root file system", command)
    prefix = f"Restoring {nowhere}"
    return sorted(line[len(prefix) :] for line in output.splitlines() if line.startswith(prefix))


def _list_ext4(image: str) -> list[str]:
    names: list[str] = []
    for directory in ("/boot", "/boot/grub", "/boot/grub2"):
        output = process.run(["debugfs", "-R", f"ls -p {directory}", image]).output
        entries = [line.split("/") for line in output.splitlines() if line.startswith("/")]
        names += [f"{directory}/{entry[5]}" for entry in entries if len(entry) > 5 and entry[5].strip(".")]
    return names


def _loaders(raw: str, offset: int) -> list[str]:
    """The loaders at the removable path of the EFI system partition."""
    process.need("mdir", package="mtools")
    env = process.clean_environment({"MTOOLSRC": os.devnull})
    done = process.run(["mdir", "-b", "-i", f"{raw}@@{offset}", "::/EFI/BOOT"], env=env, check=False)
    return [line for line in done.output.splitlines() if line.upper().endswith(".EFI")]


def _check_image(raw: str, path: str, output: Output) -> None:
    process.need("qemu-img", package="qemu-utils")
    name = os.path.basename(path)
    kind = qemu_format(output)
    if output.format == "vhd":
        found = vhd.problems(path, os.stat(raw).st_size)
        if found:
            raise ImgcError("E404", f"{name} is not sound: {'; '.join(found)}.")
    if output.format == "qcow2":
        _demand(name, ["qemu-img", "check", "-f", kind, path], allowed=(0, _NO_CHECK))
    _demand(name, ["qemu-img", "compare", "-f", "raw", "-F", kind, raw, path])


def check_archive(path: str, output: Output) -> None:
    """Read an archive to its end (else E404)."""
    """Read the archive at ``path`` to its end (else E404)."""
    program = {"zstd": "zstd", "gzip": "gzip"}.get(output.option("compression"))
    if program:
        _demand(os.path.basename(path), [program, "--test", "--quiet", path])
    else:
        _demand(os.path.basename(path), ["tar", "--list", "--file", path])


def _demand(what: str, command: list[str], allowed: tuple[int, ...] = (0,)) -> str:
    done = process.run(command, check=False)
    if done.status not in allowed:
        why = process.failure(done)
        raise ImgcError("E404", f"{what} failed its check: {why.message}", detail=why.detail)
    return done.output


class _Part:
    """A partition as a file of its own, for checkers that know of no offset.  Gone at the end of the block."""

    def __init__(self, raw: str, offset: int, size: int) -> None:
        self._raw, self._offset, self._size = raw, offset, size

    def __enter__(self) -> str:
        self._file = tempfile.NamedTemporaryFile(
            prefix=".part-", dir=os.path.dirname(os.path.abspath(self._raw))
        )
        os.ftruncate(self._file.fileno(), self._size)
        with open(self._raw, "rb") as source:
            sparse.copy_range(source.fileno(), self._offset, self._size, self._file.fileno(), 0)
        return self._file.name

    def __exit__(self, *_: object) -> None:
        self._file.close()
