"""From a tree of files to a raw disk that starts.

:func:`assemble` writes everything into one sparse file: partition table, file systems, and what the firmware
reads first.  The loader comes from the tree itself, from where the ``bootloader`` element left it.

The engine calls this inside its sandbox, where the tree can be seen: ``python -m imgc.disk.assemble
REQUEST``, with a request from :func:`request`; :func:`imgc.disk.inside.answer` reads what it prints.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

from imgc import process
from imgc.disk import bootcode, inside
from imgc.disk.filesystem import REMOVABLE, Run, make_esp, make_root
from imgc.disk.layout import SECTOR, Layout, plan_layout, usage_for
from imgc.disk.measure import measure
from imgc.errors import ImgcError
from imgc.spec.model import Disk

_HINT = (
    "The `bootloader` element prepares it in finalise.d; is `vm` among the elements, and did its hook run?"
)


def assemble(
    tree: str, raw: str, layout: Layout, *, epoch: int | None = None, run: Run = process.run
) -> None:
    """Write the disk ``layout`` describes, with the files of ``tree``, to the new sparse file ``raw``.

    ``epoch`` (seconds since 1970) is the latest time that a file may have; without it files keep their times.
    Raises E402 when the tree lacks its loader, E403 when a file system or the partition table cannot be made.
    ``raw`` is removed when anything goes wrong.
    """
    loader = find_loader(tree, layout)
    try:
        with open(raw, "wb") as file:
            file.truncate(layout.size)
        write_table(raw, layout, run)
        make_root(tree, raw, layout, run, epoch=epoch)
        if layout.efi:
            make_esp(loader, raw, layout, run, epoch=epoch)
        if layout.bios:
            write_boot_code(raw, layout, loader)
    except BaseException:
        if os.path.exists(raw):
            os.unlink(raw)
        raise


def find_loader(tree: str, layout: Layout) -> dict[str, str]:
    """The files of the tree that start the machine, by the name they get on the disk (E402 when one is missing)."""
    boot = os.path.join(tree, "boot")
    grub = next((path for name in ("grub", "grub2") if os.path.isdir(path := os.path.join(boot, name))), None)
    if grub is None:
        raise ImgcError("E402", "The tree has no /boot/grub: nothing could start it.", hint=_HINT)
    found: dict[str, str] = {}
    if layout.bios:
        found = {name: os.path.join(grub, "i386-pc", name) for name in ("boot.img", "core.img")}
    if layout.efi:
        loaders = {name: os.path.join(grub, platform, "core.efi") for platform, name in REMOVABLE.items()}
        present = {name: path for name, path in loaders.items() if os.path.isfile(path)}
        found |= present or {"BOOTX64.EFI": loaders["BOOTX64.EFI"]}
    paths = [os.path.join(grub, "grub.cfg"), *found.values()]
    missing = [os.path.relpath(path, tree) for path in paths if not os.path.isfile(path)]
    if not any(name.startswith("vmlinu") for name in os.listdir(boot)):
        missing.append("boot/vmlinuz-*")
    if missing:
        raise ImgcError("E402", f"The tree lacks what it starts with: /{', /'.join(missing)}.", hint=_HINT)
    return found


def write_table(raw: str, layout: Layout, run: Run) -> None:
    """Write the partition table (sfdisk works on the file itself)."""
    process.need("sfdisk", package="fdisk")
    try:
        run(
            ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never", raw],
            stdin=table(layout),
        )
    except ImgcError as error:
        if error.code != "E301":
            raise
        raise ImgcError(
            "E403", f"Writing the partition table: {error.message}", detail=error.detail
        ) from error


def table(layout: Layout) -> str:
    """The partition table in the language of sfdisk."""
    gpt = layout.partitioning == "gpt"
    lines = [f"label: {'gpt' if gpt else 'dos'}", f"label-id: {layout.disk_id}", "unit: sectors"]
    if gpt:
        lines.append("first-lba: 34")
    for part in layout.partitions:
        fields = [f"start={part.offset // SECTOR}", f"size={part.size // SECTOR}", f"type={part.type}"]
        if gpt:
            fields += [f"uuid={part.uuid}", f'name="{part.role}"']
        elif part.role == "root" and layout.bios:
            fields.append("bootable")
        lines.append(f"disk{part.number} : {', '.join(fields)}")
    return "\n".join(lines) + "\n"


def write_boot_code(raw: str, layout: Layout, loader: dict[str, str]) -> None:
    """Write what a BIOS starts: boot.img into the first sector, core.img into its partition or after the sector."""
    if layout.partitioning == "gpt":
        part = layout.partition("bios")
        start, room = part.offset, part.size
    else:
        start, room = SECTOR, layout.partitions[0].offset - SECTOR
    core_sector = start // SECTOR
    first = bootcode.first_sector(_read(loader["boot.img"]), core_sector)
    core = bootcode.core_image(_read(loader["core.img"]), core_sector, room)
    with open(raw, "r+b") as file:
        file.write(first)
        file.seek(start)
        file.write(core)


def request(tree: str, raw: str, disk: Disk, seed: str, epoch: int | None = None) -> str:
    """What to pass to ``python -m imgc.disk.assemble`` to measure ``tree``, lay out ``disk`` and assemble ``raw``.

    ``epoch`` as in :func:`assemble`.
    """
    return inside.encode({"tree": tree, "raw": raw, "disk": asdict(disk), "seed": seed, "epoch": epoch})


def serve(fields: dict[str, object]) -> dict[str, object]:
    """Do what a request says; the answer holds the layout as JSON text under ``layout``."""
    disk = Disk(**fields["disk"])  # type: ignore[arg-type]
    tree, raw, seed = str(fields["tree"]), str(fields["raw"]), str(fields["seed"])
    usage = measure(tree)
    if disk.filesystem == "btrfs" and usage.devices > 1:
        raise ImgcError("E403", "mkfs.btrfs cannot take a tree that lies on several file systems.")
    size, files = usage_for(disk.filesystem, usage)
    layout = plan_layout(disk, tree_bytes=size, tree_files=files, seed=seed)
    epoch = fields["epoch"]
    assemble(tree, raw, layout, epoch=None if epoch is None else int(str(epoch)))
    return {"layout": layout.to_json()}


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


if __name__ == "__main__":
    sys.exit(inside.main(serve, sys.argv))
