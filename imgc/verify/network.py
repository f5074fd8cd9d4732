"""The network that a booted image finds: QEMU's user network, with an address no DHCP server would hand out."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from imgc.errors import ImgcError

#: The guest's only network card.  52:54:00 is the prefix of QEMU's own; the rest is ours.
MAC = "52:54:00:69:6d:67"

#: The longest prefix whose network has room for the four addresses below.
_LONGEST_PREFIX = 27


@dataclass(frozen=True)
class Network:
    """``address`` is what the config drive assigns; QEMU's router, resolver and first DHCP lease lie beside it."""

    address: ipaddress.IPv4Interface
    mac: str = MAC

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        return self.address.network.network_address + 2

    @property
    def resolver(self) -> ipaddress.IPv4Address:
        return self.address.network.network_address + 3

    @property
    def lease(self) -> ipaddress.IPv4Address:
        """What a guest that ignores the config drive gets from DHCP; it must differ from :attr:`address`."""
        return self.address.network.network_address + 15


def parse(text: str) -> Network:
    """The network of a static address such as ``10.0.2.77/24``.  Raises E109 when it cannot be used."""
    try:
        network = Network(ipaddress.IPv4Interface(text))
    except ValueError as error:
        raise _unusable(text, str(error)) from None
    length = network.address.network.prefixlen
    if not 8 <= length <= _LONGEST_PREFIX:
        raise _unusable(text, f"its prefix length is {length}, not between 8 and {_LONGEST_PREFIX}")
    whole = network.address.network
    reserved = {
        network.gateway,
        network.resolver,
        network.lease,
        whole.network_address,
        whole.broadcast_address,
    }
    if network.address.ip in reserved:
        raise _unusable(text, "QEMU's own network uses it")
    return network


def _unusable(text: str, why: str) -> ImgcError:
    return ImgcError(
        "E109", f"The guest's address {text!r} cannot be used: {why}.", hint="An example: 10.0.2.77/24."
    )
