"""QEMU's command line and firmware."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from imgc.errors import ImgcError
from imgc.verify import network, qemu

#: As QEMU 7.2 prints it.
USERNET = """\
Hub -1 (net):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  14       127.0.0.1 44261       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  13       127.0.0.1 33795       10.0.2.77    22     0     0
  TCP[ESTABLISHED]   15       127.0.0.1 33795       10.0.2.77    22     0     0
"""


@pytest.fixture
def setup() -> qemu.Setup:
    return qemu.Setup(
        machine=qemu.MACHINES["amd64"],
        accelerator="tcg",
        firmware="bios",
        memory=768,
        cpus=3,
        network=network.parse("10.0.2.77/24"),
        serial_log=Path("/work/a,b/serial.log"),
    )


def options(command: list[str], name: str) -> list[str]:
    """The values of every option ``name``."""
    return [value for option, value in itertools.pairwise(command) if option == name]


def test_bios_under_tcg(setup: qemu.Setup) -> None:
    command = qemu.command(setup, 9)
    assert command[0] == "qemu-system-x86_64"
    assert options(command, "-machine") == ["q35,graphics=off"]
    assert options(command, "-accel") == ["tcg,thread=multi"]
    assert options(command, "-cpu") == ["Nehalem"]
    assert (options(command, "-m"), options(command, "-smp")) == (["768M"], ["3"])
    assert options(command, "-chardev")[0] == "socket,id=monitor,fd=9"
    assert options(command, "-chardev")[1].endswith("path=/work/a,,b/serial.log")
    assert not [drive for drive in options(command, "-drive") if "pflash" in drive]


def test_efi_under_kvm(setup: qemu.Setup) -> None:
    command = qemu.command(dataclasses.replace(setup, firmware="efi", accelerator="kvm"), 9)
    assert options(command, "-machine") == ["q35"]
    assert (options(command, "-accel"), options(command, "-cpu")) == (["kvm"], ["host"])
    code, variables = (drive for drive in options(command, "-drive") if "pflash" in drive)
    assert code.endswith(f"readonly=on,file={qemu.FIRMWARE_CODE}")
    assert variables.endswith(f"format=raw,file={qemu.FIRMWARE_VARIABLES}")


def test_the_guest_is_cut_off_and_listens_only_on_loopback(setup: qemu.Setup) -> None:
    (user,) = options(qemu.command(setup, 9), "-netdev")
    words = user.split(",")
    assert "restrict=on" in words
    assert [word for word in words if word.startswith("hostfwd=")] == [
        "hostfwd=tcp:127.0.0.1:0-10.0.2.77:22",
        "hostfwd=tcp:127.0.0.1:0-10.0.2.15:22",
    ]
    assert f"mac={network.MAC}" in " ".join(options(qemu.command(setup, 9), "-device"))


def test_ports_that_qemu_chose() -> None:
    assert qemu.forwarded_ports(USERNET) == {"10.0.2.77": 33795, "10.0.2.15": 44261}
    assert qemu.forwarded_ports("") == {}


def test_architectures_by_either_spelling() -> None:
    assert qemu.machine("x86_64") is qemu.machine("amd64") is qemu.MACHINES["amd64"]
    assert qemu.machine("aarch64").console == "ttyAMA0"
    with pytest.raises(ImgcError) as caught:
        qemu.machine("s390x")
    assert caught.value.code == "E501"


def test_firmware_is_installed_with_variables_of_its_own(tmp_path: Path) -> None:
    code, variables = tmp_path / "CODE.fd", tmp_path / "VARS.fd"
    code.write_bytes(b"code")
    variables.write_bytes(b"variables")
    machine = dataclasses.replace(
        qemu.MACHINES["amd64"],
        firmware=(("/nonexistent/CODE", "/nonexistent/VARS"), (str(code), str(variables))),
    )
    (tmp_path / "boot").mkdir()
    qemu.install_firmware(machine, tmp_path / "boot")
    (tmp_path / "boot" / qemu.FIRMWARE_VARIABLES).write_bytes(b"changed by the guest")
    assert (tmp_path / "boot" / qemu.FIRMWARE_CODE).read_bytes() == b"code"
    assert variables.read_bytes() == b"variables"


def test_missing_firmware_names_its_package(tmp_path: Path) -> None:
    machine = dataclasses.replace(
        qemu.MACHINES["amd64"], firmware=(("/nonexistent/CODE", "/nonexistent/VARS"),)
    )
    with pytest.raises(ImgcError) as caught:
        qemu.install_firmware(machine, tmp_path)
    assert (caught.value.code, "ovmf" in caught.value.hint) == ("E501", True)


def test_missing_qemu_names_its_package() -> None:
    machine = dataclasses.replace(qemu.MACHINES["amd64"], qemu="qemu-system-none")
    with pytest.raises(ImgcError) as caught:
        qemu.version(machine)
    assert (caught.value.code, "qemu-system-x86" in caught.value.hint) == ("E302", True)
