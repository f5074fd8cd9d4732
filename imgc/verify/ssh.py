"""SSH into a guest with the system's client, untouched by the user's own configuration and keys."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imgc import process

KEY = "id_ed25519"


def new_key(directory: Path) -> str:
    """Make the key pair :data:`KEY` in ``directory`` (mode 0600) and return its public line."""
    process.need("ssh", "ssh-keygen", package="openssh-client")
    path = directory / KEY
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "imgc", "-f", str(path)], timeout=60)
    return path.with_suffix(".pub").read_text().strip()


@dataclass(frozen=True)
class Login:
    """How to reach the guest: the directory with :data:`KEY`, and a port on 127.0.0.1."""

    directory: Path
    port: int

    def arguments(self, key: str) -> list[str]:
        """The ssh command up to, and without, what to run."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "30",
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "LogLevel": "ERROR",
            "PreferredAuthentications": "publickey",
            "ServerAliveCountMax": "4",
            "ServerAliveInterval": "10",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "none", *words, "-i", key, "-p", str(self.port), "-l", "root", "127.0.0.1"]

    def run(self, script: str, seconds: float) -> process.Completed:
        """Run a shell script in the guest.  A status other than 0 is returned; a time-out raises E301."""
        argv = [*self.arguments(KEY), "--", "sh", "-s"]
        return process.run(argv, cwd=str(self.directory), stdin=script, timeout=seconds, check=False)

    def by_hand(self) -> str:
        """A command that a user can paste to log in."""
        quiet = [
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "IdentitiesOnly=yes",
        ]
        key = str(self.directory / KEY)
        return process.quoted(["ssh", *quiet, "-i", key, "-p", str(self.port), "root@127.0.0.1"])


class Doorbell:
    """Asks forwarded ports (by name) whether an SSH server is behind them.

    QEMU accepts a connection before the guest has, so that only the server's greeting proves anything.  One connection
    per port stays open for some time: on a slow host, sshd needs seconds to greet.
    """

    #: Seconds after which an unanswered connection is replaced; it may be older than the guest's network.
    PATIENCE = 15.0

    #: Seconds before a port is tried again.
    PAUSE = 0.5

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._ports = dict(ports)
        self._open: dict[str, tuple[socket.socket, float]] = {}
        self._tried: dict[str, float] = {}

    def __enter__(self) -> Doorbell:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._open):
            self._close(name)

    def answered(self, seconds: float) -> str | None:
        """The name of a port that greets within ``seconds``, or None.  An interrupt ends the wait."""
        now = time.monotonic()
        for name, port in self._ports.items():
            if name in self._open and now - self._open[name][1] > self.PATIENCE:
                self._close(name)
            if name not in self._open and now - self._tried.get(name, 0.0) > self.PAUSE:
                self._ring(name, port, now)
        with selectors.DefaultSelector() as selector:
            selector.register(process.INTERRUPT, selectors.EVENT_READ)
            for name, (connection, _) in self._open.items():
                selector.register(connection, selectors.EVENT_READ, name)
            ready = [(key.fileobj, key.data) for key, _ in selector.select(seconds)]
        for fileobj, name in ready:
            if isinstance(fileobj, socket.socket):
                if _greets(fileobj):
                    return str(name)
                self._close(name)
        return None

    def _ring(self, name: str, port: int, now: float) -> None:
        self._tried[name] = now
        with contextlib.suppress(OSError):
            self._open[name] = (socket.create_connection(("127.0.0.1", port), timeout=1.0), now)

    def _close(self, name: str) -> None:
        connection, _ = self._open.pop(name)
        connection.close()


def _greets(connection: socket.socket) -> bool:
    try:
        return connection.recv(4) == b"SSH-"
    except OSError:
        return False
