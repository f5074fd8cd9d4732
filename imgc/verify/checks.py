"""What must hold in a booted guest, judged from what :file:`facts.sh` printed there."""

from __future__ import annotations

import difflib
import ipaddress
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from imgc.errors import ImgcError
from imgc.verify.network import Network

Facts = Mapping[str, tuple[str, ...]]

SECTOR = 512

#: Bytes after the last partition that a partition table or alignment may leave unused.
DISK_SLACK = 4 * 1024**2

#: The part of a partition that a file system keeps for itself (ext4: inode tables and journal) stays below this.
FILESYSTEM_SLACK = 0.08

#: Seconds by which a file's time and the kernel's idea of when it started may disagree.
CLOCK_SLACK = 2

#: systemd's words for a boot that is still under way.
UNSETTLED = ("", "initializing", "starting")


@dataclass(frozen=True)
class Check:
    """One verdict.  ``wanted`` and ``got`` are for people."""

    name: str
    ok: bool
    wanted: str
    got: str


@dataclass(frozen=True)
class Expected:
    """What the guest was given: the config drive's contents, the disk's size in bytes, the serial console."""

    hostname: str
    network: Network
    disk_size: int
    console: str


def sections(text: str) -> dict[str, tuple[str, ...]]:
    """Split a script's output at its ``@@ name`` lines; what comes before the first is dropped, and empty lines."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("@@ "):
            lines = found.setdefault(line[3:], [])
        elif line.strip():
            lines.append(line.strip())
    return {name: tuple(lines) for name, lines in found.items()}


def settled(facts: Facts) -> bool:
    """Whether the guest has finished booting, well or badly."""
    return _one(facts, "state") not in UNSETTLED


def judge(facts: Facts, expected: Expected, names: Iterable[str]) -> tuple[Check, ...]:
    """Run the checks ``names``, in the order of :data:`CHECKS`."""
    wanted = set(names)
    return tuple(_run(name, facts, expected) for name in CHECKS if name in wanted)


def known(names: Iterable[str]) -> tuple[str, ...]:
    """``names`` as they are; E108 when one of them is no check."""
    chosen = tuple(names)
    for name in chosen:
        if name not in CHECKS:
            near = difflib.get_close_matches(name, CHECKS, 1)
            raise ImgcError(
                "E108",
                f"There is no boot check {name!r}.",
                hint=f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(CHECKS)}.",
            )
    return chosen


def _run(name: str, facts: Facts, expected: Expected) -> Check:
    wanted, got, ok = CHECKS[name](facts, expected)
    return Check(name, ok, wanted, got)


def _one(facts: Facts, name: str) -> str:
    lines = facts.get(name, ())
    return lines[0] if lines else ""


def _pairs(facts: Facts, name: str) -> list[tuple[str, str]]:
    split = (line.partition(" ") for line in facts.get(name, ()))
    return [(first, rest) for first, _, rest in split]


_Verdict = tuple[str, str, bool]


def _login(facts: Facts, expected: Expected) -> _Verdict:
    user = _one(facts, "user")
    return "root, by the config drive's key", f"uid {user}", user == "0"


def _hostname(facts: Facts, expected: Expected) -> _Verdict:
    got = _one(facts, "hostname")
    return expected.hostname, got, got == expected.hostname


def _card(facts: Facts, expected: Expected) -> str:
    return next((name for name, mac in _pairs(facts, "cards") if mac == expected.network.mac), "no card")


def _routes(facts: Facts) -> list[tuple[str, ipaddress.IPv4Network, ipaddress.IPv4Address]]:
    """The rows of /proc/net/route: card, destination, gateway."""
    rows = []
    for line in facts.get("routes", ())[1:]:
        words = line.split()
        target, gateway, mask = (_kernel_address(words[column]) for column in (1, 2, 7))
        rows.append((words[0], ipaddress.IPv4Network(f"{target}/{mask}", strict=False), gateway))
    return rows


def _kernel_address(text: str) -> ipaddress.IPv4Address:
    """An address as /proc/net/route prints it: the number a little-endian machine sees."""
    return ipaddress.IPv4Address(struct.pack("<I", int(text, 16)))


def _address(facts: Facts, expected: Expected) -> _Verdict:
    address, card = expected.network.address, _card(facts, expected)
    own = [one for one in facts.get("addresses", ()) if not one.startswith("127.")]
    nets = [f"{net}" for name, net, _ in _routes(facts) if name == card and net.prefixlen]
    got = f"{', '.join(own) or 'no address'} in {', '.join(nets) or 'no network'} on {card}"
    ok = own == [str(address.ip)] and str(address.network) in nets
    return f"{address.ip} in {address.network} on {expected.network.mac}", got, ok


def _route(facts: Facts, expected: Expected) -> _Verdict:
    card = _card(facts, expected)
    default = [(name, gateway) for name, net, gateway in _routes(facts) if not net.prefixlen]
    got = ", ".join(f"{gateway} by {name}" for name, gateway in default) or "no default route"
    return f"{expected.network.gateway} by {card}", got, default == [(card, expected.network.gateway)]


def _resolver(facts: Facts, expected: Expected) -> _Verdict:
    wanted, got = str(expected.network.resolver), facts.get("resolvers", ())
    return wanted, ", ".join(got) or "none", tuple(got) == (wanted,)


def _console(facts: Facts, expected: Expected) -> _Verdict:
    words = _one(facts, "command-line").split()
    consoles = [word for word in words if word.startswith("console=")]
    pattern = re.compile(rf"console={expected.console}(,.*)?")
    ok = any(pattern.fullmatch(word) for word in consoles)
    return f"console={expected.console}", " ".join(consoles) or "no console=", ok


def _root_partition(facts: Facts, expected: Expected) -> _Verdict:
    root = dict(_pairs(facts, "root"))
    starts = [int(value) for key, value in _pairs(facts, "root") if key == "other"]
    if "start" not in root:
        return "the disk's last partition", f"{root.get('device', '?')}, which is not a partition", False
    later = sum(start > int(root["start"]) for start in starts)
    got = f"{root['device']}, {f'with {later} after it' if later else 'the last'} of {len(starts)}"
    return "the disk's last partition", got, not later


def _root_size(facts: Facts, expected: Expected) -> _Verdict:
    root = dict(_pairs(facts, "root"))
    wanted = f"all of a disk of {expected.disk_size} bytes"
    if "start" not in root:
        return wanted, f"{root.get('device', '?')}, which is not a partition", False
    start, partition, disk = (int(root[key]) * SECTOR for key in ("start", "size", "disk"))
    count, _, size = root.get("blocks", "0 0").partition(" ")
    filesystem = int(count) * int(size)
    got = f"a disk of {disk}, a partition of {partition}, {root.get('type', '?')} of {filesystem} bytes"
    whole_disk = disk == expected.disk_size and disk - (start + partition) <= DISK_SLACK
    return wanted, got, whole_disk and filesystem >= partition * (1 - FILESYSTEM_SLACK)


def _host_keys(facts: Facts, expected: Expected) -> _Verdict:
    started = int(_one(facts, "started") or 0)
    keys = _pairs(facts, "host-keys")
    old = [name for name, when in keys if int(when) < started - CLOCK_SLACK]
    if not keys:
        return "host keys made by this boot", "no host keys", False
    got = f"older than the boot: {', '.join(old)}" if old else f"{len(keys)} made by this boot"
    return "host keys made by this boot", got, not old


def _units(facts: Facts, expected: Expected) -> _Verdict:
    state = _one(facts, "state")
    if state == "none":
        return "no failed unit", "an init system other than systemd", True
    names = facts.get("failed-units", ())
    if state in UNSETTLED:
        names = tuple(f"unfinished: {line}" for line in facts.get("jobs", ()))
    got = f"{state or 'unknown'}{': ' if names else ''}{', '.join(names)}"
    return "running, no failed unit", got, state == "running" and not names


#: Every check by name, in the order of a report.  Each gives: what was wanted, what there was, whether that is right.
CHECKS: dict[str, Callable[[Facts, Expected], _Verdict]] = {
    "login": _login,
    "hostname": _hostname,
    "address": _address,
    "route": _route,
    "resolver": _resolver,
    "console": _console,
    "root-partition": _root_partition,
    "root-size": _root_size,
    "host-keys": _host_keys,
    "units": _units,
}
