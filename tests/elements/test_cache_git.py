"""cache-git with the stock driver: its hooks, run as that runs them, and what a user of the image finds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import imgc

sys.path.insert(0, str(Path(__file__).parent.parent / "sources"))
from outside_world import Repository, git_daemon, repository

ELEMENT = Path(imgc.__file__).parent / "elements/cache-git"


@pytest.fixture
def nova(tmp_path: Path) -> Repository:
    made = repository(tmp_path / "up" / "openstack" / "nova")
    made.git("branch", "stable/2026.1")
    return made


@pytest.fixture
def environment(nova: Repository, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What the stock driver and a user give the hooks; sudo is a stand-in, as tests may run as anybody."""
    (tmp_path / "projects.yaml").write_text("- project: openstack/nova\n- project: openstack/none\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (tmp_path / "bin/sudo").chmod(0o755)
    (tmp_path / "image").mkdir()
    with git_daemon(tmp_path / "up") as base:
        yield {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "TMP_MOUNT_PATH": str(tmp_path / "image"),
            "DIB_IMAGE_CACHE": str(tmp_path / "cache"),
            "DIB_PYTHON_EXEC": sys.executable,
            "DIB_CACHE_GIT_PROJECTS": str(tmp_path / "projects.yaml"),
            "DIB_CACHE_GIT_BASE": "https://opendev.example.org",
            "DIB_CACHE_GIT_MIRROR": base,
            "DIB_CACHE_GIT_DIRECTORY": "/opt/git",
        }


def extra_data(environment: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    hook = ELEMENT / "extra-data.d/55-cache-git"
    return subprocess.run(
        [hook], env={**environment, **more}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def tree(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "image/opt/git/openstack/nova")


def test_the_stock_driver_gets_the_trees(
    environment: dict[str, str], nova: Repository, tmp_path: Path
) -> None:
    done = extra_data(environment)
    assert done.returncode == 0, done.stdout
    found = tree(tmp_path)
    assert found.git("-c", "safe.directory=*", "rev-parse", "stable/2026.1") == nova.git("rev-parse", "HEAD")
    origin = found.git("-c", "safe.directory=*", "config", "remote.origin.url")
    assert origin == "https://opendev.example.org/openstack/nova"
    # The one that is not there is named, with the place of its entry, and breaks nothing.
    assert (
        f"imgc: warning: {tmp_path / 'projects.yaml'}:2:12: E653: The project openstack/none" in done.stdout
    )
    # Files of the image are not those of the cache.
    assert os.stat(found.path / "file").st_nlink == 1
    assert [path for path in (tmp_path / "cache/imgc").iterdir() if path.name.startswith("tmp.")] == []


def test_strict_ends_the_build(environment: dict[str, str], tmp_path: Path) -> None:
    done = extra_data(environment, DIB_CACHE_GIT_STRICT="1")
    assert done.returncode == 1
    assert "E653" in done.stdout
    assert not tree(tmp_path).path.exists()


def test_the_second_build_may_be_offline(environment: dict[str, str], tmp_path: Path) -> None:
    assert extra_data(environment).returncode == 0
    nowhere = {"DIB_CACHE_GIT_MIRROR": "git://127.0.0.1:1", "DIB_OFFLINE": "1"}
    environment["TMP_MOUNT_PATH"] = str(tmp_path / "second")
    (tmp_path / "second").mkdir()
    done = extra_data(environment, **nowhere)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "second/opt/git/openstack/nova/file").read_text() == "first"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"DIB_CACHE_GIT_BRANCHES": "("}, "DIB_CACHE_GIT_BRANCHES: E109: "),
        ({"DIB_CACHE_GIT_DIRECTORY": "opt/../git"}, "DIB_CACHE_GIT_DIRECTORY: E109: "),
        ({"DIB_CACHE_GIT_CONNECTIONS": "0"}, "E109: There has to be one connection at least."),
        ({"DIB_CACHE_GIT_PROJECTS": "/none"}, "DIB_CACHE_GIT_PROJECTS: E651: "),
    ],
)
def test_settings_that_cannot_be(environment: dict[str, str], settings: dict[str, str], said: str) -> None:
    done = extra_data(environment, **settings)
    assert done.returncode == 1
    assert said in done.stdout
    assert "Traceback" not in done.stdout


def test_without_a_list_nothing_is_done(environment: dict[str, str], tmp_path: Path) -> None:
    del environment["DIB_CACHE_GIT_PROJECTS"]
    assert extra_data(environment).returncode == 0
    assert list((tmp_path / "image").iterdir()) == []


def test_imgc_brings_the_trees_itself(environment: dict[str, str], tmp_path: Path) -> None:
    done = extra_data(environment, IMGC_OFFERS="/dev/imgc/offers")
    assert done.returncode == 0
    assert done.stdout.startswith("imgc: warning: DIB_CACHE_GIT_PROJECTS")
    assert list((tmp_path / "image").iterdir()) == []


def test_an_ordinary_user_reads_them_after_the_hook_in_the_image(
    environment: dict[str, str], tmp_path: Path
) -> None:
    assert extra_data(environment).returncode == 0
    image = tmp_path / "image"
    for name in ("usr", "dev", "etc", "hooks"):
        (image / name).mkdir()
    for name in ("bin", "lib", "lib64", "sbin"):
        (image / name).symlink_to(f"usr/{name}")
    os.chmod(tmp_path, 0o755)
    script = """
        mount --bind /usr "$1/usr" && mount --bind /dev "$1/dev" && mount --bind "$2" "$1/hooks" || exit 9
        in="env -i PATH=/usr/sbin:/usr/bin HOME=/nonexistent DIB_CACHE_GIT_DIRECTORY=/opt/git chroot $1"
        $in /hooks/50-cache-git && $in /hooks/50-cache-git || exit 1
        $in setpriv --reuid 65534 --regid 65534 --clear-groups git -C /opt/git/openstack/nova log
    """
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(image), str(ELEMENT / "install.d")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "first" in done.stdout
    # Twice is once.
    assert (image / "etc/gitconfig").read_text() == "[include]\n\tpath = /opt/git/.gitconfig\n"
