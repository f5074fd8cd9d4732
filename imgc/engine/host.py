"""What a sandbox takes over from the build host: network settings, and the ids of an ordinary user."""

from __future__ import annotations

import ctypes
import getpass
import os
from dataclasses import dataclass
from pathlib import Path

from imgc import certificates, process
from imgc.errors import ImgcError

#: Proxy settings that programs look for, in either case.
PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")

#: An ordinary user needs this many subordinate ids: an image's own users reach up to 65534 (nobody).
SUBORDINATE_IDS = 65535


def ca_bundle() -> str:
    """The text of the host's bundle of trusted certificates; empty when there is none."""
    path = certificates.bundle()
    return Path(path).read_text(encoding="utf-8") if path else ""


def proxies() -> dict[str, str]:
    """The host's proxy settings, under the names the host gives them."""
    names = [*PROXY_VARIABLES, *(name.upper() for name in PROXY_VARIABLES)]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def resolv_conf() -> str:
    """The text of the host's resolv.conf; a public-looking default is never invented."""
    try:
        return Path("/etc/resolv.conf").read_text(encoding="utf-8")
    except OSError:
        return ""


@dataclass(frozen=True)
class UserNamespace:
    """Id maps for newuidmap and newgidmap: lines of (inside, outside, count)."""

    uid_map: tuple[tuple[int, int, int], ...]
    gid_map: tuple[tuple[int, int, int], ...]

    def as_dict(self) -> dict[str, object]:
        return {"newuidmap": self.uid_map, "newgidmap": self.gid_map}


def user_namespace() -> UserNamespace | None:
    """None when this process is root and may mount; else the maps for a user namespace.

    Raises E303 that names everything this system lacks for building as this user.
    """
    if os.geteuid() == 0 and _may_mount():
        return None
    if os.geteuid() == 0:
        raise ImgcError(
            "E303",
            "This process is root but may not mount (no CAP_SYS_ADMIN).",
            hint="Give the container CAP_SYS_ADMIN, or run imgc as an ordinary user with subordinate ids.",
        )
    missing = list(_missing_for_users())
    if missing:
        raise ImgcError(
            "E303",
            f"User {getpass.getuser()} cannot build here: {'; '.join(text for text, _ in missing)}.",
            hint=" ".join(hint for _, hint in missing) + " Or run imgc as root.",
        )
    uid, gid = os.geteuid(), os.getegid()
    subordinate_uid, subordinate_gid = _subordinate("/etc/subuid"), _subordinate("/etc/subgid")
    return UserNamespace(
        ((0, uid, 1), (1, subordinate_uid, SUBORDINATE_IDS)),
        ((0, gid, 1), (1, subordinate_gid, SUBORDINATE_IDS)),
    )


def _may_mount() -> bool:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 21 & 1)
    return False


def _missing_for_users() -> list[tuple[str, str]]:
    """(what is missing, what to do about it) for building as an ordinary user."""
    user = getpass.getuser()
    found = []
    for program in ("newuidmap", "newgidmap"):
        if process.which(program) is None:
            found.append((f"{program} is not installed", "Install uidmap (shadow-utils)."))
    for file, option in (("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")):
        if _subordinate(file) == 0:
            text = f"{file} gives it no range of {SUBORDINATE_IDS} ids"
            found.append((text, f"Run `usermod {option} 100000-{100000 + SUBORDINATE_IDS} {user}` as root."))
    for file, bad in (
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        if _read(file) == bad:
            name = file.removeprefix("/proc/sys/").replace("/", ".")
            found.append((f"{name} is {bad}", f"Run `sysctl {name}={'1' if bad == '0' else '0'}` as root."))
    release = os.uname().release.split(".")
    if (int(release[0]), int(release[1])) < (5, 12):
        found.append(("the kernel is older than 5.12 (no overlayfs for users)", "Use a newer kernel."))
    return found


def _subordinate(file: str) -> int:
    """The first id of this user's range of at least :data:`SUBORDINATE_IDS`; 0 when there is none."""
    names = {getpass.getuser(), str(os.geteuid())}
    for line in _read(file).splitlines():
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in names and int(fields[2]) >= SUBORDINATE_IDS:
            return int(fields[1])
    return 0


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def sync_file_system(path: Path) -> None:
    """Write everything of the file system that holds ``path`` to its device (syncfs)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), f"syncfs {path}")
    finally:
        os.close(descriptor)
