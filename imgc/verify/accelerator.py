"""Which accelerator really works here.

That ``/dev/kvm`` exists says little: under nested virtualisation QEMU may abort, or its guests may hang.  So a tiny
guest is run under KVM, with the CPU model that the real one gets: a few instructions that end QEMU from inside.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from imgc import process
from imgc.errors import ImgcError
from imgc.verify import qemu

#: Seconds that the probe may take; under a KVM that works it takes a fraction of one.
PROBE_SECONDS = 5.0

#: For amd64: a boot sector, loaded at 0x7c00, that turns on paging and long mode as a kernel does.  In AT&T syntax:
_LONG_MODE = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007c"  # cli; xor %ax,%ax; mov %ax,%ds; mov %ax,%es; mov %ax,%ss; mov $0x7c00,%sp
    "bf0010b90018f3ab"  # clear three pages at 0x1000: mov $0x1000,%di; mov $0x1800,%cx; rep stosw
    "c70600100320"  # movw $0x2003,0x1000: top level to the table at 0x2000
    "c70600200330"  # movw $0x3003,0x2000: to the table at 0x3000
    "c70600308300"  # movw $0x0083,0x3000: one page of 2 MiB, address equals address
    "66b8001000000f22d8"  # mov $0x1000,%eax; mov %eax,%cr3
    "0f20e06683c8200f22e0"  # CR4.PAE: mov %cr4,%eax; or $0x20,%eax; mov %eax,%cr4
    "66b9800000c00f32660d000100000f30"  # EFER.LME: mov $0xc0000080,%ecx; rdmsr; or $0x100,%eax; wrmsr
    "660f0116887c"  # lgdtl 0x7c88
    "0f20c0660d010000800f22c0"  # CR0.PG and PE: mov %cr0,%eax; or $0x80000001,%eax; mov %eax,%cr0
    "66ea637c00000800"  # ljmpl $8,$0x7c63: into the 64-bit code below
    "31c00fa20f31"  # xor %eax,%eax; cpuid; rdtsc
    "66baf400b010ee"  # mov $0xf4,%dx; mov $0x10,%al; out %al,%dx: ends QEMU with status (0x10 << 1) | 1
    "f4ebfd"  # hlt; jmp back to it
    "0000000000"  # up to 0x78
    "0000000000000000ffff0000009baf00"  # the descriptor table: null, 64-bit code
    "0f00787c0000"  # its length and address
)

#: For arm64: PSCI's SYSTEM_OFF, called as a kernel calls it.
_POWER_OFF = bytes.fromhex(
    "00018052"  # mov w0, #8
    "0080b072"  # movk w0, #0x8400, lsl #16
    "020000d4"  # hvc #0
    "00000014"  # b .
)


@dataclass(frozen=True)
class Probe:
    """``code`` is written to the file that ``options`` name; a guest that ran it ends QEMU with ``status``."""

    code: bytes
    options: tuple[str, ...]
    status: int


#: The file that QEMU loads the code from.  A firmware does not take a disk of one sector for a disk.
_FILE = "probe.img"
_FILE_SIZE = 1024**2

PROBES = {
    "amd64": Probe(
        code=_LONG_MODE.ljust(510, b"\0") + b"\x55\xaa",
        options=(
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
            *("-drive", f"if=none,id=disk,file={_FILE},format=raw,readonly=on"),
            *("-device", "virtio-blk-pci,drive=disk,bootindex=0"),
        ),
        status=33,
    ),
    "arm64": Probe(
        code=_POWER_OFF,
        options=(
            *("-device", f"loader,file={_FILE},addr=0x40000000,force-raw=on"),
            *("-device", "loader,addr=0x40000000,cpu-num=0"),
        ),
        status=0,
    ),
}


def choose(wanted: str, machine: qemu.Machine, cache: Path) -> str:
    """``kvm`` or ``tcg``.  ``wanted`` may be ``auto``: KVM when the probe ran under it, TCG otherwise.

    Verdicts are kept in the directory ``cache`` and hold for this QEMU until the host is booted again.
    Raises E501 when KVM is wanted and does not work.
    """
    if wanted == "tcg":
        return "tcg"
    trouble = _verdict(machine, cache)
    if not trouble:
        return "kvm"
    if wanted == "auto":
        return "tcg"
    raise ImgcError(
        "E501",
        "KVM does not work on this machine.",
        hint="Use `--accelerator tcg`: slower, but it runs everywhere.",
        detail=trouble,
    )


def probe(machine: qemu.Machine, accelerator: str = "kvm") -> str:
    """Run the tiny guest.  Returns what went wrong, or nothing when it ran to its end."""
    if accelerator == "kvm" and machine.architecture != qemu.host_architecture():
        return f"This host is {qemu.host_architecture()}, the guest {machine.architecture}."
    if accelerator == "kvm" and not _accessible():
        return "/dev/kvm does not exist or this user may not open it."
    tiny = PROBES[machine.architecture]
    argv = [
        machine.qemu,
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", machine.options),
        *("-accel", accelerator),
        *("-cpu", qemu.cpu(machine, accelerator)),
        *("-m", "64M"),
        *tiny.options,
    ]
    with tempfile.TemporaryDirectory(prefix="imgc-probe-") as directory:
        Path(directory, _FILE).write_bytes(tiny.code.ljust(_FILE_SIZE, b"\0"))
        try:
            done = process.run(argv, cwd=directory, timeout=PROBE_SECONDS, check=False)
        except ImgcError as error:
            if error.code != "E301":
                raise
            return f"A tiny guest did not end within {PROBE_SECONDS:g} s.\n{error.detail}"
    if done.status == tiny.status:
        return ""
    return process.failure(done).detail or f"A tiny guest ended with status {done.status}."


def _accessible() -> bool:
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def _verdict(machine: qemu.Machine, cache: Path) -> str:
    """:func:`probe`'s answer, from ``cache`` when this QEMU on this boot of this host has given it before."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    question = json.dumps([qemu.version(machine), boot, _accessible(), repr(PROBES[machine.architecture])])
    known = cache / f"kvm-{hashlib.sha256(question.encode()).hexdigest()[:16]}"
    try:
        return known.read_text()
    except FileNotFoundError:
        trouble = probe(machine)
    cache.mkdir(parents=True, exist_ok=True)
    aside = known.with_name(f"{known.name}.{os.getpid()}")
    aside.write_text(trouble)
    aside.rename(known)
    return trouble
