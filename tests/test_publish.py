"""Outputs under their final names: whole or not at all, with the checksums that belong to them."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from imgc.errors import ImgcError
from imgc.publish import publish

Result = tuple[Path, dict[str, Any]]


def result(directory: Path, text: str, suffix: str = "raw") -> Result:
    """A result of the store, and what is recorded with it."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"image.{suffix}"
    file.write_text(text)
    data = text.encode()
    return file, {
        "format": suffix,
        "suffix": suffix,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "md5": hashlib.md5(data).hexdigest(),
    }


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_an_output_and_its_checksums(tmp_path: Path) -> None:
    made = result(tmp_path / "store", "image")
    (artifact,) = publish("one", [made], tmp_path / "a" / "b")
    assert artifact.path == tmp_path / "a" / "b" / "one.raw"
    assert (artifact.format, artifact.size) == ("raw", 5)
    assert artifact.path.read_text() == "image"
    assert names(tmp_path / "a" / "b") == ["one.raw", "one.raw.md5", "one.raw.sha256"]
    assert Path(f"{artifact.path}.md5").read_text() == f"{artifact.md5}  one.raw\n"
    assert os.path.samefile(artifact.path, made[0]), "no second copy where links are possible"


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    made = result(tmp_path / "store", "image")
    out = tmp_path / "out"
    publish("one", [made], out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    publish("one", [made], out)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize("damage", ["missing", "wrong", "binary", "image gone", "image touched"])
def test_what_is_not_quite_there_is_published_again(tmp_path: Path, damage: str) -> None:
    made = result(tmp_path / "store", "image")
    out = tmp_path / "out"
    publish("one", [made], out)
    if damage == "missing":
        (out / "one.raw.md5").unlink()
    elif damage == "wrong":
        (out / "one.raw.sha256").write_text("0  one.raw\n")
    elif damage == "binary":
        (out / "one.raw.sha256").write_bytes(b"\xff")
    else:
        (out / "one.raw").unlink()
        if damage == "image touched":
            (out / "one.raw").write_text("other")
    publish("one", [made], out)
    assert names(out) == ["one.raw", "one.raw.md5", "one.raw.sha256"]
    assert (out / "one.raw").read_text() == "image"
    assert (out / "one.raw.md5").read_text() == f"{made[1]['md5']}  one.raw\n"
    assert (out / "one.raw.sha256").read_text() == f"{made[1]['sha256']}  one.raw\n"


def test_a_copy_on_another_file_system_keeps_its_holes(tmp_path: Path) -> None:
    """/dev/shm is one that every Linux has."""
    file, meta = result(tmp_path / "store", "")
    with file.open("r+b") as opened:
        opened.truncate(64 * 2**20)
        opened.seek(32 * 2**20)
        opened.write(b"middle")
    meta["size"] = file.stat().st_size
    out = Path("/dev/shm") / f"imgc-test-{os.getpid()}"
    try:
        (artifact,) = publish("one", [(file, meta)], out)
        assert artifact.path.read_bytes() == file.read_bytes()
        assert artifact.path.stat().st_blocks * 512 < 2**20
        before = artifact.path.stat()
        publish("one", [(file, meta)], out)
        assert artifact.path.stat().st_ino == before.st_ino, "an untouched copy counts as there"
    finally:
        for path in out.iterdir():
            path.unlink()
        out.rmdir()


def test_of_several_all_or_none(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish("one", [result(tmp_path / "old", "old raw"), result(tmp_path / "old", "old tar", "tar")], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    gone = result(tmp_path / "new", "new tar", "tar")
    gone[0].unlink()
    with pytest.raises(ImgcError) as raised:
        publish("one", [result(tmp_path / "new", "new raw"), gone], out)
    assert raised.value.code == "E405"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out" / "one.raw").mkdir(parents=True)
    with pytest.raises(ImgcError) as raised:
        publish("one", [result(tmp_path / "store", "image")], tmp_path / "out")
    assert raised.value.code == "E405"
    assert str(tmp_path / "out" / "one.raw") in raised.value.message
    assert names(tmp_path / "out") == ["one.raw"]


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ImgcError, match="cannot be written") as raised:
        publish("one", [result(tmp_path / "store", "image")], tmp_path / "out")
    assert raised.value.code == "E405"


def test_many_at_once_never_mix(tmp_path: Path) -> None:
    """Several publish different images under one name: in the end it is one of them, with its own checksums."""
    made = [result(tmp_path / f"store{number}", f"image {number}" * 1000) for number in range(4)]
    out = tmp_path / "out"
    problems: list[ImgcError] = []

    def keep_publishing(one: Result) -> None:
        try:
            for _ in range(20):
                publish("one", [one], out)
        except ImgcError as problem:
            problems.append(problem)

    threads = [threading.Thread(target=keep_publishing, args=(one,)) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert names(out) == ["one.raw", "one.raw.md5", "one.raw.sha256"]
    digest = hashlib.sha256((out / "one.raw").read_bytes()).hexdigest()
    assert (out / "one.raw.sha256").read_text() == f"{digest}  one.raw\n"
