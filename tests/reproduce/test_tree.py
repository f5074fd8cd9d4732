"""Which files a chain of layers shows, and who wrote them."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from imgc.errors import ImgcError
from imgc.reproduce.tree import Layer, content, read_tree

from .archives import directory, layer, member, opaque, whiteout


def steps(chain: list[Layer]) -> dict[str, str]:
    return {path: entry.step for path, entry in read_tree(chain).items()}


def test_the_topmost_layer_counts(tmp_path: Path) -> None:
    chain = [
        layer(tmp_path, "one", {"mnt": directory(), "mnt/a": b"old", "mnt/b": b"b", "hooks/h": b"no part"}),
        layer(tmp_path, "two", {"mnt/a": b"new", "out/image.d": directory(), "out/image.d/x": b"x"}),
    ]
    tree = read_tree(chain)
    assert steps(chain) == {
        "/": "one",
        "/a": "two",
        "/b": "one",
        "beside the image:/image.d": "two",
        "beside the image:/image.d/x": "two",
    }
    assert (tree["/a"].size, tree["/b"].size) == (3, 1) and tree["/a"].content != tree["/b"].content
    assert content(chain, "one", "/a") == b"old" and content(chain, "two", "/a") == b"new"


def test_what_was_removed_is_gone(tmp_path: Path) -> None:
    below = {"mnt/d": directory(), "mnt/d/x": b"x", "mnt/d/e": directory(), "mnt/d/e/y": b"y", "mnt/f": b"f"}
    removed = [layer(tmp_path, "one", below), layer(tmp_path, "two", {"mnt/d": whiteout()})]
    assert steps(removed) == {"/f": "one"}
    again = [*removed, layer(tmp_path, "three", {"mnt/d": directory(), "mnt/d/z": b"z"})]
    assert steps(again) == {"/f": "one", "/d": "three", "/d/z": "three"}


def test_an_opaque_directory_hides_the_one_below(tmp_path: Path) -> None:
    chain = [
        layer(tmp_path, "one", {"mnt/d": directory(), "mnt/d/x": b"x"}),
        layer(tmp_path, "two", {"mnt/d": opaque(), "mnt/d/y": b"y"}),
        layer(tmp_path, "three", {"mnt/d/z": b"z"}),
    ]
    assert steps(chain) == {"/d": "two", "/d/y": "two", "/d/z": "three"}
    user = directory(pax_headers={"SCHILY.xattr.user.overlay.opaque": "y"})
    chain[1] = layer(tmp_path, "four", {"mnt/d": user})
    assert steps(chain) == {"/d": "four", "/d/z": "three"}


def test_a_file_in_the_place_of_a_directory(tmp_path: Path) -> None:
    chain = [
        layer(tmp_path, "one", {"mnt/d": directory(), "mnt/d/x": b"x"}),
        layer(tmp_path, "two", {"mnt/d": b"a file now"}),
    ]
    assert steps(chain) == {"/d": "two"}


def test_everything_that_an_image_keeps_of_a_file(tmp_path: Path) -> None:
    capability = {"SCHILY.xattr.security.capability": "c", "SCHILY.xattr.trusted.overlay.origin": "o"}
    files = {
        "mnt/file": member(uid=12, gid=34, mode=0o4755, pax_headers={"mtime": "1000.5", "atime": "7"}),
        "mnt/can": member(pax_headers=capability),
        "mnt/link": member(tarfile.SYMTYPE, linkname="file"),
        "mnt/null": member(tarfile.CHRTYPE, devmajor=1, devminor=3),
        "mnt/fifo": member(tarfile.FIFOTYPE),
    }
    tree = read_tree([layer(tmp_path, "one", files)])
    file = tree["/file"]
    assert (file.kind, file.owner, file.mode, file.time) == ("file", (12, 34), 0o4755, "1000.5")
    assert tree["/can"].attributes == (("security.capability", "c"),)
    assert (tree["/link"].kind, tree["/link"].target) == ("link", "file")
    assert (tree["/null"].kind, tree["/null"].target) == ("device", "character 1:3")
    assert tree["/fifo"].kind == "fifo"


def test_hard_links_that_are_still_there(tmp_path: Path) -> None:
    def link(to: str) -> tarfile.TarInfo:
        return member(tarfile.LNKTYPE, linkname=f"./mnt/{to}")

    below = layer(tmp_path, "one", {"mnt/z": b"same", "mnt/a": link("z"), "mnt/m": link("z")})
    tree = read_tree([below])
    assert tree["/a"].content == tree["/z"].content and tree["/a"].size == 4
    assert tree["/a"].names == tree["/z"].names == ("/a", "/m", "/z")
    # The one with the content is covered; the others are still the same file.
    tree = read_tree([below, layer(tmp_path, "two", {"mnt/z": b"other"})])
    assert tree["/a"].names == ("/a", "/m") and tree["/z"].names == ()
    assert content([below], "one", "/a") == b"same"


def test_layers_as_the_engine_packs_them(tmp_path: Path) -> None:
    """GNU tar with holes and numbers of owners: what the archive of a real directory says."""
    top = tmp_path / "state"
    (top / "mnt/d").mkdir(parents=True)
    (top / "mnt/d/file").write_bytes(b"begin")
    with open(top / "mnt/d/file", "r+b") as file:
        file.truncate(1_000_000)
        file.seek(999_997)
        file.write(b"end")
    sparse, plain = tmp_path / "sparse.tar", tmp_path / "plain.tar"
    for archive, more in ((sparse, ["--sparse"]), (plain, [])):
        tar = ["tar", "-c", "-f", str(archive), "-C", str(top), "--format=posix", "--xattrs", *more, "."]
        subprocess.run(tar, check=True)
    assert sparse.stat().st_size < 100_000 < plain.stat().st_size
    trees = [read_tree([Layer("one", archive)]) for archive in (sparse, plain)]
    assert trees[0] == trees[1]
    assert trees[0]["/d/file"].size == 1_000_000
    shutil.rmtree(top)


def test_a_layer_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "junk.tar").write_bytes(b"junk" * 1000)
    for archive in (tmp_path / "junk.tar", tmp_path / "missing.tar"):
        with pytest.raises(ImgcError, match="tiny/one") as caught:
            read_tree([Layer("tiny/one", archive)])
        assert caught.value.code == "E642"
