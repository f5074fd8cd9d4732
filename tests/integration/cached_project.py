"""A project with caches: repositories and files that a test makes, served on loopback by programs that keep count."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.integration.project import Project

#: The upstream server of all projects, which nobody asks: they are fetched from loopback.
UPSTREAM = "https://git.example.org"

_IDENTITY = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
}


@dataclass
class Repositories:
    """Git repositories below a directory."""

    directory: Path

    def commit(self, project: str, files: dict[str, str], branch: str = "master") -> str:
        """Commit files to a branch of a project, which is made when it is not there; the commit's name."""
        place = self.directory / project
        if not place.exists():
            place.mkdir(parents=True)
            self.git(place, "init", "--quiet", "--initial-branch", branch)
        elif self.git(place, "branch", "--show-current") != branch:
            known = self.git(place, "branch", "--list", branch)
            self.git(place, "checkout", "--quiet", *([] if known else ["-b"]), branch)
        for name, text in files.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            if text.startswith("#!"):
                path.chmod(0o755)
        self.git(place, "add", "--all")
        self.git(place, "commit", "--quiet", "--allow-empty", "--message", "a change")
        commit = self.git(place, "rev-parse", "HEAD")
        if branch != "master":
            self.git(place, "checkout", "--quiet", "master")
        return commit

    @staticmethod
    def git(place: Path, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(place), *arguments],
            env={**os.environ, **_IDENTITY},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()


class _Handler(SimpleHTTPRequestHandler):
    """Serves a directory, and tells which files it has sent whole."""

    def __init__(self, *arguments: Any, sent: list[str], **options: Any) -> None:
        self._sent = sent
        super().__init__(*arguments, **options)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        if int(code) == 200:
            self._sent.append(self.path)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def web(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a directory over HTTP; its URL, and the paths of what was sent whole."""
    sent: list[str] = []
    handler = partial(_Handler, directory=str(directory), sent=sent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", sent
        finally:
            server.shutdown()
            thread.join()


CACHES = """\
caches:
  git:
    projects: lists/projects.txt
    base: {upstream}
    mirror: file://{upstream_directory}
    strict: {strict}
  files:
    strict: {strict}
    list:
{files}
"""


@dataclass
class CachedProject(Project):
    """The tiny system with caches; ``files`` are items of ``caches.files.list``."""

    projects: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    strict: bool = False
    more: str = ""

    def spec(self) -> str:
        # The tiny system has no packages: what would install git does nothing.
        self.write("package-installs/README.rst", "Nothing to install.\n", 0o644)
        lists = self.directory / "specs" / "lists"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / "projects.txt").write_text("\n".join([*self.projects, ""]), encoding="utf-8")
        items = "\n".join(f"      - {item}" for item in self.files) or "      []"
        return (
            super().spec()
            + self.more
            + CACHES.format(
                upstream=UPSTREAM,
                upstream_directory=self.upstream.directory,
                strict=str(self.strict).lower(),
                files=items,
            )
        )

    @property
    def upstream(self) -> Repositories:
        return Repositories(self.directory / "upstream")

    def unpacked(self, name: str = "") -> Path:
        """The published tree, unpacked (as root: with its owners)."""
        into = self.directory / f"unpacked-{name or self.name}"
        into.mkdir()
        archive = self.images / f"{name or self.name}.tar"
        subprocess.run(["tar", "-C", str(into), "-xpf", str(archive)], check=True)
        return into
