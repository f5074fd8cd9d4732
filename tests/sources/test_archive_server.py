"""The archive server between real clients (apt-get, HTTP on a socket) and real archives that fail and move on."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from apt_world import Apt, Archive, Signer, signer, source
from fault_server import FaultServer, cut, instead, serving, slow, status

from imgc.sources import download
from imgc.sources.apt_pins import pin_apt
from imgc.sources.archive_server import Server, plain_url, serve


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.01)


@pytest.fixture(scope="module")
def key() -> Iterator[Signer]:
    with signer() as made:
        yield made


class World:
    """An archive with one suite behind a web server, what was pinned of it, an apt, and a cache."""

    def __init__(self, home: Path, web: FaultServer, key: Signer) -> None:
        self.web, self.cache = web, home / "cache"
        self.archive = Archive(web.root / "debian", key)
        self.location = f"{web.url}/debian"
        self.hello = self.archive.package("hello", "1.0", size=1_500_000)
        self.small = self.archive.package("small", "1:2.0~rc1+b1")
        self.archive.publish("bookworm", self.hello, self.small)
        self.source = source(self.location, "bookworm")
        self.pins = {("apt", self.source.name): pin_apt(self.source, self.cache)}
        line = f"deb [signed-by={key.keyring}] {self.location}"
        self.apt = Apt(home / "apt", f"{line} bookworm main\n")
        self.line = line
        self.told: list[str] = []
        web.requests.clear()

    def serve(self, *, offline: bool = False):
        return serve([self.source], self.pins, self.cache, offline=offline, tell=self.told.append)

    def move_on(self) -> None:
        """The archive gets a newer version, and keeps no trace of the old one but in its pool."""
        for path in (self.archive.root / "dists").rglob("by-hash"):
            for one in (path / "SHA256").iterdir():
                one.unlink()
        newer = self.archive.package("hello", "2.0")
        self.archive.publish("bookworm", newer, self.small, date="Sun, 17 May 2026 09:45:00 UTC")

    def path(self, package: Path) -> str:
        return f"{self.location}/{quote(str(package.relative_to(self.archive.root)))}"


@pytest.fixture
def world(tmp_path: Path, key: Signer) -> Iterator[World]:
    (tmp_path / "web").mkdir()
    with serving(tmp_path / "web") as web:
        yield World(tmp_path, web, key)


def ask(server: Server, url: str, method: str = "GET", **headers: str) -> requests.Response:
    """One request through the server, whatever this host's own proxies are."""
    with requests.Session() as session:
        session.trust_env = False
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return session.request(method, url, proxies={"http": server.url}, headers=named, timeout=20)


def test_apt_reads_a_pinned_archive_through_the_server(world):
    with world.serve() as server:
        assert world.apt.run("update", proxy=server.url)[0] == 0
        code, said = world.apt.run("download", "hello", "small", proxy=server.url)
        assert code == 0, said
        assert server.problems == []
    got = world.apt.home / world.hello.name
    assert got.read_bytes() == world.hello.read_bytes()
    assert world.told == []


def test_apt_sees_the_pinned_archive_after_the_mirror_has_moved_on(world):
    with world.serve() as server:
        assert world.apt.run("update", proxy=server.url)[0] == 0
    world.move_on()
    world.apt.forget()
    with world.serve() as server:
        code, said = world.apt.run("update", proxy=server.url)
        assert code == 0, said
        assert "1.0" in world.apt.run("download", "--print-uris", "hello", proxy=server.url)[1]
        # The old package is still in the mirror's pool.
        assert world.apt.run("download", "hello=1.0", proxy=server.url)[0] == 0


def test_an_index_that_the_mirror_no_longer_has_is_told_with_both_digests(world):
    pinned = dict(world.pins["apt", "debian bookworm"].identity)["sha256"]
    world.move_on()
    with world.serve() as server:
        code, said = world.apt.run("update", proxy=server.url)
        assert code != 0
        assert "was pinned" in said
    # apt tries every way in which the index is packed.
    assert {problem.code for problem in server.problems} == {"E603"}
    problem = server.problems[0]
    assert "debian bookworm" in problem.message
    assert "Packages" in problem.message
    now = hashlib.sha256((world.archive.root / "dists/bookworm/InRelease").read_bytes()).hexdigest()
    assert f"InRelease sha256 {now} of 2026-05-17" in problem.detail
    assert "imgc lock" in problem.hint
    assert pinned != now


def test_a_pin_that_this_cache_never_saw_names_what_the_mirror_has_instead(world, tmp_path):
    pinned = dict(world.pins["apt", "debian bookworm"].identity)["sha256"]
    world.move_on()
    with serve([world.source], world.pins, tmp_path / "other", tell=world.told.append) as server:
        assert world.apt.run("update", proxy=server.url)[0] != 0
    (problem,) = server.problems
    assert problem.code == "E603"
    assert f"pinned: sha256 {pinned}" in problem.detail
    assert "found:  sha256 " in problem.detail


def test_a_pin_made_elsewhere_works_while_the_mirror_still_is_what_was_pinned(world, tmp_path):
    with serve([world.source], world.pins, tmp_path / "other", tell=world.told.append) as server:
        assert world.apt.run("update", proxy=server.url)[0] == 0
        assert world.apt.run("download", "small", proxy=server.url)[0] == 0


def test_an_older_index_is_found_by_its_digest(world):
    newer = world.archive.package("hello", "2.0")
    world.archive.publish("bookworm", newer, world.small)
    with world.serve() as server:
        assert world.apt.run("update", proxy=server.url)[0] == 0
        assert "hello_1.0" in world.apt.run("download", "--print-uris", "hello", proxy=server.url)[1]


@pytest.mark.parametrize("packed", [(".xz",), (".gz",), ("",), (".bz2",)])
def test_indexes_are_read_however_they_are_packed(world, packed):
    world.archive.publish("bookworm", world.hello, packed=packed)
    pins = {("apt", "debian bookworm"): pin_apt(world.source, world.cache)}
    with serve([world.source], pins, world.cache, tell=world.told.append) as server:
        assert ask(server, world.path(world.hello)).content == world.hello.read_bytes()


def test_an_archive_without_inrelease_is_pinned_by_release_and_its_signature(world):
    digest = world.archive.publish("bookworm", world.hello, detached=True)
    pin = pin_apt(world.source, world.cache)
    assert dict(pin.identity)["release-sha256"] == digest
    assert "signature-sha256" in dict(pin.identity)
    world.move_on()
    with serve([world.source], {("apt", pin.name): pin}, world.cache, tell=world.told.append) as server:
        base = f"{world.location}/dists/bookworm"
        assert hashlib.sha256(ask(server, f"{base}/Release").content).hexdigest() == digest
        assert ask(server, f"{base}/InRelease").status_code == 404


def test_a_build_without_network_has_everything_that_an_earlier_one_had(world):
    with world.serve() as server:
        world.apt.run("update", proxy=server.url)
        world.apt.run("download", "hello", proxy=server.url)
    world.apt.forget()
    world.web.requests.clear()
    with world.serve(offline=True) as server:
        code, said = world.apt.run("update", proxy=server.url)
        assert code == 0, said
        (world.apt.home / world.hello.name).unlink()
        assert world.apt.run("download", "hello", proxy=server.url)[0] == 0
        assert server.problems == []
    assert world.web.requests == []


def test_a_build_without_network_names_exactly_what_is_missing(world):
    with world.serve() as server:
        world.apt.run("update", proxy=server.url)
        ask(server, world.path(world.small))
    world.web.requests.clear()
    with world.serve(offline=True) as server:
        code, _ = world.apt.run("download", "hello", proxy=server.url)
        assert code != 0
        assert ask(server, f"{world.web.url}/elsewhere").status_code == 404
    assert [problem.code for problem in server.problems] == ["E604", "E604"]
    assert server.problems[0].message.startswith("hello 1.0 of debian bookworm is not in the cache")
    assert hashlib.sha256(world.hello.read_bytes()).hexdigest() in server.problems[0].detail
    assert f"{world.web.url} is not pinned" in server.problems[1].message
    assert world.web.requests == []


def test_a_package_is_fetched_once_however_many_ask_for_it(world):
    name = f"/debian/{world.hello.relative_to(world.archive.root)}"
    world.web.faults[name] = [slow(0.5)]
    with world.serve() as server, ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: ask(server, world.path(world.hello)).content, range(8)))
        assert server.fetched[0] >= 1
    assert set(got) == {world.hello.read_bytes()}
    assert world.web.asked(world.hello.name) == 1
    with world.serve() as server:
        ask(server, world.path(world.hello))
        assert server.fetched == (0, 0)
    assert world.web.asked(world.hello.name) == 1


def test_requests_sent_ahead_are_fetched_side_by_side_and_answered_in_order(world):
    packages = [world.archive.package(f"p{number}", "1", size=50_000) for number in range(6)]
    world.archive.publish("bookworm", *packages)
    pins = {("apt", "debian bookworm"): pin_apt(world.source, world.cache)}
    together = threading.Barrier(3, timeout=20)

    def meet(handler, data):
        together.wait()
        return False

    for package in packages[:3]:
        world.web.faults[f"/debian/{package.relative_to(world.archive.root)}"] = [meet]
    with serve([world.source], pins, world.cache, tell=world.told.append) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            lines = [f"GET {world.path(package)} HTTP/1.1\r\nHost: x\r\n\r\n" for package in packages]
            client.sendall("".join(lines).encode())
            reader = client.makefile("rb")
            for package in packages:
                assert reader.readline() == b"HTTP/1.1 200 OK\r\n"
                length = 0
                while (line := reader.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                assert reader.read(length) == package.read_bytes()
            reader.close()


def test_a_large_file_is_passed_on_while_it_is_fetched_but_for_its_end(world):
    half = world.hello.stat().st_size // 2
    go_on = threading.Event()

    def in_two(handler, data):
        handler.answer(200, data[:half], length=len(data))
        handler.wfile.flush()
        go_on.wait(20)
        handler.wfile.write(data[half:])
        return True

    world.web.faults[f"/debian/{world.hello.relative_to(world.archive.root)}"] = [in_two]
    with world.serve() as server, requests.Session() as session:
        session.trust_env = False
        with session.get(
            world.path(world.hello), proxies={"http": server.url}, stream=True, timeout=20
        ) as answer:
            first = answer.raw.read(half // 2)
            assert first == world.hello.read_bytes()[: half // 2]
            go_on.set()
            assert first + answer.raw.read() == world.hello.read_bytes()


def test_a_package_with_other_bytes_never_reaches_a_client_whole(world):
    data = world.hello.read_bytes()
    other = data[:-1] + bytes([data[-1] ^ 1])
    world.web.faults[f"/debian/{world.hello.relative_to(world.archive.root)}"] = [instead(other)]
    with world.serve() as server:
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            ask(server, world.path(world.hello))
        # Nothing of it was kept.
        assert ask(server, world.path(world.hello)).content == data
    (problem,) = server.problems
    assert problem.code == "E603"
    assert hashlib.sha256(other).hexdigest() in problem.detail
    assert not list(world.cache.rglob("*.partial"))


@pytest.mark.parametrize("fault", [status(503), cut(300_000), cut(300_000, validated=False)])
def test_passing_faults_of_the_mirror_reach_no_client(world, fault):
    world.web.faults[f"/debian/{world.hello.relative_to(world.archive.root)}"] = [fault]
    with world.serve() as server:
        assert ask(server, world.path(world.hello)).content == world.hello.read_bytes()
        assert server.problems == []


def test_a_mirror_that_stays_down_is_told_to_the_client_and_noted(world):
    world.web.faults[f"/debian/{world.small.relative_to(world.archive.root)}"] = [status(503)] * 4
    with world.serve() as server:
        answer = ask(server, world.path(world.small))
        assert answer.status_code == 502
        assert "503 Service Unavailable" in answer.text
    assert [problem.code for problem in server.problems] == ["E601"]
    assert "small 1:2.0~rc1+b1 of debian bookworm" in server.problems[0].message.lower()


def test_a_package_that_no_pinned_index_has_is_refused(world):
    stray = world.archive.package("stray", "1")
    with world.serve() as server:
        assert ask(server, world.path(stray)).status_code == 404
    (problem,) = server.problems
    assert problem.code == "E606"
    assert stray.name in problem.message
    assert world.web.asked(stray.name) == 0


def test_a_suite_that_nobody_pinned_is_passed_through_and_told_once(world):
    extra = world.archive.package("extra", "1")
    world.archive.publish("bookworm-extra", extra)
    (world.apt.home / "etc/sources.list").write_text(
        f"{world.line} bookworm main\n{world.line} bookworm-extra main\n"
    )
    with world.serve() as server:
        code, said = world.apt.run("update", proxy=server.url)
        assert code == 0, said
        assert world.apt.run("download", "extra", proxy=server.url)[0] == 0
        assert server.problems == []
    assert [text for text in world.told if "bookworm-extra" in text] == [
        f"The suite bookworm-extra of {world.location} is not pinned: the build takes it as it is now."
    ]
    # A later part of the build still gets its packages.
    with world.serve() as server:
        assert ask(server, world.path(extra)).content == extra.read_bytes()


def test_other_hosts_are_passed_through_and_told_once(world):
    (world.web.root / "page").write_bytes(b"hello")
    with world.serve() as server:
        for _ in range(2):
            assert ask(server, f"{world.web.url}/page", Accept="text/x").content == b"hello"
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(f"{world.web.url}/form", data=b"words", proxies={"http": server.url})
            assert answer.content == b"you sent words"
        assert ask(server, f"{world.web.url}/none").status_code == 404
    assert world.told == [f"{world.web.url} is not pinned: the build takes it as it is now."]
    assert world.web.requests[0][1]["Accept"] == "text/x"


def test_tunnels_are_passed_through_told_once_and_refused_offline(world):
    (world.web.root / "page").write_bytes(b"hello")
    host, port = world.web.url.removeprefix("http://").split(":")

    def through(server: Server) -> bytes:
        address = server.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), timeout=20) as client:
            client.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            answer = client.recv(4096)
            if not answer.startswith(b"HTTP/1.1 200"):
                return answer
            client.sendall(b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            data = b""
            while more := client.recv(4096):
                data += more
            return data

    with world.serve() as server:
        assert through(server).endswith(b"hello")
        assert through(server).endswith(b"hello")
        assert world.told == [f"https://{host}:{port} is not pinned: the build takes it as it is now."]
    with world.serve(offline=True) as server:
        assert through(server).startswith(b"HTTP/1.1 404")
        assert [problem.code for problem in server.problems] == ["E604"]


def test_a_client_that_has_the_pinned_index_is_told_so_and_parts_are_sent(world):
    url = f"{world.location}/dists/bookworm/InRelease"
    with world.serve() as server:
        whole = ask(server, url)
        assert whole.headers["Last-Modified"] == "Sat, 16 May 2026 09:45:00 GMT"
        assert ask(server, url, If_Modified_Since=whole.headers["Last-Modified"]).status_code == 304
        assert ask(server, url, If_None_Match=whole.headers["ETag"]).status_code == 304
        # A date that is another one's says nothing about these bytes.
        assert ask(server, url, If_Modified_Since="Sun, 17 May 2026 09:45:00 GMT").status_code == 200
        part = ask(server, url, Range="bytes=10-19", If_Range=whole.headers["ETag"])
        assert (part.status_code, part.content) == (206, whole.content[10:20])
        assert ask(server, url, Range="bytes=-5").content == whole.content[-5:]
        assert ask(server, url, Range="bytes=9999999-").status_code == 416
        assert ask(server, url, Range="bytes=5-", If_Range='"other"').content == whole.content
        head = ask(server, url, "HEAD")
        assert (head.content, head.headers["Content-Length"]) == (b"", str(len(whole.content)))


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET /path HTTP/1.1\r\n\r\n", b"GET http://x/ HTTP/1.1\r\nbad\r\n\r\n"]
)
def test_what_is_no_request_to_a_proxy_is_refused(world, sent):
    with world.serve() as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(sent)
            assert client.recv(4096).startswith(b"HTTP/1.1 400 Bad Request")
        assert server.problems == []


def test_the_end_of_a_build_ends_transfers_and_leaves_nothing_half_done(world):
    end = threading.Event()

    def forever(handler, data):
        handler.answer(200, data[:1000], length=len(data))
        handler.wfile.flush()
        end.wait(20)
        return True

    world.web.faults[f"/debian/{world.hello.relative_to(world.archive.root)}"] = [forever]
    answers: list[object] = []

    def wait_for_it() -> None:
        try:
            answers.append(ask(server, world.path(world.hello)).status_code)
        except requests.RequestException as error:
            answers.append(error)

    pool = world.cache / "archives/pool"
    with world.serve() as server:
        client = threading.Thread(target=wait_for_it)
        client.start()
        while not list(pool.rglob("*.partial")):
            time.sleep(0.01)
    assert not [path for path in world.cache.rglob("*") if path.name.endswith(".partial")]
    client.join(5)
    end.set()
    # Told, or cut off: in no case a file that looks whole.
    assert len(answers) == 1
    assert answers[0] != 200
    assert server.problems == []


def test_a_damaged_table_is_made_again(world):
    with world.serve() as server:
        ask(server, world.path(world.small))
    (table,) = world.cache.rglob("*.sqlite")
    table.write_bytes(b"junk" * 4096)
    with world.serve() as server:
        assert ask(server, world.path(world.small)).status_code == 200


def test_a_file_from_before_this_boot_is_read_again_before_it_is_trusted(world, monkeypatch):
    with world.serve() as server:
        ask(server, world.path(world.small))
    digest = hashlib.sha256(world.small.read_bytes()).hexdigest()
    (kept,) = world.cache.rglob(digest)
    kept.write_bytes(b"\0" * kept.stat().st_size)
    monkeypatch.setattr("imgc.sources.archive_store._boot_time", lambda: kept.stat().st_ctime + 100)
    with world.serve() as server:
        assert ask(server, world.path(world.small)).content == world.small.read_bytes()
        assert server.fetched[0] == 1


def test_an_archive_with_https_is_asked_for_with_http():
    assert plain_url("https://user:pw@host.example/debian") == "http://host.example/debian"
    assert plain_url("http://host.example:8080/x") == "http://host.example:8080/x"
