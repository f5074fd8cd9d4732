"""What a project's image_list.sh names, run for real on branches of a real repository."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from imgc import process
from imgc.caches.file_cache import pin_file_cache
from imgc.caches.git_read import mirror_of
from imgc.caches.image_list import Image, images_of
from imgc.caches.model import Tree
from imgc.errors import ImgcError, Place
from imgc.lock import Pin, Source
from imgc.sources import download

sys.path.insert(0, str(Path(__file__).parent.parent / "sources"))
from outside_world import Repository, Web, repository, web

PROJECT = "openstack/devstack"
PLACE = Place("specs/ci.yaml", 5, 3)

#: Like devstack's own: it sources other files of its branch, and prints more than URLs.
SCRIPT = """#!/bin/bash
TOP_DIR=$(cd $(dirname "$0")/.. && pwd)
echo "looking for images"
for driver in libvirt dummy; do
    VIRT_DRIVER=$driver
    URLS=$(source $TOP_DIR/stackrc && echo $IMAGE_URLS)
    ALL+=${ALL:+,}$URLS
done
echo $ALL | tr ',' '\\n' | sort | uniq
touch "$TOP_DIR/ran"
"""


class Runner:
    """Runs scripts as they are, and remembers where."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, directory: Path, argv: Sequence[str], on_line: Callable[[str], None]) -> int:
        self.runs += 1
        return process.run(argv, cwd=str(directory), on_line=on_line, check=False).status


class World:
    """A project, its mirror in the cache, and what it names."""

    def __init__(self, place: Path) -> None:
        self.cache = place / "cache"
        self.upstream: Repository = repository(place / "devstack")
        self.runner = Runner()

    def write(self, script: str, stackrc: str) -> None:
        tools = self.upstream.path / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "image_list.sh").write_text(script)
        (self.upstream.path / "stackrc").write_text(stackrc)
        self.upstream.git("add", ".")
        self.upstream.git("commit", "--quiet", "--message", "images")

    def pin(self) -> Pin:
        """The git cache as it is now."""
        origin = str(self.upstream.path)
        mirror = mirror_of(self.cache, origin)
        mirror.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["rm", "-rf", mirror], check=True)
        subprocess.run(["git", "clone", "--quiet", "--mirror", origin, mirror], check=True)
        heads = self.upstream.git("for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads")
        pairs = tuple((line.split()[0], line.split()[1]) for line in heads.splitlines())
        return Pin("git-cache", "git", ((PROJECT, Tree(PROJECT, origin, pairs).text()),))

    def images(self, git: Pin | None) -> tuple[list[Image], list[ImgcError]]:
        return images_of(
            PROJECT, git, self.cache, run_script=self.runner, tell=lambda line: None, place=PLACE
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_images_of_every_branch_that_has_the_script(world: World) -> None:
    world.upstream.git("branch", "without")
    world.write(SCRIPT, "IMAGE_URLS=http://a.example/one-$VIRT_DRIVER.img,https://a.example/all.img\n")
    world.upstream.git("checkout", "--quiet", "-b", "stable/old")
    world.write(SCRIPT, "IMAGE_URLS=http://a.example/old.img\n")
    images, findings = world.images(world.pin())
    assert not findings
    assert [(one.url, one.by) for one in images] == [
        ("http://a.example/one-dummy.img", "openstack/devstack@master"),
        ("http://a.example/one-libvirt.img", "openstack/devstack@master"),
        ("https://a.example/all.img", "openstack/devstack@master"),
        ("http://a.example/old.img", "openstack/devstack@stable/old"),
    ]
    assert world.runner.runs == 2
    assert not list((world.cache / "caches" / "files").glob("list.*"))


def test_a_commit_is_asked_once(world: World) -> None:
    world.write(SCRIPT, "IMAGE_URLS=http://a.example/one.img\n")
    world.upstream.git("branch", "same")
    first = world.images(world.pin())
    assert world.images(world.pin()) == first
    assert len(first[0]) == 2
    assert world.runner.runs == 1
    world.write(SCRIPT, "IMAGE_URLS=http://a.example/two.img\n")
    assert [one.url for one in world.images(world.pin())[0]] == [
        "http://a.example/two.img",
        "http://a.example/one.img",
    ]
    assert world.runner.runs == 2


def test_a_script_that_names_nothing_is_not_asked_again(world: World) -> None:
    world.write("echo nothing\n", "")
    assert world.images(world.pin()) == ([], [])
    assert world.images(world.pin()) == ([], [])
    assert world.runner.runs == 1


def test_a_script_that_fails_is_told_with_its_branch_and_what_it_said(world: World) -> None:
    world.write("echo http://a.example/half.img\necho 'only one image' >&2\nexit 3\n", "")
    images, findings = world.images(world.pin())
    assert not images
    [finding] = findings
    assert (finding.code, finding.place) == ("E661", PLACE)
    assert "openstack/devstack@master" in finding.message and "exit status 3" in finding.message
    assert "only one image" in finding.detail


def test_a_script_that_fails_now_keeps_what_its_branch_named_before(world: World) -> None:
    world.write(SCRIPT, "IMAGE_URLS=http://a.example/one.img\n")
    world.images(world.pin())
    world.write("exit 1\n", "")
    images, findings = world.images(world.pin())
    assert [one.url for one in images] == ["http://a.example/one.img"]
    assert "are kept" in findings[0].message
    # It is tried anew on another day.
    world.images(world.pin())
    assert world.runner.runs == 3


@pytest.mark.parametrize("git", [None, Pin("git-cache", "git", ((PROJECT, "https://a.example/x"),))])
def test_a_project_that_the_git_cache_does_not_have_is_told(world: World, git: Pin | None) -> None:
    images, findings = world.images(git)
    assert not images
    assert [one.code for one in findings] == ["E661"]
    assert PROJECT in findings[0].message


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(download, "_PAUSE", 0.01)
    with web() as made:
        yield made


def test_the_file_cache_has_what_the_script_names(world: World, server: Web) -> None:
    server.files = {"/one.img": b"one", "/two/one.img": b"another"}
    urls = [f"{server.url}{path}" for path in ("/one.img", "/dead.img", "/two/one.img")]
    world.write(SCRIPT, f"IMAGE_URLS={','.join(urls)}\n")
    detail = {"files": "[]", "directory": "/opt/cache/files", "devstack": PROJECT, "strict": ""}
    source = Source("file-cache", "files", "", tuple(detail.items()), PLACE)
    git = world.pin()
    pinned = pin_file_cache(source, None, git, world.cache, run_script=world.runner, tell=lambda line: None)
    assert [name for name, _ in pinned.pin.identity] == ["one.img"]
    assert urls[0] in pinned.pin.get("one.img")
    dead, clash = pinned.findings
    assert (dead.code, clash.code) == ("E659", "E660")
    assert "openstack/devstack@master" in dead.message
    assert urls[0] in clash.message and urls[2] in clash.message
