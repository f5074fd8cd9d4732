"""Devices as connections of NetworkManager, one keyfile each.

All releases of NetworkManager read it; what reads ifcfg files is gone from
the newest.  glean's own keyfiles hold neither VLANs nor bonds.

For any Python from 3.4 on.
"""

import uuid

DIRECTORY = "/etc/NetworkManager/system-connections"

#: NetworkManager's own choice for the first Ethernet interface.
METRIC = 100


def files(devices):
    """The files for ``devices``, by path."""
    return {
        "%s/%s.nmconnection" % (DIRECTORY, device.name): connection(device)
        for device in devices
    }


def connection(device):
    """The keyfile of one device."""
    groups = [
        ("connection", _connection(device)),
        ("ethernet", _ethernet(device)),
    ]
    if device.kind == "vlan":
        groups.append(
            (
                "vlan",
                [
                    ("flags", 1),
                    ("id", device.vlan),
                    ("parent", device.needs[0]),
                ],
            )
        )
    if device.kind == "bond":
        groups.append(("bond", sorted(device.options.items())))
    # A member of a bond has no addresses, not even by a word that says so.
    if not device.master:
        groups += [
            ("ipv4", _addresses(device, 4)),
            ("ipv6", _addresses(device, 6)),
        ]
    texts = ["# Automatically generated, do not edit\n"]
    for name, pairs in groups:
        if pairs:
            texts.append(
                "[%s]\n%s"
                % (name, "".join("%s=%s\n" % pair for pair in pairs))
            )
    return "\n".join(texts)


def _connection(device):
    pairs = [
        ("id", device.name),
        (
            "uuid",
            uuid.uuid5(
                uuid.NAMESPACE_DNS, "glean %s %s" % (device.name, device.mac)
            ),
        ),
        ("type", device.kind),
        ("interface-name", device.name),
    ]
    if device.master:
        # Newer words for these exist; these all releases understand.
        pairs += [("master", device.master), ("slave-type", "bond")]
    elif device.kind == "bond":
        pairs.append(("autoconnect-slaves", 1))
    return pairs


def _ethernet(device):
    pairs = []
    if device.mac:
        pairs.append(
            (
                "mac-address"
                if device.kind == "ethernet"
                else "cloned-mac-address",
                device.mac.upper(),
            )
        )
    if device.mtu:
        pairs.append(("mtu", int(device.mtu)))
    return pairs


def _addresses(device, version):
    """The lines of [ipv4] or [ipv6]."""
    networks = [
        network for network in device.networks if network.version == version
    ]
    fixed = [network for network in networks if network.kind == "fixed"]
    kinds = {network.kind for network in networks}
    if not networks:
        # "ignore" leaves it to the kernel: that the drive has an IPv4 network
        # is no reason to refuse the routers' addresses.
        return [("method", "disabled" if version == 4 else "ignore")]
    if kinds == {"fixed"}:
        method = "manual"
    elif version == 6 and kinds == {"dhcp"}:
        method = "dhcp"
    else:
        method = "auto"
    pairs = [("method", method)]
    routes = []
    for number, network in enumerate(fixed, 1):
        pairs.append(("address%d" % number, network.address.with_prefixlen))
        routes += network.routes
    gateways = [network for network in fixed if network.gateway]
    if gateways:
        pairs.append(("gateway", gateways[0].gateway))
        pairs.append(("route-metric", METRIC + gateways[0].metric))
    for number, (target, router) in enumerate(routes, 1):
        pairs.append(("route%d" % number, "%s,%s" % (target, router)))
    return pairs
