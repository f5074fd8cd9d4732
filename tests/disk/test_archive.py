"""A tree as an archive."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from imgc.disk import archive, inside
from imgc.disk.check import check_outputs
from imgc.errors import ImgcError
from imgc.spec.model import Output

from .readback import run
from .trees import CAPABILITY

OPENERS = {"none": "tar", "gzip": "tar.gz", "zstd": "tar.zst"}


def output(compression: str) -> Output:
    return Output("tar", OPENERS[compression], (("compression", compression),))


@pytest.fixture
def whole(tree: Path) -> Path:
    for name in ("dev", "proc", "sys", "etc/dev"):
        (tree / name).mkdir(parents=True)
        (tree / name / "thing").touch()
    return tree


@pytest.mark.parametrize("compression", OPENERS)
def test_everything_is_in_it(whole: Path, tmp_path: Path, compression: str) -> None:
    out = tmp_path / f"out.{OPENERS[compression]}"
    archive.tar_tree(str(whole), str(out), output(compression))
    plain = tmp_path / "plain.tar"
    if compression == "none":
        plain = out
    else:
        plain.write_bytes(
            subprocess.run([compression, "-dc", str(out)], capture_output=True, check=True).stdout
        )
    with tarfile.open(plain) as opened:
        members = {member.name: member for member in opened.getmembers()}
        names = opened.getnames()
        assert opened.extractfile("./sparse").read() == (whole / "sparse").read_bytes()  # type: ignore[union-attr]
    assert names[0] == "." and len(names) == len(set(names))
    wanted = {"."}
    for directory, directories, files in os.walk(whole):
        top = os.path.relpath(directory, whole)
        wanted |= {os.path.normpath(os.path.join(top, name)) for name in directories + files}
    assert wanted - {os.path.normpath(name) for name in names} == {
        "dev/thing",
        "proc/thing",
        "sys/thing",
        "socket",
    }
    assert members["./one"].mode == 0o4751 or members["./many/two"].mode == 0o4751
    assert {members[f"./{name}"].islnk() for name in ("many/two", "one", "three")} == {True, False}
    assert members["./big"].pax_headers["SCHILY.xattr.user.note"] == "a value"
    for name, member in members.items():
        status = os.lstat(whole / name)
        assert (member.uid, member.gid, member.uname) == (status.st_uid, status.st_gid, "")
        assert member.mode == stat.S_IMODE(status.st_mode)
        assert not {"atime", "ctime"} & set(member.pax_headers)
    if os.geteuid() == 0:
        value = members["./big"].pax_headers["SCHILY.xattr.security.capability"]
        assert value.encode("utf-8", "surrogateescape") == CAPABILITY


@pytest.mark.parametrize("compression", OPENERS)
def test_the_same_tree_gives_the_same_archive(whole: Path, tmp_path: Path, compression: str) -> None:
    made = []
    for name in ("one", "two"):
        archive.tar_tree(str(whole), str(tmp_path / name), output(compression))
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]


def test_no_file_is_later_than_the_epoch(whole: Path, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        os.utime(whole / "many", (2_000_000_000, 1_900_000_000 + len(made)))
        archive.tar_tree(str(whole), str(tmp_path / name), output("none"), epoch=1_600_000_000)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    with tarfile.open(tmp_path / "one") as opened:
        times = {member.name: member.mtime for member in opened}
    assert times["./many"] == times["./big"] == 1_600_000_000 and times["./one"] == 981_173_106


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_processors_does_not_show(threads: int, tmp_path: Path) -> None:
    """The archive's compressor takes as many threads as there are processors; a larger file has several pieces."""
    data = tmp_path / "data"
    data.write_bytes(os.urandom(1000) * 20_000)
    as_here, other = tmp_path / "here", tmp_path / "other"
    program, *options = archive._COMPRESSORS["zstd"].split()
    assert "-T0" in options
    run(program, *options, str(data), "-o", str(as_here))
    run(program, "-q", f"-T{threads}", str(data), "-o", str(other))
    assert as_here.read_bytes() == other.read_bytes()


def test_in_another_process_and_checked(whole: Path, tmp_path: Path, raw_disk: Path) -> None:
    out = tmp_path / "out.tar.zst"
    done = subprocess.run(
        [sys.executable, "-m", "imgc.disk.archive", archive.request(str(whole), str(out), output("zstd"))],
        cwd=Path(archive.__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert inside.answer(done.stdout) == {}
    assert "./one\n" in run("tar", "--zstd", "-tf", str(out))
    check_outputs(str(raw_disk), [(str(out), output("zstd"))])
    out.write_bytes(out.read_bytes()[:-1000])
    with pytest.raises(ImgcError) as caught:
        check_outputs(str(raw_disk), [(str(out), output("zstd"))])
    assert caught.value.code == "E404" and "out.tar.zst" in caught.value.message


def test_what_cannot_be_written(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ImgcError) as caught:
        archive.tar_tree(str(whole / "no such"), str(tmp_path / "out"), output("none"))
    assert caught.value.code == "E405" and not (tmp_path / "out").exists()
