"""Mirrors and the pins that are made from them: real servers, real faults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from git_world import PLACE, Passage, Repository, counted, passage, repository, source
from outside_world import git_daemon

from imgc import process
from imgc.caches import mirrors, refs
from imgc.caches.git_cache import fetch_git_cache, pin_git_cache
from imgc.caches.git_read import export, files_at, mirror_of
from imgc.caches.model import Pinned, Tree, trees_of
from imgc.errors import ImgcError, Place, Problems
from imgc.sources import git_program


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(git_program, "PAUSE", 0.01)
    refs._own_settings.cache_clear()
    yield
    refs._own_settings.cache_clear()


@pytest.fixture
def nova(tmp_path: Path) -> Repository:
    made = repository(tmp_path / "up" / "org" / "nova")
    made.git("branch", "stable/2026.1")
    made.commit("second")
    made.git("tag", "--annotate", "--message=one", "1.0")
    return made


@pytest.fixture
def glance(tmp_path: Path) -> Repository:
    return repository(tmp_path / "up" / "org" / "glance")


@pytest.fixture
def base(nova: Repository, glance: Repository, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "list").write_text("org/nova\norg/glance\n")
    with git_daemon(tmp_path / "up") as url:
        yield url


def pinned(tmp_path: Path, base: str, before: Pinned | None = None, **settings: str) -> Pinned:
    told: list[str] = []
    asked = source(tmp_path / "list", base, **settings)
    return pin_git_cache(asked, before.pin if before else None, tmp_path / "cache", tell=told.append)


def tree(one: Pinned, name: str = "org/nova") -> Tree:
    return next(tree for tree in trees_of(one.pin) if tree.name == name)


def codes(one: Pinned) -> list[str]:
    return [finding.code for finding in one.findings or ()]


def in_mirror(tmp_path: Path, tree: Tree, *arguments: str) -> str:
    return Repository(mirror_of(tmp_path / "cache", tree.origin)).git("-c", "safe.directory=*", *arguments)


# --- pins ---------------------------------------------------------------------------------------------------------


def test_a_pin_has_all_branches_of_all_projects(nova: Repository, base: str, tmp_path: Path) -> None:
    one = pinned(tmp_path, base)
    assert codes(one) == []
    assert [name for name, _ in one.pin.identity] == ["org/glance", "org/nova"]
    found = tree(one)
    assert found.origin == f"{base}/org/nova"
    assert found.heads == (
        ("master", nova.git("rev-parse", "master")),
        ("stable/2026.1", nova.git("rev-parse", "stable/2026.1")),
    )
    assert len(found.tags) == 16


def test_branches_by_a_regular_expression(nova: Repository, base: str, tmp_path: Path) -> None:
    nova.git("branch", "feature/x")
    one = pinned(tmp_path, base, branches="stable/.*|feature")
    assert [name for name, _ in tree(one).heads] == ["stable/2026.1"]
    # Another platform may want others: the mirror has them.
    assert [name for name, _ in tree(pinned(tmp_path, base)).heads] == [
        "master",
        "feature/x",
        "stable/2026.1",
    ]


def test_the_default_branch_is_first(nova: Repository, base: str, tmp_path: Path) -> None:
    nova.git("checkout", "--quiet", "-b", "trunk")
    assert tree(pinned(tmp_path, base)).heads[0][0] == "trunk"


def test_only_branches_and_tags_are_fetched(nova: Repository, base: str, tmp_path: Path) -> None:
    nova.git("checkout", "--quiet", "--detach")
    change = nova.commit("a change under review")
    nova.git("update-ref", "refs/changes/01/1/1", change)
    nova.git("checkout", "--quiet", "master")
    found = tree(pinned(tmp_path, base))
    assert "refs/changes" not in in_mirror(tmp_path, found, "for-each-ref")
    with pytest.raises(subprocess.CalledProcessError):
        in_mirror(tmp_path, found, "cat-file", "-e", change)


def test_a_moved_tag_is_another_pin(nova: Repository, base: str, tmp_path: Path) -> None:
    before = tree(pinned(tmp_path, base))
    nova.git("tag", "--force", "1.0", "stable/2026.1")
    after = tree(pinned(tmp_path, base))
    assert before.heads == after.heads
    assert before.tags != after.tags


def test_an_empty_repository_has_no_branches(tmp_path: Path, base: str) -> None:
    (tmp_path / "up/org/new").mkdir()
    Repository(tmp_path / "up/org/new").git("init", "--quiet")
    (tmp_path / "list").write_text("org/new\n")
    one = pinned(tmp_path, base, strict="yes")
    assert tree(one, "org/new").heads == ()
    Repository(tmp_path / "up/org/new").commit("first")
    assert len(tree(pinned(tmp_path, base), "org/new").heads) == 1


# --- when nothing moved -------------------------------------------------------------------------------------------


def test_an_unchanged_refresh_runs_no_git_at_all(
    nova: Repository, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pinned(tmp_path, base)
    path, log = counted(tmp_path / "bin")
    monkeypatch.setenv("PATH", path)
    assert pinned(tmp_path, base, before).pin == before.pin
    assert log.read_text() == ""
    nova.commit("third")
    assert pinned(tmp_path, base, before).pin != before.pin
    # Of the two repositories, one has moved.
    assert log.read_text().count(" fetch ") == 1


def test_at_most_so_many_connections_at_a_time(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latch = process.Interrupt()
    monkeypatch.setattr(process, "INTERRUPT", latch)
    (tmp_path / "list").write_text("".join(f"r{number}\n" for number in range(12)))
    with passage(int(base.rpartition(":")[2])) as way:
        # Every answer stops at once, so no connection makes room for another.
        way.limit = 0
        watch = threading.Thread(target=_interrupted_at, args=(way, 3, latch))
        watch.start()
        with pytest.raises(ImgcError) as caught:
            pinned(tmp_path, f"git://127.0.0.1:{way.port}", connections="3")
        watch.join()
    assert caught.value.code == "E307"
    assert way.opened == 3


def _interrupted_at(way: Passage, connections: int, latch: process.Interrupt) -> None:
    deadline = time.monotonic() + 60
    while way.opened < connections and time.monotonic() < deadline:
        time.sleep(0.02)
    latch.set(signal.SIGINT)


# --- when something moved -----------------------------------------------------------------------------------------


def test_what_upstream_drops_leaves_the_pin_and_stays_in_the_mirror(
    nova: Repository, base: str, tmp_path: Path
) -> None:
    before = tree(pinned(tmp_path, base))
    nova.git("reset", "--hard", "--quiet", "HEAD~1")
    nova.git("branch", "--force", "stable/2026.1", nova.commit("another second"))
    nova.git("branch", "--delete", "--force", "stable/2026.1")
    nova.git("tag", "--delete", "1.0")
    after = tree(pinned(tmp_path, base))
    assert [name for name, _ in after.heads] == ["master"]
    assert after.tags == ""
    # Yesterday's lock still can be built.
    assert next(files_at(tmp_path / "cache", before, ["file"])) == ("master", "file", b"second")
    assert list(files_at(tmp_path / "cache", after, ["file"])) == [("master", "file", b"another second")]


def test_a_branch_takes_the_place_of_a_directory_of_branches(
    nova: Repository, base: str, tmp_path: Path
) -> None:
    pinned(tmp_path, base)
    nova.git("branch", "--move", "stable/2026.1", "stable")
    assert [name for name, _ in tree(pinned(tmp_path, base)).heads] == ["master", "stable"]


def test_many_nights_leave_few_packs_and_lose_nothing(
    nova: Repository, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "_MOST_PACKS", 4)
    first = tree(pinned(tmp_path, base))
    lost = nova.commit("lost")
    nights = [tree(pinned(tmp_path, base))]
    nova.git("reset", "--hard", "--quiet", "HEAD~1")
    for number in range(12):
        nova.commit(f"night {number}")
        nights.append(tree(pinned(tmp_path, base)))
    packs = list((mirror_of(tmp_path / "cache", first.origin) / "objects/pack").glob("*.pack"))
    assert len(packs) <= 5
    assert nights[0].heads[0] == ("master", lost)
    for night in nights:
        assert len(list(files_at(tmp_path / "cache", night, ["file"]))) == len(night.heads)


def test_many_refs_have_no_file_each(nova: Repository, base: str, tmp_path: Path) -> None:
    for number in range(100):
        nova.git("branch", f"topic/{number}")
    found = tree(pinned(tmp_path, base))
    assert len(found.heads) == 102
    loose = [path for path in mirror_of(tmp_path / "cache", found.origin).glob("refs/**/*") if path.is_file()]
    assert loose == []
    nova.git("branch", "topic/0", "--force", "stable/2026.1")
    assert dict(tree(pinned(tmp_path, base)).heads)["topic/0"] == nova.git("rev-parse", "stable/2026.1")


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_a_repository_that_cannot_be_refreshed_keeps_what_its_mirror_has(
    nova: Repository, base: str, tmp_path: Path
) -> None:
    before = pinned(tmp_path, base)
    (tmp_path / "up/org/nova").rename(tmp_path / "up/org/gone")
    after = pinned(tmp_path, base, before)
    assert after.pin.identity == before.pin.identity
    assert codes(after) == ["E653"]
    finding = (after.findings or ())[0]
    assert "org/nova" in finding.message
    assert "What its mirror has is used." in finding.message
    assert finding.place == Place(str(tmp_path / "list"), 1, 1)


def test_a_new_repository_that_cannot_be_fetched_has_no_branches(base: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("org/nova\norg/none\n")
    one = pinned(tmp_path, base)
    assert codes(one) == ["E653"]
    assert tree(one, "org/none") == Tree("org/none", f"{base}/org/none")
    assert tree(one).heads


def test_strict_raises_everything_together(base: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("org/nova\norg/none\norg/neither\n")
    with pytest.raises(Problems) as caught:
        pinned(tmp_path, base, strict="yes")
    assert [one.code for one in caught.value.problems] == ["E653", "E653"]


def test_a_server_that_is_gone_is_not_asked_for_every_repository(
    tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list").write_text("".join(f"r{number}\n" for number in range(40)))
    with passage(1) as way:
        port = way.port
    asked: list[str] = []
    real = refs.ask
    monkeypatch.setattr(refs, "ask", lambda location: asked.append(location) or real(location))
    one = pinned(tmp_path, f"git://127.0.0.1:{port}")
    assert codes(one) == ["E652"] * 40
    assert len(asked) < 20


def test_the_mirror_is_fetched_from_and_the_origin_is_upstream(base: str, tmp_path: Path) -> None:
    one = pinned(tmp_path, "https://opendev.example.org", mirror=base)
    assert codes(one) == []
    assert tree(one).origin == "https://opendev.example.org/org/nova"


def big(repository: Repository) -> None:
    """A commit of more than a pipe holds."""
    (repository.path / "big").write_bytes(os.urandom(3 << 20))
    repository.git("add", "big")
    repository.git("commit", "--quiet", "--message=big")


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from git_world import source
from imgc.caches.git_cache import pin_git_cache
pin_git_cache(source(sys.argv[2], sys.argv[3], mirror=sys.argv[4]), None, Path(sys.argv[5]), tell=print)
"""


def _killed(tmp_path: Path, base: str, way: Passage) -> None:
    """An imgc that is killed in the middle of a fetch."""
    way.limit = 1 << 20
    arguments = [str(Path(__file__).parent), str(tmp_path / "list"), base, f"git://127.0.0.1:{way.port}"]
    child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments, str(tmp_path / "cache")])
    assert way.silent.wait(60)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cache/**/objects/pack/tmp_*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    way.limit = None


def _half(tmp_path: Path, found: Tree) -> list[Path]:
    """Packs that are not whole."""
    return list(mirror_of(tmp_path / "cache", found.origin).glob("objects/pack/tmp_*"))


def test_a_fetch_that_is_killed_leaves_yesterdays_mirror_and_the_next_repairs_it(
    nova: Repository, base: str, tmp_path: Path
) -> None:
    (tmp_path / "list").write_text("org/nova\n")
    before = tree(pinned(tmp_path, base))
    big(nova)
    with passage(int(base.rpartition(":")[2])) as way:
        _killed(tmp_path, base, way)
        assert _half(tmp_path, before)
    # Locks of git's own that it leaves when it dies at another moment.
    mirror = mirror_of(tmp_path / "cache", before.origin)
    for name in ("packed-refs.lock", "refs/heads/master.lock", "HEAD.lock"):
        (mirror / name).touch()
    assert ("master", "file", b"second") in files_at(tmp_path / "cache", before, ["file"])
    export(tmp_path / "cache", before, "master", tmp_path / "exported")
    after = tree(pinned(tmp_path, base))
    assert after.heads[0] == ("master", nova.git("rev-parse", "master"))
    assert not _half(tmp_path, before)
    in_mirror(tmp_path, after, "fsck", "--full")


def test_a_first_fetch_that_is_killed_is_done_by_the_next(
    nova: Repository, base: str, tmp_path: Path
) -> None:
    (tmp_path / "list").write_text("org/nova\n")
    big(nova)
    with passage(int(base.rpartition(":")[2])) as way:
        _killed(tmp_path, base, way)
    after = tree(pinned(tmp_path, base))
    assert after.heads[0] == ("master", nova.git("rev-parse", "master"))
    in_mirror(tmp_path, after, "fsck", "--full")


def test_a_fetch_that_fails_keeps_yesterdays_heads(nova: Repository, base: str, tmp_path: Path) -> None:
    """The server names its branches, and cannot give what they are."""
    before = pinned(tmp_path, base)
    tip = nova.commit("third")
    nova.path.joinpath(".git/objects", tip[:2], tip[2:]).unlink()
    after = pinned(tmp_path, base)
    assert codes(after) == ["E652"]
    assert after.pin.identity == before.pin.identity
    assert list(files_at(tmp_path / "cache", tree(after), ["file"]))


@pytest.mark.parametrize(
    "damage", ["objects/pack/*.pack", "objects/pack/*.idx", "config", "packed-refs", "HEAD"]
)
def test_a_damaged_mirror_is_made_anew_when_git_cannot_go_on(
    nova: Repository, base: str, tmp_path: Path, damage: str
) -> None:
    before = tree(pinned(tmp_path, base))
    mirror = mirror_of(tmp_path / "cache", before.origin)
    in_mirror(tmp_path, before, "pack-refs", "--all")
    for path in mirror.glob(damage):
        path.chmod(0o644)
        path.write_bytes(b"")
    nova.commit("third")
    after = pinned(tmp_path, base)
    assert codes(after) == []
    in_mirror(tmp_path, tree(after), "fsck", "--full")
    assert ("master", "file", b"third") in files_at(tmp_path / "cache", tree(after), ["file"])


def test_two_imgc_at_the_same_time(nova: Repository, base: str, tmp_path: Path) -> None:
    results: list[Pinned] = []
    threads = [
        threading.Thread(target=lambda: results.append(pinned(tmp_path, base, connections="2")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.pin.identity for one in results}) == 1
    assert [codes(one) for one in results] == [[]] * 4
    in_mirror(tmp_path, tree(results[0]), "fsck", "--full")


# --- other days, other hosts --------------------------------------------------------------------------------------


def test_a_pin_of_another_host_is_fetched(nova: Repository, base: str, tmp_path: Path) -> None:
    one = pinned(tmp_path, base)
    other = tmp_path / "other"
    asked = source(tmp_path / "list", base)
    with pytest.raises(Problems) as caught:
        fetch_git_cache(asked, one.pin, other, offline=True, tell=print)
    assert [problem.code for problem in caught.value.problems] == ["E604", "E604"]
    nova.commit("third")
    fetch_git_cache(asked, one.pin, other, offline=False, tell=print)
    assert ("master", "file", b"second") in files_at(other, tree(one), ["file"])
    fetch_git_cache(asked, one.pin, other, offline=True, tell=print)


def test_a_commit_that_its_server_no_longer_has(nova: Repository, base: str, tmp_path: Path) -> None:
    one = pinned(tmp_path, base)
    nova.git("commit", "--quiet", "--amend", "--message=other")
    nova.git("tag", "--delete", "1.0")
    nova.git("reflog", "expire", "--expire=now", "--all")
    nova.git("gc", "--quiet", "--prune=now")
    asked = source(tmp_path / "list", base)
    with pytest.raises(ImgcError) as caught:
        fetch_git_cache(asked, one.pin, tmp_path / "other", offline=False, tell=print)
    assert (caught.value.code, caught.value.place) == ("E615", PLACE)


def test_reading_what_the_mirror_does_not_have(tmp_path: Path) -> None:
    lost = Tree("org/nova", "https://git.example.org/org/nova", (("master", "0" * 40),))
    with pytest.raises(ImgcError) as caught:
        list(files_at(tmp_path, lost, ["file"]))
    assert caught.value.code == "E604"
    with pytest.raises(ImgcError) as caught:
        export(tmp_path, lost, "master", tmp_path / "into")
    assert caught.value.code == "E604"


def test_an_unchanged_refresh_writes_nothing(nova: Repository, base: str, tmp_path: Path) -> None:
    found = tree(pinned(tmp_path, base))
    state = mirror_of(tmp_path / "cache", found.origin) / "imgc-refs"
    written = state.stat().st_mtime_ns
    pinned(tmp_path, base)
    assert state.stat().st_mtime_ns == written
