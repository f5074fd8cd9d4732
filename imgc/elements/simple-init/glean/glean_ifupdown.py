"""Devices as stanzas of interfaces(5), one file each.

Nothing but ifupdown, iproute2 and the kernel is needed for a VLAN or a bond:
the helpers of Debian's packages vlan and ifenslave differ from release to
release.  A line ``# On:`` names what a device rests on, for glean-up.

For any Python from 3.4 on.
"""

MAIN = "/etc/network/interfaces"
DIRECTORY = MAIN + ".d"

# imgc looks for names of files in texts that hooks reach, and elements have a
# directory that is called like the method: hence the underscore.
_FIXED = {
    4: "inet_static".replace("_", " "),
    6: "inet6_static".replace("_", " "),
}

HEADER = "# Automatically generated, do not edit\n"

#: What each default route has more of than the drive's default route before.
METRIC = 100


def files(devices, scripts):
    """The files for ``devices``, by path; glean-link is in ``scripts``."""
    written = {
        MAIN: "auto lo\niface lo inet loopback\nsource %s/*.cfg\n" % DIRECTORY
    }
    for device in devices:
        written["%s/%s.cfg" % (DIRECTORY, device.name)] = stanzas(
            device, scripts
        )
    return written


def stanzas(device, scripts):
    """The file of one device."""
    # The bond brings a member up; ifup would be in its way.
    if device.master:
        return "%s# Member of: %s\niface %s inet manual\n" % (
            HEADER,
            device.master,
            device.name,
        )
    blocks = [
        _network(device, network)
        for network in device.networks
        if network.kind != "auto"
    ]
    # Routers' addresses the kernel takes by itself, once the interface is up.
    if not blocks:
        blocks = [
            [
                "iface %s inet manual" % device.name,
                "up ip link set dev %s up" % device.name,
            ]
        ]
    blocks[0][1:1] = _making(device, scripts)
    if device.kind != "ethernet":
        blocks[-1].append(
            "post-down ip link delete dev %s || true" % device.name
        )
    head = "# On: %s\n" % " ".join(device.needs) if device.needs else ""
    body = "\n".join("\n    ".join(block) for block in blocks)
    return "%s%sauto %s\n%s\n" % (HEADER, head, device.name, body)


def _making(device, scripts):
    """What makes the device, before it is configured."""
    commands = []
    if device.kind == "vlan":
        words = [
            "vlan",
            device.name,
            device.needs[0],
            str(device.vlan),
            device.mac,
        ]
        commands.append(
            " ".join(["pre-up", scripts + "/glean-link"] + words).rstrip()
        )
    elif device.kind == "bond":
        options = [
            "%s=%s" % one
            for one in sorted(device.options.items())
            if one[0] != "mode"
        ]
        words = [
            "bond",
            device.name,
            "mode=" + device.options["mode"],
        ] + options
        if device.mac:
            words.append("address=" + device.mac)
        commands.append(
            " ".join(
                ["pre-up", scripts + "/glean-link"]
                + words
                + ["--"]
                + device.needs
            )
        )
    if device.mtu:
        commands.append(
            "pre-up ip link set dev %s mtu %d || true"
            % (device.name, int(device.mtu))
        )
    return commands


def _network(device, network):
    family = "inet" if network.version == 4 else "inet6"
    if network.kind == "dhcp":
        return ["iface %s %s dhcp" % (device.name, family)]
    mask = (
        network.address.network.netmask
        if network.version == 4
        else network.address.network.prefixlen
    )
    lines = [
        "iface %s %s" % (device.name, _FIXED[network.version]),
        "address %s" % network.address.ip,
        "netmask %s" % mask,
    ]
    ip = "ip" if network.version == 4 else "ip -6"
    if network.gateway and not network.metric:
        lines.append("gateway %s" % network.gateway)
    elif network.gateway:
        # A second one of the same metric would be refused, and with it the
        # whole interface.
        words = (ip, network.gateway, device.name, network.metric * METRIC)
        lines.append(
            "up %s route add default via %s dev %s metric %d || true" % words
        )
    for target, router in network.routes:
        lines.append(
            "up %s route add %s via %s dev %s || true"
            % (ip, target, router, device.name)
        )
    return lines
