"""Every difference between the stock driver and imgc that is meant to be, in the words of the facts of the probe.

docs/compat.md has one row for each, by the same name, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_PHASE = r"[a-z-]+\.d"
_OUTSIDE = r"(?:root|extra-data|post-root|block-device|pre-finalise|cleanup)\.d"
_INSIDE = r"(?:pre-install|install|post-install|finalise)\.d"
_CHROOT = rf"(?:{_INSIDE}|packages)"
_HOOK = rf"(?:{_PHASE}|packages)"
#: Everything with a whole environment of the driver's: hooks, the platform's own packages, what runs by `sudo -E`.
_ANY = rf"(?:{_PHASE}|packages|sudo/kept)"
_MANIFEST = r"(?:outputs/probe\.d|tree/etc)/dib-manifests"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEVICES = "fd|full|null|ptmx|pts|random|shm|stderr|stdin|stdout|tty|urandom|zero"
_BUNDLE = "/dev/imgc/ca-certificates.crt"


@dataclass(frozen=True)
class Case:
    """Facts whose name matches ``name``: what either driver says to them, as patterns; None where it says nothing."""

    name: str
    stock: str | None
    imgc: str | None

    def matches(self, name: str, stock: str | None, imgc: str | None) -> bool:
        return bool(re.fullmatch(self.name, name)) and _is(self.stock, stock) and _is(self.imgc, imgc)


@dataclass(frozen=True)
class Allowed:
    """One difference: its name in docs/compat.md, and all the ways in which the probe sees it."""

    name: str
    cases: tuple[Case, ...]


def _is(pattern: str | None, value: str | None) -> bool:
    if pattern is None or value is None:
        return pattern is None and value is None
    return bool(re.fullmatch(pattern, value, re.DOTALL))


def differences(
    stock: Mapping[str, str], imgc: Mapping[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    """The facts that differ: what the stock driver says and what imgc says, None where one says nothing."""
    names = sorted(stock.keys() | imgc.keys())
    pairs = {name: (stock.get(name), imgc.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


_ENVIRONMENT = (
    Allowed(
        "host environment",
        (
            Case(rf"{_ANY}/env/PROBE_LEAKED", "of the host", None),
            Case(rf"{_ANY}/env/TMP_DIR", ".*/stock/tmp", None),
            Case(rf"(?:{_ANY}|sudo/plain)/env/LC_CTYPE", r"C\.UTF-8", None),
        ),
    ),
    Allowed(
        "PATH",
        (
            Case(rf"{_OUTSIDE}/env/PATH", rf".*:{_SYSTEM_PATH}", f"/imgc/bin:{_SYSTEM_PATH}"),
            Case(rf"{_CHROOT}/env/PATH", rf"\$PATH:{_SYSTEM_PATH}", f"{_SYSTEM_PATH}:/dev/imgc/bin"),
        ),
    ),
    Allowed(
        "certificates",
        (
            Case(rf"{_ANY}/env/(SSL_CERT_FILE|CURL_CA_BUNDLE)", r".*/certificates\.crt", _BUNDLE),
            Case(
                rf"{_ANY}/env/(GIT_SSL_CAINFO|NODE_EXTRA_CA_CERTS|PIP_CERT|REQUESTS_CA_BUNDLE)", None, _BUNDLE
            ),
            Case(rf"{_CHROOT}/env/APT_CONFIG", None, r"/dev/imgc/apt\.conf"),
        ),
    ),
    Allowed(
        "SOURCE_DATE_EPOCH", (Case(rf"(?:{_ANY}|sudo/(plain|kept))/env/SOURCE_DATE_EPOCH", None, "[0-9]+"),)
    ),
    Allowed("no_proxy", (Case(rf"{_CHROOT}/env/no_proxy", "example", None),)),
    Allowed(
        "command line",
        (
            Case(rf"{_ANY}/env/DIB_ARGS", "--no-tmpfs .* probe", r"[a-z -]*\bprobe\b[a-z -]*"),
            Case(rf"{_ANY}/env/DIB_ENV/DIB_ARGS", "--no-tmpfs .* probe", None),
            Case(rf"{_MANIFEST}/dib_environment/DIB_ARGS", "--no-tmpfs .* probe", None),
            Case(rf"{_MANIFEST}/dib_arguments", ".*--no-tmpfs .* probe", r".*\bprobe\b[a-z -]*"),
        ),
    ),
    Allowed(
        "DIB_ENV",
        (
            Case(
                rf"(?:{_ANY}/env/DIB_ENV|{_MANIFEST}/dib_environment)/DIB_(IMAGE_CACHE|LOCKFILES|PYTHON_EXEC)",
                r"\{.*\}",
                None,
            ),
            Case(
                rf"(?:{_ANY}/env/DIB_ENV|{_MANIFEST}/dib_environment)"
                r"/DIB_(BOOT_LABEL|MOUNTPOINTS|ROOT_FSTYPE|ROOT_LABEL)",
                None,
                "|/|ext4|probe-root",
            ),
        ),
    ),
    Allowed(
        "IMGC variables",
        (
            Case(rf"{_ANY}/env/IMGC_[A-Z_]+", None, "[a-z]*"),
            Case(rf"(?:{_ANY}|sudo/kept)/env/IMGC_OFFERS", None, "/dev/imgc/offers"),
        ),
    ),
    Allowed(
        "element search path",
        (
            Case(
                rf"{_ANY}/env/ELEMENTS_PATH",
                r"\{elements\}:\{dib\}/elements",
                r"\{elements\}:\{imgc\}:\{dib\}/elements",
            ),
        ),
    ),
    Allowed("element order", (Case(rf"{_ANY}/env/IMAGE_ELEMENT/order", ".*", ".*"),)),
    Allowed(
        "tracing",
        (
            Case(rf"{_OUTSIDE}/env/PS4", ".*", None),
            Case(rf"{_OUTSIDE}/function/_ps4", "exported", None),
            Case(
                rf"{_OUTSIDE}/process/functions",
                "declare -fx _ps4 (declare -fx die declare -fx get_image_element_array )",
                "declare -fx die declare -fx get_image_element_array ",
            ),
        ),
    ),
    Allowed(
        "disk in late phases",
        (
            Case(r"(pre-finalise|finalise|cleanup)\.d/env/IMAGE_BLOCK_DEVICE", "/dev/loop[0-9]+", None),
            Case(r"(pre-finalise|finalise|cleanup)\.d/env/IMAGE_BLOCK_DEVICES", ".*/dev/loop[0-9]+.*", None),
            Case(r"(block-device|pre-finalise|finalise|cleanup)\.d/env/DIB_IMAGE_SIZE", "[0-9]+", None),
        ),
    ),
    Allowed(
        "block device parameters",
        (Case(rf"{_OUTSIDE}/path/DIB_BLOCK_DEVICE_PARAMS_YAML", "file", "absent"),),
    ),
    Allowed("environment.d per hook", (Case(rf"{_PHASE}/sourced", "once", "for each hook"),)),
    Allowed(
        "packages of the spec",
        (
            Case(
                r"packages/env/(DIB_DEFAULT_INSTALLTYPE|DIB_INIT_SYSTEM|DIB_MANIFEST_[A-Z_]+|DISTRO_NAME"
                r"|PROBE_(MULTILINE|ORDER|WRITTEN)|PYTHONDONTWRITEBYTECODE)",
                None,
                ".*",
            ),
            Case("packages/mount//tmp/in_target.d", None, "bind ro"),
        ),
    ),
)

_SUDO = (
    Allowed(
        "traces of sudo",
        (
            Case(rf"(?:{_CHROOT}|sudo/(plain|kept))/env/SUDO_COMMAND", ".*", None),
            Case(rf"(?:{_CHROOT}|sudo/(plain|kept))/env/SUDO_(UID|GID)", "0", None),
            Case(rf"(?:{_CHROOT}|sudo/(plain|kept))/env/SUDO_USER", "root", None),
            Case("sudo/plain/env/MAIL", "/var/mail/root", None),
        ),
    ),
    Allowed(
        "sudo keeps",
        (
            Case("sudo/(plain|kept)/env/PATH", _SYSTEM_PATH, f"/imgc/bin:{_SYSTEM_PATH}"),
            Case("sudo/plain/env/(http|no)_proxy", None, ".*example.*"),
            Case("sudo/plain/env/[A-Z_]*(CA|CERT|CAINFO)[A-Z_]*", None, _BUNDLE),
        ),
    ),
    Allowed("sudo in the chroot", (Case(r"install\.d/found/sudo", "none", "/dev/imgc/bin/sudo"),)),
)

_PROCESS = (
    Allowed("SIGPIPE", (Case(rf"{_PHASE}/process/ignores/SIGPIPE", "yes", "no"),)),
    # CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_BOOT, CAP_SYS_TIME
    Allowed("capabilities", (Case(rf"{_PHASE}/process/capabilities-missing", "", "16 17 22 25"),)),
    Allowed(
        "background processes",
        (Case(r"install\.d/found/process-of-an-earlier-hook", "running", "ended"),),
    ),
    Allowed("fsync", (Case(r"install\.d/found/fsync-of-a-pipe", "Invalid argument", "done"),)),
)

_FILES = (
    Allowed(
        "/dev",
        (
            Case(rf"{_PHASE}/dev/(?!({_DEVICES})$).*", "present", None),
            Case(rf"{_PHASE}/dev/(imgc|{_DEVICES})", None, "present"),
            Case(rf"{_HOOK}/mount//dev/(full|null|random|tty|urandom|zero)", None, "bind rw"),
            Case(rf"{_HOOK}/mount//dev/shm", None, "tmpfs rw"),
        ),
    ),
    Allowed("files of the driver", (Case(rf"{_OUTSIDE}/path/_LIB", "writable", "directory"),)),
    Allowed("dib-run-parts", (Case(r"(root|extra-data)\.d/hooks/dib-run-parts", None, "f 755 .*"),)),
    Allowed("mnt in block-device.d", (Case(r"block-device\.d/path/TMP_MOUNT_PATH", "absent", "writable"),)),
    Allowed(
        "tmpfs of hooks",
        (
            Case(
                r"(install|post-root)\.d/found/cache(-in-tree)?",
                "(probe .* scratch )scratch/from-pre-install ",
                "probe .* scratch ",
            ),
        ),
    ),
    Allowed(
        "renamed directories",
        (Case(r"install\.d/found/rename-directory", "renamed", "Invalid cross-device link"),),
    ),
    Allowed(
        "changed hard links",
        (
            Case("tree/opt/layers/changed-a", ".* as opt/layers/changed-a .* 8 bytes .*", ".* 8 bytes .*"),
            Case("tree/opt/layers/changed-b", ".* as opt/layers/changed-a .* 8 bytes .*", ".* 4 bytes .*"),
        ),
    ),
    Allowed(
        "git objects",
        (
            Case(r"tree/opt/probe-git/\.git/objects/.*", "(0 444|5 755) .*", None),
            Case(r"tree/opt/probe-git/\.git/objects/.*", None, "(0 644|5 755) .*"),
        ),
    ),
    Allowed(
        "hidden files of the root",
        (
            Case(r"tree/\.probe-hidden", None, "0 644 .*"),
            Case(r"finalise\.d/found/hidden", "", "kept"),
        ),
    ),
    Allowed("/var/tmp", (Case("tree/var/tmp/.*", "0 644 .*", None),)),
)

_OUTPUTS = (
    Allowed("devices in archives", (Case("tree/dev/.*", ".*", None),)),
    Allowed("/proc and /sys in archives", (Case("tree/(proc|sys)", None, "5 755 0:0"),)),
    Allowed("lost+found in archives", (Case(r"tree/lost\+found", "5 700 0:0", None),)),
    Allowed("checksums of archives", (Case(r"delivered/probe\.tar\.(md5|sha256)", None, "present"),)),
    Allowed("lock", (Case(r"delivered/probe\.lock", None, "present"),)),
)

ALLOWED = (*_ENVIRONMENT, *_SUDO, *_PROCESS, *_FILES, *_OUTPUTS)
