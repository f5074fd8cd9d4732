"""Reaching an SSH server through a port that something else answers."""

from __future__ import annotations

import contextlib
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgc.verify import ssh


@contextlib.contextmanager
def server(greeting: bytes | None) -> Iterator[int]:
    """A loopback port: greets, hangs up at once (``b""``) or accepts and says nothing (None)."""
    held: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                held.append(connection)
                if greeting:
                    connection.sendall(greeting)
                elif greeting is not None:
                    connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def ring(bell: ssh.Doorbell, seconds: float) -> str | None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answered = bell.answered(0.1)
        if answered:
            return answered
    return None


def test_only_a_greeting_counts() -> None:
    with server(None) as silent, server(b"") as closing, server(b"SSH-2.0-x\r\n") as real:
        with ssh.Doorbell({"silent": silent, "closing": closing, "real": real}) as bell:
            assert ring(bell, 10) == "real"
        with ssh.Doorbell({"silent": silent, "closing": closing}) as bell:
            assert ring(bell, 1.5) is None


def test_another_service_is_not_ssh() -> None:
    with server(b"HTTP/1.1 400\r\n") as web, ssh.Doorbell({"web": web}) as bell:
        assert ring(bell, 1) is None


def test_a_port_that_refuses_does_not_matter() -> None:
    with server(b"SSH-2.0-x\r\n") as real, socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
        closed.close()
        with ssh.Doorbell({"closed": port, "real": real}) as bell:
            assert ring(bell, 10) == "real"


def test_a_fresh_key_that_only_we_can_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = ssh.new_key(tmp_path / "a"), ssh.new_key(tmp_path / "b")
    assert first.startswith("ssh-ed25519 ")
    assert first != second
    assert stat.S_IMODE((tmp_path / "a" / ssh.KEY).stat().st_mode) == 0o600


def test_a_server_that_hangs_up_gives_ssh_s_own_words(tmp_path: Path) -> None:
    ssh.new_key(tmp_path)
    with server(b"") as port:
        done = ssh.Login(tmp_path, port).run("true", 30)
    assert done.status == 255
    assert "127.0.0.1" in done.output or "kex" in done.output


@pytest.mark.parametrize("option", ["BatchMode=yes", "UserKnownHostsFile=/dev/null", "IdentityAgent=none"])
def test_the_user_s_own_configuration_is_left_out(tmp_path: Path, option: str) -> None:
    arguments = ssh.Login(tmp_path, 2222).arguments(ssh.KEY)
    assert option in arguments
    assert arguments[1:3] == ["-F", "none"]
