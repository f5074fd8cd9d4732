"""Single files as pinned sources, from a real server with real faults."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_server import cut, serving, status
from outside_world import Web, web

from imgc.errors import ImgcError
from imgc.lock import Source
from imgc.sources import download
from imgc.sources.files import fetch_file, pin_file

PATH = "/pip/3.5/get-pip.py"


@pytest.fixture
def server() -> Iterator[Web]:
    with web() as world:
        world.files[PATH] = b"print('pip')\n"
        yield world


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.01)


def source(server: Web, sha256: str = "") -> Source:
    return Source("file", "pip", f"{server.url}{PATH}", (("sha256", sha256),) if sha256 else ())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_is_pinned_to_its_digest_with_what_the_server_says(server: Web, cache: Path) -> None:
    pin = pin_file(source(server), cache)
    assert pin.identity == (("sha256", digest(server.files[PATH])),)
    assert (pin.note("path"), pin.note("last_modified")) == (PATH, "Wed, 21 Oct 2026 07:28:00 GMT")
    assert server.url not in repr(pin)


def test_what_was_pinned_is_in_the_cache_already(server: Web, cache: Path) -> None:
    pin = pin_file(source(server), cache)
    path = fetch_file(source(server), pin, cache, offline=True)
    assert path.read_bytes() == server.files[PATH]
    assert [status for _, status in server.requests] == [200]


def test_a_file_that_has_not_changed_is_not_transferred_again(server: Web, cache: Path) -> None:
    pin = pin_file(source(server), cache)
    assert pin_file(source(server), cache, known=pin) == pin
    assert [status for _, status in server.requests] == [200, 304]


def test_a_file_that_has_changed_is_pinned_anew(server: Web, cache: Path) -> None:
    pin = pin_file(source(server), cache)
    server.files[PATH] = b"print('newer')\n"
    assert pin_file(source(server), cache, known=pin).get("sha256") == digest(b"print('newer')\n")


def test_without_the_file_in_the_cache_nobody_is_asked_whether_it_changed(
    server: Web, cache: Path, tmp_path: Path
) -> None:
    pin = pin_file(source(server), cache)
    assert pin_file(source(server), tmp_path / "other", known=pin) == pin
    assert [status for _, status in server.requests] == [200, 200]


def test_a_file_that_is_not_what_the_source_demands_is_refused(server: Web, cache: Path) -> None:
    with pytest.raises(ImgcError, match="E602"):
        pin_file(source(server, "0" * 64), cache)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_other_bytes_than_those_pinned_are_refused_with_both_digests(
    server: Web, cache: Path, tmp_path: Path
) -> None:
    pin = pin_file(source(server), cache)
    server.files[PATH] = b"evil\n"
    with pytest.raises(ImgcError) as caught:
        fetch_file(source(server), pin, tmp_path / "other", offline=False)
    assert caught.value.code == "E602"
    assert pin.get("sha256") in caught.value.detail and digest(b"evil\n") in caught.value.detail


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Web, cache: Path) -> None:
    pin = pin_file(source(server), cache)
    fetch_file(source(server), pin, cache, offline=True).write_bytes(b"dam")
    with pytest.raises(ImgcError, match=r"E604: The file of pip .* is not in the cache"):
        fetch_file(source(server), pin, cache, offline=True)
    assert fetch_file(source(server), pin, cache, offline=False).read_bytes() == server.files[PATH]


def test_a_server_that_stumbles_is_asked_again(server: Web, cache: Path) -> None:
    server.faults[PATH] = [503, 500]
    assert pin_file(source(server), cache).get("sha256") == digest(server.files[PATH])


def test_a_file_that_is_not_there_is_told(server: Web, cache: Path) -> None:
    del server.files[PATH]
    with pytest.raises(ImgcError, match=r"E601: The file of pip cannot be fetched from .*404"):
        pin_file(source(server), cache)


@pytest.mark.parametrize(
    ("validated", "demanded", "part"),
    [(True, False, "bytes=1000000-"), (False, False, None), (False, True, "bytes=1000000-")],
    ids=["validators", "nothing to tell by", "digest"],
)
def test_a_transfer_that_was_cut_goes_on_another_day(
    cache: Path, tmp_path: Path, validated: bool, demanded: bool, part: str | None
) -> None:
    data = bytes(range(250)) * 8000
    (tmp_path / "disk.img").write_bytes(data)
    with serving(tmp_path) as server:
        detail = (("sha256", digest(data)),) if demanded else ()
        disk = Source("file", "disk", f"{server.url}/disk.img", detail)
        server.faults["/disk.img"] = [cut(1_000_000, validated=validated), *[status(503)] * 3]
        with pytest.raises(ImgcError, match="E601"):
            pin_file(disk, cache)
        pin = pin_file(disk, cache)
        assert (cache / "files" / pin.get("sha256")).read_bytes() == data
        assert server.requests[-1][1].get("Range") == part
        assert [one.name for one in (cache / "files").iterdir()] == [pin.get("sha256")]


def test_a_part_of_what_was_there_before_is_of_no_use(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(b"old" * 500_000)
    with serving(tmp_path) as server:
        disk = Source("file", "disk", f"{server.url}/disk.img")
        server.faults["/disk.img"] = [cut(1_000_000), *[status(503)] * 3]
        with pytest.raises(ImgcError, match="E601"):
            pin_file(disk, cache)
        (tmp_path / "disk.img").write_bytes(b"new" * 500_000)
        assert pin_file(disk, cache).get("sha256") == digest(b"new" * 500_000)


def test_a_file_that_is_to_be_another_one_now_is_not_the_known_one(server: Web, cache: Path) -> None:
    pin = pin_file(source(server), cache)
    with pytest.raises(ImgcError, match="E602"):
        pin_file(source(server, "0" * 64), cache, known=pin)
