"""Pinned yum repositories; their files are written by hand, as createrepo_c writes them."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from fault_server import FaultServer, serving
from hypothesis import given
from hypothesis import strategies as st

from imgc.errors import ImgcError
from imgc.lock import Source
from imgc.sources.archive_server import serve
from imgc.sources.yum_index import parse_primary, parse_repomd
from imgc.sources.yum_pins import locked_versions, pin_yum
from imgc.sources.yum_versions import compare


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, check=True, capture_output=True).stdout


PACKERS = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd, "": bytes}


def publish(root: Path, packages: dict[str, str], packed: str = ".gz", stamp: int = 1700000000) -> str:
    """A repository with a made-up file for each package (name: [epoch:]version-release); sha256 of its repomd.xml."""
    (root / "Packages").mkdir(parents=True, exist_ok=True)
    (root / "repodata").mkdir(exist_ok=True)
    entries = []
    for name, full in packages.items():
        epoch, _, rest = full.rpartition(":")
        version, _, release = rest.rpartition("-")
        path = root / f"Packages/{name}-{version}-{release}.rpm"
        path.write_bytes(f"{name} {full}".encode() * 100)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append(
            f'<package type="rpm"><name>{name}</name><arch>x86_64</arch>'
            f'<version epoch="{epoch or 0}" ver="{version}" rel="{release}"/>'
            f'<checksum type="sha256" pkgid="YES">{digest}</checksum><summary>a &amp; b</summary>'
            f'<size package="{path.stat().st_size}" installed="1" archive="1"/>'
            f'<location href="Packages/{path.name}"/>'
            f"<format><rpm:provides><rpm:entry name='{name}'/></rpm:provides></format></package>"
        )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<metadata xmlns="http://linux.example/metadata/common"'
        f' xmlns:rpm="http://linux.example/metadata/rpm" packages="{len(entries)}">{"".join(entries)}</metadata>'
    )
    data = PACKERS[packed](text.encode())
    digest = hashlib.sha256(data).hexdigest()
    (root / f"repodata/{digest}-primary.xml{packed}").write_bytes(data)
    (root / "repodata/repomd.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<repomd xmlns="http://linux.example/metadata/repo">'
        f'<revision>{stamp}</revision><data type="primary"><checksum type="sha256">{digest}</checksum>'
        f'<open-checksum type="sha256">{"0" * 64}</open-checksum>'
        f'<location href="repodata/{digest}-primary.xml{packed}"/><timestamp>{stamp}</timestamp>'
        f"<size>{len(data)}</size></data></repomd>"
    )
    return hashlib.sha256((root / "repodata/repomd.xml").read_bytes()).hexdigest()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FaultServer]:
    (tmp_path / "web").mkdir()
    with serving(tmp_path / "web") as server:
        yield server


@pytest.fixture
def repository(web: FaultServer) -> Source:
    return Source("yum", "fedora 41 fedora", f"{web.url}/repo", (("architecture", "x86_64"),))


def ask(proxy: str, url: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, proxies={"http": proxy}, timeout=20)


@pytest.mark.parametrize("packed", PACKERS)
def test_a_repository_is_served_as_it_was_pinned(web, repository, tmp_path, packed):
    digest = publish(web.root / "repo", {"bash": "5.2-1"}, packed)
    pin = pin_yum(repository, tmp_path / "cache")
    assert pin.value == f"sha256:{digest}"
    assert dict(pin.notes) == {"date": "2023-11-14T22:13:20Z", "revision": "1700000000"}
    publish(web.root / "repo", {"bash": "5.3-1"}, packed, 1800000000)
    pins = {("yum", pin.name): pin}
    with serve([repository], pins, tmp_path / "cache", tell=pytest.fail) as server:
        repomd = ask(server.url, f"{repository.location}/repodata/repomd.xml")
        assert hashlib.sha256(repomd.content).hexdigest() == digest
        primary = parse_repomd(repomd.content).primary
        assert ask(server.url, f"{repository.location}/{primary}").status_code == 200
        old = ask(server.url, f"{repository.location}/Packages/bash-5.2-1.rpm")
        assert old.content == b"bash 5.2-1" * 100
        assert ask(server.url, f"{repository.location}/Packages/bash-5.3-1.rpm").status_code == 404
    assert [problem.code for problem in server.problems] == ["E606"]
    assert locked_versions(repository, pin, tmp_path / "cache", offline=True) == {"bash": "5.2-1"}


def test_an_index_that_is_gone_names_the_pin_and_what_is_there_now(web, repository, tmp_path):
    publish(web.root / "repo", {"bash": "5.2-1"})
    pin = pin_yum(repository, tmp_path / "cache")
    for path in (web.root / "repo/repodata").iterdir():
        path.unlink()
    now = publish(web.root / "repo", {"bash": "5.3-1"}, stamp=1800000000)
    with serve([repository], {("yum", pin.name): pin}, tmp_path / "cache", tell=pytest.fail) as server:
        assert ask(server.url, f"{repository.location}/Packages/bash-5.2-1.rpm").status_code == 404
    (problem,) = server.problems
    assert problem.code == "E603"
    assert f"the archive now: repomd.xml sha256 {now} of 2027-01-15" in problem.detail


def test_a_signature_is_pinned_with_its_index(web, repository, tmp_path):
    publish(web.root / "repo", {"bash": "5.2-1"})
    (web.root / "repo/repodata/repomd.xml.asc").write_bytes(b"signature")
    pin = pin_yum(repository, tmp_path / "cache")
    (web.root / "repo/repodata/repomd.xml.asc").write_bytes(b"another")
    with serve([repository], {("yum", pin.name): pin}, tmp_path / "cache", tell=pytest.fail) as server:
        assert ask(server.url, f"{repository.location}/repodata/repomd.xml.asc").content == b"signature"


def test_what_is_no_repository_cannot_be_pinned(web, repository, tmp_path):
    (web.root / "repo/repodata").mkdir(parents=True)
    (web.root / "repo/repodata/repomd.xml").write_text("<html>welcome</html>")
    with pytest.raises(ImgcError) as caught:
        pin_yum(repository, tmp_path / "cache")
    assert caught.value.code == "E605"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<repomd>",
        "<repomd/>",
        '<!DOCTYPE x [<!ENTITY a "aaaa">]><repomd>&a;</repomd>',
        '<repomd><data type="primary"><checksum type="sha">00</checksum><location href="x"/></data></repomd>',
    ],
)
def test_what_is_no_repomd_is_refused(text):
    with pytest.raises(ValueError, match="it"):
        parse_repomd(text.encode())


@given(st.binary(max_size=300))
def test_any_bytes_are_a_list_of_packages_or_a_value_error(data):
    try:
        list(parse_primary(data))
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.0-1", "1.0-2"),
        ("1.9-1", "1.10-1"),
        ("1.0~rc1-1", "1.0-1"),
        ("1.0-1", "1.0^git1-1"),
        ("1.0^git1-1", "1.0.1-1"),
        ("2.0-1", "1:1.0-1"),
        ("1.a-1", "1.1-1"),
        ("1-1.fc40", "1-1.fc41"),
    ],
)
def test_versions_are_ordered_as_rpm_orders_them(older, newer):
    assert compare(older, newer) < 0 < compare(newer, older)
    assert compare(older, older) == 0
