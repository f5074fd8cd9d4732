"""The Debian platform on clouds of several kinds: what comes up on which interface, and what leaves by which cable."""

from __future__ import annotations

import ipaddress
import re
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from imgc.verify import qemu
from imgc.verify.watch import Watch
from tests.integration.cloud_guest import NETWORK, TIMEOUT, CloudGuest, cloud_guest, mac, powered_on
from tests.integration.debian import SPEC, SPECS, Debian

pytestmark = pytest.mark.integration

Drive = dict[str, Any]


def card(number: int) -> Drive:
    return {"id": f"nic{number}", "type": "phy", "ethernet_mac_address": mac(number), "mtu": 1500}


def static(link: str, address: str, gateway: str = "") -> Drive:
    """A network of ``link``; ``gateway`` is the router of a default route."""
    interface = ipaddress.ip_interface(address)
    anywhere = {4: "0.0.0.0", 6: "::"}[interface.version]
    return {
        "id": f"{link}-{interface.version}",
        "link": link,
        "type": f"ipv{interface.version}",
        "ip_address": str(interface.ip),
        "netmask": str(interface.netmask),
        "routes": [{"network": anywhere, "netmask": anywhere, "gateway": gateway}] if gateway else [],
    }


def by_dhcp(link: str) -> Drive:
    return {"id": f"{link}-dhcp", "link": link, "type": "ipv4_dhcp"}


FIRST = static("nic1", str(NETWORK.address), str(NETWORK.gateway))
RESOLVER = [{"type": "dns", "address": str(NETWORK.resolver)}]

#: Two plain cards, a bond of two more, and a VLAN on the second card and on the bond.
EVERYTHING: Drive = {
    "links": [
        *(card(number) for number in range(1, 5)),
        {
            "id": "bond0",
            "type": "bond",
            "bond_links": ["nic3", "nic4"],
            "bond_mode": "active-backup",
            "bond_miimon": 100,
            "bond_xmit_hash_policy": "layer2",
            "ethernet_mac_address": mac(3),
        },
        {"id": "v7", "type": "vlan", "vlan_link": "nic2", "vlan_id": 7, "vlan_mac_address": mac(2)},
        {"id": "v42", "type": "vlan", "vlan_link": "bond0", "vlan_id": 42, "vlan_mac_address": mac(3)},
    ],
    "networks": [
        FIRST,
        static("nic1", "fd00:1::5/64", "fd00:1::1"),
        static("nic2", "10.2.0.5/24", "10.2.0.1"),
        static("v7", "10.7.0.5/24"),
        static("bond0", "10.9.0.5/24"),
        static("v42", "10.42.0.5/24"),
    ],
    "services": RESOLVER,
}


def addresses(guest: CloudGuest) -> dict[str, set[str]]:
    """The addresses of each interface, but those that the kernel makes by itself."""
    found: dict[str, set[str]] = {}
    for line in guest.run("ip -oneline address show").splitlines():
        _, name, _, address, *rest = line.split()
        if "link" not in rest and name != "lo":
            found.setdefault(name, set()).add(address)
    return found


def default_routes(guest: CloudGuest) -> list[str]:
    """The interfaces of the default routes, the preferred one first."""
    lines = guest.run("ip route show default").splitlines()
    metrics = {re.search(r"metric (\d+)|$", line)[1] or "0": line for line in lines}  # type: ignore[index]
    return [metrics[key].split(" dev ")[1].split()[0] for key in sorted(metrics, key=int)]


def check_everything(guest: CloudGuest) -> None:
    """All of :data:`EVERYTHING` is up, inside the guest and on the cables."""
    first, second = guest.name(1), guest.name(2)
    assert addresses(guest) == {
        first: {str(NETWORK.address), "fd00:1::5/64"},
        second: {"10.2.0.5/24"},
        f"{second}.7": {"10.7.0.5/24"},
        "bond0": {"10.9.0.5/24"},
        "bond0.42": {"10.42.0.5/24"},
    }
    assert default_routes(guest) == [first, second]
    bonding = guest.run("cat /proc/net/bonding/bond0")
    assert "Bonding Mode: fault-tolerance (active-backup)" in bonding
    assert "MII Polling Interval (ms): 100" in bonding
    assert re.findall("Permanent HW addr: (.*)", bonding) == [mac(3), mac(4)]
    for to, port, vlan in (("10.2.0.1", 0, 0), ("10.7.0.1", 0, 7), ("10.9.0.1", 1, 0), ("10.42.0.1", 1, 42)):
        text = f"to {to} at {time.monotonic_ns()}"
        guest.say(to, text)
        seen = guest.switch.wait_for(text)
        assert (seen.port, seen.vlan, seen.source) == (port, vlan, f"{to[:-1]}5")


def check_running(guest: CloudGuest) -> None:
    assert (guest.facts["state"], guest.facts.get("failed-units", ())) == (("running",), ())


def test_two_cards_a_bond_and_vlans_from_one_config_drive(debian: Debian, tmp_path: Path) -> None:
    with cloud_guest(debian.images / "debian-bookworm.qcow2", tmp_path, EVERYTHING, 4) as guest:
        check_running(guest)
        check_everything(guest)
        # Without the cable that it uses, the bond goes on by the other.
        guest.plug(3, up=False)
        guest.run("until grep -q 'Link Failure Count: 1' /proc/net/bonding/bond0; do sleep 0.2; done")
        guest.say("10.42.0.1", "by the other cable")
        seen = guest.switch.wait_for("by the other cable")
        assert (seen.port, seen.vlan) == (2, 42)
        guest.plug(3, up=True)
        # The next boot: glean leaves its files alone, and ifup takes them in the order of their names.
        stays = guest.name(1)
        guest.run(f"ifdown --all --exclude={stays} --exclude=lo; test ! -e /sys/class/net/bond0; ifup --all")
        check_everything(guest)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("networks", "cards", "wanted"),
    [
        pytest.param([FIRST], 1, {1: {str(NETWORK.address)}}, id="static"),
        pytest.param([by_dhcp("nic1")], 1, {1: {f"{NETWORK.lease}/24"}}, id="dhcp"),
        pytest.param(
            [
                FIRST,
                static("nic1", "fd00:1::5/64"),
                static("nic2", "10.2.0.5/24"),
                static("nic2", "fd00:2::5/64"),
            ],
            2,
            {1: {str(NETWORK.address), "fd00:1::5/64"}, 2: {"10.2.0.5/24", "fd00:2::5/64"}},
            id="both-families-on-two-cards",
        ),
    ],
)
def test_plain_cards(
    debian: Debian, tmp_path: Path, networks: list[Drive], cards: int, wanted: dict[int, set[str]]
) -> None:
    data = {"links": [card(number + 1) for number in range(cards)], "networks": networks}
    with cloud_guest(debian.images / "debian-bookworm.qcow2", tmp_path, data, cards) as guest:
        check_running(guest)
        assert addresses(guest) == {guest.name(number): found for number, found in wanted.items()}


@pytest.mark.slow
def test_a_bond_by_lacp_is_up_without_a_partner(debian: Debian, tmp_path: Path) -> None:
    links = [card(1), card(2), card(3)]
    options = {"bond_mode": "802.3ad", "bond_miimon": 100, "bond_lacp_rate": "fast"}
    links.append({"id": "team", "type": "bond", "bond_links": ["nic2", "nic3"], **options})
    links[-1]["ethernet_mac_address"] = mac(2)
    data = {"links": links, "networks": [FIRST, static("team", "10.9.0.5/24")]}
    with cloud_guest(debian.images / "debian-bookworm.qcow2", tmp_path, data, 3) as guest:
        check_running(guest)
        assert addresses(guest)["team"] == {"10.9.0.5/24"}
        bonding = guest.run("cat /proc/net/bonding/team")
        assert "IEEE 802.3ad Dynamic link aggregation" in bonding and "LACP rate: fast" in bonding


@pytest.mark.slow
def test_without_a_config_drive_it_asks_by_dhcp(debian: Debian, tmp_path: Path) -> None:
    """Nobody can log in without a key; that the server answers at DHCP's address says it all."""
    image = debian.images / "debian-bookworm.qcow2"
    with powered_on(image, tmp_path, None, 1) as (guest, _):
        watch = Watch(guest, image, tmp_path, time.monotonic(), TIMEOUT)
        answered = watch.wait_for_ssh(NETWORK)
        listed = guest.monitor.command("human-monitor-command", {"command-line": "info usernet"})
        assert qemu.forwarded_ports(listed)[str(NETWORK.lease)] == answered


class WithNetworkManager(Debian):
    """The same platform, where NetworkManager configures the interfaces."""

    name: ClassVar[str] = "debian-bookworm"

    def spec(self) -> str:
        more = 'environment: {DIB_SIMPLE_INIT_NETWORKMANAGER: "1"}\n'
        return SPEC.format(common=SPECS / "common/debian.yaml") + more


@pytest.mark.slow
def test_network_manager_brings_up_two_cards_a_bond_and_vlans(tmp_path: Path) -> None:
    managed = WithNetworkManager(tmp_path)
    managed.say("managed")
    done = managed.build("--format", "qcow2", seconds=900)
    assert done.status == 0, done.errors
    with cloud_guest(managed.images / "debian-bookworm.qcow2", tmp_path, EVERYTHING, 4) as guest:
        check_running(guest)
        check_everything(guest)
        assert "connected" in guest.run("nmcli --get-values STATE general")
