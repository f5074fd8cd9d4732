"""A small outside world: git repositories behind a daemon, files behind a web server, wheels in a directory."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Somebody"), ("EMAIL", "somebody@example.org"), ("DATE", "1700000000 +0000"))
}


@dataclass
class Repository:
    """A repository that a test pushes to as its upstream."""

    path: Path

    def git(self, *arguments: str) -> str:
        env = {**os.environ, **_WHO, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        argv = ["git", "-C", str(self.path), *arguments]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, text: str) -> str:
        """Commit a file with this text on the branch that is checked out; the commit."""
        (self.path / "file").write_text(text)
        self.git("add", "file")
        self.git("commit", "--quiet", "--message", text)
        return self.git("rev-parse", "HEAD")


def repository(path: Path) -> Repository:
    """A repository with one commit on master."""
    path.mkdir(parents=True)
    made = Repository(path)
    made.git("init", "--quiet", "--initial-branch=master")
    made.commit("first")
    return made


@contextmanager
def git_daemon(base: Path) -> Iterator[str]:
    """Serve all repositories below ``base``; yields the URL of ``base``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = ["git", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}"]
    daemon = subprocess.Popen(
        [*argv, f"--base-path={base}", str(base)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield f"git://127.0.0.1:{port}"
    finally:
        # The daemon's children serve connections; it takes them along.
        daemon.terminate()
        daemon.wait()


@dataclass
class Web:
    """Files by path, and what was asked for.  ``faults`` answers a path with these statuses first."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[int]] = field(default_factory=dict)
    requests: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, etag: str | None) -> tuple[int, bytes, str]:
        data = self.files.get(path)
        tag = f'"{hash(data)}"'
        if self.faults.get(path):
            return self.faults[path].pop(0), b"", ""
        if data is None:
            return 404, b"", ""
        return (304, b"", tag) if etag == tag else (200, data, tag)


@contextmanager
def web() -> Iterator[Web]:
    """A web server on loopback."""
    world = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, data, etag = world.answer(self.path, self.headers.get("If-None-Match"))
            world.requests.append((self.path, status))
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if etag:
                self.send_header("ETag", etag)
                self.send_header("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        world.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield world
        finally:
            server.shutdown()
            thread.join()


def wheel(
    directory: Path,
    name: str,
    version: str,
    *,
    tag: str = "py3-none-any",
    requires: Sequence[str] = (),
    python: str = "",
    text: str = "",
) -> Path:
    """A wheel with one module, which holds ``text``."""
    directory.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"]
    metadata += [f"Requires-Dist: {one}\n" for one in requires]
    metadata += [f"Requires-Python: {python}\n"] if python else []
    path = directory / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{name}.py"), f"# {text}\n")
        archive.writestr(zipfile.ZipInfo(f"{info}/METADATA"), "".join(metadata))
        about = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
        archive.writestr(zipfile.ZipInfo(f"{info}/WHEEL"), about)
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "")
    return path
