"""QEMU's machine protocol over a socket pair: commands, their answers, and events."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any


class QmpError(Exception):
    """QEMU refused a command, hung up, or did not answer in time."""


class Qmp:
    """One end of QEMU's monitor.  Only one thread may use it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def greet(self, seconds: float) -> bool:
        """Wait for QEMU's greeting and enter command mode.  False when it has not come in ``seconds``."""
        try:
            self._receive(time.monotonic() + seconds, "QMP")
        except TimeoutError:
            return False
        self.command("qmp_capabilities")
        return True

    def command(self, name: str, arguments: Mapping[str, object] | None = None, seconds: float = 10.0) -> Any:
        """Run a command and return its result.  Raises :class:`QmpError`."""
        request = {"execute": name, "arguments": dict(arguments or {})}
        try:
            self._connection.settimeout(seconds)
            self._connection.sendall(json.dumps(request).encode() + b"\n")
            answer = self._receive(time.monotonic() + seconds, "return", "error")
        except TimeoutError:
            raise QmpError(f"QEMU did not answer {name} within {seconds:g} s") from None
        except OSError as error:
            raise QmpError(f"QEMU hung up: {error}") from None
        if "error" in answer:
            raise QmpError(str(answer["error"].get("desc", answer["error"])))
        return answer["return"]

    def drain(self) -> None:
        """Collect the events that have arrived, until none is left or QEMU has hung up."""
        try:
            self._receive(time.monotonic() + 0.05, "nothing that QEMU sends")
        except (TimeoutError, QmpError, OSError):
            return

    def _receive(self, deadline: float, *kinds: str) -> dict[str, Any]:
        """The next message that has one of the keys ``kinds``; events before it are kept.  Raises TimeoutError."""
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                message: dict[str, Any] = json.loads(line)
                if "event" in message:
                    self.events.append(message)
                elif any(kind in message for kind in kinds):
                    return message
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            data = self._connection.recv(65536)
            if not data:
                raise QmpError("QEMU hung up")
            self._rest += data
