"""The same platform for the stock driver: its command line, its environment, and a place to run it in.

``disk-image-create`` needs a few things of the machine that imgc does not: device-mapper (or the stand-ins in
``stand_ins/``), sudo (a stand-in when root has none), loop devices.  :class:`Sandbox` gives it a mount and PID
namespace of its own, and takes away whatever it leaves behind.
"""

from __future__ import annotations

import os
import shutil
import stat
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from imgc import process
from imgc.sources.apt import host_mirror

if TYPE_CHECKING:
    from imgc.graph.plan import Plan
    from imgc.spec.model import Platform

STAND_INS = Path(__file__).parent / "stand_ins"

#: Formats that both tools make with what distributions ship.  Stock wants a patched vhd-util for vhd.
COMMON_FORMATS = ("qcow2", "raw", "tar")

#: What programs read to find the certificates they trust.  pip and git in hooks need the host's.
CERTIFICATE_VARIABLES = (
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
)
#: The name of a lent bundle in /dev, before the number of the process that lent it.
CERTIFICATES = "bench-certificates-"
PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy")

#: What imgc's plan tells elements, and the stock driver finds out itself.
DRIVERS_OWN = (
    "DIB_BOOT_LABEL",
    "DIB_MOUNTPOINTS",
    "DIB_ROOT_FSTYPE",
    "DIB_ROOT_LABEL",
    "IMAGE_NAME",
    "SKIP_BASE",
)

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class StockCommand:
    """``disk-image-create`` for one platform.  ``notes`` says where it does less than imgc, and why."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    formats: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def stock_command(platform: Platform) -> StockCommand:
    """What builds ``platform`` with the stock driver: the same elements, environment, packages and mirror.

    Elements that imgc brings under a stock name (``vm``, ``bootloader``, ``block-device-*``) are the stock ones
    here; those that only imgc has are left out.
    """
    from imgc.graph import compile_plan

    plan = compile_plan(platform)
    notes: list[str] = []
    elements = _elements(platform, plan, notes)
    formats = tuple(output.format for output in platform.outputs if output.format in COMMON_FORMATS)
    left_out = [output.format for output in platform.outputs if output.format not in formats]
    if left_out:
        notes.append(f"neither is asked for {', '.join(left_out)}: stock cannot make it here")
    argv = ["disk-image-create", "-o", "image", "-a", platform.base.arch, "-t", ",".join(formats)]
    argv += ["--root-label", platform.disk.label]
    if not platform.base.baseline:
        argv.append("-n")
    if platform.packages:
        argv += ["-p", ",".join(platform.packages)]
    environment = {
        name: value
        for name, value in plan.environment
        if name not in DRIVERS_OWN and not name.startswith("IMGC_")
    }
    environment.update(mirror_environment(platform))
    if any(element.name == "simple-init" for element in plan.elements):
        # imgc's takes glean from a wheel; the stock one from pip, if told not to clone its repository.
        environment.setdefault("DIB_INSTALLTYPE_glean", "package")
    environment["FS_TYPE"] = platform.disk.filesystem
    if platform.disk.size is not None:
        environment["DIB_IMAGE_SIZE"] = f"{platform.disk.size / 2**30:g}"
    if platform.element_paths:
        environment["ELEMENTS_PATH"] = ":".join(platform.element_paths)
    return StockCommand((*argv, *elements), environment, formats, tuple(notes))


def _elements(platform: Platform, plan: Plan, notes: list[str]) -> list[str]:
    """The elements to name on the command line, in a stable order; ``base`` is the driver's own to add."""
    stock = {entry.name for entry in stock_elements().iterdir() if entry.is_dir()}
    asked = dict.fromkeys((*(name for name, _reason in plan.implied), *platform.elements))
    own = {path.name for search in platform.element_paths for path in Path(search).iterdir() if path.is_dir()}
    chosen = [name for name in asked if name in stock | own and name != "base"]
    if "block-device-efi" in chosen and not kernel_has("vfat"):
        notes.append("stock makes no EFI system partition: this kernel cannot mount vfat, and stock has to")
        chosen[chosen.index("block-device-efi")] = "block-device-gpt"
    return chosen


def stock_elements() -> Path:
    """The directory of diskimage-builder's own elements."""
    import diskimage_builder

    return Path(diskimage_builder.__file__).parent / "elements"


def mirror_environment(platform: Platform) -> dict[str, str]:
    """The variables that point elements at the platform's mirror; none where the element's default applies."""
    base = platform.base
    url, security = base.mirror, base.security_mirror
    if url == "default":
        return {}
    if "://" not in url:
        mirror = host_mirror(base.distro, base.release)
        if mirror is None:
            return {}
        url, security = mirror.url, security or mirror.security_url
    found = {"DIB_DISTRIBUTION_MIRROR": url}
    if security:
        found["DIB_DEBIAN_SECURITY_MIRROR"] = security
    return found


def kernel_has(filesystem: str) -> bool:
    """Whether the running kernel can mount ``filesystem``, loading its module if that is what it takes."""
    if shutil.which("modprobe"):
        process.run(["modprobe", "-q", filesystem], check=False)
    listed = Path("/proc/filesystems").read_text(encoding="ascii").split()
    return filesystem in listed


def has_device_mapper() -> bool:
    """Whether the kernel has device-mapper: a control node alone does not prove it."""
    return bool(shutil.which("dmsetup")) and process.run(["dmsetup", "version"], check=False).status == 0


class Sandbox:
    """A directory for one cold stock build, with all that the machine must lend it; a context manager.

    On the way out, however the build ended, its loop devices, partition nodes and certificate file are gone.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.out = work / "out"
        self.notes: list[str] = []
        # The chroot sees the host's /dev and nothing else of it, so that is where a file for both must be.
        self._certificates = Path(f"/dev/{CERTIFICATES}{os.getpid()}")

    def __enter__(self) -> Sandbox:
        for name in ("out", "home", "cache", "locks", "tmp", "bin"):
            (self.work / name).mkdir(parents=True)
        wanted: list[str] = []
        if not shutil.which("sudo"):
            wanted.append("sudo")
        if not has_device_mapper():
            wanted += ["kpartx", "dmsetup"]
            self.notes.append("stock uses partx in place of kpartx: this kernel has no device-mapper")
        for name in wanted:
            shutil.copy2(STAND_INS / name, self.work / "bin" / name)
        remove_stale_certificates()
        bundle = certificate_bundle()
        if bundle is not None:
            shutil.copyfile(bundle, self._certificates)
            self._certificates.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        return self

    def argv(self, command: StockCommand) -> list[str]:
        """The command in a mount and PID namespace of its own, so that what it leaves dies with it."""
        unshare = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        return [*unshare, "--", *command.argv]

    def environment(self, command: StockCommand) -> dict[str, str]:
        """All of the environment: nothing of the host's but proxies and certificates.

        ``TMP_DIR`` and not ``TMPDIR``: the driver obeys both, but would let the latter into the chroot.
        """
        scripts = sysconfig.get_path("scripts")
        found = {
            "PATH": f"{self.work}/bin:{scripts}:{SYSTEM_PATH}",
            "HOME": f"{self.work}/home",
            "USER": "root",
            "LOGNAME": "root",
            "TERM": "dumb",
            "LC_ALL": "C",
            "DEBIAN_FRONTEND": "noninteractive",
            "DIB_IMAGE_CACHE": f"{self.work}/cache",
            "DIB_LOCKFILES": f"{self.work}/locks",
            "TMP_DIR": f"{self.work}/tmp",
        }
        if self._certificates.exists():
            found.update(dict.fromkeys(CERTIFICATE_VARIABLES, str(self._certificates)))
        found.update({name: os.environ[name] for name in PROXY_VARIABLES if name in os.environ})
        return {**found, **command.environment}

    def __exit__(self, *_exception: object) -> None:
        detach_loops(self.work)
        self._certificates.unlink(missing_ok=True)


def certificate_bundle() -> Path | None:
    """The bundle that the host's environment asks programs to trust; None when it asks nothing."""
    for name in CERTIFICATE_VARIABLES:
        if os.environ.get(name) and Path(os.environ[name]).is_file():
            return Path(os.environ[name])
    return None


def remove_stale_certificates() -> None:
    """Take away bundles whose lender was killed before it could."""
    for path in Path("/dev").glob(f"{CERTIFICATES}*"):
        if not Path("/proc", path.name.removeprefix(CERTIFICATES)).exists():
            path.unlink(missing_ok=True)


def detach_loops(below: Path) -> None:
    """Detach every loop device whose file is, or was, below ``below``, with its partitions."""
    # A latch of its own: cleaning up has to work after an interrupt too.
    alone = process.Interrupt()
    listed = process.run(["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"], interrupt=alone)
    for line in listed.output.splitlines():
        device, _, file = line.strip().partition(" ")
        if file.strip().startswith(f"{below}/"):
            process.run([str(STAND_INS / "kpartx"), "-d", device], check=False, interrupt=alone)
            process.run(["losetup", "--detach", device], check=False, interrupt=alone)
