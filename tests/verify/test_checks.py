"""The checks on facts: of a guest that is right, and of guests that are wrong in one way each."""

from __future__ import annotations

import importlib.resources
import socket

import pytest

from imgc import process
from imgc.errors import ImgcError
from imgc.verify import checks, network

#: What Debian 12 prints on a disk of 3617587200 bytes.
GOOD = """\
a banner that does not matter
@@ user
0
@@ hostname
imgc-boot
@@ kernel
6.1.0-50-cloud-amd64
@@ command-line
BOOT_IMAGE=/boot/vmlinuz root=LABEL=rootfs ro console=tty0 console=ttyS0,115200
@@ cards
enp0s4 52:54:00:69:6d:67
lo 00:00:00:00:00:00
@@ addresses
10.0.2.77
127.0.0.1
@@ routes
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
enp0s4\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
enp0s4\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
@@ resolvers
10.0.2.3
@@ root
device vda1
partition 1
start 2048
size 7063519
disk 7065600
other 2048
type ext2/ext3
blocks 859691 4096
@@ started
1763862000
@@ host-keys
ssh_host_ecdsa_key 1763862060
ssh_host_ed25519_key 1763862061
@@ state
running
@@ failed-units
@@ jobs
@@ end
"""

EXPECTED = checks.Expected("imgc-boot", network.parse("10.0.2.77/24"), 7065600 * 512, "ttyS0")

#: What is wrong, by the check that has to notice and words that its ``got`` must hold.
WRONG = [
    ("login", "@@ user\n0", "@@ user\n1000", "uid 1000"),
    ("hostname", "imgc-boot", "debian", "debian"),
    ("address", "10.0.2.77\n", "10.0.2.15\n", "10.0.2.15"),
    ("address", "10.0.2.77\n", "10.0.2.77\n10.0.2.15\n", "10.0.2.15"),
    ("address", "00FFFFFF", "0000FFFF", "10.0.0.0/16"),
    ("address", "52:54:00:69:6d:67", "52:54:00:00:00:01", "no card"),
    ("route", "0202000A", "0102000A", "10.0.2.1"),
    ("route", "enp0s4\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", "", "no default route"),
    ("resolver", "10.0.2.3", "192.0.2.53", "192.0.2.53"),
    ("resolver", "10.0.2.3\n", "", "none"),
    ("console", "console=ttyS0,115200", "console=ttyS01", "ttyS01"),
    ("root-partition", "other 2048", "other 2048\nother 5000000", "1 after it"),
    (
        "root-partition",
        "partition 1\nstart 2048\nsize 7063519\ndisk 7065600\nother 2048\n",
        "",
        "not a partition",
    ),
    ("root-size", "size 7063519", "size 2867200", "partition of 1468006400"),
    ("root-size", "blocks 859691", "blocks 350000", "1433600000 bytes"),
    ("root-size", "disk 7065600", "disk 2871296", "a disk of 1470103552"),
    ("host-keys", "ed25519_key 1763862061", "ed25519_key 1763000000", "ssh_host_ed25519_key"),
    ("host-keys", "ssh_host_ecdsa_key 1763862060\nssh_host_ed25519_key 1763862061\n", "", "no host keys"),
    (
        "units",
        "running\n@@ failed-units",
        "degraded\n@@ failed-units\na.service\nb.mount",
        "a.service, b.mount",
    ),
    ("units", "running\n", "starting\n", "starting"),
    ("units", "running\n", "maintenance\n", "maintenance"),
]


def verdict(text: str, name: str) -> checks.Check:
    (check,) = checks.judge(checks.sections(text), EXPECTED, [name])
    return check


def test_every_check_holds_for_a_guest_that_is_right() -> None:
    verdicts = checks.judge(checks.sections(GOOD), EXPECTED, checks.CHECKS)
    assert [check.name for check in verdicts] == list(checks.CHECKS)
    assert [check for check in verdicts if not check.ok] == []


@pytest.mark.parametrize(("name", "old", "new", "got"), WRONG)
def test_wrong(name: str, old: str, new: str, got: str) -> None:
    assert old in GOOD
    check = verdict(GOOD.replace(old, new), name)
    assert not check.ok
    assert got in check.got


def test_every_check_can_fail() -> None:
    assert {name for name, *_ in WRONG} == set(checks.CHECKS)


@pytest.mark.parametrize("name", checks.CHECKS)
def test_a_guest_that_says_nothing_passes_no_check(name: str) -> None:
    assert not verdict("", name).ok


def test_a_boot_that_is_under_way_names_its_jobs() -> None:
    text = GOOD.replace("running\n", "starting\n").replace(
        "@@ jobs", "@@ jobs\n112 slow.service start running"
    )
    assert not checks.settled(checks.sections(text))
    assert "slow.service" in verdict(text, "units").got
    assert checks.settled(checks.sections(GOOD))


def test_another_init_system_has_no_units() -> None:
    assert verdict(GOOD.replace("running\n", "none\n"), "units").ok


def test_an_unknown_check_is_named_with_the_nearest() -> None:
    with pytest.raises(ImgcError) as caught:
        checks.known(["login", "hostkeys"])
    assert (caught.value.code, caught.value.hint) == ("E108", "Did you mean 'host-keys'?")


def test_the_script_runs_to_its_end_on_any_linux() -> None:
    script = importlib.resources.files("imgc.verify").joinpath("facts.sh").read_text()
    done = process.run(["sh", "-s"], stdin=script)
    facts = checks.sections(done.output)
    assert list(facts)[-1] == "end"
    assert facts["hostname"] == (socket.gethostname(),)
    assert facts["kernel"] == (process.run(["uname", "-r"]).output.strip(),)
    assert "127.0.0.1" in facts["addresses"]
    assert set(checks.sections(GOOD)) <= set(facts)
    assert dict(line.split(" ", 1) for line in facts["root"])["blocks"].count(" ") == 1
