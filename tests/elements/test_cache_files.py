"""cache-files as the stock driver runs it: its hook, with imgc as the host's Python has it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import imgc
from imgc.caches.standalone_files import read_list
from imgc.errors import ImgcError

sys.path.insert(0, str(Path(__file__).parent.parent / "sources"))
from outside_world import Web, web

PACKAGE = Path(imgc.__file__).parent
HOOK = PACKAGE / "elements/cache-files/extra-data.d/55-cache-files"


@pytest.fixture
def server() -> Iterator[Web]:
    with web() as world:
        world.files = {"/get-pip.py": b"pip", "/images/cirros.img": b"cirros"}
        yield world


def run(tmp_path: Path, files: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The hook in the environment of the stock driver, with imgc's stand-in for sudo."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    shutil.copy(PACKAGE / "engine/sandbox_files/sudo", programs / "sudo")
    (programs / "sudo").chmod(0o755)
    (tmp_path / "root").mkdir(exist_ok=True)
    env = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(PACKAGE.parent),
        "DIB_PYTHON_EXEC": sys.executable,
        "DIB_IMAGE_CACHE": str(tmp_path / "cache"),
        "DIB_CACHE_FILES": files,
        "DIB_CACHE_FILES_DIRECTORY": "/opt/cache/files",
        "TMP_MOUNT_PATH": str(tmp_path / "root"),
        **more,
    }
    return subprocess.run([HOOK], env=env, capture_output=True, text=True)


def test_the_files_are_in_the_image(server: Web, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"pip").hexdigest()
    lines = (
        f"# what jobs fetch\n{server.url}/get-pip.py {digest}\n\n{server.url}/images/cirros.img disk.img\n"
    )
    done = run(tmp_path, lines)
    assert done.returncode == 0, done.stdout + done.stderr
    directory = tmp_path / "root/opt/cache/files"
    assert {one.name: one.read_bytes() for one in directory.iterdir()} == {
        "get-pip.py": b"pip",
        "disk.img": b"cirros",
    }
    assert {one.stat().st_mode & 0o7777 for one in directory.iterdir()} == {0o644}
    if os.geteuid() == 0:
        assert {(one.stat().st_uid, one.stat().st_gid) for one in directory.iterdir()} == {(0, 0)}


def test_a_second_image_fetches_nothing_again(server: Web, tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, f"{server.url}/get-pip.py").returncode == 0
    assert [status for _, status in server.requests] == [200, 304]


def test_a_dead_url_is_a_warning_with_its_place_and_an_error_when_strict(server: Web, tmp_path: Path) -> None:
    lines = f"{server.url}/get-pip.py\n{server.url}/dead.img"
    done = run(tmp_path, lines)
    assert done.returncode == 0, done.stderr
    assert "imgc: warning: DIB_CACHE_FILES:2:1: E659: " in done.stderr
    assert (tmp_path / "root/opt/cache/files/get-pip.py").exists()
    done = run(tmp_path, lines, DIB_CACHE_FILES_STRICT="1")
    assert done.returncode == 1
    assert "DIB_CACHE_FILES:2:1: E659: " in done.stderr and "Traceback" not in done.stderr


def test_under_imgc_it_leaves_the_files_to_the_spec(server: Web, tmp_path: Path) -> None:
    done = run(tmp_path, f"{server.url}/get-pip.py", IMGC_OFFERS="/dev/imgc/offers")
    assert done.returncode == 0
    assert "imgc: warning: " in done.stdout
    assert not server.requests


def test_bad_lines_are_all_told_with_their_places() -> None:
    with pytest.raises(ImgcError) as raised:
        read_list("https://a.example/one\n  not-a-url\n\nhttps://a.example/two name name\n")
    told = str(raised.value)
    assert "DIB_CACHE_FILES:2:3: E109" in told and "DIB_CACHE_FILES:4:1: E109" in told


@given(st.text())
def test_any_text_is_a_list_or_told(text: str) -> None:
    try:
        entries, places = read_list(text)
    except ImgcError as problem:
        assert "E109" in str(problem)
    else:
        assert len(entries) == len(places)
