"""The room where steps run: private mount and process namespaces around a read-only host.

:meth:`Sandbox.run` describes one run as a :class:`SandboxPlan` (a JSON file) and starts
:mod:`imgc.engine.sandbox_init` with it.  Inside, every path is the same on every host:

======================  ==========================================================================================
``/imgc/build.0``       the build's state: ``mnt/`` (rootfs), ``hooks/``, ``out/`` (cwd of hooks outside the chroot)
``/imgc/cache``         downloads that outlive a build (``DIB_IMAGE_CACHE``)
``/imgc/elements/<n>``  the element search paths
``/imgc/dib``           diskimage-builder's own files (``_LIB`` is ``/imgc/dib/lib``)
``/imgc/bin``           sudo, python3 and the hook runner
``/imgc/work``          where a step that makes files (a disk, an output) leaves them
``/imgc/home``          HOME: empty, and gone afterwards
======================  ==========================================================================================
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgc import certificates, process
from imgc.engine import host
from imgc.errors import ImgcError
from imgc.graph.plan import dib_directory

if TYPE_CHECKING:
    from imgc.engine.store import Store

#: source-repositories names its manifest after what follows the last dot, which is the build's own in the stock driver.
BUILD = "/imgc/build.0"
CACHE = "/imgc/cache"
ELEMENTS = "/imgc/elements"
DIB = "/imgc/dib"
BIN = "/imgc/bin"
WORK = "/imgc/work"
HOME = "/imgc/home"
PACKAGE = "/imgc/package"
#: The bundle of certificates, at the same path inside and outside the chroot.
CA_BUNDLE = "/dev/imgc/ca-certificates.crt"
#: Where the wheels of each element are, below its name; the same inside and outside the chroot.
WHEELS = "/dev/imgc/wheels"
#: Where files and directories are that the build offers to hooks, by name; the same inside and outside the chroot.
OFFERS = "/dev/imgc/offers"

_HERE = Path(__file__).parent
_INIT = _HERE / "sandbox_init.py"
_FILES = _HERE / "sandbox_files"
_SETUP_FAILED = 125
#: Directories of the cache that package managers lock while they use them, so that one build would fail where another
#: is at it.  Every build has its own: what they hold comes from the archive server, which keeps it.
_PACKAGE_CACHES = ("apt", "yum", "zypper")
#: Directories of the host that the sandbox replaces; what is needed from below them is bound one by one.
_REPLACED = ("/tmp", "/run", "/dev", "/proc", "/sys", "/imgc", "/var/tmp")


@dataclass(frozen=True)
class State:
    """Layers to mount on ``/imgc/build.0``, topmost first, as host paths; without ``upper`` it is read-only."""

    lowers: tuple[str, ...]
    upper: str = ""
    work: str = ""


@dataclass(frozen=True)
class Target:
    """What to mount in the rootfs: /proc, /dev and /sys (``system``), the hooks tree (``hooks``), earlier mounts.

    ``built`` moves the rootfs to ``built/``, as the protocol has it in block-device.d.  ``devices`` mounts /dev alone
    once the rootfs has one, where a bootstrap could not make device nodes because this is a user namespace.
    """

    system: bool = False
    hooks: bool = False
    built: bool = False
    devices: bool = False
    replay: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Payload:
    """The program to run: argument list, whole environment, working directory, and the chroot (empty: none).

    ``proxied`` sends all that it asks for over HTTP to the archive server; apt in the chroot always asks that.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str = "/"
    chroot: str = ""
    ignore_syncs: bool = True
    proxied: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a payload ended: exit status, the mounts it left in the target, processes it left running (now ended)."""

    status: int
    mounts: tuple[Mapping[str, Any], ...] = ()
    processes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sandbox:
    """Everything that stays the same for all runs of one build."""

    cache: Path
    search_paths: tuple[str, ...] = ()
    functions: str = ""
    #: The URL of the archive server, a proxy on this host that answers for pinned package archives; empty for none.
    proxy: str = ""
    #: Where the build has package managers' caches of its own; None: those of the cache directory.
    package_caches: Path | None = None
    #: Directories of wheels on this host, by element.
    wheels: Mapping[str, Path] = field(default_factory=dict)
    #: Files and directories of this host that hooks may read, by the name that they know them by.
    offers: Mapping[str, Path] = field(default_factory=dict)
    #: The process whose namespaces every run joins (see :meth:`holding`); 0 for none.
    holder: int = 0

    @contextmanager
    def holding(self, memory: Path, size: int) -> Iterator[Sandbox]:
        """The same sandbox with a file system in memory, of at most ``size`` bytes, on the directory ``memory``.

        Only its own runs see what is in there.  It ends with this context, or with imgc, however that ends.
        """
        plan = {
            "imgc": os.getpid(),
            "user_namespace": self.user_namespace.as_dict() if self.user_namespace else None,
            "memory": str(memory),
            "size": size,
        }
        path = memory.with_name(memory.name + ".json")
        path.write_text(json.dumps(plan, indent=1), encoding="utf-8")
        with process.companion([*self._command(path)[:-1], "--hold", str(path)], ready="ready") as holder:
            yield replace(self, holder=holder)

    def run(
        self,
        payload: Payload,
        work: Path,
        *,
        state: State | None = None,
        target: Target | None = None,
        binds: Sequence[tuple[str, str, str]] = (),
        on_line: Callable[[str], None] | None = None,
    ) -> Outcome:
        """Run a payload to its end and say how it ended.  ``work`` is an existing scratch directory of this run.

        Raises E303 when the sandbox cannot be made and E307 when the build is interrupted; a payload that fails is
        not an error here.
        """
        plan = self._write_plan(payload, work, state, target, binds)
        done = process.run(self._command(plan), on_line=on_line, check=False)
        report = work / "report.json"
        # What was set aside for it and not written is zeros.
        text = report.read_bytes().strip(b"\0") if report.exists() else b""
        if not text:
            raise _without_report(done)
        result = json.loads(text)
        return Outcome(result["status"], tuple(result["mounts"]), tuple(result["processes"]))

    def interact(self, payload: Payload, work: Path, *, state: State, target: Target | None) -> int:
        """Run a payload with this terminal as its own; its exit status."""
        plan = self._write_plan(payload, work, state, target, (), interactive=True)
        return process.interact(self._command(plan))

    def remover(self, where: Store) -> Callable[[Sequence[Path]], None]:
        """What removes trees of this build: directly as root, through a user namespace otherwise."""

        def remove(paths: Sequence[Path]) -> None:
            if self.user_namespace is None:
                for path in paths:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                return
            with tempfile.TemporaryDirectory(dir=where.cache, prefix="remove.") as scratch:
                self.remove(paths, Path(scratch))

        return remove

    def remove(self, paths: Sequence[Path], work: Path) -> None:
        """Remove trees that may hold files of subordinate ids, or kernel-made directories nobody may enter."""
        binds = tuple((str(path.parent), f"{WORK}/{number}", "rw") for number, path in enumerate(paths))
        inside = [f"{WORK}/{number}/{path.name}" for number, path in enumerate(paths)]
        outcome = self.run(Payload(("rm", "-rf", "--", *inside), {"PATH": os.defpath}), work, binds=binds)
        if outcome.status:
            raise ImgcError("E304", f"Could not remove {', '.join(map(str, paths))}.")

    @cached_property
    def user_namespace(self) -> host.UserNamespace | None:
        return host.user_namespace()

    @staticmethod
    def _command(plan: Path) -> list[str]:
        return [sys.executable, "-I", "-S", str(_INIT), str(plan)]

    def _write_plan(
        self,
        payload: Payload,
        work: Path,
        state: State | None,
        target: Target | None,
        binds: Sequence[tuple[str, str, str]],
        *,
        interactive: bool = False,
    ) -> Path:
        for name in ("tmp", "var-tmp"):
            (work / name).mkdir(exist_ok=True)
            (work / name).chmod(0o1777)
        report = work / "report.json"
        report.unlink(missing_ok=True)
        plan = {
            "imgc": os.getpid(),
            "join": self.holder,
            "interactive": interactive,
            "user_namespace": self.user_namespace.as_dict() if self.user_namespace else None,
            "report": str(report),
            "directories": [HOME, WORK, CACHE, BIN],
            "binds": [*self._constant_binds(work), *binds],
            "files": self._files(),
            "dev_files": self._dev_files(),
            "state": {**asdict(state), "userxattr": self.user_namespace is not None} if state else None,
            "target": {**asdict(target), "resolv_conf": host.resolv_conf()} if target else None,
            "payload": {**asdict(payload), "env": self._environment(payload)},
        }
        path = work / "plan.json"
        path.write_text(json.dumps(plan, indent=1), encoding="utf-8")
        return path

    def _constant_binds(self, work: Path) -> list[tuple[str, str, str]]:
        binds = [(str(work / "tmp"), "/tmp", "rw"), (str(work / "var-tmp"), "/var/tmp", "rw")]
        binds += [(path, path, "ro") for path in self._visible()]
        binds += [(path, f"{ELEMENTS}/{number}", "ro") for number, path in enumerate(self.search_paths)]
        binds += [(str(dib_directory()), DIB, "ro"), (str(_HERE.parent), f"{PACKAGE}/imgc", "ro")]
        # The protocol promises DIB_LOCKFILES as a directory that is there.
        (self.cache / "lockfiles").mkdir(parents=True, exist_ok=True)
        binds.append((str(self.cache), CACHE, "rw"))
        for name in _PACKAGE_CACHES if self.package_caches else ():
            assert self.package_caches
            own = self.package_caches / name
            for path in (own, self.cache / name):
                path.mkdir(parents=True, exist_ok=True)
            binds.append((str(own), f"{CACHE}/{name}", "rw"))
        binds += [(str(path), f"{WHEELS}/{element}", "ro") for element, path in self.wheels.items()]
        binds += [(str(path), f"{OFFERS}/{name}", "ro") for name, path in self.offers.items()]
        return binds

    def _visible(self) -> list[str]:
        """What lies below a replaced directory and must be seen at its own path: Python and its packages."""
        wanted = {sys.prefix, sys.base_prefix, *self.search_paths}
        return sorted(path for path in wanted if path.startswith(tuple(f"{one}/" for one in _REPLACED)))

    def _files(self) -> dict[str, tuple[int, str]]:
        files = {f"{BIN}/{path.name}": (0o755, path.read_text(encoding="utf-8")) for path in _FILES.iterdir()}
        files[f"{BIN}/python3"] = (0o755, f'#!/bin/sh\nexec {process.quoted([sys.executable])} "$@"\n')
        files[f"{BIN}/functions"] = (0o644, self.functions)
        return files

    @cached_property
    def _ca_bundle(self) -> str:
        return host.ca_bundle()

    def _dev_files(self) -> dict[str, tuple[int, str]]:
        files = {f"bin/{path.name}": (0o755, path.read_text(encoding="utf-8")) for path in _FILES.iterdir()}
        if self._ca_bundle:
            files["ca-certificates.crt"] = (0o644, self._ca_bundle)
        files["apt.conf"] = (0o644, "".join(f"{line};\n" for line in self._apt_settings()))
        return files

    def _apt_settings(self) -> Iterator[str]:
        """What apt in the chroot is told for the time of the build."""
        if self._ca_bundle:
            yield f'Acquire::https::CAInfo "{CA_BUNDLE}"'
        if self.proxy:
            yield from (f'Acquire::{scheme}::Proxy "{self.proxy}"' for scheme in ("http", "https"))
            # What is pinned was valid when it was pinned.
            yield 'Acquire::Check-Valid-Until "false"'

    def _environment(self, payload: Payload) -> dict[str, str]:
        """The payload's environment and, for this run only, how to reach the network from this host."""
        network = host.proxies()
        if self.proxy and (payload.proxied or payload.chroot):
            # It would lead past the archive server, which minds it itself.
            network = {name: value for name, value in network.items() if name.lower() != "no_proxy"}
        if self.proxy and payload.proxied:
            network.update(_through(self.proxy))
        if self._ca_bundle:
            network.update(dict.fromkeys(certificates.VARIABLES, CA_BUNDLE))
        if payload.chroot:
            network["APT_CONFIG"] = "/dev/imgc/apt.conf"
        if self.user_namespace:
            network["IMGC_USER_NAMESPACE"] = "1"
        if self.wheels:
            network["IMGC_WHEELS"] = WHEELS
        network["IMGC_OFFERS"] = OFFERS
        return {**network, **payload.env}


def _through(proxy: str) -> dict[str, str]:
    """The variables that send a program's requests through a proxy."""
    return {
        name: proxy for scheme in ("http", "https") for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
    }


def _without_report(done: process.Completed) -> ImgcError:
    """The error for a sandbox that ended before it could tell how its payload did."""
    if done.status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return ImgcError("E301", "The step was killed (signal 9).", hint="Was memory short?  `dmesg` tells.")
    lines = [line for line in done.output.splitlines() if line.startswith("imgc-sandbox: ")]
    why = lines[-1].removeprefix("imgc-sandbox: ") if lines else f"exit status {done.status}"
    if os.strerror(errno.ENOSPC) in why:
        return ImgcError("E902", f"{why}.", hint="`imgc clean` makes room in the cache.")
    return ImgcError(
        "E303",
        f"The sandbox could not be made: {why}.",
        hint="imgc needs Linux 5.12 or newer with overlayfs, and a cache directory on ext4, xfs, btrfs or tmpfs.",
        detail=f"$ {process.quoted(done.argv)}",
    )
