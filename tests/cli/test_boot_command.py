"""`imgc boot`: what it asks of the boot, and what it says came up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

from imgc import spec
from imgc.cli.boot_command import boot as boot_command
from imgc.cli.build_commands import build as build_command
from imgc.verify.boot import ACCELERATORS, DEFAULTS, FIRMWARES, BootOptions
from imgc.verify.checks import Check
from imgc.verify.qemu import MACHINES
from imgc.verify.report import BootReport

from .conftest import Imgc


def test_the_defaults_in_the_help_are_those_of_the_boot(imgc: Imgc) -> None:
    shown = " ".join(imgc("boot", "--help").output.split())
    for value in (DEFAULTS.memory, DEFAULTS.cpus, DEFAULTS.hostname, DEFAULTS.address):
        assert f"Default: {value}." in shown


def test_the_choices_are_those_of_the_rooms_below() -> None:
    choices = {
        one.name: tuple(one.type.choices)
        for one in (*boot_command.params, *build_command.params)
        if isinstance(one.type, click.Choice)
    }
    assert choices["firmware"] == (*FIRMWARES, "both")
    assert choices["accelerator"] == ACCELERATORS
    assert set(choices["architecture"]) == {"auto", *MACHINES}
    declared = re.findall(r'"format": {"const": "(\w+)"', json.dumps(spec.json_schema()))
    assert list(choices["formats"]) == list(dict.fromkeys(declared))


def report(*checks: Check) -> BootReport:
    return BootReport(
        image=Path("images/x.qcow2"),
        architecture="amd64",
        firmware="efi",
        accelerator="tcg",
        kernel="6.1.0-1-cloud-amd64",
        system="Debian GNU/Linux 12 (bookworm)",
        seconds_to_serial=2.0,
        seconds_to_ssh=31.5,
        seconds=44.0,
        serial_log=Path("/cache/boot/x/serial-efi.log"),
        checks=checks,
    )


HOSTNAME = Check("hostname", True, "imgc-boot", "imgc-boot")
ADDRESS = Check("address", False, "10.0.2.77/24", "10.0.2.15/24\nfe80::1")


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Path, BootOptions]]:
    """Boots without a guest; the hostname `bad` has a check fail.  Gives what was asked for."""
    asked: list[tuple[Path, BootOptions]] = []

    def boot(image: Path, *, work: Path, options: BootOptions, on_line: Any, on_ready: Any) -> BootReport:
        asked.append((work, options))
        for told, line in (
            (on_line, "\x1b[2J[    0.0] Linux"),
            (on_ready if options.keep else None, "ssh root@x"),
        ):
            if told:
                told(line)
        return report(HOSTNAME, *([ADDRESS] if options.hostname == "bad" else []))

    monkeypatch.setattr("imgc.verify.boot.boot", boot)
    (tmp_path / "x.qcow2").touch()
    monkeypatch.chdir(tmp_path)
    return asked


def test_boot_reports_what_it_saw(booted: object, imgc: Imgc) -> None:
    ended = imgc("boot", "x.qcow2")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        "x.qcow2 boots (efi, tcg): SSH after 31.5 s, 1 of 1 check held",
        "  Debian GNU/Linux 12 (bookworm), 6.1.0-1-cloud-amd64",
        "  ok    hostname  imgc-boot",
        "  serial console /cache/boot/x/serial-efi.log",
    ]


def test_a_check_that_fails_fails_the_boot(booted: object, imgc: Imgc) -> None:
    ended = imgc("boot", "x.qcow2", "--hostname", "bad")
    assert ended.exit_code == 1
    assert "  FAIL  address   wanted 10.0.2.77/24; got 10.0.2.15/24 fe80::1" in ended.stdout.splitlines()
    assert ended.stderr.startswith("E503: x.qcow2 came up wrong (efi): address.")


def test_both_firmwares_are_two_boots(booted: list[tuple[Path, BootOptions]], imgc: Imgc) -> None:
    ended = imgc("boot", "x.qcow2", "--firmware", "both", "--json", "--work", "w", "--disk-size", "4")
    assert [one["ok"] for one in json.loads(ended.stdout)] == [True, True]
    assert [(work, options.firmware, options.disk_size) for work, options in booted] == [
        (Path("w"), "bios", 4 * 2**30),
        (Path("w"), "efi", 4 * 2**30),
    ]


def test_what_boot_says_on_the_way_goes_to_stderr(booted: object, imgc: Imgc) -> None:
    ended = imgc("boot", "x.qcow2", "--keep", "-v", "--json")
    assert ended.stderr.splitlines()[0] == "[    0.0] Linux"
    assert "  ssh root@x" in ended.stderr.splitlines()
    assert json.loads(ended.stdout)[0]["accelerator"] == "tcg"


def test_boot_wants_an_image_that_is_there(imgc: Imgc) -> None:
    assert imgc("boot", "/no/such/image.qcow2").exit_code == 2


def test_boot_of_something_that_is_no_image_is_an_error(imgc: Imgc, tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    image.write_bytes(b"QFI\xfb, but nothing that follows")
    ended = imgc("boot", str(image), "--accelerator", "tcg", "--disk-size", "3", "--timeout", "5")
    assert ended.exit_code == 1
    assert ended.stderr.startswith("E50")
    assert "Traceback" not in ended.stderr
