"""Asking a repository for its branches: over git: and HTTP as servers of all ages speak them, and by the program."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from git_world import Repository, counted, passage, repository, smart_http
from outside_world import git_daemon, web

from imgc import process
from imgc.caches import refs
from imgc.caches.refs import Refs, Unknown, Unreachable, ask
from imgc.errors import ImgcError
from imgc.sources import git_program


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No settings of the person who runs the tests; a program git that counts."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(git_program, "PAUSE", 0.01)
    path, _ = counted(tmp_path / "bin")
    monkeypatch.setenv("PATH", path)
    refs._own_settings.cache_clear()
    yield
    refs._own_settings.cache_clear()


def runs(tmp_path: Path) -> list[str]:
    """How git was run by imgc (and not by a server)."""
    lines = (tmp_path / "bin" / "log").read_text().splitlines()
    return [line for line in lines if "ls-remote" in line or " fetch " in line]


@pytest.fixture
def upstream(tmp_path: Path) -> Repository:
    made = repository(tmp_path / "up" / "org" / "nova")
    made.git("branch", "stable/2026.1")
    made.commit("second")
    made.git("tag", "--annotate", "--message=one", "1.0")
    made.git("tag", "light")
    made.git("update-ref", "refs/changes/01/1/1", "HEAD")
    return made


@pytest.fixture
def expected(upstream: Repository) -> Refs:
    names = ("refs/heads/master", "refs/heads/stable/2026.1", "refs/tags/1.0", "refs/tags/light")
    return Refs("refs/heads/master", {name: upstream.git("rev-parse", name) for name in names})


def test_over_git(upstream: Repository, expected: Refs, tmp_path: Path) -> None:
    with git_daemon(tmp_path / "up") as base:
        assert ask(f"{base}/org/nova") == expected
    assert runs(tmp_path) == []


@pytest.mark.parametrize("version", [True, False])
def test_over_http_as_servers_of_both_ages_speak_it(
    upstream: Repository, expected: Refs, tmp_path: Path, version: bool
) -> None:
    with smart_http(tmp_path / "up") as server:
        server.version = version
        for _ in range(3):
            assert ask(f"{server.url}/org/nova") == expected
        # One connection for all of it.
        assert len(server.connections) == 1
    assert runs(tmp_path) == []


def test_a_git_server_that_knows_no_version_2(upstream: Repository, expected: Refs) -> None:
    """As git daemon was before 2.18: it names every ref of its own accord."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listener.accept()
        client.recv(4096)
        argv = ["git", "upload-pack", "--advertise-refs", str(upstream.path)]
        client.sendall(subprocess.run(argv, capture_output=True, check=True).stdout)
        client.close()

    with listener:
        thread = threading.Thread(target=serve)
        thread.start()
        assert ask(f"git://127.0.0.1:{listener.getsockname()[1]}/org/nova") == expected
        thread.join()


def test_a_path_of_this_host_is_left_to_git(upstream: Repository, expected: Refs, tmp_path: Path) -> None:
    assert ask(upstream.path.as_uri()) == expected
    assert len(runs(tmp_path)) == 1


def test_a_server_without_smart_http_is_left_to_git(
    upstream: Repository, expected: Refs, tmp_path: Path
) -> None:
    upstream.git("update-server-info")
    with web() as server:
        inner = upstream.path / ".git"
        for path in inner.rglob("*"):
            if path.is_file():
                server.files[f"/nova/{path.relative_to(inner)}"] = path.read_bytes()
        server.files["/nova/info/refs?service=git-upload-pack"] = (inner / "info/refs").read_bytes()
        assert ask(f"{server.url}/nova").refs == expected.refs
    assert len(runs(tmp_path)) == 1


def test_settings_of_the_user_are_left_to_git(
    upstream: Repository, expected: Refs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with smart_http(tmp_path / "up") as server:
        text = f'[url "{server.url}/"]\n\tinsteadOf = https://git.example.org/\n'
        (tmp_path / ".gitconfig").write_text(text)
        monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
        assert ask("https://git.example.org/org/nova") == expected


def test_a_repository_whose_objects_have_sha_256_names(tmp_path: Path) -> None:
    made = tmp_path / "up" / "new"
    made.mkdir(parents=True)
    upstream = Repository(made)
    upstream.git("init", "--quiet", "--initial-branch=main", "--object-format=sha256")
    commit = upstream.commit("first")
    assert len(commit) == 64
    with git_daemon(tmp_path / "up") as base:
        assert ask(f"{base}/new") == Refs("refs/heads/main", {"refs/heads/main": commit})


@pytest.mark.parametrize("over", ["git", "http"])
def test_a_repository_without_commits(tmp_path: Path, over: str) -> None:
    (tmp_path / "up" / "empty").mkdir(parents=True)
    Repository(tmp_path / "up" / "empty").git("init", "--quiet")
    with git_daemon(tmp_path / "up") as base, smart_http(tmp_path / "up") as server:
        assert ask(f"{base if over == 'git' else server.url}/empty") == Refs()


def test_a_detached_head_is_a_branch_of_its_commit(upstream: Repository, tmp_path: Path) -> None:
    upstream.git("checkout", "--quiet", "--detach", "stable/2026.1")
    with git_daemon(tmp_path / "up") as base:
        assert ask(f"{base}/org/nova").head == "refs/heads/stable/2026.1"


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["git", "http", "file"])
def test_a_repository_that_its_server_does_not_know(tmp_path: Path, over: str) -> None:
    (tmp_path / "up").mkdir()
    with git_daemon(tmp_path / "up") as base, smart_http(tmp_path / "up") as server:
        at = {"git": base, "http": server.url, "file": (tmp_path / "up").as_uri()}[over]
        with pytest.raises(Unknown):
            ask(f"{at}/org/none")


@pytest.mark.parametrize("scheme", ["git", "http"])
def test_a_server_that_is_not_there(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unreachable, match="refused"):
        ask(f"{scheme}://127.0.0.1:{port}/org/nova")


def test_a_server_that_is_ill(upstream: Repository, tmp_path: Path) -> None:
    with smart_http(tmp_path / "up") as server:
        server.refuse = 500
        with pytest.raises(Unreachable, match="500"):
            ask(f"{server.url}/org/nova")


def test_a_server_that_wants_a_password_asks_nobody_for_it(upstream: Repository, tmp_path: Path) -> None:
    with smart_http(tmp_path / "up") as server:
        server.refuse = 401
        with pytest.raises(Unreachable):
            ask(f"{server.url}/org/nova")


def test_an_answer_that_is_cut(upstream: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refs, "TIMEOUT", 0.3)
    with git_daemon(tmp_path / "up") as base, passage(int(base.rpartition(":")[2])) as way:
        way.limit = 20
        with pytest.raises(Unreachable, match="no answer for"):
            ask(f"git://127.0.0.1:{way.port}/org/nova")


def test_an_interrupt_does_not_wait_for_a_silent_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latch = process.Interrupt()
    monkeypatch.setattr(process, "INTERRUPT", latch)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Timer(0.3, latch.set, [signal.SIGINT]).start()
        with pytest.raises(ImgcError) as caught:
            ask(f"git://127.0.0.1:{listener.getsockname()[1]}/org/nova")
    assert caught.value.code == "E307"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400\r\n\r\n", b"zzzz", b"0003", b"000eversion 2\n0000", b""])
def test_a_server_that_speaks_something_else(answer: bytes, tmp_path: Path) -> None:
    """git is asked what it makes of it: nothing either."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.recv(4096)
            client.sendall(answer)
            client.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        with pytest.raises(Unreachable):
            ask(f"git://127.0.0.1:{listener.getsockname()[1]}/org/nova")
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


# --- the file of a mirror -----------------------------------------------------------------------------------------


def test_refs_as_text(expected: Refs) -> None:
    assert Refs.parse(expected.text()) == expected
    assert Refs.parse(Refs().text()) == Refs()


def test_a_text_that_was_cut_is_none(expected: Refs) -> None:
    text = expected.text()
    assert [cut for cut in range(len(text)) if Refs.parse(text[:cut]) is not None] == []
