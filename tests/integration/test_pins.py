"""Pins in whole builds: what is outside may move, a build does not, until it is told to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from imgc import lock as locks
from imgc.graph.plan import dib_directory
from tests.integration.project import Project


class Upstream:
    """A git repository that somebody else keeps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._git("init", "-q", "-b", "master", str(path))
        self.commit("one")

    def commit(self, text: str) -> str:
        """A new state of the branch; its commit."""
        (self.path / "file").write_text(f"{text}\n")
        self._git("-C", str(self.path), "add", "file")
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        self._git("-C", str(self.path), *who, "commit", "-q", "-m", text)
        return self._git("-C", str(self.path), "rev-parse", "HEAD")

    @staticmethod
    def _git(*words: str) -> str:
        done = subprocess.run(["git", *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path / "upstream")


@pytest.fixture
def project(tmp_path: Path, upstream: Upstream) -> Project:
    """A platform with a git tree in it, and a step before and after that.

    The stock hook brings the tree; the rest of its element would want a larger system than the tiny one.
    """
    project = Project(tmp_path / "project")
    project.directory.mkdir()
    hook = "source-repositories/extra-data.d/98-source-repositories"
    project.write(hook, (dib_directory() / "elements" / hook).read_text())
    project.write("app/element-deps", "source-repositories\nmanifests\n", 0o644)
    project.write("app/source-repository-app", f"app git /opt/app file://{upstream.path}\n", 0o644)
    project.hook("app/root.d/50-before", "echo before >$TARGET_ROOT/etc/before")
    project.hook("app/install.d/50-after", "cat /opt/app/file >/etc/after")
    return project


def test_a_moved_ref_changes_nothing_until_it_is_pinned_anew(project: Project, upstream: Upstream) -> None:
    first = project.build()
    assert first.status == 0, first.errors
    assert project.text("etc/after") == "one\n"

    moved = upstream.commit("two")
    assert project.build().ran == []

    # Now it is asked for: only the step that reads the repository, and what stands on it, runs again.
    locked = project.imgc("lock", "tiny")
    assert locked.returncode == 0, locked.stderr
    lock = locks.read(project.directory / "specs/tiny.lock")
    assert [pin.get("commit") for pin in lock.pins.values()] == [moved]
    why = project.imgc("why", "tiny", "--fail-on-miss")
    assert why.returncode == 1
    assert "pin git" in why.stdout and moved[:8] in why.stdout
    assert len(why.stdout.splitlines()) <= 3
    again = project.build()
    assert again.status == 0, again.errors
    assert again.ran[0] == "extra-data.d/98-source-repositories"
    assert {"root.d/10-tiny", "root.d/50-before", "resolv-conf", "install-type"}.isdisjoint(again.ran)
    assert project.text("etc/after") == "two\n"
    assert project.imgc("why", "tiny", "--fail-on-miss").returncode == 0


def test_refresh_pins_anew_and_keeps_the_lock_true(project: Project, upstream: Upstream) -> None:
    assert project.imgc("lock", "tiny").returncode == 0
    assert project.build().status == 0
    moved = upstream.commit("two")
    assert project.imgc("lock", "tiny", "--diff").stdout.count("->") >= 1
    assert project.build("--refresh").status == 0
    assert project.text("etc/after") == "two\n"
    lock = locks.read(project.directory / "specs/tiny.lock")
    assert [pin.get("commit") for pin in lock.pins.values()] == [moved]
    assert project.imgc("lock", "tiny", "--check").returncode == 0


def test_a_build_that_fails_leaves_the_lock_as_it_was(project: Project, upstream: Upstream) -> None:
    assert project.imgc("lock", "tiny").returncode == 0
    before = (project.directory / "specs/tiny.lock").read_bytes()
    upstream.commit("two")
    project.hook("app/install.d/60-broken", "exit 3")
    assert project.build("--refresh").status == 1
    assert (project.directory / "specs/tiny.lock").read_bytes() == before


def test_what_an_image_was_made_of_lies_beside_it(project: Project) -> None:
    assert project.build().status == 0
    lock = locks.read(project.images / "tiny.lock")
    assert [kind for kind, _ in lock.pins] == ["git"]
    # It can be taken for the lock of the platform.
    shutil.copy(project.images / "tiny.lock", project.directory / "specs/tiny.lock")
    assert project.build().ran == []
    assert project.imgc("lock", "tiny", "--check").returncode == 0


def test_a_build_from_caches_alone(project: Project, upstream: Upstream) -> None:
    assert project.build().status == 0
    shutil.rmtree(upstream.path)
    again = project.build("--offline", "--fresh")
    assert again.status == 0, again.errors
    assert project.text("etc/after") == "one\n"


def test_offline_says_what_is_missing(project: Project) -> None:
    build = project.build("--offline")
    assert build.status == 1
    assert "E612" in build.errors and "app" in build.errors


def test_a_source_that_is_gone_fails_its_own_platform_with_its_name(
    project: Project, upstream: Upstream
) -> None:
    shutil.rmtree(upstream.path)
    build = project.build()
    assert build.status == 1
    assert str(upstream.path) in build.errors
    assert "Traceback" not in build.errors


def test_why_names_the_file_that_was_edited(project: Project) -> None:
    assert project.build().status == 0
    hook = project.hook("app/install.d/50-after", "cat /opt/app/file >/etc/after; echo more >>/etc/after")
    why = project.imgc("why", "tiny", "--diff")
    assert "install.d/50-after of element app" in why.stdout
    assert str(hook.relative_to(project.directory)) in why.stdout
    assert "+cat /opt/app/file >/etc/after; echo more >>/etc/after" in why.stdout
    build = project.build()
    assert any("50-after" in event["text"] for event in build.of("Notice"))
