"""Downloads from a real server on loopback that fails in every way it can."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_server import FaultServer, cut, instead, serving, stall, status

from imgc import process
from imgc.errors import ImgcError
from imgc.sources import download as module
from imgc.sources.download import Gone, Validators, download, fetch_bytes, shown

DATA = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FaultServer]:
    root = tmp_path / "web"
    root.mkdir()
    (root / "file").write_bytes(DATA)
    with serving(root) as server:
        yield server


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.01)


@pytest.fixture
def final(tmp_path: Path) -> Path:
    return tmp_path / "made" / "here" / "file"


def left(final: Path) -> list[str]:
    """What lies where the file belongs."""
    return sorted(path.name for path in final.parent.iterdir()) if final.parent.exists() else []


def fails(url: str, final: Path, **more: object) -> ImgcError:
    with pytest.raises(ImgcError) as caught:
        download(url, final, what="the thing", **more)  # type: ignore[arg-type]
    return caught.value


def test_a_file_is_fetched_whole_with_its_digest_and_validators(web, final):
    done = download(f"{web.url}/file", final, what="the thing", sha256=DIGEST)
    assert final.read_bytes() == DATA
    assert (done.path, done.sha256, done.size, done.unchanged) == (final, DIGEST, len(DATA), False)
    assert done.validators.etag
    assert left(final) == ["file"]
    assert final.stat().st_mode & 0o777 == 0o644


def test_a_file_that_has_not_changed_is_not_fetched_again(web, final):
    first = download(f"{web.url}/file", final, what="the thing")
    again = download(f"{web.url}/file", final, what="the thing", previous=first.validators)
    assert again.unchanged
    assert (again.sha256, again.size, again.validators) == (first.sha256, first.size, first.validators)
    (web.root / "file").write_bytes(b"new")
    changed = download(f"{web.url}/file", final, what="the thing", previous=first.validators)
    assert not changed.unchanged
    assert final.read_bytes() == b"new"


def test_an_unchanged_answer_for_a_file_that_is_not_there_says_so(web, final):
    first = download(f"{web.url}/file", final, what="the thing")
    final.unlink()
    again = download(f"{web.url}/file", final, what="the thing", previous=first.validators)
    assert (again.unchanged, again.sha256, again.size) == (True, "", 0)
    assert left(final) == []


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(web, final, code):
    web.faults["/file"] = [status(code), status(code)]
    assert download(f"{web.url}/file", final, what="the thing").sha256 == DIGEST
    assert web.asked("/file") == 3


def test_a_server_that_stays_down_is_named_with_its_cause_and_the_tries(web, final):
    web.faults["/file"] = [status(503)] * 4
    problem = fails(f"{web.url}/file", final)
    assert problem.code == "E601"
    assert problem.message == (
        f"The thing cannot be fetched from {web.url}/file: the server answers 503 Service Unavailable (4 tries)."
    )
    assert left(final) == []


@pytest.mark.parametrize(("code", "gone"), [(403, False), (404, True), (410, True)])
def test_a_refusal_is_final_at_once(web, final, code, gone):
    web.faults["/file"] = [status(code)]
    problem = fails(f"{web.url}/file", final)
    assert problem.code == "E601"
    assert isinstance(problem, Gone) == gone
    assert web.asked("/file") == 1
    assert left(final) == []


def test_a_pause_that_the_server_asks_for_is_kept(web, final):
    web.faults["/file"] = [status(503, Retry_After="1")]
    started = time.monotonic()
    download(f"{web.url}/file", final, what="the thing")
    assert time.monotonic() - started >= 1


def test_a_pause_is_never_longer_than_the_longest(monkeypatch):
    assert module._retry_after("100000") == module._LONGEST_PAUSE
    assert module._retry_after("Fri, 01 Jan 2100 00:00:00 GMT") == module._LONGEST_PAUSE
    assert module._retry_after("Sat, 01 Jan 2000 00:00:00 GMT") == 0
    assert module._retry_after("soon") == 0


def test_a_cut_transfer_goes_on_where_it_stopped(web, final):
    web.faults["/file"] = [cut(300_000)]
    assert download(f"{web.url}/file", final, what="the thing", sha256=DIGEST).sha256 == DIGEST
    headers = web.requests[1][1]
    assert int(headers["Range"].removeprefix("bytes=").removesuffix("-")) > 0
    assert headers["If-Range"] == f'"{hashlib.md5(DATA).hexdigest()}"'


def test_a_cut_transfer_of_a_file_that_changed_meanwhile_starts_over(web, final):
    def cut_and_change(handler, data):
        (web.root / "file").write_bytes(b"new bytes")
        return cut(300_000)(handler, data)

    web.faults["/file"] = [cut_and_change]
    done = download(f"{web.url}/file", final, what="the thing")
    assert final.read_bytes() == b"new bytes"
    assert done.sha256 == hashlib.sha256(b"new bytes").hexdigest()
    assert done.size == 9


def test_pieces_that_do_not_fit_together_are_fetched_again_as_a_whole(web, final):
    def other_start(handler, data):
        cut(300_000, validated=False)(handler, b"x" * len(data))
        return True

    web.faults["/file"] = [other_start]
    assert download(f"{web.url}/file", final, what="the thing", sha256=DIGEST).sha256 == DIGEST
    assert final.read_bytes() == DATA
    assert web.asked("/file") == 3


def test_a_file_that_is_always_cut_is_an_error(web, final):
    web.faults["/file"] = [cut(10, validated=False)] * 4
    problem = fails(f"{web.url}/file", final)
    assert problem.code == "E601"
    assert problem.message.endswith("(4 tries).")
    assert web.asked("/file") == 4
    assert "Range" not in web.requests[-1][1]
    assert left(final) == []


def test_other_bytes_than_pinned_name_both_digests_and_are_not_kept(web, final):
    final.parent.mkdir(parents=True)
    final.write_bytes(b"what was there before")
    web.faults["/file"] = [instead(b"other")]
    problem = fails(f"{web.url}/file", final, sha256=DIGEST)
    assert problem.code == "E602"
    assert "The thing" in problem.message
    assert DIGEST in problem.detail
    assert hashlib.sha256(b"other").hexdigest() in problem.detail
    assert left(final) == ["file"]
    assert final.read_bytes() == b"what was there before"


def test_a_silent_server_is_given_up(web, final):
    web.faults["/file"] = [stall(1000, 5)] * 2
    started = time.monotonic()
    problem = fails(f"{web.url}/file", final, timeout=0.3, tries=2)
    assert "no answer for 0.3 s (2 tries)" in problem.message
    assert time.monotonic() - started < 4
    assert left(final) == []


def test_an_interrupt_ends_a_silent_transfer_within_moments(web, final, monkeypatch):
    monkeypatch.setattr(process, "INTERRUPT", process.Interrupt())
    web.faults["/file"] = [stall(1000, 20)]
    threading.Timer(0.5, process.INTERRUPT.set).start()
    started = time.monotonic()
    assert fails(f"{web.url}/file", final).code == "E307"
    assert time.monotonic() - started < 3
    assert left(final) == []
    process.INTERRUPT.close()


def test_an_interrupt_ends_a_pause(web, final, monkeypatch):
    monkeypatch.setattr(process, "INTERRUPT", process.Interrupt())
    web.faults["/file"] = [status(503, Retry_After="20")]
    threading.Timer(0.5, process.INTERRUPT.set).start()
    started = time.monotonic()
    assert fails(f"{web.url}/file", final).code == "E307"
    assert time.monotonic() - started < 3
    process.INTERRUPT.close()


def test_a_host_that_does_not_listen_says_so(final):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/file"
        assert "connection refused (4 tries)" in fails(url, final).message


def test_no_message_shows_a_password_or_a_token(final):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{taken.getsockname()[1]}/file"
        problem = fails(f"http://user:pass-word@{where}?X-Amz-Signature=tok-en&v=1", final, tries=1)
    text = f"{problem.message}{problem.detail}{problem.hint}"
    assert "pass-word" not in text
    assert "tok-en" not in text
    assert shown(f"http://user:pw@{where}?v=1") == f"http://{where}?v=1"


def test_file_urls_are_copied(tmp_path, final):
    (tmp_path / "a file").write_bytes(DATA)
    url = (tmp_path / "a file").as_uri()
    done = download(url, final, what="the thing", sha256=DIGEST)
    assert final.read_bytes() == DATA
    assert download(url, final, what="the thing", previous=done.validators).unchanged
    assert isinstance(fails(f"{url}x", final), Gone)


@pytest.mark.parametrize("url", ["ftp://host.test/file", "file", "http://"])
def test_what_is_no_url_is_refused_at_once(final, url):
    problem = fails(url, final)
    assert problem.code == "E601"
    assert "tries" not in problem.message


def test_a_disk_that_is_full_is_told_as_such(web):
    problem = fails(f"{web.url}/file", Path("/proc/imgc/file"))
    assert problem.code == "E304"


def test_a_watcher_sees_the_bytes_arrive(web, final):
    seen: list[int] = []

    def watch(path: Path, count: int) -> None:
        seen.append(count)
        assert path.stat().st_size == count

    download(f"{web.url}/file", final, what="the thing", watch=watch)
    assert seen == sorted(seen)
    assert seen[-1] == len(DATA)


def test_small_files_are_read_into_memory_up_to_a_limit(web):
    assert fetch_bytes(f"{web.url}/file", "the thing") == DATA
    with pytest.raises(ImgcError, match="larger than 1000 bytes"):
        fetch_bytes(f"{web.url}/file", "the thing", 1000)


def test_validators_of_nothing_are_false():
    assert not Validators()
    assert Validators(etag='"x"')
