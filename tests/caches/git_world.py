"""Upstreams of a git cache: servers of git and HTTP, one that stops half-way, and what counts programs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "sources"))
from outside_world import Repository, repository

from imgc.errors import Place
from imgc.lock import Source

__all__ = ["Repository", "repository"]

PLACE = Place("specs/ci.yaml", 9, 3)


def source(projects: Path | str, base: str = "", **settings: str) -> Source:
    detail = {
        "projects": str(projects),
        "base": base,
        "mirror": "",
        "directory": "/opt/git",
        "branches": ".*",
        "connections": "4",
        "strict": "",
        **settings,
    }
    return Source("git-cache", "git", "", tuple(detail.items()), PLACE)


@dataclass
class Smart:
    """A web server with git's own program behind it.  ``version`` is what it lets clients ask for."""

    url: str = ""
    version: bool = True
    requests: list[str] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    refuse: int = 0


@contextmanager
def smart_http(base: Path) -> Iterator[Smart]:
    """Serve the repositories below ``base`` by HTTP."""
    world = Smart()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve(b"")

        def do_POST(self) -> None:
            self._serve(self.rfile.read(int(self.headers["Content-Length"])))

        def _serve(self, body: bytes) -> None:
            world.requests.append(f"{self.command} {self.path}")
            world.connections.add(self.client_address[1])
            if world.refuse:
                self._answer(world.refuse, [], b"")
                return
            path, _, query = self.path.partition("?")
            env = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(base),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                # The repositories may be another user's.
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
            }
            if world.version:
                env["GIT_PROTOCOL"] = self.headers.get("Git-Protocol", "")
            done = subprocess.run(["git", "http-backend"], env=env, input=body, capture_output=True)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = [line.partition(": ") for line in head.decode().split("\r\n")]
            status = next((int(value.split()[0]) for name, _, value in fields if name == "Status"), 200)
            self._answer(status, [(name, value) for name, _, value in fields if name != "Status"], content)

        def _answer(self, status: int, fields: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in fields:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with _server(Handler) as url:
        world.url = url
        yield world


@contextmanager
def _server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Passage:
    """A way to a server that can stop in the middle.  ``opened`` is how many connections there were."""

    port: int = 0
    #: Bytes from the server that pass on each connection before it falls silent; None: all of them.
    limit: int | None = None
    opened: int = 0
    silent: threading.Event = field(default_factory=threading.Event)


@contextmanager
def passage(port: int) -> Iterator[Passage]:
    """A port whose connections go to another on this machine."""
    world = Passage()
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    world.port = listener.getsockname()[1]

    def forward(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(4096):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def answer(server: socket.socket, client: socket.socket) -> None:
        passed = 0
        try:
            while data := server.recv(4096):
                passed += len(data)
                if world.limit is not None and passed > world.limit:
                    world.silent.set()
                    over.wait()
                    break
                client.sendall(data)
        except OSError:
            pass
        client.close()
        server.close()

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", port))
            world.opened += 1
            threading.Thread(target=forward, args=(client, server), daemon=True).start()
            threading.Thread(target=answer, args=(server, client), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield world
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def counted(directory: Path) -> tuple[str, Path]:
    """A PATH on which git notes each run of it in a file, and that file."""
    directory.mkdir()
    log = directory / "log"
    log.touch()
    real = shutil.which("git")
    program = directory / "git"
    program.write_text(f'#!/bin/sh\necho "$*" >> {log}\nexec {real} "$@"\n')
    program.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}", log
