"""What simple-init makes of a config drive's network: devices, stanzas for ifupdown, keyfiles for NetworkManager."""

from __future__ import annotations

import configparser
import contextlib
import importlib
import ipaddress
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import imgc
from tests.elements.old_python import too_new

GLEAN = Path(imgc.__file__).parent / "elements/simple-init/glean"
SCRIPTS = "/scripts"
MAKE_BOND = f"{SCRIPTS}/glean-link bond bond0 mode=active-backup"

MACS = {f"52:54:00:00:00:0{number}": f"ens{number}" for number in range(1, 5)}


@pytest.fixture(scope="module")
def glean() -> Iterator[SimpleNamespace]:
    """The modules, as python-glean imports them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(GLEAN))
        patch.setattr(sys, "dont_write_bytecode", True)
        names = ("networks", "ifupdown", "keyfiles")
        yield SimpleNamespace(**{name: importlib.import_module(f"glean_{name}") for name in names})


Drive = dict[str, Any]


def card(number: int, **more: object) -> Drive:
    return {"id": f"nic{number}", "type": "phy", "ethernet_mac_address": f"52:54:00:00:00:0{number}", **more}


def bond(name: str, *members: str, **more: object) -> Drive:
    options = {"bond_mode": "active-backup", "bond_miimon": 100}
    link = {"id": name, "type": "bond", "bond_links": list(members), **options}
    return {**link, "ethernet_mac_address": "52:54:00:00:00:03", **more}


def vlan(name: str, parent: str, number: object, **more: object) -> Drive:
    return {"id": name, "type": "vlan", "vlan_link": parent, "vlan_id": number, **more}


def static(link: str, address: str, *routes: str) -> Drive:
    """A network; ``routes`` as in ``0.0.0.0/0 10.0.0.1``."""
    interface = ipaddress.ip_interface(address)
    split = [(ipaddress.ip_network(route.split()[0]), route.split()[1]) for route in routes]
    return {
        "id": f"network-{link}-{address}",
        "link": link,
        "type": f"ipv{interface.version}",
        "ip_address": str(interface.ip),
        "netmask": str(interface.netmask),
        "routes": [
            {"network": str(net.network_address), "netmask": str(net.netmask), "gateway": router}
            for net, router in split
        ],
    }


def read(glean: SimpleNamespace, drive: Drive, *own: str, there: int = 4, **options: bool) -> Any:
    """The devices for the interfaces ``own`` (all, when none is named) of a machine with ``there`` of them."""
    everyone = dict(list(MACS.items())[:there])
    mine = {mac: name for mac, name in everyone.items() if not own or name in own}
    return glean.networks.devices(drive, glean.networks.Names(mine, everyone), **options)


def names(devices: Any) -> list[str]:
    return [device.name for device in devices]


BONDED: Drive = {
    "links": [
        vlan("v42", "bond0", 42),
        bond("bond0", "nic3", "nic4"),
        card(1),
        card(3),
        card(4),
    ],
    "networks": [
        static("nic1", "10.1.0.5/24", "0.0.0.0/0 10.1.0.1"),
        static("bond0", "10.9.0.5/24"),
        static("v42", "10.42.0.5/24"),
    ],
}


# --- devices ------------------------------------------------------------------------------------------------------


def test_each_interface_brings_what_lies_on_it(glean: SimpleNamespace) -> None:
    assert names(read(glean, BONDED, "ens1")) == ["ens1"]
    assert names(read(glean, BONDED, "ens3")) == ["ens3", "bond0", "bond0.42"]
    assert names(read(glean, BONDED, "ens4")) == ["ens4", "bond0", "bond0.42"]


def test_a_bond_waits_for_its_last_member_where_it_must_know_its_name(glean: SimpleNamespace) -> None:
    (member,) = read(glean, BONDED, "ens3", there=3)
    assert (member.name, member.master) == ("ens3", "bond0")
    found = read(glean, BONDED, "ens3", there=3, waiting=False)
    assert names(found) == ["ens3", "bond0", "bond0.42"]


def test_what_the_drive_does_not_mention_asks_by_dhcp(glean: SimpleNamespace) -> None:
    (device,) = read(glean, BONDED, "ens2")
    assert [(network.kind, network.version) for network in device.networks] == [("dhcp", 4)]
    assert read(glean, BONDED, "ens2", fallback=False) == []
    assert names(read(glean, {})) == ["ens1", "ens2", "ens3", "ens4"]


def test_only_the_drives_first_default_route_is_the_default(glean: SimpleNamespace) -> None:
    routes = [static(f"nic{n}", f"10.{n}.0.5/24", f"0.0.0.0/0 10.{n}.0.1") for n in (2, 1)]
    drive = {"links": [card(1), card(2)], "networks": [*routes, static("nic1", "fd00::5/64", "::/0 fd00::1")]}
    # The same, whichever interface comes first.
    for own in ((), ("ens1",), ("ens2",)):
        ranks = {
            device.name: [network.metric for network in device.networks]
            for device in read(glean, drive, *own)
        }
        assert ranks.items() <= {"ens1": [1, 0], "ens2": [0], "ens3": [0], "ens4": [0]}.items()


@pytest.mark.parametrize(
    ("identity", "parent", "wanted"),
    [
        ("bond0", "nic3", "bond0"),
        ("6a1f1d9a-9f3c-4f5e-8a57-4d3f7a1c2b3d", "nic3", "bond0"),
        ("a/b", "nic3", "bond0"),
        ("team", "nic3", "team"),
    ],
)
def test_a_bond_has_a_name_that_the_kernel_takes(
    glean: SimpleNamespace, identity: str, parent: str, wanted: str
) -> None:
    found = read(glean, {"links": [card(3), bond(identity, parent)]}, "ens3")
    assert names(found) == ["ens3", wanted]
    assert found[0].master == wanted


def test_a_vlan_has_a_name_that_the_kernel_takes(glean: SimpleNamespace) -> None:
    long = glean.networks.Names(
        {"52:54:00:00:00:01": "enx525400000001"}, {"52:54:00:00:00:01": "enx525400000001"}
    )
    found = glean.networks.devices({"links": [card(1), vlan("v", "nic1", 4094)]}, long)
    assert names(found) == ["enx525400000001", "vlan4094"]


@pytest.mark.parametrize(
    "odd",
    [
        {"links": [vlan("v", "v", 7)]},
        {"links": [vlan("v", "nowhere", 7)]},
        {"links": [vlan("v", "nic1", 4095)]},
        {"links": [vlan("v", "nic1", "seven")]},
        {"links": [vlan("v", "nic1", 7), vlan("w", "v", 8)]},
        {"links": [bond("b", "nic3", "nowhere")]},
        {"links": [{"id": "b", "type": "bond", "bond_links": ["nic3"]}]},
        {"links": [{"id": "b", "type": "bond"}]},
        {"links": [bond("b", "nic3", bond_mode="802.3ad; reboot")]},
        {"links": [{"type": "phy"}, {"id": "x", "type": "phy", "ethernet_mac_address": None}]},
        {"networks": [{"id": "n", "link": "nic1", "type": "ipv4", "ip_address": "10.0.0.x", "netmask": "8"}]},
        {"networks": [{"id": "n", "link": "nic1", "type": "ipv4"}]},
        {"networks": [{"id": "n", "link": "nic1", "type": "carrier-pigeon"}]},
        {"networks": [{"link": "nowhere", "type": "ipv4_dhcp"}]},
        {"links": None, "networks": None},
    ],
)
def test_odd_parts_are_left_out_and_the_rest_is_kept(glean: SimpleNamespace, odd: Drive) -> None:
    links = [card(1), card(3), *(odd.get("links") or ())]
    networks = [*(odd.get("networks") or ()), static("nic1", "10.1.0.5/24")]
    found = read(glean, {"links": links, "networks": networks}, "ens1")
    assert found[0].name == "ens1"
    assert [str(network.address) for network in found[0].networks] == ["10.1.0.5/24"]


@given(st.ip_addresses(), st.data())
def test_every_form_of_a_netmask_is_its_length(address: Any, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, address.max_prefixlen))
    network = ipaddress.ip_network(f"{address}/{length}", strict=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(GLEAN))
        of = importlib.import_module("glean_networks").prefix_length
    assert of(str(network.netmask)) == of(str(length)) == of(length) == length


@pytest.mark.parametrize("mask", ["255.0.255.0", "ffff::ffff", "x", ""])
def test_what_is_no_netmask(glean: SimpleNamespace, mask: str) -> None:
    with pytest.raises(ValueError):
        glean.networks.prefix_length(mask)


def test_only_interfaces_that_udev_is_done_with_have_names(glean: SimpleNamespace, tmp_path: Path) -> None:
    def interface(name: str, index: int, **files: str) -> None:
        for file, text in {"ifindex": str(index), "addr_assign_type": "0", **files}.items():
            path = tmp_path / "sys/class/net" / name / file.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    interface("lo", 1, address="00:00:00:00:00:00")
    interface("ens1", 2, address="52:54:00:00:00:01")
    interface("eth1", 3, address="52:54:00:00:00:02")
    # A member of a bond has the bond's address; its own is elsewhere.
    own = {"bonding_slave__perm_hwaddr": "52:54:00:00:00:03", "addr_assign_type": "3"}
    interface("ens3", 4, address="52:54:00:00:00:01", **own)
    interface("bond0", 5, address="52:54:00:00:00:01", addr_assign_type="3")
    known = {"52:54:00:00:00:01": "ens1", "52:54:00:00:00:03": "ens3"}
    assert glean.networks.interfaces_by_mac(str(tmp_path)) == {**known, "52:54:00:00:00:02": "eth1"}
    (tmp_path / "run/udev/data").mkdir(parents=True)
    for index in (1, 2, 4, 5):
        (tmp_path / f"run/udev/data/n{index}").touch()
    assert glean.networks.interfaces_by_mac(str(tmp_path)) == known


# --- ifupdown -----------------------------------------------------------------------------------------------------


def stanza(glean: SimpleNamespace, drive: Drive, name: str) -> list[str]:
    """The file of one device, without its first line."""
    files = glean.ifupdown.files(read(glean, drive), SCRIPTS)
    head, *lines = str(files[f"/etc/network/interfaces.d/{name}.cfg"]).splitlines()
    assert head.startswith("# Automatically generated")
    return lines


def test_a_bond_a_member_and_a_vlan_in_stanzas(glean: SimpleNamespace) -> None:
    assert stanza(glean, BONDED, "ens3") == ["# Member of: bond0", "iface ens3 inet manual"]
    assert stanza(glean, BONDED, "bond0") == [
        "# On: ens3 ens4",
        "auto bond0",
        "iface bond0 inet static",
        f"    pre-up {MAKE_BOND} miimon=100 address=52:54:00:00:00:03 -- ens3 ens4",
        "    address 10.9.0.5",
        "    netmask 255.255.255.0",
        "    post-down ip link delete dev bond0 || true",
    ]
    assert stanza(glean, BONDED, "bond0.42") == [
        "# On: bond0",
        "auto bond0.42",
        "iface bond0.42 inet static",
        "    pre-up /scripts/glean-link vlan bond0.42 bond0 42",
        "    address 10.42.0.5",
        "    netmask 255.255.255.0",
        "    post-down ip link delete dev bond0.42 || true",
    ]


def test_both_families_routes_and_a_second_default_route_in_stanzas(glean: SimpleNamespace) -> None:
    drive = {
        "links": [card(1), card(2, mtu=1450), card(3)],
        "networks": [
            static("nic1", "10.1.0.5/24", "0.0.0.0/0 10.1.0.1"),
            static("nic2", "10.2.0.5/24", "0.0.0.0/0 10.2.0.1", "172.16.0.0/12 10.2.0.2"),
            static("nic2", "fd00:2::5/64", "::/0 fd00:2::1", "fd00:9::/32 fd00:2::2"),
        ],
    }
    assert stanza(glean, drive, "ens2") == [
        "auto ens2",
        "iface ens2 inet static",
        "    pre-up ip link set dev ens2 mtu 1450 || true",
        "    address 10.2.0.5",
        "    netmask 255.255.255.0",
        "    up ip route add default via 10.2.0.1 dev ens2 metric 100 || true",
        "    up ip route add 172.16.0.0/12 via 10.2.0.2 dev ens2 || true",
        "iface ens2 inet6 static",
        "    address fd00:2::5",
        "    netmask 64",
        "    gateway fd00:2::1",
        "    up ip -6 route add fd00:9::/32 via fd00:2::2 dev ens2 || true",
    ]
    # Mentioned, and without any network: up, as a VLAN upon it needs it, and no more.
    assert stanza(glean, drive, "ens3") == [
        "auto ens3",
        "iface ens3 inet manual",
        "    up ip link set dev ens3 up",
    ]


@pytest.mark.parametrize("kind", ["ipv6_slaac", "ipv6_dhcpv6-stateless", "ipv6_dhcpv6-stateful"])
def test_what_routers_say_needs_no_more_than_an_interface_that_is_up(
    glean: SimpleNamespace, kind: str
) -> None:
    drive = {"links": [card(1)], "networks": [{"id": "n", "link": "nic1", "type": kind}]}
    assert stanza(glean, drive, "ens1") == [
        "auto ens1",
        "iface ens1 inet manual",
        "    up ip link set dev ens1 up",
    ]


# --- NetworkManager -----------------------------------------------------------------------------------------------


def keyfile(glean: SimpleNamespace, drive: Drive, name: str) -> dict[str, dict[str, str]]:
    """The keyfile of one device, without its identity."""
    files = glean.keyfiles.files(read(glean, drive))
    parser = configparser.RawConfigParser(strict=True)
    parser.read_string(files[f"/etc/NetworkManager/system-connections/{name}.nmconnection"])
    found = {section: dict(parser[section]) for section in parser.sections()}
    connection = found["connection"]
    assert connection.pop("id") == connection.pop("interface-name") == name
    assert len(connection.pop("uuid")) == 36
    return found


def test_a_bond_a_member_and_a_vlan_in_keyfiles(glean: SimpleNamespace) -> None:
    assert keyfile(glean, BONDED, "ens4") == {
        "connection": {"type": "ethernet", "master": "bond0", "slave-type": "bond"},
        "ethernet": {"mac-address": "52:54:00:00:00:04"},
    }
    assert keyfile(glean, BONDED, "bond0") == {
        "connection": {"type": "bond", "autoconnect-slaves": "1"},
        "ethernet": {"cloned-mac-address": "52:54:00:00:00:03"},
        "bond": {"mode": "active-backup", "miimon": "100"},
        "ipv4": {"method": "manual", "address1": "10.9.0.5/24"},
        "ipv6": {"method": "ignore"},
    }
    assert keyfile(glean, BONDED, "bond0.42") == {
        "connection": {"type": "vlan"},
        "vlan": {"flags": "1", "id": "42", "parent": "bond0"},
        "ipv4": {"method": "manual", "address1": "10.42.0.5/24"},
        "ipv6": {"method": "ignore"},
    }


def test_addresses_and_routes_in_keyfiles(glean: SimpleNamespace) -> None:
    drive = {
        "links": [card(1), card(2, mtu=1450)],
        "networks": [
            static("nic1", "10.1.0.5/24", "0.0.0.0/0 10.1.0.1"),
            static("nic2", "10.2.0.5/24", "0.0.0.0/0 10.2.0.1", "172.16.0.0/12 10.2.0.2"),
            {"id": "n", "link": "nic2", "type": "ipv6_slaac"},
        ],
    }
    assert keyfile(glean, drive, "ens2") == {
        "connection": {"type": "ethernet"},
        "ethernet": {"mac-address": "52:54:00:00:00:02", "mtu": "1450"},
        "ipv4": {
            "method": "manual",
            "address1": "10.2.0.5/24",
            "gateway": "10.2.0.1",
            "route-metric": "101",
            "route1": "172.16.0.0/12,10.2.0.2",
        },
        "ipv6": {"method": "auto"},
    }
    assert keyfile(glean, {}, "ens1")["ipv4"] == {"method": "auto"}


# --- old Pythons --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["python-glean", *sorted(path.name for path in GLEAN.glob("*.py"))])
def test_the_python_of_ubuntu_trusty_can_read_it(name: str) -> None:
    assert too_new((GLEAN / name).read_text()) == []


@pytest.mark.parametrize(
    "text", ["f'{x}'", "x: int = 1", "(x := 1)", "[*a]", "{**a}", "{*a}", "a @ b", "async def f(): pass"]
)
def test_what_it_cannot_read_would_be_seen(text: str) -> None:
    with contextlib.suppress(SyntaxError):
        assert too_new(text)
