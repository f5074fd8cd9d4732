"""The file cache, from a real web server with real faults."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from imgc.caches.file_cache import make_file_tree, pin_file_cache
from imgc.caches.model import Pinned
from imgc.errors import ImgcError, Place, Problems
from imgc.lock import EARLIEST_EPOCH, Pin, Source
from imgc.sources import download

sys.path.insert(0, str(Path(__file__).parent.parent / "sources"))
from outside_world import Web, web

PIP = b"print('pip')\n"
DISK = bytes(range(256)) * 4096
PLACES = (Place("specs/ci.yaml", 7, 9), Place("specs/ci.yaml", 8, 9))


@pytest.fixture
def server() -> Iterator[Web]:
    with web() as world:
        world.files = {"/pip/get-pip.py": PIP, "/images/cirros.img": DISK}
        yield world


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.01)


def source(*files: Sequence[str], strict: bool = False, directory: str = "/opt/cache/files") -> Source:
    """A file cache with these files: URL, sha256, name."""
    listed = [[*one, *[""] * (3 - len(one))] for one in files]
    detail = {"files": json.dumps(listed), "directory": directory, "devstack": "", "strict": "yes" * strict}
    return Source("file-cache", "files", "", tuple(detail.items()), Place("specs/ci.yaml", 5, 3))


def pin(source: Source, cache: Path, before: Pin | None = None) -> Pinned:
    return pin_file_cache(
        source, before, None, cache, run_script=_no_script, tell=lambda line: None, places=PLACES
    )


def _no_script(directory: Path, argv: Sequence[str], on_line: Callable[[str], None]) -> int:
    raise AssertionError("nothing asks for a script")


def make(source: Source, pin: Pin, into: Path, cache: Path, *, offline: bool = False) -> dict[str, Any]:
    return make_file_tree(source, pin, into, cache, offline=offline, on_line=lambda line: None)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def told(pinned: Pinned) -> list[tuple[str, str]]:
    return [(one.code, str(one.place)) for one in pinned.findings]


def test_a_pin_names_each_file_with_its_digest_and_url(server: Web, cache: Path) -> None:
    asked = source([f"{server.url}/pip/get-pip.py"], [f"{server.url}/images/cirros.img", "", "disk.img"])
    pinned = pin(asked, cache)
    assert pinned.pin.identity == (
        ("disk.img", f"sha256:{digest(DISK)} {server.url}/images/cirros.img"),
        ("get-pip.py", f"sha256:{digest(PIP)} {server.url}/pip/get-pip.py"),
    )
    assert pinned.pin.is_for(asked)
    assert not pinned.findings


def test_the_tree_has_the_files_as_links_to_the_cache(server: Web, cache: Path, tmp_path: Path) -> None:
    asked = source([f"{server.url}/images/cirros.img"])
    pinned = pin(asked, cache).pin
    umask = os.umask(0o077)
    try:
        made = make(asked, pinned, tmp_path / "tree", cache, offline=True)
    finally:
        os.umask(umask)
    path = tmp_path / "tree/mnt/opt/cache/files/cirros.img"
    assert path.read_bytes() == DISK
    assert path.samefile(cache / "files" / digest(DISK))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    above = [path, path.parent, path.parent.parent, tmp_path / "tree/mnt"]
    assert {one.stat().st_mtime for one in above} == {EARLIEST_EPOCH}
    assert {stat.S_IMODE(one.stat().st_mode) for one in above[1:]} == {0o755}
    url = f"{server.url}/images/cirros.img"
    file = {"name": "cirros.img", "sha256": digest(DISK), "size": len(DISK), "url": url}
    assert made == {"directory": "/opt/cache/files", "files": [file]}


def test_what_has_not_changed_is_not_transferred_again(server: Web, cache: Path) -> None:
    asked = source([f"{server.url}/images/cirros.img"])
    first = pin(asked, cache)
    assert pin(asked, cache, first.pin) == first
    # A pin of another platform that was made before is of no use; the cache is what is asked.
    assert pin(asked, cache) == first
    assert [status for _, status in server.requests] == [200, 304, 304]


def test_a_file_with_a_digest_is_not_asked_for_once_it_is_there(server: Web, cache: Path) -> None:
    asked = source([f"{server.url}/images/cirros.img", digest(DISK).upper()])
    assert pin(asked, cache) == pin(asked, cache)
    assert len(server.requests) == 1


def test_one_url_under_two_names_is_fetched_once(server: Web, cache: Path) -> None:
    url = f"{server.url}/pip/get-pip.py"
    pinned = pin(source([url], [url, "", "also-pip.py"]), cache)
    assert [name for name, _ in pinned.pin.identity] == ["also-pip.py", "get-pip.py"]
    assert len(server.requests) == 1


def test_a_dead_url_keeps_the_file_of_another_day(server: Web, cache: Path) -> None:
    asked = source([f"{server.url}/pip/get-pip.py"], [f"{server.url}/images/cirros.img"])
    before = pin(asked, cache).pin
    del server.files["/images/cirros.img"]
    after = pin(asked, cache, before)
    assert after.pin.identity == before.identity
    assert told(after) == [("E659", "specs/ci.yaml:8:9")]
    said = after.findings[0].message
    assert f"{server.url}/images/cirros.img" in said and "404" in said and "another day is kept" in said


def test_a_dead_url_without_another_day_is_left_out(server: Web, cache: Path) -> None:
    asked = source([f"{server.url}/nothing.img"], [f"{server.url}/pip/get-pip.py"])
    pinned = pin(asked, cache)
    assert [name for name, _ in pinned.pin.identity] == ["get-pip.py"]
    assert told(pinned) == [("E659", "specs/ci.yaml:7:9")]
    assert "left out" in pinned.findings[0].message


def test_the_file_of_another_url_is_not_the_same_file(server: Web, cache: Path) -> None:
    before = pin(source([f"{server.url}/images/cirros.img"]), cache).pin
    pinned = pin(source([f"{server.url}/other/cirros.img"]), cache, before)
    assert pinned.pin.identity == ()


def test_other_bytes_than_the_digest_says_are_never_placed(server: Web, cache: Path) -> None:
    url = f"{server.url}/images/cirros.img"
    before = pin(source([url]), cache).pin
    pinned = pin(source([url, "0" * 64]), cache, before)
    assert pinned.pin.identity == ()
    assert told(pinned) == [("E660", "specs/ci.yaml:7:9")]
    detail = pinned.findings[0].detail
    assert "0" * 64 in detail and digest(DISK) in detail


def test_strict_raises_everything_together(server: Web, cache: Path) -> None:
    asked = source([f"{server.url}/nothing.img"], [f"{server.url}/images/cirros.img", "0" * 64], strict=True)
    with pytest.raises(Problems) as raised:
        pin(asked, cache)
    codes = [(one.code, str(one.place)) for one in raised.value.problems]
    assert codes == [("E659", "specs/ci.yaml:7:9"), ("E660", "specs/ci.yaml:8:9")]


def test_two_files_of_one_name_are_refused_with_both_places(server: Web, cache: Path) -> None:
    server.files["/other/cirros.img"] = b"another"
    asked = source([f"{server.url}/images/cirros.img"], [f"{server.url}/other/cirros.img"])
    with pytest.raises(ImgcError, match="E660") as raised:
        pin(asked, cache)
    assert "specs/ci.yaml:7:9" in raised.value.message and "specs/ci.yaml:8:9" in raised.value.message


def test_two_urls_of_the_same_bytes_may_have_one_name(server: Web, cache: Path) -> None:
    server.files["/other/cirros.img"] = DISK
    asked = source([f"{server.url}/images/cirros.img"], [f"{server.url}/other/cirros.img"])
    assert len(pin(asked, cache).pin.identity) == 1


def test_a_url_without_a_name_is_told(server: Web, cache: Path) -> None:
    pinned = pin(source([f"{server.url}/images/"]), cache)
    assert told(pinned) == [("E659", "specs/ci.yaml:7:9")]
    assert not server.requests


def test_secrets_of_urls_are_in_no_pin_and_still_used(server: Web, cache: Path, tmp_path: Path) -> None:
    server.files["/pip/get-pip.py?token=hunter2"] = PIP
    asked = source([f"{server.url}/pip/get-pip.py?token=hunter2"])
    pinned = pin(asked, cache).pin
    assert "hunter2" not in repr(pinned.identity)
    (cache / "files" / digest(PIP)).unlink()
    make(asked, pinned, tmp_path / "tree", cache)
    assert server.requests[-1] == ("/pip/get-pip.py?token=hunter2", 200)


def test_a_file_that_the_cache_lost_is_fetched_when_the_tree_is_made(
    server: Web, cache: Path, tmp_path: Path
) -> None:
    asked = source([f"{server.url}/images/cirros.img"])
    pinned = pin(asked, cache).pin
    (cache / "files" / digest(DISK)).write_bytes(b"damaged")
    with pytest.raises(ImgcError, match="E604"):
        make(asked, pinned, tmp_path / "offline", cache, offline=True)
    make(asked, pinned, tmp_path / "tree", cache)
    assert (tmp_path / "tree/mnt/opt/cache/files/cirros.img").read_bytes() == DISK


def test_other_bytes_than_pinned_do_not_become_part_of_a_tree(
    server: Web, cache: Path, tmp_path: Path
) -> None:
    asked = source([f"{server.url}/images/cirros.img"])
    pinned = pin(asked, cache).pin
    (cache / "files" / digest(DISK)).unlink()
    server.files["/images/cirros.img"] = b"newer"
    with pytest.raises(ImgcError, match="E602"):
        make(asked, pinned, tmp_path / "tree", cache)
    assert not (tmp_path / "tree/mnt/opt/cache/files/cirros.img").exists()


def test_a_server_that_is_down_for_a_moment_is_asked_again(server: Web, cache: Path) -> None:
    server.faults["/images/cirros.img"] = [503, 503]
    assert not pin(source([f"{server.url}/images/cirros.img"]), cache).findings
    assert [status for _, status in server.requests] == [503, 503, 200]


def test_a_damaged_record_in_the_cache_only_costs_a_transfer(server: Web, cache: Path) -> None:
    asked = source([f"{server.url}/images/cirros.img"])
    first = pin(asked, cache)
    for record in (cache / "caches" / "files").glob("url.*.json"):
        record.write_text('{"sha256": 1')
    assert pin(asked, cache) == first
    assert [status for _, status in server.requests] == [200, 200]
