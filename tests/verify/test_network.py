"""The guest's network."""

from __future__ import annotations

import pytest

from imgc.errors import ImgcError
from imgc.verify import network


def test_neighbours_of_the_static_address() -> None:
    net = network.parse("192.168.7.200/24")
    assert (str(net.gateway), str(net.resolver), str(net.lease)) == (
        "192.168.7.2",
        "192.168.7.3",
        "192.168.7.15",
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.2.300/24",
        "fe80::1/64",
        "10.0.2.77",
        "10.0.2.5/29",
        "10.0.2.15/24",
        "10.0.2.2/24",
        "10.0.2.0/24",
    ],
)
def test_addresses_that_qemu_cannot_serve_or_uses_itself(text: str) -> None:
    with pytest.raises(ImgcError) as caught:
        network.parse(text)
    assert caught.value.code == "E109"
    assert "10.0.2.77/24" in caught.value.hint
