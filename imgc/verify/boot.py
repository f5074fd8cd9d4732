"""Boot an image and see what comes up: the whole proof on one page.

A guest that never comes up is an error (E502, or E503 with the symptom); one that does gets a :class:`BootReport`,
good or bad.  The image itself is never written to.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imgc.errors import ImgcError
from imgc.verify import accelerator, checks, config_drive, disk_image, network, qemu, scratch, ssh
from imgc.verify.guest import running
from imgc.verify.report import BootReport
from imgc.verify.watch import Watch

__all__ = ["BootOptions", "BootReport", "boot"]

#: Seconds that a boot may take when the user does not say.
TIMEOUTS = {"kvm": 120.0, "tcg": 420.0}

FIRMWARES = ("auto", "bios", "efi")
ACCELERATORS = ("auto", "kvm", "tcg")

_HOSTNAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")


@dataclass(frozen=True)
class BootOptions:
    """How to boot.  ``firmware`` is one of :data:`FIRMWARES`; ``auto`` is BIOS when the first sector holds code.

    ``memory`` is in MiB, ``disk_size`` in bytes (None: 2 GiB, or a quarter, more than the image's), ``timeout`` in
    seconds (None: :data:`TIMEOUTS`).  ``accelerator`` is one of :data:`ACCELERATORS`; ``architecture`` is ``auto`` (the
    host's), ``amd64`` or ``arm64``.  ``address`` is the static address with its prefix length.  ``checks`` names the
    checks to make.  With ``keep`` the guest runs on until it powers off or imgc is interrupted.  ``cache`` keeps the
    verdict on KVM (None: the work directory).
    """

    firmware: str = "auto"
    architecture: str = "auto"
    memory: int = 1024
    cpus: int = 2
    accelerator: str = "auto"
    disk_size: int | None = None
    timeout: float | None = None
    hostname: str = "imgc-boot"
    address: str = "10.0.2.77/24"
    checks: tuple[str, ...] = tuple(checks.CHECKS)
    keep: bool = False
    cache: Path | None = None


DEFAULTS = BootOptions()


def boot(
    image: Path,
    *,
    work: Path,
    options: BootOptions = DEFAULTS,
    on_line: Callable[[str], None] | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> BootReport:
    """Boot ``image`` and check what came up.

    ``work`` keeps the serial log, ``serial-bios.log`` or ``serial-efi.log``; all else in it is gone afterwards.
    ``on_line`` gets each line of the serial console, ``on_ready`` (with ``options.keep``) a command that logs in.
    Raises E108 and E109 (unusable options), E501 and E302 (no usable QEMU), E504 (no usable image), E502 and E503
    (the guest never came up), E307.
    """
    _validate(options)
    with scratch.directory(work) as directory:
        setup, expected = _prepare(image, work, directory, options)
        started = time.monotonic()
        with running(setup, directory=directory, on_line=on_line) as guest:
            watch = Watch(guest, image, directory, started, options.timeout or TIMEOUTS[setup.accelerator])
            login, facts = watch.log_in(watch.wait_for_ssh(setup.network))
            logged_in = time.monotonic()
            facts = watch.wait_until_settled(login, facts)
            verdicts = checks.judge(facts, expected, options.checks)
            report = BootReport(
                image=image,
                architecture=setup.machine.architecture,
                firmware=setup.firmware,
                accelerator=setup.accelerator,
                kernel=" ".join(facts.get("kernel", ())),
                system=" ".join(facts.get("system", ())),
                seconds_to_serial=round((guest.serial.first or started) - started, 1),
                seconds_to_ssh=round(logged_in - started, 1),
                seconds=round(time.monotonic() - started, 1),
                serial_log=setup.serial_log,
                checks=verdicts,
                evidence=() if all(check.ok for check in verdicts) else watch.evidence(login),
            )
            if options.keep:
                watch.keep(login, on_ready)
            return report


def _validate(options: BootOptions) -> None:
    """Raise E108 or E109 for options that no guest could be started with."""
    checks.known(options.checks)
    if not _HOSTNAME.fullmatch(options.hostname):
        raise ImgcError(
            "E109", f"{options.hostname!r} is not a hostname.", hint="Use a-z, 0-9, - and dots between names."
        )
    for what, value, allowed in (
        ("firmware", options.firmware, FIRMWARES),
        ("accelerator", options.accelerator, ACCELERATORS),
    ):
        if value not in allowed:
            raise ImgcError("E108", f"There is no {what} {value!r}.", hint=f"There are {', '.join(allowed)}.")


def _prepare(
    image: Path, work: Path, directory: Path, options: BootOptions
) -> tuple[qemu.Setup, checks.Expected]:
    """Fill ``directory`` with all that QEMU opens.  Returns how to start it, and what has to come up."""
    net = network.parse(options.address)
    machine = qemu.machine(options.architecture)
    qemu.version(machine)
    source = disk_image.inspect(image, directory)
    disk_size = disk_image.overlay(source, directory / qemu.DISK, options.disk_size)
    firmware = _firmware(options.firmware, machine, source)
    if firmware == "efi":
        qemu.install_firmware(machine, directory)
    drive = config_drive.ConfigDrive(options.hostname, ssh.new_key(directory), net)
    config_drive.write(drive, directory / qemu.DRIVE)
    setup = qemu.Setup(
        machine=machine,
        accelerator=accelerator.choose(options.accelerator, machine, options.cache or work),
        firmware=firmware,
        memory=options.memory,
        cpus=options.cpus,
        network=net,
        serial_log=(work / f"serial-{firmware}.log").resolve(),
    )
    return setup, checks.Expected(options.hostname, net, disk_size, machine.console)


def _firmware(wanted: str, machine: qemu.Machine, source: disk_image.DiskImage) -> str:
    """``bios`` or ``efi``.  Raises E501 for BIOS on a machine that has none."""
    if wanted == "bios" and not machine.bios:
        raise ImgcError("E501", f"{machine.architecture} has no BIOS.", hint="Use efi.")
    if wanted == "auto":
        return "bios" if machine.bios and source.boots_bios else "efi"
    return wanted
