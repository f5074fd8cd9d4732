"""Git repositories as pinned sources, with real daemons and real faults."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from outside_world import Repository, git_daemon, repository

from imgc.errors import ImgcError, Place
from imgc.lock import Pin, Source
from imgc.sources import git_program
from imgc.sources.git import fetch_git, pin_git


@pytest.fixture
def upstream(tmp_path: Path) -> Repository:
    return repository(tmp_path / "upstream" / "glean")


@pytest.fixture
def url(upstream: Repository) -> Iterator[str]:
    """Where a daemon serves the upstream."""
    with git_daemon(upstream.path.parent) as base:
        yield f"{base}/glean"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_program, "PAUSE", 0.01)


def source(url: str, ref: str = "master", name: str = "glean") -> Source:
    detail = (("ref", ref), ("repository", "glean"), ("type", "git"))
    return Source("git", name, url, detail, Place("e/source-repository-glean", 1, 1))


def commit_of(pinned: Path, name: str) -> str:
    return Repository(pinned).git("rev-parse", f"{name}^{{commit}}")


# --- pinning --------------------------------------------------------------------------------------------------------


def test_a_branch_is_pinned_to_its_commit(upstream: Repository, url: str) -> None:
    pin = pin_git(source(url))
    assert pin == Pin(
        "git", "glean", (("commit", upstream.git("rev-parse", "master")),), (("ref", "master"),)
    )


def test_an_annotated_tag_is_pinned_to_the_commit_that_it_is_on(upstream: Repository, url: str) -> None:
    upstream.git("tag", "--annotate", "--message", "release", "1.0")
    assert upstream.git("rev-parse", "1.0") != upstream.git("rev-parse", "master")
    assert pin_git(source(url, "1.0")).get("commit") == upstream.git("rev-parse", "master")


def test_a_tag_goes_before_a_branch_of_its_name_as_git_has_it(upstream: Repository, url: str) -> None:
    upstream.git("tag", "both")
    tagged = upstream.git("rev-parse", "HEAD")
    upstream.git("checkout", "--quiet", "-b", "both")
    upstream.commit("later")
    assert pin_git(source(url, "both")).get("commit") == tagged


def test_a_branch_that_ends_in_the_name_of_another_is_not_taken_for_it(
    upstream: Repository, url: str
) -> None:
    upstream.git("checkout", "--quiet", "-b", "feature/master")
    upstream.commit("elsewhere")
    assert pin_git(source(url)).get("commit") == upstream.git("rev-parse", "refs/heads/master")


def test_a_change_under_review_is_pinned_by_its_ref(upstream: Repository, url: str) -> None:
    change = upstream.commit("under review")
    upstream.git("update-ref", "refs/changes/72/61972/8", change)
    upstream.git("reset", "--quiet", "--hard", "HEAD~1")
    assert pin_git(source(url, "refs/changes/72/61972/8")).get("commit") == change


def test_a_commit_is_its_own_pin_and_asks_nobody() -> None:
    pin = pin_git(source("git://127.0.0.1:1/nowhere", "ab" * 20))
    assert pin.identity == (("commit", "ab" * 20),)


def test_all_branches_are_pinned_by_a_star(upstream: Repository, url: str) -> None:
    first = upstream.git("rev-parse", "HEAD")
    upstream.git("branch", "stable/one")
    second = upstream.commit("second")
    pin = pin_git(source(url, "*"))
    assert pin.identity == (("commit", second), ("heads/master", second), ("heads/stable/one", first))


def test_a_ref_that_is_not_there_is_told_with_those_that_are(upstream: Repository, url: str) -> None:
    with pytest.raises(ImgcError) as caught:
        pin_git(source(url, "main"))
    assert caught.value.code == "E614"
    assert caught.value.message.endswith("cannot be pinned: it has no ref `main`.")
    assert caught.value.hint == "Its branches are `master`."
    assert str(caught.value.place) == "e/source-repository-glean:1:1"


def test_a_server_that_is_not_there_is_told_without_a_secret() -> None:
    with pytest.raises(ImgcError) as caught:
        pin_git(source("http://me:secret@127.0.0.1:1/glean"))
    assert caught.value.code == "E614"
    assert "http://127.0.0.1:1/glean" in caught.value.message
    assert "secret" not in str(caught.value) + caught.value.detail


def test_a_repository_that_is_not_there_is_told(url: str) -> None:
    with pytest.raises(ImgcError, match=r"E614: .*git says: "):
        pin_git(source(f"{url}-not"))


# --- fetching -------------------------------------------------------------------------------------------------------


def test_the_pinned_commit_is_fetched_though_the_branch_moved_on(
    upstream: Repository, url: str, cache: Path
) -> None:
    pin = pin_git(source(url))
    upstream.commit("second")
    pinned = fetch_git([(source(url), pin)], cache, offline=False)
    assert commit_of(pinned, "master") == pin.get("commit")
    assert pinned.is_relative_to(cache / "downloads"), "hooks see nothing else of the cache"
    assert Repository(pinned).git("rev-list", "--all", "--count") == "1", "nothing of what came later"


def test_what_is_in_the_cache_takes_no_network(upstream: Repository, url: str, cache: Path) -> None:
    pin = pin_git(source(url))
    fetched = fetch_git([(source(url), pin)], cache, offline=False)
    shutil.move(upstream.path, upstream.path.with_name("away"))
    assert fetch_git([(source(url), pin)], cache, offline=True) == fetched
    shutil.rmtree(fetched)
    assert fetch_git([(source(url), pin)], cache, offline=True) == fetched, "made anew from the mirror"
    assert commit_of(fetched, "master") == pin.get("commit")


def test_two_pins_of_one_repository_do_not_disturb_each_other(
    upstream: Repository, url: str, cache: Path
) -> None:
    first = pin_git(source(url))
    before = fetch_git([(source(url), first)], cache, offline=False)
    upstream.commit("second")
    second = pin_git(source(url))
    after = fetch_git([(source(url), second)], cache, offline=False)
    assert commit_of(before, "master") == first.get("commit")
    assert commit_of(after, "master") == second.get("commit") != first.get("commit")


def test_tags_of_the_history_come_along_and_later_ones_do_not(
    upstream: Repository, url: str, cache: Path
) -> None:
    upstream.git("tag", "1.0")
    pin = pin_git(source(url))
    upstream.commit("second")
    upstream.git("tag", "2.0")
    pinned = fetch_git([(source(url), pin)], cache, offline=False)
    assert Repository(pinned).git("tag").split() == ["1.0"]


@pytest.mark.parametrize("back", [True, False], ids=["back", "on"])
def test_a_tag_that_was_moved_still_is_what_was_pinned(
    upstream: Repository, url: str, cache: Path, back: bool
) -> None:
    first = upstream.git("rev-parse", "HEAD")
    upstream.commit("second")
    upstream.git("tag", "1.0")
    pin = pin_git(source(url, "1.0"))
    moved_to = first if back else upstream.commit("third")
    upstream.git("tag", "--force", "1.0", moved_to)
    pinned = fetch_git([(source(url, "1.0"), pin)], cache, offline=False)
    assert commit_of(pinned, "1.0") == pin.get("commit") != moved_to


def test_all_branches_come_with_a_star(upstream: Repository, url: str, cache: Path) -> None:
    upstream.git("branch", "stable/one")
    upstream.commit("second")
    pin = pin_git(source(url, "*"))
    upstream.commit("third")
    upstream.git("branch", "stable/two")
    pinned = fetch_git([(source(url, "*"), pin)], cache, offline=False)
    listed = Repository(pinned).git("for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads")
    assert dict(line.split() for line in listed.splitlines()) == {
        "master": pin.get("heads/master"),
        "stable/one": pin.get("heads/stable/one"),
    }
    assert commit_of(pinned, "HEAD") == pin.get("commit")


def test_a_change_under_review_is_fetched_by_its_ref(upstream: Repository, url: str, cache: Path) -> None:
    ref = "refs/changes/72/61972/8"
    change = upstream.commit("under review")
    upstream.git("update-ref", ref, change)
    upstream.git("reset", "--quiet", "--hard", "HEAD~1")
    pin = pin_git(source(url, ref))
    assert commit_of(fetch_git([(source(url, ref), pin)], cache, offline=False), ref) == change


def test_a_commit_that_was_pushed_away_and_collected_is_told_with_what_the_ref_is_now(
    upstream: Repository, url: str, cache: Path
) -> None:
    upstream.commit("second")
    pin = pin_git(source(url))
    upstream.git("reset", "--quiet", "--hard", "HEAD~1")
    now = upstream.commit("other second")
    upstream.git("reflog", "expire", "--expire=now", "--all")
    upstream.git("gc", "--quiet", "--prune=now")
    with pytest.raises(ImgcError) as caught:
        fetch_git([(source(url), pin)], cache, offline=False)
    assert caught.value.code == "E615"
    for part in (url, pin.get("commit"), f"`master` is {now} there now"):
        assert part in caught.value.message
    assert not list((cache / "downloads" / "pinned" / "git").glob("[!.]*")), "nothing half-made"


def test_a_commit_that_was_pushed_away_is_fetched_as_long_as_the_server_has_it(
    upstream: Repository, url: str, cache: Path
) -> None:
    upstream.commit("second")
    pin = pin_git(source(url))
    upstream.git("reset", "--quiet", "--hard", "HEAD~1")
    pinned = fetch_git([(source(url), pin)], cache, offline=False)
    assert commit_of(pinned, "master") == pin.get("commit")


def test_offline_a_missing_commit_is_told(url: str, cache: Path) -> None:
    pin = pin_git(source(url))
    with pytest.raises(ImgcError, match=rf"E604: Commit {pin.get('commit')} of glean is not in the cache"):
        fetch_git([(source(url), pin)], cache, offline=True)


def test_a_server_that_is_away_is_told(upstream: Repository, url: str, cache: Path) -> None:
    pin = pin_git(source(url))
    shutil.move(upstream.path, upstream.path.with_name("away"))
    with pytest.raises(ImgcError, match=r"E601: .* cannot be fetched: git says: "):
        fetch_git([(source(url), pin)], cache, offline=False)


def test_a_repository_that_a_hook_wrote_to_is_made_anew(upstream: Repository, url: str, cache: Path) -> None:
    pin = pin_git(source(url))
    pinned = fetch_git([(source(url), pin)], cache, offline=False)
    other = upstream.commit("second")
    Repository(pinned).git("fetch", "--quiet", url, "+master:master", "--update-head-ok")
    assert commit_of(pinned, "master") == other
    fetch_git([(source(url), pin)], cache, offline=True)
    assert commit_of(pinned, "master") == pin.get("commit")


def test_several_at_once_make_it_once(upstream: Repository, url: str, cache: Path) -> None:
    pin = pin_git(source(url))
    results: list[Path] = []
    work = threading.Barrier(4)

    def fetch() -> None:
        work.wait()
        results.append(fetch_git([(source(url), pin)], cache, offline=False))

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len(set(results)) == 1
    assert commit_of(results[0], "master") == pin.get("commit")


def test_two_refs_of_what_a_hook_keeps_as_one_repository_are_both_there(
    upstream: Repository, url: str, cache: Path
) -> None:
    upstream.git("branch", "stable")
    upstream.commit("second")
    both = [source(url), source(url, "stable", "glean stable")]
    pinned = fetch_git([(one, pin_git(one)) for one in both], cache, offline=False)
    assert commit_of(pinned, "master") == upstream.git("rev-parse", "master")
    assert commit_of(pinned, "stable") == upstream.git("rev-parse", "stable")
