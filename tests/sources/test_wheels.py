"""Wheels as pinned sources: real pip, with a directory of wheels for its index."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from outside_world import wheel

from imgc.errors import ImgcError
from imgc.lock import Source
from imgc.sources.wheels import fetch_wheels, pin_wheels


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that is pip's only index."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    directory = tmp_path / "index"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return directory


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def source(*requirements: str, python: str = "3.11") -> Source:
    return Source("wheels", "tools", "", (("python", python), ("requirements", "\n".join(requirements))))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A cache in which nothing is yet."""
    return tmp_path / "other"


def files_of(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_requirement_is_pinned_with_all_that_it_depends_on(index: Path, cache: Path) -> None:
    tool = wheel(index, "tool", "1.0", requires=["helper"])
    helper = wheel(index, "helper", "0.9")
    pin = pin_wheels(source("tool"), cache)
    assert pin.identity == tuple(
        (path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in (helper, tool)
    )
    assert pin.notes == (("requirements", "tool"), ("python", "3.11"))
    assert str(index) not in repr(pin)


@pytest.mark.parametrize(("python", "version"), [("3.4", "1.0"), ("3.11", "2.0"), ("3.13", "3.0")])
def test_the_newest_release_that_the_images_python_runs_is_taken(
    index: Path, cache: Path, python: str, version: str
) -> None:
    wheel(index, "tool", "1.0", tag="py2.py3-none-any")
    wheel(index, "tool", "2.0", python=">=3.8")
    wheel(index, "tool", "3.0", python=">=3.12")
    ((name, _),) = pin_wheels(source("tool", python=python), cache).identity
    assert name.startswith(f"tool-{version}-")


@pytest.mark.parametrize(("python", "dependency"), [("2.7", "old"), ("3.4", "old"), ("3.13", "new")])
def test_markers_are_those_of_the_images_python(
    index: Path, cache: Path, python: str, dependency: str
) -> None:
    """pip by itself evaluates them for the Python that runs it."""
    tag = "py2.py3-none-any"
    wheel(
        index,
        "tool",
        "1.0",
        tag=tag,
        requires=["old; python_version < '3.8'", "new; python_version >= '3.8'"],
    )
    for name in ("old", "new"):
        wheel(index, name, "1.0", tag=tag)
    names = [name.split("-")[0] for name, _ in pin_wheels(source("tool", python=python), cache).identity]
    assert names == sorted(["tool", dependency])


def test_a_package_without_a_pure_wheel_is_told_with_what_pip_says(index: Path, cache: Path) -> None:
    wheel(index, "tool", "1.0", tag="cp311-cp311-linux_x86_64")
    with pytest.raises(ImgcError) as caught:
        pin_wheels(source("tool>=1"), cache)
    assert caught.value.code == "E614"
    assert (
        "The wheels of tools (tool>=1, for Python 3.11) cannot be pinned: pip says: No matching"
        in caught.value.message
    )


def test_exactly_the_pinned_files_are_fetched(index: Path, cache: Path, other: Path) -> None:
    wheel(index, "tool", "1.0", requires=["helper"])
    wheel(index, "helper", "0.9")
    pin = pin_wheels(source("tool"), cache)
    wheel(index, "tool", "2.0")
    directory = fetch_wheels(source("tool"), pin, other, offline=False)
    assert files_of(directory) == ["helper-0.9-py3-none-any.whl", "tool-1.0-py3-none-any.whl"]
    assert directory.parent == other / "wheels"


def test_what_was_pinned_is_in_the_cache_already(index: Path, cache: Path) -> None:
    wheel(index, "tool", "1.0")
    pin = pin_wheels(source("tool"), cache)
    for file in index.iterdir():
        file.unlink()
    assert files_of(fetch_wheels(source("tool"), pin, cache, offline=True)) == ["tool-1.0-py3-none-any.whl"]
    assert pin.is_for(source("tool")) and not pin.is_for(source("tool>1"))


@pytest.mark.parametrize("damage", ["changed", "missing", "added"])
def test_a_directory_that_is_not_as_it_was_made_is_made_anew(index: Path, cache: Path, damage: str) -> None:
    wheel(index, "tool", "1.0")
    pin = pin_wheels(source("tool"), cache)
    directory = fetch_wheels(source("tool"), pin, cache, offline=False)
    (file,) = directory.iterdir()
    if damage == "missing":
        file.unlink()
    else:
        (file if damage == "changed" else directory / "evil-1.0-py3-none-any.whl").write_bytes(b"evil")
    with pytest.raises(ImgcError, match="E604"):
        fetch_wheels(source("tool"), pin, cache, offline=True)
    fetch_wheels(source("tool"), pin, cache, offline=False)
    assert {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in files_of(directory)
    } == dict(pin.identity)


def test_other_bytes_under_the_same_name_are_refused(index: Path, cache: Path, other: Path) -> None:
    wheel(index, "tool", "1.0")
    pin = pin_wheels(source("tool"), cache)
    wheel(index, "tool", "1.0", text="evil")
    with pytest.raises(ImgcError) as caught:
        fetch_wheels(source("tool"), pin, other, offline=False)
    assert caught.value.code == "E602"
    assert pin.identity[0][1] in caught.value.detail, "pip tells both digests"
    assert [path for path in (other / "wheels").iterdir() if path.is_dir()] == []


def test_a_release_that_the_index_no_longer_has_is_told(index: Path, cache: Path, other: Path) -> None:
    tool = wheel(index, "tool", "1.0")
    pin = pin_wheels(source("tool"), cache)
    tool.unlink()
    wheel(index, "tool", "2.0")
    with pytest.raises(
        ImgcError, match=r"E615: The index no longer has a wheel to which tools is pinned: .*tool==1\.0"
    ):
        fetch_wheels(source("tool"), pin, other, offline=False)
