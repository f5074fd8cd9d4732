"""Boots of guests that never come up: real QEMU, real firmware, a boot sector instead of a system."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgc import process
from imgc.errors import ImgcError
from imgc.verify.boot import BootOptions, boot

from .conftest import RESET, MakeGuest

TCG = {"accelerator": "tcg", "memory": 64, "cpus": 1, "firmware": "bios"}


def fail(image: Path, work: Path, **options: object) -> ImgcError:
    """Boot ``image``, which must not come up; nothing but the serial log may stay in ``work``."""
    before = hashlib.sha256(image.read_bytes()).digest()
    with pytest.raises(ImgcError) as caught:
        boot(image, work=work, options=BootOptions(**{**TCG, **options}))  # type: ignore[arg-type]
    assert hashlib.sha256(image.read_bytes()).digest() == before
    assert [path.name for path in work.iterdir()] == ["serial-bios.log"]
    assert running(work) == []
    return caught.value


def running(work: Path) -> list[int]:
    """Processes that name ``work`` on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(work) in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_symptom_ends_the_boot_at_once(tiny_guest: MakeGuest, tmp_path: Path) -> None:
    image = tiny_guest("[ 1.0] Kernel panic - not syncing: VFS: no root\r\n")
    error = fail(image, tmp_path / "work", timeout=60.0)
    assert error.code == "E503"
    assert "kernel panic" in error.message
    assert "VFS: no root" in error.detail
    assert "serial-bios.log" in error.hint


def test_a_prompt_without_a_newline_is_seen(tiny_guest: MakeGuest, tmp_path: Path) -> None:
    assert "grub rescue" in fail(tiny_guest("\r\ngrub rescue> "), tmp_path / "work", timeout=60.0).message


def test_a_guest_that_hangs_is_too_slow(tiny_guest: MakeGuest, tmp_path: Path) -> None:
    error = fail(tiny_guest("hello\r\n"), tmp_path / "work", timeout=4.0)
    assert (error.code, "within 4 s" in error.message, "hello" in error.detail) == ("E502", True, True)


def test_a_login_prompt_without_ssh(tiny_guest: MakeGuest, tmp_path: Path) -> None:
    error = fail(tiny_guest("\r\nnode login: "), tmp_path / "work", timeout=16.0)
    assert (error.code, "login prompt" in error.message) == ("E503", True)


def test_a_guest_that_reboots(tiny_guest: MakeGuest, tmp_path: Path) -> None:
    error = fail(tiny_guest("bye\r\n", RESET), tmp_path / "work", timeout=60.0)
    assert (error.code, "rebooted" in error.message) == ("E503", True)


def test_the_console_is_streamed_by_line_and_kept(tiny_guest: MakeGuest, tmp_path: Path) -> None:
    lines: list[str] = []
    options = BootOptions(accelerator="tcg", memory=64, firmware="bios", timeout=60.0)
    with pytest.raises(ImgcError):
        boot(
            tiny_guest("\r\none\r\n\x1b[1mtwo\x1b[0m\r\nKernel panic - not syncing"),
            work=tmp_path / "work",
            options=options,
            on_line=lines.append,
        )
    assert lines[-3:] == ["one", "two", "Kernel panic - not syncing"]
    assert b"\x1b[1mtwo" in (tmp_path / "work/serial-bios.log").read_bytes()


def test_efi_firmware_without_a_loader(tiny_guest: MakeGuest, tmp_path: Path) -> None:
    image = tiny_guest("not for EFI")
    with pytest.raises(ImgcError) as caught:
        boot(
            image,
            work=tmp_path / "work",
            options=BootOptions(accelerator="tcg", firmware="efi", memory=256, timeout=60.0),
        )
    assert (caught.value.code, "no boot device" in caught.value.message) == ("E503", True)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"firmware": "coreboot"}, "E108"),
        ({"accelerator": "xen"}, "E108"),
        ({"checks": ("logins",)}, "E108"),
        ({"hostname": "under_score"}, "E109"),
        ({"address": "10.0.2.15/24"}, "E109"),
        ({"architecture": "riscv64"}, "E501"),
        ({"disk_size": 512}, "E504"),
    ],
)
def test_options_that_cannot_be(
    tiny_guest: MakeGuest, tmp_path: Path, options: dict[str, object], code: str
) -> None:
    with pytest.raises(ImgcError) as caught:
        boot(tiny_guest(""), work=tmp_path / "work", options=BootOptions(**{**TCG, **options}))  # type: ignore[arg-type]
    assert caught.value.code == code


def test_qemu_that_does_not_start_says_why(tiny_guest: MakeGuest, tmp_path: Path) -> None:
    error = fail(tiny_guest(""), tmp_path / "work", cpus=100_000)
    assert error.code == "E501"
    assert "qemu-system" in error.detail


SCRIPT = """
import signal, sys
from pathlib import Path
from imgc import process
from imgc.errors import ImgcError
from imgc.verify.boot import BootOptions, boot
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: process.INTERRUPT.set(number))
try:
    options = BootOptions(accelerator="tcg", memory=64, firmware="bios", timeout=60.0)
    boot(Path(sys.argv[1]), work=Path(sys.argv[2]), options=options, on_line=lambda line: print(line, flush=True))
except ImgcError as error:
    sys.exit(error.code)
"""


def started(image: Path, work: Path) -> subprocess.Popen[str]:
    """A Python that boots ``image``, once the guest has spoken."""
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(image), str(work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert any("hello" in line for line in child.stdout)
    return child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_everything_within_three_seconds(
    tiny_guest: MakeGuest, tmp_path: Path, number: signal.Signals
) -> None:
    with started(tiny_guest("hello\r\n"), tmp_path / "work") as child:
        child.send_signal(number)
        began = time.monotonic()
        _, said = child.communicate(timeout=60)
        assert time.monotonic() - began < 3
    assert said.strip() == "E307"
    assert running(tmp_path / "work") == []
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["serial-bios.log"]


def test_a_kill_takes_qemu_along_and_the_next_boot_cleans_up(tiny_guest: MakeGuest, tmp_path: Path) -> None:
    image, work = tiny_guest("hello\r\n"), tmp_path / "work"
    with started(image, work) as child:
        child.kill()
        child.communicate(timeout=60)
    until = time.monotonic() + 10
    while running(work) and time.monotonic() < until:
        time.sleep(0.1)
    assert running(work) == []
    fail(image, work, timeout=3.0)


def test_the_latch_is_as_it_was() -> None:
    assert not process.INTERRUPT.is_set()
