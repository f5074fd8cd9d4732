"""A guest with as many network cards as a test wants, and a switch in the test's own hands to plug them into.

The first card lies in QEMU's user network, by which the test logs in.  The others end at :class:`Switch`, which
sees every frame with its VLAN tag, and answers ARP for any address that ends in ``.1``.
"""

from __future__ import annotations

import contextlib
import selectors
import shlex
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imgc import process
from imgc.verify import config_drive, disk_image, network, qemu, ssh
from imgc.verify.guest import Guest, SerialConsole
from imgc.verify.watch import Watch

NETWORK = network.parse("10.0.2.77/24")

#: Seconds that a boot may take here; emulation on a busy host is slow.
TIMEOUT = 420.0

_VLAN, _ARP, _IPV4, _UDP = 0x8100, 0x0806, 0x0800, 17


def mac(number: int) -> str:
    """The address of a card: the first one is :data:`network.MAC`."""
    return network.MAC if number == 1 else f"52:54:00:00:00:{number:02x}"


@dataclass(frozen=True)
class Drive(config_drive.ConfigDrive):
    """A config drive with another network than the boot check's."""

    data: dict[str, object] = field(default_factory=dict)

    def network_data(self) -> dict[str, object]:
        return self.data


@dataclass(frozen=True)
class Datagram:
    """A UDP datagram as a port of the switch saw it.  ``vlan`` is 0 for an untagged frame."""

    port: int
    vlan: int
    source: str
    text: str


class Switch(threading.Thread):
    """Ends cables.  Each port is one end of a pair of sockets, one datagram a frame."""

    def __init__(self, ports: int) -> None:
        super().__init__(name="switch", daemon=True)
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(ports)]
        self.seen: list[Datagram] = []
        self._ending, self._end = socket.socketpair()

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._ending, selectors.EVENT_READ)
            for number, (ours, _) in enumerate(self.pairs):
                selector.register(ours, selectors.EVENT_READ, number)
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    self._take(key.data, self.pairs[key.data][0].recv(65536))

    def close(self) -> None:
        self._end.send(b".")
        if self.is_alive():
            self.join()
        for one in (self._ending, self._end, *(end for pair in self.pairs for end in pair)):
            one.close()

    def wait_for(self, text: str, seconds: float = 60.0) -> Datagram:
        """The datagram with this text."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for one in list(self.seen):
                if one.text == text:
                    return one
            time.sleep(0.05)
        raise AssertionError(f"nothing that says {text!r} has come; there was {self.seen}")

    def _take(self, port: int, frame: bytes) -> None:
        source, head, vlan = frame[6:12], 14, 0
        (kind,) = struct.unpack_from("!H", frame, 12)
        if kind == _VLAN:
            tag, kind = struct.unpack_from("!HH", frame, 14)
            head, vlan = 18, tag & 0xFFF
        body = frame[head:]
        if kind == _ARP and body[6:8] == b"\0\1" and body[27] == 1:
            own = b"\x52\x54\0\xff\xff" + bytes([vlan % 256])
            answer = body[:6] + b"\0\2" + own + body[24:28] + body[8:18]
            self.pairs[port][0].send(source + own + frame[12:head] + answer)
        elif kind == _IPV4 and body[9] == _UDP:
            start = (body[0] & 15) * 4 + 8
            (length,) = struct.unpack_from("!H", body, 2)
            text = body[start:length].decode("ascii", "replace")
            self.seen.append(Datagram(port, vlan, socket.inet_ntoa(body[12:16]), text))


@dataclass
class CloudGuest:
    """One that runs and lets us in."""

    guest: Guest
    switch: Switch
    login: ssh.Login
    facts: dict[str, tuple[str, ...]]

    def run(self, script: str, seconds: float = 120.0) -> str:
        """What a script prints in it; it must succeed."""
        done = self.login.run(f"set -eu\n{script}", seconds)
        assert done.status == 0, done.output
        return done.output

    def name(self, number: int) -> str:
        """What it calls a card; a VLAN, which comes later in the list, may have the card's address."""
        pairs = (line.partition(" ") for line in self.facts["cards"])
        return next(name for name, _, address in pairs if address == mac(number))

    def say(self, to: str, text: str) -> None:
        """Send a datagram from it, by whatever way its routes say."""
        program = (
            f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto({text!r}.encode(), ({to!r}, 9))"
        )
        self.run(f"python3 -c {shlex.quote(program)}")

    def plug(self, number: int, up: bool) -> None:
        """Pull a card's cable, or put it back."""
        self.guest.monitor.command("set_link", {"name": f"card{number}", "up": up})


def _arguments(switch: Switch) -> list[str]:
    words = []
    for number, (_, theirs) in enumerate(switch.pairs, 2):
        words += ["-netdev", f"dgram,id=net{number},local.type=fd,local.str={theirs.fileno()}"]
        words += ["-device", f"virtio-net-pci,netdev=net{number},id=card{number},mac={mac(number)},romfile="]
    return words


@contextlib.contextmanager
def powered_on(
    image: Path, work: Path, data: dict[str, object] | None, cards: int
) -> Iterator[tuple[Guest, Switch]]:
    """A guest that boots: with this network on its config drive, or with no drive at all."""
    machine = qemu.machine("auto")
    source = disk_image.inspect(image, work)
    disk_image.overlay(source, work / qemu.DISK, None)
    key = ssh.new_key(work)
    if data is None:
        (work / qemu.DRIVE).write_bytes(bytes(1 << 20))
    else:
        config_drive.write(Drive("imgc-boot", key, NETWORK, data), work / qemu.DRIVE)
    log = work / "serial.log"
    log.write_bytes(b"")
    setup = qemu.Setup(machine, "tcg", "bios", 1024, 2, NETWORK, log)
    with contextlib.ExitStack() as stack:
        switch = Switch(cards - 1)
        stack.callback(switch.close)
        switch.start()
        serial = SerialConsole(log, None)
        stack.callback(serial.close)
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        with theirs:
            guest = PluggedGuest(ours, serial, [pair[1].fileno() for pair in switch.pairs])
            stack.callback(guest.stop)
            guest.start([*qemu.command(setup, theirs.fileno()), *_arguments(switch)], work, theirs.fileno())
        yield guest, switch


class PluggedGuest(Guest):
    """A guest whose QEMU is given more descriptors than its monitor's."""

    def __init__(self, monitor: socket.socket, serial: SerialConsole, cables: list[int]) -> None:
        super().__init__(monitor, serial)
        self.cables = cables

    def _hold(self, argv: object, directory: Path, pass_fd: int) -> None:
        try:
            self._done = process.run(
                list(argv),  # type: ignore[call-overload]
                cwd=str(directory),
                pass_fds=[pass_fd, *self.cables],
                check=False,
                interrupt=self._stop,
            )
        except BaseException as error:  # a thread's exception would be lost
            self._error = error


@contextlib.contextmanager
def cloud_guest(image: Path, work: Path, data: dict[str, object], cards: int) -> Iterator[CloudGuest]:
    """A guest that has booted with this network on its config drive, and lets us in."""
    with powered_on(image, work, data, cards) as (guest, switch):
        watch = Watch(guest, image, work, time.monotonic(), TIMEOUT)
        login, facts = watch.log_in(watch.wait_for_ssh(NETWORK))
        facts = watch.wait_until_settled(login, facts)
        yield CloudGuest(guest, switch, login, dict(facts))
