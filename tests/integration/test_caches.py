"""Git trees and files in images: made once, shared by all platforms, and not in the way of a build when they fail."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cached_project import UPSTREAM, CachedProject, Repositories, web
from tests.integration.users import ordinary_user


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[CachedProject, list[str]]]:
    """Two repositories and a file, and which paths the server has sent."""
    project = CachedProject(tmp_path / "project", projects=["org/one", "org/two"])
    (tmp_path / "project").mkdir()
    www = tmp_path / "www"
    www.mkdir()
    (www / "get-it.py").write_text("print('it')\n")
    project.upstream.commit("org/one", {"README": "one\n"})
    project.upstream.commit("org/one", {"README": "stable one\n"}, "stable/1")
    project.upstream.commit("org/two", {"README": "two\n", "tool": "#!/bin/sh\n"})
    with web(www) as (url, sent):
        project.files = [f"{url}/get-it.py"]
        yield project, sent


def second(project: CachedProject) -> str:
    """Another platform that differs; its name."""
    specs = project.directory / "specs"
    text = project.spec().replace("name: tiny", "name: other", 1) + "packages: []\n"
    (specs / "other.yaml").write_text(text.replace("environment: {}", "environment: {OTHER: x}"))
    return "other"


def report(project: CachedProject, name: str = "tiny") -> dict[str, object]:
    found: dict[str, object] = json.loads((project.images / f"{name}.caches.json").read_text())
    return found


def test_trees_and_files_are_in_the_image(served: tuple[CachedProject, list[str]]) -> None:
    project, _ = served
    done = project.build()
    assert done.status == 0, done.errors
    assert {"git-trees", "cached-files"} <= set(done.ran)
    root = project.unpacked()
    git = root / "opt/git/org/one"
    log = ["git", "-c", "safe.directory=*", "-C", str(git), "log", "--format=%s", "--all"]
    assert "a change" in subprocess.run(log, capture_output=True, text=True, check=True).stdout
    assert (
        Repositories.git(git, "-c", "safe.directory=*", "remote", "get-url", "origin")
        == f"{UPSTREAM}/org/one"
    )
    branches = Repositories.git(git, "-c", "safe.directory=*", "branch", "--format=%(refname:short)").split()
    assert branches == ["master", "stable/1"]
    assert (git / "README").read_text() == "one\n"
    assert (root / "opt/git/org/two/tool").stat().st_mode & 0o777 == 0o755
    assert (root / "opt/cache/files/get-it.py").read_text() == "print('it')\n"
    assert not [text for text in root.rglob("*") if str(project.directory) in str(text.relative_to(root))]
    found = report(project)
    assert [one["project"] for one in found["git"]] == ["org/one", "org/two"]  # type: ignore[attr-defined]
    assert found["findings"] == []


def test_a_second_platform_fetches_nothing_again(served: tuple[CachedProject, list[str]]) -> None:
    project, sent = served
    assert project.build().status == 0
    assert sent == ["/get-it.py"]
    other = second(project)
    # A repository that only answers what it has, and cannot give anything away any more.
    for place in (project.upstream.directory / "org").iterdir():
        shutil.rmtree(place / ".git" / "objects")
        (place / ".git" / "objects").mkdir()
    done = project.imgc("build", other, "--json", "-o", str(project.images))
    assert done.returncode == 0, done.stderr + done.stdout
    assert sent == ["/get-it.py"]
    events = [json.loads(line) for line in done.stdout.splitlines()]
    finished = {event["step"] for event in events if event["event"] == "StepFinished"}
    assert not finished & {f"{other}/git-trees", f"{other}/cached-files"}
    assert (project.unpacked(other) / "opt/git/org/two/README").read_text() == "two\n"


def test_both_in_one_build_make_the_trees_once(served: tuple[CachedProject, list[str]]) -> None:
    project, sent = served
    project.command()
    second(project)
    done = project.imgc("build", "--all", "--json", "-o", str(project.images))
    assert done.returncode == 0, done.stderr
    finished = [
        event["step"].partition("/")[2]
        for event in map(json.loads, done.stdout.splitlines())
        if event["event"] == "StepFinished"
    ]
    assert finished.count("git-trees") == finished.count("cached-files") == 1
    assert finished.count("finalise") == 2
    assert sent == ["/get-it.py"]


def test_nothing_moves_until_it_is_asked_for(served: tuple[CachedProject, list[str]]) -> None:
    project, _ = served
    assert project.build().status == 0
    project.upstream.commit("org/one", {"README": "one more\n"})
    assert project.build().ran == []
    moved = project.build("--refresh")
    assert moved.status == 0, moved.errors
    # Nothing that makes the system runs again.
    assert set(moved.ran) == {"git-trees", "finalise", "side-outputs", "tar", "check"}
    root = project.unpacked()
    assert (root / "opt/git/org/one/README").read_text() == "one more\n"
    why = project.imgc("lock", "tiny", "--diff")
    assert why.returncode == 0, why.stderr


def test_what_cannot_be_reached_stays_as_it_was(served: tuple[CachedProject, list[str]]) -> None:
    project, _ = served
    assert project.build().status == 0
    shutil.move(project.upstream.directory / "org/two", project.upstream.directory / "org/gone")
    project.files = [project.files[0].replace("get-it.py", "nothing.py"), *project.files]
    project.projects.append("org/never-there")
    done = project.build("--refresh")
    assert done.status == 0, done.errors
    told = "\n".join(event["text"] for event in done.of("Notice"))
    assert "projects.txt:2:1: E652" in told or "projects.txt:2:1: E653" in told, told
    assert "projects.txt:3:1: E653" in told
    assert "tiny.yaml:" in told and "E659" in told and "nothing.py" in told
    line = next(n for n, text in enumerate(project.spec().splitlines(), 1) if "nothing.py" in text)
    assert f"tiny.yaml:{line}:9: E659" in told
    root = project.unpacked()
    assert (root / "opt/git/org/two/README").read_text() == "two\n"
    assert not (root / "opt/git/org/never-there").exists()
    assert (root / "opt/cache/files/get-it.py").exists()
    assert len(report(project)["findings"]) == 3  # type: ignore[arg-type]
    # A report says the same when the image is published again.
    assert project.build().ran == []
    assert len(report(project)["findings"]) == 3  # type: ignore[arg-type]


def test_strict_caches_fail_the_build(served: tuple[CachedProject, list[str]]) -> None:
    project, _ = served
    project.strict = True
    assert project.build().status == 0
    before = hashlib.sha256(project.tar.read_bytes()).hexdigest()
    shutil.move(project.upstream.directory / "org/two", project.upstream.directory / "org/gone")
    done = project.build("--refresh")
    assert done.status == 1
    assert "org/two" in done.errors and "projects.txt:2:1" in done.errors
    assert hashlib.sha256(project.tar.read_bytes()).hexdigest() == before


def test_a_file_with_other_bytes_than_the_spec_says(served: tuple[CachedProject, list[str]]) -> None:
    project, _ = served
    project.files = [f"{{url: '{project.files[0]}', sha256: '{'0' * 64}'}}"]
    done = project.build()
    assert done.status == 0, done.errors
    assert any("E660" in event["text"] for event in done.of("Notice"))
    assert not (project.unpacked() / "opt/cache/files/get-it.py").exists()


def test_offline_from_the_cache(served: tuple[CachedProject, list[str]]) -> None:
    project, sent = served
    assert project.build().status == 0
    first = project.tar.read_bytes()
    shutil.rmtree(project.upstream.directory)
    sent.clear()
    again = project.build("--offline", "--fresh")
    assert again.status == 0, again.errors
    assert project.tar.read_bytes() == first
    assert sent == []


def test_an_ordinary_users_image_is_the_same(served: tuple[CachedProject, list[str]], home: Path) -> None:
    project, _ = served
    assert project.build().status == 0
    theirs = CachedProject(home, projects=project.projects, files=project.files)
    theirs.command()
    with ordinary_user(home, subordinate_ids=True) as theirs.prefix:
        shutil.copytree(project.upstream.directory, theirs.upstream.directory)
        subprocess.run(["chown", "-R", "--reference", str(home), str(theirs.upstream.directory)], check=True)
        done = theirs.build()
        assert done.status == 0, done.errors
        mine, other = project.tree(), theirs.tree()
        assert {path: (one.uid, one.gid, one.mode) for path, one in mine.items()} == {
            path: (one.uid, one.gid, one.mode) for path, one in other.items()
        }
        removed = theirs.imgc("clean", "--layers", "--downloads")
        assert removed.returncode == 0, removed.stderr


def test_bad_entries_are_told_with_their_places(served: tuple[CachedProject, list[str]]) -> None:
    project, _ = served
    project.projects = ["org/one", "../etc", "org/one"]
    done = project.build()
    told = "\n".join(event["text"] for event in done.of("Notice")) + done.errors
    assert "projects.txt:2:1: E651" in told
    assert "projects.txt:3:1: E651" in told


def test_two_builds_with_caches_are_the_same(served: tuple[CachedProject, list[str]]) -> None:
    """The second one makes the trees anew, of the same mirrors, and asks nobody."""
    project, sent = served
    assert project.build().status == 0
    shutil.rmtree(project.upstream.directory)
    sent.clear()
    done = project.imgc("build", project.name, "--check-reproducible", "-o", str(project.images))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a second build is the same, byte for byte" in done.stdout
    assert sent == []
