"""Every byte of a cache is looked at; what has changed is dropped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgc.engine import store_meta
from imgc.engine.store import LAYERS, RESULTS, Store
from imgc.engine.store_verification import verify


def remove(paths: Sequence[Path]) -> None:
    for path in paths:
        shutil.rmtree(path)


def commit(store: Store, kind: str, key: str, content: bytes = b"content" * 1000) -> Path:
    made = store.cache / "work" / f"made-{key}"
    made.mkdir()
    (made / "file").write_bytes(content)
    store.commit(kind, key, made, {"step": "tiny/one", "seconds": 0.25, **store_meta.of_file(made / "file")})
    return store.cache / kind / key


def keep_time(path: Path, content: bytes) -> None:
    """Change a file as a failing disk does: its size and its time stay."""
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_whole_cache(store: Store) -> None:
    commit(store, LAYERS, "a")
    commit(store, RESULTS, "b")
    told: list[tuple[int, int]] = []
    done = verify(store, remove, lambda number, total: told.append((number, total)))
    assert (done.count, done.bytes, done.damaged) == (2, 14000, ())
    assert told == [(1, 2), (2, 2)]
    assert store.has_layer("a") and store.has_result("b")
    assert os.listdir(store.cache / "work") == []


@pytest.mark.parametrize("kind", [LAYERS, RESULTS])
@pytest.mark.parametrize("position", [0, 3500, 6999])
def test_one_bit(store: Store, kind: str, position: int) -> None:
    file = commit(store, kind, "a") / "file"
    commit(store, kind, "b")
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    keep_time(file, bytes(content))
    assert store.is_trusted(file.parent), "neither size nor time tells"
    done = verify(store, remove)
    assert [str(one.path) for one in done.damaged] == [f"{kind}/a"]
    assert "sha256" in done.damaged[0].why
    assert not file.parent.exists()
    assert store.is_trusted(store.cache / kind / "b")


def test_files_missing_and_cut_short(store: Store) -> None:
    for name in "abcde":
        commit(store, LAYERS, name)
    (store.layer("a") / "file").unlink()
    (store.layer("b") / "file").write_bytes(b"content")
    (store.layer("c") / "meta.json").unlink()
    (store.layer("d") / "meta.json").write_text("{")
    assert [key for key in "abcde" if store.has_layer(key)] == ["e"]
    assert [one.path.name for one in verify(store, remove).damaged] == ["a", "b", "c", "d"]
    assert [path.name for path in (store.cache / LAYERS).iterdir()] == ["e"]


def test_results_of_many_files(store: Store) -> None:
    made = store.cache / "work" / "made"
    (made / "out/deep").mkdir(parents=True)
    (made / "out/deep/file").write_text("one")
    (made / "out/link").symlink_to("deep/file")
    store.commit(RESULTS, "k", made, {"step": "tiny/collect"})
    assert verify(store, remove).damaged == ()
    (store.result("k") / "out/deep/file").write_text("two")
    assert "out/deep/file has sha256" in verify(store, remove).damaged[0].why


def test_downloads_that_are_named_by_their_digest(store: Store) -> None:
    for name in ("archives/pool/sha256", "records/blobs"):
        directory = store.cache / name
        directory.mkdir(parents=True)
        for content in (b"good", b"bad"):
            (directory / hashlib.sha256(content).hexdigest()).write_bytes(content)
        (directory / hashlib.sha256(b"bad").hexdigest()).write_bytes(b"worse")
        (directory / "partial").write_bytes(b"x")
    done = verify(store, remove)
    assert done.count == 4
    assert {one.path.name for one in done.damaged} == {hashlib.sha256(b"bad").hexdigest()}
    assert len(done.damaged) == 2
    assert not list(store.cache.glob(f"*/**/{hashlib.sha256(b'bad').hexdigest()}"))


def test_other_formats_are_none_of_its_business(store: Store) -> None:
    place = commit(store, LAYERS, "a")
    for number in (1, store_meta.FORMAT + 1):
        (place / "meta.json").write_text(json.dumps({"format": number, "key": "a"}))
        assert not store.has_layer("a")
        assert verify(store, remove).count == 0
    assert place.exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_damage_of_the_notes_goes_unseen(store: Store, data: st.DataObject) -> None:
    """Any byte of meta.json, changed: the layer counts as absent, unless the note says the same as before."""
    if not store.layer("k").exists():
        commit(store, LAYERS, "k")
        store.make_durable(["k"])
    file = store.layer("k") / "meta.json"
    whole = file.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255))
    file.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
    before, after = json.loads(whole), store.meta(store.layer("k"))
    # Which boot it was says nothing about the layer, which is durable.
    same = {**before, "boot": ""} == {**after, "boot": ""}
    assert store.has_layer("k") == same
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert not store.has_layer("k")
    file.write_bytes(whole)
    assert store.has_layer("k")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda one: st.lists(one) | st.dictionaries(st.text(), one),
        ),
    )
)
def test_whatever_is_recorded_can_be_read_back(meta: dict[str, object]) -> None:
    loaded = json.loads(store_meta.text(meta, "a boot"))
    assert store_meta.is_sound(loaded)
    assert not store_meta.is_sound({**loaded, "another": 1})
    assert {**loaded, **meta, "format": 2, "boot": "", "seal": ""} == {**loaded, "boot": "", "seal": ""} | {
        "format": 2
    }
