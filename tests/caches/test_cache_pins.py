"""Which caches are pinned when: known pins are kept, what follows from trees follows them, and reports remember."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from git_world import Repository, repository, source

from imgc.caches.model import Pinned
from imgc.caches.pinning import Wanted, offers, pin_caches, remember, report
from imgc.errors import ImgcError
from imgc.lock import Pin, Source

BINDEP = Source(
    "bindep",
    "debian bookworm amd64",
    "",
    (
        ("fallback", ""),
        ("fallback_sha256", ""),
        ("profiles", "test"),
        ("devstack", ""),
        ("distro", "debian"),
        ("release", "bookworm"),
        ("arch", "amd64"),
    ),
)


class World:
    """A repository, and a platform that has its trees and its packages."""

    def __init__(self, directory: Path) -> None:
        self.cache = directory / "cache"
        self.cache.mkdir()
        self.upstream: Repository = repository(directory / "org" / "one")
        self.commit("gcc\n")
        lists = directory / "projects.txt"
        lists.write_text("org/one\n")
        self.git = source(lists, base=f"file://{directory}", projects_sha256="1")
        self.sources = (self.git, BINDEP)

    def commit(self, packages: str) -> None:
        (self.upstream.path / "bindep.txt").write_text(packages)
        self.upstream.git("add", "bindep.txt")
        self.upstream.commit(packages)

    def pin(
        self,
        known: dict[tuple[str, str], Pin] | None = None,
        *,
        sources: Sequence[Source] = (),
        refresh: bool = False,
        offline: bool = False,
    ) -> dict[tuple[str, str], Pinned]:
        wanted = Wanted("one", tuple(sources) or self.sources, known or {})
        options = {"refresh": refresh, "offline": offline, "run_script": never, "tell": lambda _: None}
        return pin_caches([wanted], cache=self.cache, **options)["one"]  # type: ignore[arg-type]


def never(*_: object) -> int:
    raise AssertionError("there is no script to run")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def pins(found: dict[tuple[str, str], Pinned]) -> dict[tuple[str, str], Pin]:
    return {id: one.pin for id, one in found.items()}


def test_everything_is_pinned_once_and_then_kept(world: World) -> None:
    first = world.pin()
    assert set(first) == {world.git.id, BINDEP.id}
    world.commit("other\n")
    again = world.pin(pins(first))
    assert pins(again) == pins(first)
    # Nobody looked, so nothing was found out.
    assert [one.findings for one in again.values()] == [None, None]


def test_what_follows_moves_with_the_trees(world: World) -> None:
    first = pins(world.pin())
    world.commit("other\n")
    second = pins(world.pin(first, refresh=True))
    assert second[world.git.id] != first[world.git.id]
    assert second[BINDEP.id] != first[BINDEP.id]


def test_a_list_that_comes_out_the_same_stays(world: World) -> None:
    first = pins(world.pin())
    world.upstream.commit("nothing about packages")
    second = pins(world.pin(first, refresh=True))
    assert second[world.git.id] != first[world.git.id]
    assert second[BINDEP.id].identity == first[BINDEP.id].identity


def test_other_settings_of_the_trees_pin_what_follows_anew(world: World) -> None:
    first = pins(world.pin())
    world.commit("other\n")
    settings = {**dict(world.git.detail), "branches": "m.*"}
    other = replace(world.git, detail=tuple(settings.items()))
    second = pins(world.pin(first, sources=(other, BINDEP)))
    assert second[BINDEP.id].identity != first[BINDEP.id].identity


def test_offline_takes_what_is_known_and_nothing_else(world: World) -> None:
    with pytest.raises(ImgcError) as caught:
        world.pin(offline=True)
    assert caught.value.code == "E612"
    first = pins(world.pin())
    assert pins(world.pin(first, offline=True, refresh=True)) == first


def test_several_platforms_ask_once(world: World) -> None:
    told: list[str] = []
    wanted = [Wanted(name, world.sources, {}) for name in ("one", "two")]
    found = pin_caches(
        wanted, cache=world.cache, refresh=False, offline=False, run_script=never, tell=told.append
    )
    assert found["one"] == found["two"]
    assert len(told) == len(set(told))


def test_a_lock_from_elsewhere_brings_what_it_needs(world: World, tmp_path: Path) -> None:
    known = pins(world.pin())
    other = tmp_path / "other"
    other.mkdir()
    world.cache = other
    found = offers(world.sources, known, other, offline=False, tell=lambda _: None)
    assert (found["cache-bindep"] / "packages").read_text().split() == ["gcc"]
    # Also where only the list was not known.
    third = tmp_path / "third"
    third.mkdir()
    world.cache = third
    git_only = {world.git.id: known[world.git.id]}
    assert pins(world.pin(git_only))[BINDEP.id].identity == known[BINDEP.id].identity


def test_the_report_tells_what_was_found_when_it_was_pinned(world: World) -> None:
    found = world.pin()
    finding = ImgcError("E652", "It could not be refreshed.")
    git = replace(found[world.git.id], findings=(finding,))
    remember("one", [git, found[BINDEP.id]], world.cache)
    told = report("one", world.sources, pins(found), world.cache, ["from a hook"])
    assert told
    assert told["findings"] == ["E652: It could not be refreshed.", "from a hook"]
    assert json.dumps(told)
    # A pin that is kept keeps what was told of it; another one has nothing to do with that.
    remember("one", world.pin(pins(found)).values(), world.cache)
    again = report("one", world.sources, pins(found), world.cache, [])
    assert again and again["findings"] == ["E652: It could not be refreshed."]
    moved = {**pins(found), world.git.id: Pin("git-cache", "git", (), world.git.asked)}
    other = report("one", world.sources, moved, world.cache, [])
    assert other and other["findings"] == []


def test_no_caches_no_report(world: World) -> None:
    assert report("one", (), {}, world.cache, []) is None
