"""Results are there whole or not at all, whoever else uses the store and however builds end."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from imgc.engine import store_meta
from imgc.engine.store import LAYERS, RESULTS, Store, disk_usage
from imgc.engine.store_meta import FORMAT
from imgc.errors import ImgcError

ROOT = Path(__file__).resolve().parents[2]

#: Another process that opens the store, takes a scratch directory, says so and waits.
OTHER = """\
import sys, time
from pathlib import Path
from imgc.engine.store import Store
with Store(Path(sys.argv[1])).work("other", lambda paths: None) as work:
    (work.path / "file").write_text("x")
    print(work.path, flush=True)
    time.sleep(60)
"""


def remove(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def made(store: Store, text: str = "x") -> Path:
    """Something to commit, where builds make it."""
    path = store.cache / "work" / f"made-{text}"
    path.mkdir()
    (path / "file").write_text(text)
    return path


def reboot(store: Store) -> Store:
    """The store as it looks after the machine was started again."""
    for meta in store.cache.glob("*/*/meta.json"):
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "boot": "an earlier one"}))
    return Store(store.cache)


def test_a_result_is_there_after_its_commit(store: Store) -> None:
    assert not store.has_layer("k")
    store.commit(LAYERS, "k", made(store), {"seconds": 1.5, "mounts": []})
    assert store.has_layer("k") and not store.has_result("k")
    meta = store.meta(store.layer("k"))
    assert (meta["key"], meta["seconds"]) == ("k", 1.5)
    assert (store.layer("k") / "file").read_text() == "x"
    store.commit(RESULTS, "k", made(store), {})
    assert store.has_result("k")


def test_the_first_of_equal_results_stays(store: Store) -> None:
    store.commit(LAYERS, "k", made(store, "first"), {})
    store.commit(LAYERS, "k", made(store, "second"), {})
    assert (store.layer("k") / "file").read_text() == "first"
    store.commit(LAYERS, "k", made(store, "third"), {}, replace=True)
    assert (store.layer("k") / "file").read_text() == "third"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"text"', "\0", '{"key": "k"}'])
def test_a_result_with_damaged_notes_counts_as_absent(store: Store, text: str) -> None:
    store.commit(LAYERS, "k", made(store), {})
    (store.layer("k") / "meta.json").write_text(text)
    assert not store.has_layer("k")
    store.commit(LAYERS, "k", made(store, "again"), {})
    assert store.has_layer("k")
    assert (store.layer("k") / "file").read_text() == "again"


def test_only_what_is_durable_survives_a_reboot(store: Store) -> None:
    store.commit(LAYERS, "kept", made(store, "a"), {})
    store.commit(RESULTS, "kept", made(store, "b"), {})
    store.commit(LAYERS, "lost", made(store, "c"), {})
    store.make_durable(["kept", "never made"])
    after = reboot(store)
    assert after.has_layer("kept") and after.has_result("kept")
    assert not after.has_layer("lost")
    after.commit(LAYERS, "lost", made(store, "d"), {})
    assert after.has_layer("lost")


def test_an_output_that_somebody_changed_counts_as_absent(store: Store) -> None:
    status = (path := made(store)).joinpath("file").stat()
    notes = {"file": "file", "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    store.commit(RESULTS, "k", path, notes)
    assert store.has_result("k")
    file = store.result("k") / "file"
    file.write_text("y")
    os.utime(file, ns=(status.st_mtime_ns + 1, status.st_mtime_ns + 1))
    assert not store.has_result("k")
    file.unlink()
    assert not store.has_result("k")


def test_scratch_space_goes_with_its_build(store: Store) -> None:
    with pytest.raises(RuntimeError), store.work("one", remove) as work:
        (work.directory("deep/er") / "file").touch()
        assert work.path.name.startswith("one-")
        raise RuntimeError
    assert list((store.cache / "work").iterdir()) == []


def test_what_dead_builds_left_is_removed_and_live_ones_are_left_alone(store: Store) -> None:
    argv = [sys.executable, "-c", OTHER, str(store.cache)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout is not None
        path = Path(other.stdout.readline().strip())
        assert store.reap(remove) == 0
        with store.work("one", remove):
            assert (path / "file").exists()
        with pytest.raises(ImgcError) as refused:
            store.clean(remove, layers=True, downloads=False, dry_run=False)
        assert refused.value.code == "E304" and path.name in refused.value.message
        other.kill()
    assert path.exists()
    with store.work("one", remove):
        assert not path.exists()
    assert list((store.cache / "work").iterdir()) == []


def test_a_lock_that_vanishes_is_nobodys_problem(store: Store) -> None:
    (store.cache / "work" / "gone.lock").symlink_to("nowhere")
    assert store.reap(remove) == 0
    (store.cache / "work" / "gone.lock").unlink()


def test_a_lock_that_is_reaped_before_it_is_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making a lock and holding it, another imgc may take it for a dead one's."""
    take, taken = fcntl.flock, []

    def late(lock: int, operation: int) -> None:
        if not taken:
            (path,) = (store.cache / "work").glob("*.lock")
            path.unlink()
            taken.append(path)
        take(lock, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with store.work("one", remove) as work:
        assert taken
        assert Path(f"{work.path}.lock").exists()


def test_many_reap_and_work_at_once(store: Store) -> None:
    """Nobody loses the directory that he works in, and nothing is left."""
    problems: list[BaseException] = []

    def build() -> None:
        try:
            for _ in range(50):
                with store.work("one", remove) as work:
                    (work.path / "file").write_text("mine")
                    assert (work.path / "file").read_text() == "mine"
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert list((store.cache / "work").iterdir()) == []


def test_two_processes_commit_the_same_key(store: Store) -> None:
    """Each of many keys is committed by two processes; every one is whole, and neither process fails."""
    code = (
        "import sys; from pathlib import Path; from imgc.engine.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "for number in range(200):\n"
        "    path = store.cache / 'work' / f'{sys.argv[2]}-{number}'\n"
        "    path.mkdir()\n"
        "    (path / 'file').write_text(f'{number}')\n"
        "    store.commit('layers', f'k{number}', path, {})\n"
        "    assert store.has_layer(f'k{number}')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(store.cache), name], env=environment)
        for name in "ab"
    ]
    assert [one.wait(60) for one in both] == [0, 0]
    for number in range(200):
        assert store.has_layer(f"k{number}")
        assert (store.layer(f"k{number}") / "file").read_text() == f"{number}"


def test_cleaning_by_kind(store: Store) -> None:
    def fill() -> None:
        store.commit(LAYERS, "k", made(store, "a"), {})
        store.commit(RESULTS, "k", made(store, "b"), {})
        (store.downloads / "file").write_bytes(bytes(100_000))
        (store.cache / "failed").mkdir(exist_ok=True)
        (store.cache / "failed" / "one").mkdir()

    def counts(*, layers: bool, downloads: bool, dry_run: bool) -> dict[str, int]:
        return {
            what: count
            for what, count, size in store.clean(remove, layers=layers, downloads=downloads, dry_run=dry_run)
            if count and (size or what == "leftovers of dead builds")
        }

    fill()
    everything = {"failed states": 1, "layers": 1, "outputs": 1, "downloads": 1}
    assert counts(layers=True, downloads=True, dry_run=True) == everything
    assert store.has_layer("k") and (store.downloads / "file").exists()
    assert counts(layers=False, downloads=False, dry_run=False) == {"failed states": 1}
    assert store.has_layer("k")
    assert counts(layers=True, downloads=False, dry_run=False) == {"layers": 1, "outputs": 1}
    assert not store.has_layer("k") and (store.downloads / "file").exists()
    assert counts(layers=True, downloads=True, dry_run=False) == {"downloads": 1}
    assert counts(layers=True, downloads=True, dry_run=False) == {}


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ImgcError, match="cannot be used: Not a directory") as raised:
        Store(tmp_path / "file" / "cache")
    assert raised.value.code == "E304"


def test_backup_programs_are_told(store: Store) -> None:
    assert (
        (store.cache / "CACHEDIR.TAG")
        .read_bytes()
        .startswith(b"Signature: 8a477f597d28d172789f06886806bc55\n")
    )


def test_times_are_merged(store: Store) -> None:
    assert store.times() == {}
    store.record_times({"a": 1.234, "b": 2})
    store.record_times({"b": 3, "c": 4})
    assert store.times() == {"a": 1.23, "b": 3.0, "c": 4.0}
    for damage in ("", "[]", '{"a": "text"}', '{"a": null}'):
        (store.cache / "times.json").write_text(damage)
        assert store.times() == {}


def test_disk_usage_counts_blocks(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(2**30)
    (tmp_path / "link").symlink_to("/usr")
    assert disk_usage(tmp_path) < 2**20
    (tmp_path / "bytes").write_bytes(bytes(range(256)) * 4096)
    assert disk_usage(tmp_path) >= 2**20
    assert disk_usage(tmp_path / "link") < 2**16


def test_locks_are_not_inherited(store: Store) -> None:
    """A program that a build started and that outlives it must not look like the build."""
    with store.work("one", remove) as work:
        assert not os.get_inheritable(work.lock)
        with pytest.raises(BlockingIOError), Path(f"{work.path}.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- the format -----------------------------------------------------------------------------------------------------


def test_the_format_is_written_down(store: Store) -> None:
    assert (store.cache / "format").read_text() == f"{FORMAT}\n"
    assert store_meta.format_of(store.cache) == FORMAT


def test_an_older_cache_counts_as_empty_and_is_taken_over(store: Store) -> None:
    """Layers of the first format had neither digest nor seal, and the cache no number."""
    (store.cache / "format").unlink()
    old = store.layer("k")
    old.mkdir()
    (old / "state.tar").write_bytes(b"x")
    (old / "durable").touch()
    (old / "meta.json").write_text(json.dumps({"key": "k", "step": "tiny/one", "seconds": 1.0, "mounts": []}))
    again = Store(store.cache)
    assert not again.has_layer("k")
    assert store_meta.format_of(store.cache) == FORMAT
    again.commit(LAYERS, "k", made(store), {})
    assert again.has_layer("k")


def test_a_newer_cache_keeps_its_number_and_its_results(store: Store) -> None:
    (store.cache / "format").write_text(f"{FORMAT + 1}\n")
    store.commit(LAYERS, "k", made(store), {})
    meta = store.layer("k") / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": FORMAT + 1}))
    again = Store(store.cache)
    assert not again.has_layer("k")
    assert store_meta.format_of(store.cache) == FORMAT + 1
    assert meta.exists()


@pytest.mark.parametrize("text", ["", "x", "\0", "1e9", "2 2"])
def test_a_number_that_cannot_be_read_is_put_right(store: Store, text: str) -> None:
    (store.cache / "format").write_text(text)
    Store(store.cache)
    assert store_meta.format_of(store.cache) == FORMAT


# --- builds side by side --------------------------------------------------------------------------------------------


def test_cleaning_waits_for_no_build_and_takes_nothing_from_one(store: Store) -> None:
    store.commit(LAYERS, "k", made(store), {})
    with store.using("one", ["k"]):
        for layers, downloads in ((True, False), (False, True)):
            with pytest.raises(ImgcError, match="in use by one-") as refused:
                store.clean(remove, layers=layers, downloads=downloads, dry_run=False)
            assert refused.value.code == "E304"
        assert store.clean(remove, layers=True, downloads=True, dry_run=True)[1] == (
            "layers",
            1,
            disk_usage(store.layer("k")),
        )
    store.clean(remove, layers=True, downloads=True, dry_run=False)
    assert not store.has_layer("k")


def test_many_replace_one_result_at_once(store: Store) -> None:
    """`--fresh` in two builds: one of the results stays, whole, and nobody fails."""
    problems: list[BaseException] = []

    def replace(name: str) -> None:
        try:
            for number in range(30):
                path = store.cache / "work" / f"{name}-{number}"
                path.mkdir()
                (path / "file").write_text(name)
                store.commit(RESULTS, "k", path, {"name": name}, replace=True)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=replace, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert store.has_result("k")
    assert (store.result("k") / "file").read_text() == store.meta(store.result("k"))["name"]


def test_times_are_recorded_by_many_threads(store: Store) -> None:
    problems: list[BaseException] = []

    def record(name: str) -> None:
        try:
            for number in range(50):
                store.record_times({name: number})
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=record, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert set(store.times()) <= set("abcd") and store.times()
    assert [path.name for path in store.cache.glob("times*")] == ["times.json"]
