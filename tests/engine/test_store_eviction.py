"""A cache stays below its size: least recently used first, top layers first, never what a build uses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgc.engine import store_census, store_eviction, store_locks, store_meta
from imgc.engine.store import LAYERS, RESULTS, Store
from imgc.engine.store_census import FAILED, LOGS, POOL, WHEELS, Item
from imgc.engine.store_eviction import chosen, gc, in_order, trim
from imgc.errors import ImgcError

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_800_000_000.0


def remove(paths: Sequence[Path]) -> None:
    for path in paths:
        shutil.rmtree(path)


# --- which go, in which order --------------------------------------------------------------------------------------


@st.composite
def stores(draw: st.DrawFn) -> list[Item]:
    """Chains of layers that may share their lower part, and things that stand by themselves."""
    found: list[Item] = []
    for number in range(draw(st.integers(0, 12))):
        below = draw(st.sampled_from([None, *range(number)]))
        found.append(
            Item(
                LAYERS,
                Path(f"/layers/{number}"),
                draw(st.integers(0, 100)),
                draw(st.floats(NOW - 1000, NOW)),
                str(number),
                () if below is None else (str(below),),
                usable=draw(st.integers(0, 9)) > 0,
            )
        )
    for number in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from([RESULTS, POOL, WHEELS]))
        used = draw(st.floats(NOW - 1000, NOW))
        found.append(
            Item(kind, Path(f"/{kind}/{number}"), draw(st.integers(0, 100)), used, f"{kind} {number}")
        )
    return draw(st.permutations(found))


def below_all(items: Sequence[Item], keys: set[str]) -> set[str]:
    by_key = {one.key: one for one in items if one.kind == LAYERS}
    found = set(keys)
    while new := {key for one in found if one in by_key for key in by_key[one].below} - found:
        found |= new
    return found


@given(stores())
def test_no_layer_goes_before_one_that_lies_on_it(items: list[Item]) -> None:
    gone: set[str] = set()
    above = {key: {one.key for one in items if key in one.below} for key in (one.key for one in items)}
    for one in in_order(items):
        assert above[one.key] <= gone
        gone.add(one.key)


@given(stores())
def test_things_that_stand_alone_go_by_their_last_use(items: list[Item]) -> None:
    used = [one.used for one in in_order(items) if one.kind != LAYERS]
    assert used == sorted(used)


@given(stores(), st.integers(0, 900), st.sets(st.integers(0, 12).map(str), max_size=3), st.booleans())
def test_what_is_chosen_suffices_and_is_no_more_than_needed(
    items: list[Item], limit: int, in_use: set[str], downloads: bool
) -> None:
    going = chosen(items, limit, now=NOW, in_use=in_use, downloads=downloads)
    paths = {one.path for one in going}
    assert len(paths) == len(going)
    staying = [one for one in items if one.path not in paths]
    kept = below_all(items, in_use)
    assert not any(one.key in kept for one in going if one.kind in (LAYERS, RESULTS))
    assert downloads or not any(one.kind in (POOL, WHEELS) for one in going)
    # No layer is left without what it lies on, unless that was never there.
    gone = {one.key for one in going if one.kind == LAYERS}
    assert not any(set(one.below) & gone for one in staying)
    free = [one for one in staying if one.key not in kept and (downloads or one.kind not in (POOL, WHEELS))]
    assert sum(one.size for one in staying) <= limit or free == []
    assert all(one.usable for one in free)
    # Whatever goes for want of room was needed: without the last of them there would be too much.
    useless = {one.path for one in going if not one.usable}
    lost = {one.path for one in going if below_all(items, {one.key}) & {u.key for u in going if not u.usable}}
    by_size = [one for one in going if one.path not in useless | lost]
    if by_size and not lost:
        assert sum(one.size for one in staying) + by_size[-1].size > limit


def test_a_layer_is_as_young_as_what_lies_on_it() -> None:
    items = [
        Item(LAYERS, Path("/old"), 1, NOW - 100, "old"),
        Item(LAYERS, Path("/top"), 1, NOW, "top", ("old",)),
        Item(LAYERS, Path("/other"), 1, NOW - 50, "other"),
    ]
    assert [one.key for one in in_order(items)] == ["other", "top", "old"]


def test_old_records_go_whatever_room_there_is() -> None:
    day = store_eviction.DAY
    items = [
        Item(kind, Path(f"/{kind}/{days}"), 1, NOW - days * day)
        for kind in (FAILED, LOGS)
        for days in (1, 6, 8, 29, 31)
    ]
    gone = {str(one.path) for one in chosen(items, 1000, now=NOW)}
    assert gone == {"/failed/8", "/failed/29", "/failed/31", "/logs/31"}


# --- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"), [("30G", 30 << 30), ("1.5 GiB", 3 << 29), ("0K", 0), ("2T", 2 << 40)]
)
def test_sizes_are_written_as_in_specs(text: str, size: int, tmp_path: Path) -> None:
    assert store_eviction.limit_of(tmp_path, {"IMGC_CACHE_SIZE": text}) == size


@pytest.mark.parametrize("text", ["30", "much", "-1G", "30 GB", "9999999999T", "1.5.5G", "\0"])
def test_a_size_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    with pytest.raises(ImgcError, match="IMGC_CACHE_SIZE") as raised:
        store_eviction.limit_of(tmp_path, {"IMGC_CACHE_SIZE": text})
    assert raised.value.code == "E622"


def test_the_default_is_a_share_of_the_file_system(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    total = status.f_blocks * status.f_frsize
    assert store_eviction.limit_of(tmp_path, {}) == max(10 << 30, int(total / 5))


# --- a real store --------------------------------------------------------------------------------------------------


def fill(
    store: Store, key: str, *, age: float, below: str = "", kind: str = LAYERS, size: int = 100_000
) -> None:
    """A result of ``size`` bytes that was used ``age`` seconds ago."""
    made = store.cache / "work" / f"made-{key}"
    made.mkdir()
    (made / "state.tar").write_bytes(os.urandom(size))
    meta = {"step": f"tiny/{key}", **store_meta.of_file(made / "state.tar")}
    if below:
        meta["below"] = {below: store.meta(store.layer(below))["sha256"]}
    store.commit(kind, key, made, meta)
    used = time.time() - age
    os.utime(store.cache / kind / key / "meta.json", (used, used))


def chain(store: Store, *keys: str, age: float) -> None:
    below = ""
    for key in keys:
        fill(store, key, age=age, below=below)
        below = key


def stored(store: Store) -> set[str]:
    found = {one.key for one in store_census.results(store)}
    assert all(one.usable for one in store_census.results(store))
    return found


def test_gc_keeps_what_was_used_last(store: Store) -> None:
    chain(store, "a", "a1", "a2", age=500)
    chain(store, "b", "b1", age=100)
    fill(store, "out", age=300, kind=RESULTS)
    everything = sum(one.size for one in store_census.items(store))
    size = everything // 6
    done = gc(store, remove, everything - size)
    assert stored(store) == {"a", "a1", "b", "b1", "out"}
    assert done.left == everything - done.freed <= everything - size
    assert gc(store, remove, 2 * size).left <= 2 * size
    assert stored(store) == {"b", "b1"}
    assert os.listdir(store.cache / "work") == []


def test_a_dry_run_says_the_same_and_removes_nothing(store: Store) -> None:
    chain(store, "a", "a1", age=500)
    before = gc(store, remove, 0, dry_run=True)
    assert stored(store) == {"a", "a1"}
    after = gc(store, remove, 0)
    assert [one.key for one in before.removed] == [one.key for one in after.removed] == ["a1", "a"]
    assert stored(store) == set()


def test_touching_saves_from_gc(store: Store) -> None:
    for key in ("a", "b"):
        fill(store, key, age=2 * 3600)
    fill(store, "c", age=100, kind=RESULTS)
    time_of_c = (store.result("c") / "meta.json").stat().st_mtime
    store.touch(["a", "c", "nothing"])
    assert (store.result("c") / "meta.json").stat().st_mtime == time_of_c, "less than an hour old"
    one = store_census.items(store)[0].size
    gc(store, remove, 2 * one)
    assert stored(store) == {"a", "c"}


def test_gc_spares_what_a_build_of_another_process_uses(store: Store) -> None:
    chain(store, "a", "a1", age=500)
    chain(store, "b", "b1", age=100)
    code = (
        "import sys; from pathlib import Path; from imgc.engine.store import Store\n"
        "with Store(Path(sys.argv[1])).using('other', ['a1']):\n"
        "    print('ready', flush=True); sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", code, str(store.cache)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    package = store.cache / "archives/pool/sha256/ab" / ("ab" * 32)
    package.parent.mkdir(parents=True)
    package.write_bytes(b"x")
    with subprocess.Popen(argv, text=True, env=environment, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == "ready\n"
        done = gc(store, remove, 0)
        assert stored(store) == {"a", "a1"}, "with what it lies on"
        assert package.exists(), "it may be about to read any of these"
        assert [name.partition("-")[0] for name in done.builds] == ["other"]
        child.kill()
    gc(store, remove, 0)
    assert stored(store) == set()
    assert not package.exists()


def test_what_is_of_no_use_goes_first(store: Store) -> None:
    chain(store, "a", "a1", "a2", age=10)
    chain(store, "b", "b1", age=500)
    (store.layer("a") / "state.tar").write_bytes(b"shorter")
    made = store.cache / "work" / "newer"
    made.mkdir()
    (made / "meta.json").write_text(json.dumps({"format": store_meta.FORMAT + 1}))
    made.rename(store.layer("newer"))
    (store.layer("older")).mkdir()
    (store.layer("older") / "meta.json").write_text('{"key": "older", "seconds": 1.0}')
    done = gc(store, remove, 1 << 40)
    assert {one.key for one in done.removed} == {"a", "a1", "a2", "older"}
    assert {one.key for one in store_census.results(store)} == {"b", "b1", "newer"}


def test_dead_locks_go_as_well(store: Store) -> None:
    (store.cache / "locks").mkdir()
    (store.cache / "locks" / "dead").touch()
    with store.claim("alive"):
        gc(store, remove, 1 << 40)
        assert os.listdir(store.cache / "locks") == ["alive"]


def test_a_trim_does_nothing_below_the_limit(store: Store) -> None:
    chain(store, "a", "a1", age=500)
    assert trim(store, remove, 1 << 40) is None
    done = trim(store, remove, 0)
    assert done is not None and [one.key for one in done.removed] == ["a1", "a"]


def test_a_build_that_trims_spares_its_own_results_but_not_its_downloads(store: Store) -> None:
    chain(store, "a", "a1", age=500)
    package = store.cache / "archives/pool" / ("ab" * 32)
    package.parent.mkdir(parents=True)
    package.write_bytes(b"x")
    with store.using("one", ["a"]) as use, store.using("two", []):
        assert trim(store, remove, 0, ended=use) is not None
        assert stored(store) == {"a"}
        assert package.exists(), "the other build may want it"
    with store.using("one", ["a"]) as use:
        trim(store, remove, 0, ended=use)
    assert stored(store) == {"a"}
    assert not package.exists()


def test_a_trim_makes_nobody_wait(store: Store) -> None:
    chain(store, "a", "a1", age=500)
    with store_locks.steady(store.cache):
        since = time.monotonic()
        done = trim(store, remove, 0)
        assert time.monotonic() - since < 1
    assert done is not None and done.removed == ()
    assert stored(store) == {"a", "a1"}


def test_downloads_behind_a_link_to_another_place(store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "pool").mkdir(parents=True)
    (elsewhere / "pool" / ("ab" * 32)).write_bytes(b"x")
    (elsewhere / "index").write_text("stays")
    (store.cache / "archives").symlink_to(elsewhere)
    (store.cache / "wheels" / "set").mkdir(parents=True)
    (store.cache / "wheels" / "set" / "one.whl").write_bytes(b"x")
    done = gc(store, remove, 0)
    assert sorted(one.kind for one in done.removed) == [POOL, WHEELS]
    assert (elsewhere / "index").exists()
    assert os.listdir(elsewhere / "pool") == []
