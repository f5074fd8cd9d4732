"""The first difference between two builds, in words."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from imgc.reproduce.compare import Built, Difference, compare

from .archives import directory, layer, member

EPOCH = 2000


def pair(place: Path, *layers: tuple[dict[str, Any], dict[str, Any]]) -> tuple[Built, Built]:
    """Two builds by their layers, each as (files of the first, files of the second)."""
    builds = []
    for number, name in enumerate(("first", "second")):
        chain = [
            layer(place / name, f"tiny/step-{at}", dict(files[number])) for at, files in enumerate(layers)
        ]
        builds.append(Built("tiny", tuple(chain), {}, EPOCH))
    return builds[0], builds[1]


def difference(place: Path, *layers: tuple[dict[str, Any], dict[str, Any]]) -> Difference:
    found = compare(*pair(place, *layers))
    assert found
    return found


def test_equal_trees(tmp_path: Path) -> None:
    files = {"mnt": directory(), "mnt/a": b"a", "mnt/b": member(pax_headers={"mtime": "1.5"})}
    # What a later step takes away, or writes over, is no difference.
    passing = ({"mnt/log": b"one"}, {"mnt/log": b"two"})
    assert compare(*pair(tmp_path, (files, files), passing, ({"mnt/log": b""}, {"mnt/log": b""}))) is None


def test_the_first_path_and_the_step_that_wrote_it(tmp_path: Path) -> None:
    same = {"mnt/z": b"z", "mnt/etc": directory(), "mnt/etc/b": b"same\nold\n"}
    found = difference(
        tmp_path,
        (same, same),
        ({"mnt/z": b"1"}, {"mnt/z": b"2"}),
        ({"mnt/etc/b": b"same\nfirst\n"}, {"mnt/etc/b": b"same\nsecond\n"}),
    )
    assert (found.path, found.step) == ("/etc/b", "tiny/step-2")
    assert found.what == "content (11 and 12 bytes)"
    assert "-first\n+second" in found.detail
    assert "1 more paths differ:\n  /z (content (1 bytes in both); tiny/step-1)" in found.detail
    problem = found.problem()
    assert problem.code == "E641"
    assert problem.message == (
        "/etc/b differs between two builds of tiny: content (11 and 12 bytes).  It was written by tiny/step-2."
    )


def test_a_path_that_only_one_has(tmp_path: Path) -> None:
    same = {"mnt/a": b"a"}
    found = difference(tmp_path, (same, same), (same, {**same, "mnt/random-123": b""}))
    assert (found.path, found.step, found.what) == (
        "/random-123",
        "tiny/step-1",
        "it is only in the second",
    )


@pytest.mark.parametrize(
    ("one", "two", "what"),
    [
        (member(mode=0o600), member(mode=0o644), "mode 0600 and 0644"),
        (member(uid=1), member(gid=2), "owner 1:0 and 0:2"),
        (member(mtime=1000), member(mtime=1001), "time 1000 and 1001"),
        (b"", directory(), "file and directory"),
        (
            member(tarfile.SYMTYPE, linkname="a"),
            member(tarfile.SYMTYPE, linkname="b"),
            "target a and b",
        ),
        (
            member(pax_headers={"SCHILY.xattr.user.note": "x"}),
            member(),
            "attributes user.note='x' and none",
        ),
    ],
)
def test_what_differs_besides_the_content(tmp_path: Path, one: Any, two: Any, what: str) -> None:
    assert difference(tmp_path, ({"mnt/a": one}, {"mnt/a": two})).what == what


def test_files_that_are_one_in_only_one_build(tmp_path: Path) -> None:
    link = member(tarfile.LNKTYPE, linkname="./mnt/a")
    found = difference(tmp_path, ({"mnt/a": b"x", "mnt/b": link}, {"mnt/a": b"x", "mnt/b": b"x"}))
    assert (found.path, found.what) == ("/a", "names /a, /b and no other")


def test_times_after_the_epoch_are_equal(tmp_path: Path) -> None:
    files = ({"mnt/a": member(mtime=3000)}, {"mnt/a": member(pax_headers={"mtime": "4000.25"})})
    assert compare(*pair(tmp_path, files)) is None


def test_bytes_are_shown_as_such(tmp_path: Path) -> None:
    found = difference(tmp_path, ({"mnt/a": b"ab\0\1"}, {"mnt/a": b"ab\0\2"}))
    assert found.detail == "from byte 3:\n  first  01\n  second 02"


def test_a_long_difference_is_cut(tmp_path: Path) -> None:
    texts = ["\n".join(f"{name}{line}" for line in range(500)).encode() for name in "ab"]
    found = difference(tmp_path, ({"mnt/a": texts[0]}, {"mnt/a": texts[1]}))
    assert len(found.detail.splitlines()) == 21 and found.detail.endswith("more lines)")


def test_outputs_of_equal_trees(tmp_path: Path) -> None:
    first, second = pair(tmp_path, ({"mnt/a": b"a"}, {"mnt/a": b"a"}))
    files = [tmp_path / "first.tar.zst", tmp_path / "second.tar.zst"]
    for file, data in zip(files, (b"12345", b"12x45"), strict=True):
        file.write_bytes(data)
    for build, file in ((first, files[0]), (second, files[1])):
        build.outputs["tar.zst"] = ("tar", file)  # type: ignore[index]
    found = compare(first, second)
    assert found and found.path == "output tiny.tar.zst" and found.what == "from byte 2"
    problem = found.problem()
    assert problem.code == "E643" and "equal trees: from byte 2" in problem.message
    files[1].write_bytes(b"12345")
    assert compare(first, second) is None
    files[1].write_bytes(b"123456")
    found = compare(first, second)
    assert found and found.what == "from byte 5"
