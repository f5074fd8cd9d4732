"""The same platform built twice: bit for bit the same, or told what differs and which step wrote it."""

from __future__ import annotations

import filecmp
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgc.build import BuildOptions, Settings, compile_platform
from imgc.engine.events import ArtifactReady, Event, Stream
from imgc.engine.store import Store
from imgc.reproduce import Verdict, built, check_reproducible, compare
from tests.integration.debian import Debian
from tests.integration.project import Project
from tests.integration.users import may_make_user_namespaces, ordinary_user

#: What of a cache came from outside, and with which pins: the second build is given it.
OUTSIDE = ("pins", "archives", "wheels", "git", "files")

#: How the second build differs from the first, besides its user and its paths.
OTHERWISE = (
    "env",
    "TZ=Pacific/Kiritimati",
    "PYTHONHASHSEED=7",
    "taskset",
    "--cpu-list",
    str(min(os.sched_getaffinity(0))),
    "sh",
    "-c",
    'umask 027; exec "$@"',
    "sh",
)


def settings(project: Project) -> Settings:
    project.command()
    return Settings(project.directory / "specs", project.cache, dict(os.environ))


def check(project: Project, *, fresh: bool = False) -> tuple[Verdict, list[Event]]:
    seen: list[Event] = []
    options = BuildOptions(project.images, fresh=fresh)
    return check_reproducible(project.name, settings(project), options, Stream(seen.append)), seen


def circumstances() -> tuple[object, ...]:
    """What a check changes for a while."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask, os.environ.get("TZ"), time.tzname, os.sched_getaffinity(0)


@contextmanager
def another_user(directory: Path) -> Iterator[tuple[str, ...]]:
    """The command prefix for an ordinary user who owns the new ``directory``; for this one where none may build."""
    directory.mkdir()
    for parent in directory.parents:
        if parent.name.startswith("pytest-") or parent == directory.parent:
            parent.chmod(0o755)
    with ordinary_user(directory, subordinate_ids=True) as prefix:
        yield (*prefix, *OTHERWISE) if may_make_user_namespaces(prefix) else OTHERWISE


# --- a tiny system -----------------------------------------------------------------------------------------------


def test_a_platform_that_is_always_the_same(project: Project) -> None:
    project.outputs = "{format: tar, compression: none}, {format: tar, compression: zstd}"
    project.hook(
        "one/install.d/50-one",
        "mkdir -p /srv/d; echo $RANDOM >/srv/d/x; echo $RANDOM >/etc/random; date +%s%N >/etc/date; ln -s a /etc/l",
    )
    # What differs on the way and is gone in the end is no difference.
    project.hook("one/install.d/60-one", "rm -r /srv/d /etc/random; mkdir /srv/d; echo same >/etc/date")
    before = circumstances()
    verdict, seen = check(project)
    assert circumstances() == before
    assert verdict.problem is None
    assert verdict.second and verdict.second.cached == 0
    assert verdict.first.ran == verdict.second.ran > 5
    ready = [Path(event.path) for event in seen if isinstance(event, ArtifactReady)]
    assert sorted(ready) == [project.images / "tiny.tar", project.images / "tiny.tar.zst"]
    assert list((project.cache / "work").iterdir()) == []
    # Nothing of the first build is made again, and the second one is.
    again, _ = check(project)
    assert again.problem is None and again.second
    assert (again.first.ran, again.second.ran) == (0, verdict.second.ran)


def test_the_file_and_the_step_are_named(project: Project) -> None:
    project.hook("one/install.d/50-one", "echo same >/etc/a; date +%s%N >/etc/b; date +%s%N >/etc/c")
    project.hook("one/install.d/60-one", "cat /proc/sys/kernel/random/uuid >/etc/c")
    project.hook("one/post-install.d/50-one", "touch /etc/d")
    verdict, _ = check(project)
    found = verdict.difference
    assert found and (found.path, found.step) == ("/etc/b", "tiny/install.d/50-one")
    assert (
        "+++ second" in found.detail
        and "/etc/c (content (37 bytes in both); tiny/install.d/60-one)" in found.detail
    )
    assert verdict.problem and verdict.problem.code == "E641"
    assert "/etc/b" in verdict.problem.message and "tiny/install.d/50-one" in verdict.problem.message
    # The build as such was a good one.
    assert verdict.first.status == "ok" and project.tar.exists()


def test_what_a_hook_left_beside_the_image_counts(project: Project) -> None:
    project.hook("one/post-root.d/50-one", "mkdir tiny.d; date +%N >tiny.d/date")
    verdict, _ = check(project)
    found = verdict.difference
    assert found and found.path == "beside the image:/tiny.d/date"
    assert found.step == "tiny/post-root.d/50-one"


def test_a_build_that_fails_is_not_compared(project: Project) -> None:
    project.hook("one/install.d/50-one", "exit 3")
    verdict, _ = check(project)
    assert (verdict.second, verdict.difference) == (None, None)
    assert verdict.problem and verdict.problem.code == "E301"


def test_a_build_that_fails_the_second_time(project: Project) -> None:
    # What hooks download is shared, so the second build finds what the first one left there.
    project.hook("one/root.d/60-one", "[ ! -e $DIB_IMAGE_CACHE/once ] || exit 3; touch $DIB_IMAGE_CACHE/once")
    verdict, _ = check(project)
    assert verdict.first.status == "ok" and verdict.second and verdict.second.status == "failed"
    assert verdict.problem and verdict.problem.code == "E301" and verdict.difference is None
    assert list((project.cache / "work").iterdir()) == []


def test_another_user_elsewhere_makes_the_same(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    mine, theirs = Project(tmp_path / "mine"), Project(tmp_path / "theirs")
    with another_user(tmp_path / "theirs") as theirs.prefix:
        for project in (mine, theirs):
            project.hook("one/install.d/50-one", "echo x >/etc/x; chown 12:34 /etc/x; rm /etc/os-release")
            project.hook("one/install.d/60-one", "mkdir -p /srv/a; umask; touch /srv/b; ln /srv/b /srv/c")
            done = project.build()
            assert done.status == 0, done.errors
    assert mine.tar.read_bytes() == theirs.tar.read_bytes()


# --- Debian ------------------------------------------------------------------------------------------------------


class Again(Debian):
    """The same Debian in a cache that is always its own."""

    @property
    def cache(self) -> Path:
        return self.directory / "cache"


@pytest.mark.integration
def test_debian_is_the_same_bit_for_bit(debian: Debian, tmp_path: Path) -> None:
    """Built anew by another user, in another directory, on one processor, with layers on disk."""
    again = Again(tmp_path / "again")
    with another_user(again.directory) as again.prefix:
        # Whatever the tests before this one have made of it.
        again.say(debian.text("etc/last").strip())
        for name in OUTSIDE:
            if (debian.cache / name).is_dir():
                shutil.copytree(debian.cache / name, again.cache / name, symlinks=True)
        owner = again.directory.stat()
        for directory, _, names in os.walk(again.directory):
            for path in (directory, *(os.path.join(directory, name) for name in names)):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        running = again.start("--disk")
        done = running.end(seconds=900)
        assert done.status == 0, done.errors
    pair = [built(compile_platform(one.name, settings(one)), Store(one.cache)) for one in (debian, again)]
    assert compare(pair[0], pair[1]) is None
    for suffix in ("tar", "raw", "qcow2", "vhd"):
        files = [one.images / f"{one.name}.{suffix}" for one in (debian, again)]
        assert filecmp.cmp(*files, shallow=False), suffix
