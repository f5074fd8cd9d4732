"""What a config drive says about the network, as devices of this machine.

glean reads the drive too, but takes interfaces one at a time, as udev brings
them.  A bond has several, and a device on another one needs its name.  So
here names are looked up among all interfaces that udev is done with, and a
bond waits for the last of its members.

For any Python from 3.4 on.
"""

import collections
import ipaddress
import logging
import os
import re

log = logging.getLogger("glean")

#: Kernel names of interfaces have at most so many characters.
LONGEST_NAME = 15

#: Types of networks whose addresses come from router advertisements or DHCPv6.
AUTOMATIC_V6 = (
    "ipv6_slaac",
    "ipv6_dhcp",
    "ipv6_dhcpv6-stateless",
    "ipv6_dhcpv6-stateful",
)


class Network(object):
    """One network of a device.

    ``kind`` is fixed, dhcp or auto, ``version`` 4 or 6.

    ``address`` is an ``ipaddress`` interface (fixed only), ``gateway`` the
    router of the default route or None, ``metric`` its rank among all default
    routes of the drive (0 is first), ``routes`` pairs of network and router.
    """

    def __init__(self, kind, version, address=None, gateway=None, routes=()):
        self.kind = kind
        self.version = version
        self.address = address
        self.gateway = gateway
        self.metric = 0
        self.routes = list(routes)


class Device(object):
    """A network device: ``kind`` is ethernet, vlan or bond.

    ``needs`` names the devices below it.

    ``master`` is the bond that it belongs to, or empty.  ``mac`` is what the
    drive wants it to be, or empty.  ``options`` are the bonding driver's.
    """

    def __init__(self, kind, name, mac, mtu=None):
        self.kind = kind
        self.name = name
        self.mac = mac
        self.mtu = mtu
        self.needs = []
        self.master = ""
        self.vlan = None
        self.options = {}
        self.networks = []


class Names(dict):
    """Names of interfaces by MAC address.

    It holds those to configure now, and finds all that are there.
    """

    def __init__(self, own, everyone):
        dict.__init__(self, own)
        self.everyone = everyone

    def __missing__(self, mac):
        return self.everyone[mac]


def interfaces_by_mac(root="/"):
    """Interfaces that have their final names, by permanent MAC address."""
    found = {}
    directory = os.path.join(root, "sys/class/net")
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        permanent = _read(os.path.join(path, "bonding_slave/perm_hwaddr"))
        if (
            not permanent
            and _read(os.path.join(path, "addr_assign_type")) == "0"
        ):
            permanent = _read(os.path.join(path, "address"))
        if permanent and name != "lo" and _is_named(root, path):
            found[permanent.lower()] = name
    return found


def _is_named(root, path):
    """Whether udev is done with an interface; it names it before."""
    seen = os.path.join(root, "run/udev/data")
    return not os.path.isdir(seen) or os.path.exists(
        os.path.join(seen, "n" + _read(path + "/ifindex"))
    )


def _read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def devices(data, names, fallback=True, waiting=True):
    """What to configure with ``names``: those below before those upon them.

    The first argument is network_data.json.  An interface that it does not
    mention asks for an address by DHCP, unless ``fallback`` is off.  A bond is
    made once all its members are there, or, unless ``waiting``, with any of
    them.  What makes no sense is said and left out: the rest of the network is
    worth having.
    """
    drive = _Drive(data, names, waiting)
    wanted = [
        device
        for identity, device in drive.devices().items()
        if drive.touches(identity)
    ]
    if fallback:
        known = {
            _mac(link)
            for link in drive.links.values()
            if _kind(link) == "ethernet"
        }
        for mac, name in sorted(names.items(), key=lambda one: one[1]):
            if mac not in known:
                device = Device("ethernet", name, mac)
                device.networks.append(Network("dhcp", 4))
                wanted.append(device)
    return wanted


def _kind(link):
    return link["type"] if link.get("type") in ("vlan", "bond") else "ethernet"


def _mac(link):
    return (link.get("ethernet_mac_address") or "").lower()


class _Drive(object):
    """The links of a drive by their id, in its order."""

    def __init__(self, data, names, waiting):
        links = data.get("links") or ()
        self.links = collections.OrderedDict(
            (link["id"], link) for link in links if link.get("id")
        )
        self.data = data
        self.names = names
        self.waiting = waiting
        self.found = collections.OrderedDict()

    def devices(self):
        """All devices that can be made of what is there, by their link."""
        for kind, make in (
            ("ethernet", self._ethernet),
            ("bond", self._bond),
            ("vlan", self._vlan),
        ):
            for identity, link in self.links.items():
                if _kind(link) != kind:
                    continue
                try:
                    device = make(link)
                except (KeyError, ValueError, TypeError) as error:
                    log.error(
                        "the config drive's link %s is left out: %r",
                        identity,
                        error,
                    )
                    continue
                if device:
                    self.found[identity] = device
        self._add_networks()
        return self.found

    def touches(self, identity):
        """Whether a link rests on an interface to configure now."""
        return any(mac in set(self.names) for mac in self._below(identity))

    def _below(self, identity):
        """The MAC addresses that a link rests on in the end."""
        link = self.links[identity]
        if _kind(link) == "ethernet":
            return [_mac(link)]
        parts = (
            [link["vlan_link"]]
            if _kind(link) == "vlan"
            else link["bond_links"]
        )
        return [
            mac
            for part in parts
            if part in self.links
            for mac in self._below(part)
        ]

    def _bonds(self):
        return [link for link in self.links.values() if _kind(link) == "bond"]

    def _ethernet(self, link):
        mac = _mac(link)
        if mac not in self.names and mac not in self.names.everyone:
            log.info("no interface has the address %s, or not yet", mac)
            return None
        device = Device("ethernet", self.names[mac], mac, link.get("mtu"))
        for bond in self._bonds():
            if link["id"] in (bond.get("bond_links") or ()):
                device.master = self._bond_name(bond)
        return device

    def _bond(self, link):
        missing = [
            member for member in link["bond_links"] if member not in self.found
        ]
        if missing and (
            self.waiting or len(missing) == len(link["bond_links"])
        ):
            log.info("bond %s waits for %s", link["id"], " ".join(missing))
            return None
        device = Device(
            "bond", self._bond_name(link), _mac(link), link.get("mtu")
        )
        device.options["mode"] = str(link["bond_mode"])
        for key, value in sorted(link.items()):
            if (
                key.startswith("bond_")
                and key not in ("bond_mode", "bond_links")
                and value is not None
            ):
                device.options[key[len("bond_") :]] = str(value)
        for word in device.options.values():
            if not re.match(r"[\w.+,:-]+\Z", word):
                raise ValueError(word)
        device.needs += [
            self.found[member].name
            for member in link["bond_links"]
            if member in self.found
        ]
        return device

    def _bond_name(self, link):
        """The link's id where the kernel takes it, else one of a series."""
        if (
            re.match(r"[A-Za-z][A-Za-z0-9_-]*\Z", link["id"])
            and len(link["id"]) <= LONGEST_NAME
        ):
            return link["id"]
        return "bond%d" % [bond["id"] for bond in self._bonds()].index(
            link["id"]
        )

    def _vlan(self, link):
        number = int(link["vlan_id"])
        if not 0 < number < 4095:
            raise ValueError("VLAN %d" % number)
        if _kind(self.links[link["vlan_link"]]) == "vlan":
            raise ValueError("a VLAN in a VLAN")
        parent = self.found.get(link["vlan_link"])
        if parent is None:
            return None
        name = "%s.%d" % (parent.name, number)
        if len(name) > LONGEST_NAME:
            name = "vlan%d" % number
        mac = (link.get("vlan_mac_address") or "").lower()
        device = Device(
            "vlan", name, mac if mac != parent.mac else "", link.get("mtu")
        )
        device.needs.append(parent.name)
        device.vlan = number
        return device

    def _add_networks(self):
        """Give each device its networks; default routes rank as listed."""
        defaults = {4: 0, 6: 0}
        for given in self.data.get("networks") or ():
            try:
                network = _network(given)
            except (KeyError, ValueError, TypeError) as error:
                log.error(
                    "the config drive's network %s is left out: %r",
                    given.get("id"),
                    error,
                )
                continue
            if network.gateway:
                network.metric = defaults[network.version]
                defaults[network.version] += 1
            if given.get("link") in self.found:
                self.found[given["link"]].networks.append(network)


def _network(given):
    kind = given["type"]
    if kind == "ipv4_dhcp":
        return Network("dhcp", 4)
    if kind == "ipv6_dhcp":
        return Network("dhcp", 6)
    # Even with an address on the drive, it is the routers that say the rest.
    if kind in AUTOMATIC_V6:
        return Network("auto", 6)
    if kind not in ("ipv4", "ipv6"):
        raise ValueError(kind)
    bare, _, length = given["ip_address"].partition("/")
    address = ipaddress.ip_interface(
        _cidr(bare, length or prefix_length(given["netmask"]))
    )
    if address.version != int(kind[-1]):
        raise ValueError(given["ip_address"])
    gateway, routes = None, []
    for route in given.get("routes") or ():
        length = prefix_length(route["netmask"])
        target = ipaddress.ip_network(
            _cidr(route["network"], length), strict=False
        )
        router = ipaddress.ip_address(route["gateway"])
        if target.prefixlen == 0 and gateway is None:
            gateway = router
        else:
            routes.append((target, router))
    if gateway is None and given.get("gateway"):
        gateway = ipaddress.ip_address(given["gateway"])
    return Network("fixed", address.version, address, gateway, routes)


def _cidr(address, length):
    return "/".join([address, str(length)])


def prefix_length(mask):
    """What a netmask stands for: ``255.255.255.0``, ``ffff::`` or a number."""
    text = str(mask)
    if text.isdigit():
        return int(text)
    address = ipaddress.ip_address(text)
    bits = "{:b}".format(int(address)).zfill(address.max_prefixlen)
    if "01" in bits:
        raise ValueError("%s is no netmask" % text)
    return bits.count("1")
