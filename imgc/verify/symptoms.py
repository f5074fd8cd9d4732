"""What a serial console says when a guest will never come up.

Each symptom is recognised by text that firmware, boot loaders, kernels and init systems really print, so that a
failed boot ends at once, with its cause, and not by a timeout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Terminal control: CSI and OSC sequences, two-character escapes, and the bytes that only move a cursor.
_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_c=>78]|[\x00\x07\x08\r]"
)


@dataclass(frozen=True)
class Symptom:
    """``sentence`` and ``hint`` are for the user; ``pattern`` is searched in plain text with ``^`` at line starts."""

    name: str
    pattern: re.Pattern[str]
    sentence: str
    hint: str


def _symptom(name: str, pattern: str, sentence: str, hint: str) -> Symptom:
    return Symptom(name, re.compile(pattern, re.MULTILINE), sentence, hint)


#: In the order of a boot: the first one found is the nearest to the cause.
SYMPTOMS = (
    _symptom(
        "no boot device",
        r"No bootable device|not a bootable disk|BdsDxe: No bootable option|^Shell> ",
        "The firmware found nothing to boot.",
        "Does the image boot with this firmware? Its disk has to be built for bios, efi or both.",
    ),
    _symptom(
        "grub rescue",
        r"grub rescue>|Entering rescue mode\.\.\.",
        "GRUB cannot find its own files and stopped in its rescue shell.",
        "Look at the prefix that the core image was made with and at the partition that holds /boot/grub.",
    ),
    _symptom(
        "grub shell",
        r"Minimal BASH-like line editing is supported|^grub> ",
        "GRUB found no configuration and stopped in its shell.",
        "Is there a /boot/grub/grub.cfg, and does the loader look for it there?",
    ),
    _symptom(
        "grub error",
        r"^error: .*(?:not found|you need to load the kernel first|no such (?:device|partition)).*\n(?:.*\n)?"
        r"\s*Press any key to continue",
        "GRUB could not load what its menu entry names.",
        "Compare the kernel and initramfs in the menu entry with those in /boot.",
    ),
    _symptom(
        "kernel panic",
        r"Kernel panic - not syncing",
        "The kernel panicked.",
        "When it could not mount its root: is the driver in the initramfs, and the label on the file system?",
    ),
    _symptom(
        "initramfs shell",
        r"^\s*\(initramfs\) |^dracut:/# |^Gave up waiting for root",
        "The initramfs could not mount the root file system and stopped in its shell.",
        "Is the disk's driver in the initramfs, and does root= name the file system's label?",
    ),
    _symptom(
        "emergency mode",
        r"You are in (?:emergency|rescue) mode|Cannot open access to console, the root account is locked"
        r"|^Entering emergency mode\.|Press Enter for maintenance",
        "systemd stopped in emergency mode.",
        "A unit that local-fs.target needs has failed; /etc/fstab is the usual cause.",
    ),
    _symptom(
        "no init",
        r"No working init found|Freezing execution\.|^run-init: .*No such file",
        "The kernel came up but its init system did not.",
        "Is the init system installed and complete?",
    ),
)


def plain(text: str) -> str:
    """``text`` without terminal control sequences and carriage returns."""
    return _CONTROL.sub("", text)


def find(text: str) -> Symptom | None:
    """The first symptom in plain serial output, or None."""
    return next((symptom for symptom in SYMPTOMS if symptom.pattern.search(text)), None)


def waits_for_login(text: str) -> bool:
    """Whether the last line is a login prompt."""
    return bool(re.search(r"(?:^|\s)login: *$", text.rstrip("\n").rpartition("\n")[2]))
