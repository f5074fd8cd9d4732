"""Pinned yum repositories and the real dnf: what it installs through the archive server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_server import FaultServer, serving

from imgc.lock import Pin, Source
from imgc.sources.archive_server import Server, serve
from imgc.sources.yum_pins import locked_versions, pin_yum
from tests.integration.rpm_packing import Package, build, make_key, publish, run, sign

pytestmark = pytest.mark.integration


@dataclass
class Repository:
    """A repository on a local server, with packages that are one file each, signed unless said otherwise."""

    web: FaultServer
    work: Path

    @property
    def directory(self) -> Path:
        return self.web.root / "repo"

    @property
    def source(self) -> Source:
        return Source("yum", "test 1 base", f"{self.web.url}/repo", (("architecture", "x86_64"),))

    def put(self, name: str, version: str, *, signed: bool = True) -> None:
        """A package in place of those of the same name, and new indexes."""
        work = self.work / f"{name}-{version}"
        (work / "tree/etc").mkdir(parents=True)
        (work / "tree/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        (work / "tree/etc/group").write_text("root:x:0:\n")
        (work / f"tree/{name}").write_text(f"{version}\n")
        build([Package(name, version, files=[f"/{name}"])], work / "tree", work, work / "made")
        if signed:
            sign(work / "made", self.work / "keys", "test@example.org")
        self.directory.mkdir(exist_ok=True)
        for old in self.directory.glob(f"{name}-*.rpm"):
            old.unlink()
        for made in (work / "made").glob("*.rpm"):
            made.rename(self.directory / made.name)
        publish(self.directory)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    (tmp_path / "web").mkdir()
    (tmp_path / "KEY").write_text(make_key(tmp_path / "keys", "test@example.org"))
    with serving(tmp_path / "web") as web:
        yield Repository(web, tmp_path)
    run("gpgconf", "--homedir", str(tmp_path / "keys"), "--kill", "all")


def dnf(server: Server, repository: Repository, root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """dnf with nothing of this host but its program, its repository reached through the server."""
    home = root.with_name(f"{root.name}.home")
    (home / "repos").mkdir(parents=True, exist_ok=True)
    (home / ".rpmmacros").write_text("%_dbpath /var/lib/rpm\n")
    (home / "dnf.conf").write_text("[main]\nplugins=0\n")
    (home / "repos/base.repo").write_text(
        f"[base]\nname=base\nbaseurl={repository.source.location}\ngpgcheck=1\ngpgkey=file://{repository.work}/KEY\n"
    )
    setting = [
        f"--setopt={name}={home / value}" for name, value in (("reposdir", "repos"), ("cachedir", "cache"))
    ]
    command = [
        "dnf",
        "-y",
        f"--config={home}/dnf.conf",
        f"--installroot={root}",
        "--releasever=1",
        *setting,
        *words,
    ]
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(home),
        "http_proxy": server.url,
        "LC_ALL": "C.UTF-8",
    }
    return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def pins_of(pin: Pin) -> dict[tuple[str, str], Pin]:
    return {(pin.kind, pin.name): pin}


def test_dnf_installs_what_was_pinned_though_the_repository_has_moved(
    repository: Repository, tmp_path: Path
) -> None:
    repository.put("one", "1.0")
    cache = tmp_path / "cache"
    pin = pin_yum(repository.source, cache)
    with serve([repository.source], pins_of(pin), cache, tell=pytest.fail) as server:
        first = dnf(server, repository, tmp_path / "first", "install", "one")
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "first/one").read_text() == "1.0\n"

    repository.put("one", "2.0")
    assert pin_yum(repository.source, cache) != pin
    with serve([repository.source], pins_of(pin), cache, tell=pytest.fail) as server:
        second = dnf(server, repository, tmp_path / "second", "install", "one")
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "second/one").read_text() == "1.0\n"
    assert locked_versions(repository.source, pin, cache, offline=True) == {"one": "1.0-1"}


def test_dnf_needs_no_network_for_what_it_had_before(repository: Repository, tmp_path: Path) -> None:
    repository.put("one", "1.0")
    cache = tmp_path / "cache"
    pin = pin_yum(repository.source, cache)
    for name in ("first", "second"):
        offline = name == "second"
        with serve([repository.source], pins_of(pin), cache, offline=offline, tell=pytest.fail) as server:
            done = dnf(server, repository, tmp_path / name, "install", "one")
            assert done.returncode == 0, done.stderr
            assert server.fetched[0] == 0 if offline else server.fetched[0] > 0
    assert (tmp_path / "second/one").read_text() == "1.0\n"


def test_a_package_that_was_never_fetched_is_missed_by_name(repository: Repository, tmp_path: Path) -> None:
    repository.put("one", "1.0")
    repository.put("two", "1.0")
    cache = tmp_path / "cache"
    pin = pin_yum(repository.source, cache)
    with serve([repository.source], pins_of(pin), cache, tell=pytest.fail) as server:
        assert dnf(server, repository, tmp_path / "first", "install", "one").returncode == 0
    with serve([repository.source], pins_of(pin), cache, offline=True, tell=pytest.fail) as server:
        done = dnf(server, repository, tmp_path / "second", "install", "two")
    assert done.returncode != 0
    assert {problem.code for problem in server.problems} == {"E604"}
    assert "two" in str(server.problems[0])


def test_a_package_with_other_bytes_than_its_index_says_is_refused(
    repository: Repository, tmp_path: Path
) -> None:
    repository.put("one", "1.0")
    (package,) = repository.directory.glob("one-*.rpm")
    data = bytearray(package.read_bytes())
    data[-20] ^= 1
    cache = tmp_path / "cache"
    pin = pin_yum(repository.source, cache)
    package.write_bytes(data)
    with serve([repository.source], pins_of(pin), cache, tell=pytest.fail) as server:
        done = dnf(server, repository, tmp_path / "root", "install", "one")
    assert done.returncode != 0
    assert {problem.code for problem in server.problems} == {"E603"}
    assert not (tmp_path / "root/one").exists()


def test_dnf_still_checks_signatures(repository: Repository, tmp_path: Path) -> None:
    repository.put("one", "1.0", signed=False)
    cache = tmp_path / "cache"
    pin = pin_yum(repository.source, cache)
    with serve([repository.source], pins_of(pin), cache, tell=pytest.fail) as server:
        done = dnf(server, repository, tmp_path / "root", "install", "one")
    assert done.returncode != 0
    assert "not signed" in done.stdout + done.stderr
    assert not (tmp_path / "root/one").exists()
