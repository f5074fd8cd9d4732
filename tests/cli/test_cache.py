"""`imgc cache`: what it shows, what it removes, what it finds damaged."""

from __future__ import annotations

import json
import os
import shlex
import time
from pathlib import Path

import click
import pytest

from imgc.cli.command import Command, CommonOption
from imgc.cli.main import cli
from imgc.engine import store_meta
from imgc.engine.store import LAYERS, RESULTS, Store

from .conftest import Imgc, run_imgc

CACHE = cli.commands["cache"]
assert isinstance(CACHE, click.Group)
COMMANDS = CACHE.commands


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def cache(store: Store, imgc: Imgc) -> Imgc:
    """``cache("gc", "--dry-run")``: run ``imgc cache`` on the store."""

    def run(*arguments: str, **options: object) -> object:
        return imgc("--cache", str(store.cache), "cache", *arguments, **options)

    return run  # type: ignore[return-value]


def fill(store: Store, kind: str, key: str, *, age: float = 0, platform: str = "tiny") -> Path:
    """A result of some 100 kB, used ``age`` seconds ago."""
    made = store.cache / "work" / f"made-{key}"
    made.mkdir()
    (made / "state.tar").write_bytes(os.urandom(100_000))
    store.commit(kind, key, made, {"step": f"{platform}/x", **store_meta.of_file(made / "state.tar")})
    final = store.cache / kind / key
    os.utime(final / "meta.json", (time.time() - age,) * 2)
    return final


def test_show_for_people(store: Store, cache: Imgc) -> None:
    assert "0 B of at most" in cache("show").output
    fill(store, LAYERS, "a", platform="one")
    fill(store, LAYERS, "b", platform="two")
    fill(store, RESULTS, "c", platform="two")
    (store.downloads / "file").write_bytes(bytes(100_000))
    with store.using("one", ["a"]):
        shown = cache("show").output
    lines = [line.split() for line in shown.splitlines()]
    assert ["layers", "2"] in [line[:2] for line in lines]
    assert ["outputs", "and", "checks", "1"] in [line[:4] for line in lines]
    assert ["one", "1"] in [line[:2] for line in lines]
    assert ["two", "2"] in [line[:2] for line in lines]
    assert "downloads" in shown and "in use by one-" in shown
    assert "of no use" not in shown
    os.truncate(store.layer("a") / "state.tar", 10)
    assert "1 of no use any more" in cache("show").output


def test_show_for_programs(store: Store, cache: Imgc) -> None:
    fill(store, LAYERS, "a", age=7200)
    fill(store, LAYERS, "b", age=3600)
    report = json.loads(cache("show", "--json", env={"IMGC_CACHE_SIZE": "3M"}).output)
    layers = next(one for one in report["kinds"] if one["kind"] == "layers")
    assert layers["count"] == 2
    assert layers["bytes"] == report["bytes"] >= 200_000
    assert 3500 < layers["newest"] - layers["oldest"] < 3700
    assert report["limit"] == 3 << 20
    assert report["unusable"] == {"count": 0, "bytes": 0, "oldest": None, "newest": None}
    assert [one["platform"] for one in report["platforms"]] == ["tiny"]


def test_gc(store: Store, cache: Imgc) -> None:
    for number in range(4):
        fill(store, LAYERS, f"k{number}", age=100 * number)
    assert "would remove 2 layers" in cache("gc", "--size", "250K", "--dry-run").output
    assert store.has_layer("k3")
    done = cache("gc", "--size", "250K")
    assert "removed 2 layers" in done.output and "left, of at most 250.0 KiB" in done.output
    assert [store.has_layer(f"k{number}") for number in range(4)] == [True, True, False, False]
    report = json.loads(cache("gc", "--size", "1K", "--json").output)
    removed = {one["kind"]: one for one in report["removed"]}
    assert removed["layers"]["count"] == 2
    assert removed["layers"]["paths"] == [str(store.layer("k1")), str(store.layer("k0"))]
    assert report["bytes"] == 0


def test_gc_keeps_to_the_environment_and_to_running_builds(store: Store, cache: Imgc) -> None:
    fill(store, LAYERS, "a")
    fill(store, LAYERS, "b")
    with store.using("one", ["a"]):
        done = cache("gc", env={"IMGC_CACHE_SIZE": "1K"})
    assert done.exit_code == 0
    assert "The rest is in use by one-" in done.stderr
    assert store.has_layer("a") and not store.has_layer("b")


def test_sizes_that_make_no_sense(store: Store, cache: Imgc) -> None:
    for text in ("30", "much", "-1G", ""):
        ended = cache("gc", "--size", text)
        assert ended.exit_code == 2 and "--size" in ended.stderr, text
    ended = cache("gc", env={"IMGC_CACHE_SIZE": "much"})
    assert ended.exit_code == 1 and "E622: IMGC_CACHE_SIZE" in ended.stderr


def test_verify(store: Store, cache: Imgc) -> None:
    for key in ("a", "b"):
        fill(store, LAYERS, key)
    sound = cache("verify")
    assert (sound.exit_code, sound.stdout) == (0, "2 things read, 195.3 KiB; 0 damaged.\n")
    archive = store.layer("a") / "state.tar"
    status, content = archive.stat(), bytearray(archive.read_bytes())
    content[50_000] ^= 1
    archive.write_bytes(content)
    os.utime(archive, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = cache("verify", "--json")
    assert found.exit_code == 1
    (damage,) = json.loads(found.output)["damaged"]
    assert damage["path"] == "layers/a" and "sha256" in damage["why"]
    assert not store.layer("a").exists()
    assert cache("verify").exit_code == 0
    (store.layer("b") / "meta.json").write_text("{")
    again = cache("verify")
    assert again.exit_code == 1
    assert "damaged, and dropped: layers/b: meta.json is missing or damaged" in again.stderr


def test_the_cache_that_is_meant(store: Store, tmp_path: Path) -> None:
    """The option beats the environment, before and after the command; a cache need not be there yet."""
    elsewhere = {"IMGC_CACHE": str(tmp_path / "elsewhere")}
    here, new = str(store.cache), str(tmp_path / "new")
    for arguments, shown in (
        (["--cache", here, "cache", "show"], here),
        (["cache", "--cache", here, "show"], here),
        (["--cache", new, "cache", "show", "--cache", here], here),
        (["cache", "show"], elsewhere["IMGC_CACHE"]),
        (["--cache", new, "cache", "show"], new),
    ):
        done = run_imgc(arguments, **elsewhere)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{shown}: "), arguments


@pytest.mark.parametrize("command", ["show", "gc", "verify"])
def test_a_cache_that_cannot_be(command: str, tmp_path: Path, imgc: Imgc) -> None:
    (tmp_path / "file").touch()
    ended = imgc("--cache", str(tmp_path / "file" / "cache"), "cache", command)
    assert ended.exit_code == 1 and "E304" in ended.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, imgc: Imgc) -> None:
    command = COMMANDS[name]
    assert isinstance(command, Command)
    shown = imgc("cache", name, "--help")
    assert shown.exit_code == 0 and "Examples:" in shown.output
    assert all(one.help for one in command.params if isinstance(one, click.Option))
    assert sum(isinstance(one, CommonOption) for one in command.params) == 4
    for line, _ in command.examples:
        words = shlex.split(line.partition("|")[0])
        assert words[:3] == ["imgc", "cache", name]
        command.make_context(name, words[3:])
