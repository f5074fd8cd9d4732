"""QEMU for one guest: the program, the firmware and the command line.

The files of one boot are named relative to the directory that QEMU is started in, so that no path of the user's has
to be quoted for QEMU's option parser.
"""

from __future__ import annotations

import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from imgc import process
from imgc.errors import ImgcError
from imgc.verify.network import Network

#: Names inside the directory that QEMU is started in.
DISK = "disk.qcow2"
DRIVE = "config-drive.iso"
FIRMWARE_CODE = "firmware-code.fd"
FIRMWARE_VARIABLES = "firmware-variables.fd"


@dataclass(frozen=True)
class Machine:
    """What differs between architectures.  ``firmware`` lists pairs of code and variable store, best first.

    ``emulated_cpu`` is the oldest model that every supported distribution runs on: an image that needs more
    would not boot on every cloud either.
    """

    architecture: str
    qemu: str
    package: str
    options: str
    console: str
    emulated_cpu: str
    bios: bool
    firmware: tuple[tuple[str, str], ...]


_OVMF = "/usr/share/OVMF/OVMF_"
_EDK2 = "/usr/share/edk2/ovmf/OVMF_"
_AAVMF = "/usr/share/AAVMF/AAVMF_"

MACHINES = {
    "amd64": Machine(
        architecture="amd64",
        qemu="qemu-system-x86_64",
        package="qemu-system-x86",
        options="q35",
        console="ttyS0",
        emulated_cpu="Nehalem",
        bios=True,
        firmware=(
            (f"{_OVMF}CODE_4M.fd", f"{_OVMF}VARS_4M.fd"),
            (f"{_OVMF}CODE.fd", f"{_OVMF}VARS.fd"),
            (f"{_EDK2}CODE.fd", f"{_EDK2}VARS.fd"),
        ),
    ),
    "arm64": Machine(
        architecture="arm64",
        qemu="qemu-system-aarch64",
        package="qemu-system-arm",
        options="virt,gic-version=3",
        console="ttyAMA0",
        emulated_cpu="cortex-a57",
        bios=False,
        firmware=(
            (f"{_AAVMF}CODE.fd", f"{_AAVMF}VARS.fd"),
            (f"{_AAVMF}CODE.no-secboot.fd", f"{_AAVMF}VARS.fd"),
        ),
    ),
}

_SPELLINGS = {"x86_64": "amd64", "aarch64": "arm64"}


def host_architecture() -> str:
    """This machine's architecture in Debian's spelling (``amd64``); the kernel's own when it has none here."""
    name = platform.machine()
    return _SPELLINGS.get(name, name)


def machine(architecture: str) -> Machine:
    """The machine for ``amd64``, ``arm64`` (or the kernel's spelling), or ``auto``: the host's.  Raises E501."""
    name = host_architecture() if architecture == "auto" else _SPELLINGS.get(architecture, architecture)
    if name not in MACHINES:
        raise ImgcError(
            "E501", f"imgc cannot boot images for {name}.", hint=f"It can for {', '.join(MACHINES)}."
        )
    return MACHINES[name]


def version(machine: Machine) -> str:
    """QEMU's version line.  Raises E302 when this QEMU or qemu-img is not installed."""
    process.need(machine.qemu, package=machine.package)
    process.need("qemu-img", package="qemu-utils")
    return process.run([machine.qemu, "--version"], timeout=60).output.partition("\n")[0]


def install_firmware(machine: Machine, directory: Path) -> None:
    """Put UEFI firmware into ``directory``: the code as a link, the variable store as a copy.  Raises E501."""
    for code, variables in machine.firmware:
        if Path(code).is_file() and Path(variables).is_file():
            (directory / FIRMWARE_CODE).symlink_to(code)
            shutil.copyfile(variables, directory / FIRMWARE_VARIABLES)
            return
    raise ImgcError(
        "E501",
        f"No UEFI firmware for {machine.architecture} is installed.",
        hint=f"Install {'ovmf' if machine.bios else 'qemu-efi-aarch64'}.",
        detail="\n".join(f"tried {code}" for code, _ in machine.firmware),
    )


@dataclass(frozen=True)
class Setup:
    """One guest.  ``memory`` is in MiB; ``serial_log`` an absolute path."""

    machine: Machine
    accelerator: str
    firmware: str
    memory: int
    cpus: int
    network: Network
    serial_log: Path


def cpu(machine: Machine, accelerator: str) -> str:
    """The CPU model for an accelerator."""
    return "host" if accelerator == "kvm" else machine.emulated_cpu


def command(setup: Setup, monitor: int) -> list[str]:
    """The command line: no display, no default device, nothing that listens anywhere but on a loopback port.

    ``monitor`` is the descriptor of a connected socket.
    """
    machine = setup.machine
    options = f"{machine.options},graphics=off" if setup.firmware == "bios" else machine.options
    return [
        machine.qemu,
        *("-name", "imgc-boot"),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-machine", options),
        *_accelerator(setup.accelerator),
        *("-cpu", cpu(machine, setup.accelerator)),
        *("-smp", str(setup.cpus)),
        *("-m", f"{setup.memory}M"),
        *_firmware(setup.firmware),
        *("-chardev", f"socket,id=monitor,fd={monitor}"),
        *("-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"file,id=serial,path={str(setup.serial_log).replace(',', ',,')}"),
        *("-serial", "chardev:serial"),
        *("-object", "rng-random,id=random,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=random"),
        *("-drive", f"if=none,id=disk,file={DISK},format=qcow2,cache=unsafe,discard=unmap"),
        *("-device", "virtio-blk-pci,drive=disk,bootindex=0"),
        *("-drive", f"if=none,id=config,file={DRIVE},format=raw,readonly=on"),
        *("-device", "virtio-blk-pci,drive=config"),
        *_network(setup.network),
    ]


def _accelerator(name: str) -> list[str]:
    return ["-accel", "tcg,thread=multi" if name == "tcg" else name]


def _firmware(name: str) -> list[str]:
    if name == "bios":
        return []
    return [
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE_CODE}"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={FIRMWARE_VARIABLES}"),
    ]


def _network(network: Network) -> list[str]:
    """A network of its own, cut off from the outside, whose port 22 is forwarded from two free loopback ports.

    One leads to the static address, one to what DHCP would give: a guest that ignored the drive still gets heard.
    """
    forwards = "".join(
        f",hostfwd=tcp:127.0.0.1:0-{address}:22" for address in (network.address.ip, network.lease)
    )
    user = (
        f"user,id=net,restrict=on,net={network.address.network},host={network.gateway},dns={network.resolver},"
        f"dhcpstart={network.lease},ipv6=off{forwards}"
    )
    return ["-netdev", user, "-device", f"virtio-net-pci,netdev=net,mac={network.mac},romfile="]


def forwarded_ports(usernet: str) -> dict[str, int]:
    """The loopback port that leads to each guest address, from the monitor's ``info usernet``."""
    rows = re.findall(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+([0-9.]+)\s+22\b", usernet)
    return {address: int(port) for port, address in rows}
