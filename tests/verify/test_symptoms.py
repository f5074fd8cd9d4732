"""Symptoms on consoles: texts as the programs print them, and healthy boots that only look alike."""

from __future__ import annotations

import pytest

from imgc.verify import symptoms

SICK = {
    "no boot device": [
        "Booting from Hard Disk...\r\nBoot failed: not a bootable disk\r\n\r\nNo bootable device.\r\n",
        "BdsDxe: No bootable option or device was found.\r\nBdsDxe: Press any key to enter the Boot Manager Menu.",
        "UEFI Interactive Shell v2.2\r\nPress ESC in 1 seconds to skip startup.nsh\x1b[1m\r\nShell> \x1b[0m",
    ],
    "grub rescue": [
        "GRUB loading.\r\nWelcome to GRUB!\r\n\r\nerror: no such partition.\r\nEntering rescue mode...\r\ngrub rescue> "
    ],
    "grub shell": [
        "                     GNU GRUB  version 2.06\r\n\r\n   Minimal BASH-like line editing is supported. For the",
        "\x1b[H\x1b[J\x1b[1;1H\r\ngrub> ",
    ],
    "grub error": [
        (
            "  Booting `Debian'\r\n\r\nLoading Linux ...\r\nerror: file `/boot/vmlinuz' not found.\r\n"
            "Loading initial ramdisk ...\r\nerror: you need to load the kernel first.\r\n\r\n"
            "Press any key to continue..."
        )
    ],
    "kernel panic": [
        (
            "[    1.9] VFS: Unable to mount root fs on unknown-block(0,0)\r\n"
            "[    1.9] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n"
        ),
    ],
    "initramfs shell": [
        "Gave up waiting for root file system device.  Common problems:\r\n - Boot args (cat /proc/cmdline)\r\n",
        "BusyBox v1.35.0 (Debian 1:1.35.0-4+b4) built-in shell (ash)\r\n\r\n\x1b[6n(initramfs) ",
        'Generating "/run/initramfs/rdsosreport.txt"\r\n\r\ndracut:/# ',
    ],
    "emergency mode": [
        'You are in emergency mode. After logging in, type "journalctl -xb" to view\r\nsystem logs',
        "Cannot open access to console, the root account is locked.\r\nSee sulogin(8) man page for more details.",
        "Give root password for maintenance\r\n(or press Control-D to continue): \r\nPress Enter for maintenance",
    ],
    "no init": [
        "[    3.1] systemd[1]: Failed to mount API filesystems.\r\n[    3.1] systemd[1]: Freezing execution.\r\n",
        "run-init: /sbin/init: No such file or directory\r\n",
    ],
}

HEALTHY = [
    "",
    "Booting from Hard Disk...\r\nGRUB loading...\r\n\x1b[0;30;47mWelcome to GRUB!\r\n",
    "[    0.0] Kernel command line: root=LABEL=rootfs ro panic=10 systemd.unit=multi-user.target console=ttyS0\r\n",
    "[    0.5] random: crng init done\r\nLoading, please wait...\r\nBegin: Mounting root file system ... done.\r\n",
    "[  OK  ] Reached target \x1b[0;1;39memergency.service\x1b[0m - not started\r\n",
    "         Starting \x1b[0;1;39msystemd-rescue\x1b[0m...\r\nnode login: ",
]


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in SICK.items() for text in texts])
def test_sick(name: str, text: str) -> None:
    found = symptoms.find(symptoms.plain(text))
    assert found is not None
    assert found.name == name
    assert found.sentence.endswith(".")
    assert found.hint


@pytest.mark.parametrize("text", HEALTHY)
def test_healthy(text: str) -> None:
    assert symptoms.find(symptoms.plain(text)) is None


def test_every_symptom_is_recorded_here() -> None:
    assert [symptom.name for symptom in symptoms.SYMPTOMS] == list(SICK)


def test_the_earliest_cause_is_named() -> None:
    both = symptoms.plain(SICK["initramfs shell"][0] + SICK["kernel panic"][0])
    found = symptoms.find(both)
    assert found is not None
    assert found.name == "kernel panic"


def test_terminal_control_is_removed() -> None:
    assert symptoms.plain("\x1bc\x1b[?7l\x1b[2J\x1b[0mA\x1b]0;title\x07B\r\n\x1b[01;02HC\x00") == "AB\nC"


@pytest.mark.parametrize(
    ("text", "waits"),
    [
        ("Debian 12 node ttyS0\n\nnode login: ", True),
        ("node login: root\n", False),
        ("last login: today\n", False),
    ],
)
def test_login_prompt(text: str, waits: bool) -> None:
    assert symptoms.waits_for_login(text) is waits
