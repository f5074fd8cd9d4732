"""The trees of the git cache: what jobs do with them, and what must not be in them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from git_world import Repository, repository, source
from outside_world import git_daemon

from imgc.caches.git_cache import make_git_tree, pin_git_cache
from imgc.caches.model import Tree, trees_of
from imgc.errors import ImgcError
from imgc.lock import Source

ORG = Path("mnt/opt/git/org")


@pytest.fixture
def nova(tmp_path: Path) -> Repository:
    made = repository(tmp_path / "up" / "org" / "nova")
    made.git("branch", "stable/2026.1")
    (made.path / "run").write_text("#!/bin/sh\n")
    (made.path / "run").chmod(0o755)
    (made.path / "doc").mkdir()
    (made.path / "doc" / "index").write_text("text\n")
    (made.path / "link").symlink_to("doc")
    (made.path / ".gitattributes").write_text("doc export-ignore\n")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message=second")
    made.git("tag", "--annotate", "--message=one", "1.0")
    return made


@pytest.fixture
def base(nova: Repository, tmp_path: Path) -> Iterator[str]:
    repository(tmp_path / "up" / "org" / "glance")
    (tmp_path / "list").write_text("org/nova\norg/glance\n")
    with git_daemon(tmp_path / "up") as url:
        yield url


class World:
    """A cache, and the trees that were made from it."""

    def __init__(self, tmp_path: Path, base: str) -> None:
        self.tmp_path, self.base, self.cache = tmp_path, base, tmp_path / "cache"
        self.lines: list[str] = []

    @property
    def source(self) -> Source:
        return source(self.tmp_path / "list", "https://opendev.example.org", mirror=self.base)

    def pin(self) -> tuple[Tree, ...]:
        return trees_of(pin_git_cache(self.source, None, self.cache, tell=print).pin)

    def make(self, trees: tuple[Tree, ...], name: str = "into", *, offline: bool = True) -> dict[str, Any]:
        into = self.tmp_path / name
        return make_git_tree(self.source, trees, into, self.cache, offline=offline, on_line=self.lines.append)


@pytest.fixture
def world(tmp_path: Path, base: str) -> World:
    return World(tmp_path, base)


def at(path: Path, *arguments: str) -> str:
    return Repository(path).git("-c", "safe.directory=*", *arguments)


def everything(top: Path) -> dict[str, tuple[str, bytes]]:
    """Mode and content of each path below ``top``."""
    found = {}
    for path in sorted(top.rglob("*")):
        mode = stat.filemode(path.lstat().st_mode)
        content = (
            os.readlink(path).encode() if path.is_symlink() else b"" if path.is_dir() else path.read_bytes()
        )
        found[str(path.relative_to(top))] = (mode, content)
    return found


# --- what jobs do -------------------------------------------------------------------------------------------------


def test_a_tree_is_a_checkout_with_all_branches(world: World, nova: Repository, tmp_path: Path) -> None:
    assert world.make(world.pin()) == {"projects": 2, "made": 2, "left_out": []}
    tree = tmp_path / "into" / ORG / "nova"
    assert at(tree, "config", "remote.origin.url") == "https://opendev.example.org/org/nova"
    assert at(tree, "log", "--format=%H", "-1") == nova.git("rev-parse", "master")
    assert at(tree, "status", "--porcelain") == ""
    assert at(tree, "symbolic-ref", "refs/remotes/origin/HEAD") == "refs/remotes/origin/master"
    branches = at(tree, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    assert f"refs/heads/stable/2026.1 {nova.git('rev-parse', 'stable/2026.1')}" in branches
    assert f"refs/remotes/origin/stable/2026.1 {nova.git('rev-parse', 'stable/2026.1')}" in branches
    assert f"refs/tags/1.0 {nova.git('rev-parse', '1.0')}" in branches
    at(tree, "fsck", "--full", "--strict")
    assert (tree / "doc/index").read_text() == "text\n"
    assert os.readlink(tree / "link") == "doc"
    assert os.access(tree / "run", os.X_OK)


def test_any_branch_can_be_checked_out_and_cloned(world: World, nova: Repository, tmp_path: Path) -> None:
    world.make(world.pin())
    tree = tmp_path / "into" / ORG / "nova"
    subprocess.run(["git", "clone", "--quiet", tree, tmp_path / "clone"], check=True)
    assert at(tmp_path / "clone", "rev-parse", "origin/stable/2026.1") == nova.git(
        "rev-parse", "stable/2026.1"
    )
    assert at(tmp_path / "clone", "tag") == "1.0"
    shutil.copytree(tree, tmp_path / "job", symlinks=True)
    at(tmp_path / "job", "checkout", "--quiet", "stable/2026.1")
    assert not (tmp_path / "job" / "run").exists()
    at(tmp_path / "job", "checkout", "--quiet", "master")
    # A job makes the tree newer from its server.
    at(tmp_path / "job", "remote", "set-url", "origin", f"{world.base}/org/nova")
    nova.commit("third")
    at(tmp_path / "job", "pull", "--quiet", "--ff-only")
    assert (tmp_path / "job" / "file").read_text() == "third"


def test_an_ordinary_user_in_the_image_reads_and_clones_them_and_nothing_else(
    world: World, tmp_path: Path
) -> None:
    world.make(world.pin())
    image = tmp_path / "into" / "mnt"
    for name in ("usr", "dev", "proc", "etc", "tmp", "srv/other"):
        (image / name).mkdir(parents=True)
    (image / "tmp").chmod(0o1777)
    for name in ("bin", "lib", "lib64", "sbin"):
        (image / name).symlink_to(f"usr/{name}")
    (image / "etc/gitconfig").write_text("[include]\n\tpath = /opt/git/.gitconfig\n")
    at(image / "srv/other", "init", "--quiet")
    os.chmod(tmp_path, 0o755)
    script = """
        mount --bind /usr "$1/usr" && mount --bind /dev "$1/dev" && cd "$1" || exit 9
        nobody="setpriv --reuid 65534 --regid 65534 --clear-groups"
        as="env -i PATH=/usr/sbin:/usr/bin HOME=/nonexistent chroot $1 $nobody"
        $as git -C /opt/git/org/nova log --oneline || exit 1
        $as git -C /opt/git/org/nova status --porcelain || exit 2
        $as git clone --quiet /opt/git/org/nova /tmp/nova || exit 3
        $as git -C /tmp/nova log -1 --format=%s origin/stable/2026.1 || exit 4
        $as git -C /srv/other status && exit 5
        rm -r "$1/tmp/nova" "$1/etc/gitconfig"
        $as git -C /opt/git/org/nova log && exit 6
        exit 0
    """
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(image)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "second" in done.stdout
    assert "dubious ownership" in done.stderr


# --- what is in them ----------------------------------------------------------------------------------------------


def test_nothing_of_this_host_is_in_them(world: World, tmp_path: Path) -> None:
    world.make(world.pin())
    for path, (_, content) in everything(tmp_path / "into").items():
        assert str(tmp_path).encode() not in content, path
        assert world.base.encode() not in content, path
    inner = tmp_path / "into" / ORG / "nova/.git"
    for name in ("hooks", "logs", "objects/info/alternates", "FETCH_HEAD", "ORIG_HEAD", "description"):
        assert not (inner / name).exists()
    # Device, inode, owner and times of each file are nought in the index.
    lines = at(inner.parent, "ls-files", "--debug").splitlines()
    assert {line.strip() for line in lines if "time:" in line or "ino:" in line or "uid:" in line} == {
        "ctime: 0:0",
        "mtime: 0:0",
        "dev: 0\tino: 0",
        "uid: 0\tgid: 0",
    }


def test_modes_do_not_depend_on_the_umask(world: World, tmp_path: Path) -> None:
    trees = world.pin()
    found = []
    for mask in (0o022, 0o077, 0o000):
        shutil.rmtree(world.cache / "caches/git/trees", ignore_errors=True)
        before = os.umask(mask)
        try:
            world.make(trees, f"into-{mask}")
        finally:
            os.umask(before)
        found.append(everything(tmp_path / f"into-{mask}" / "mnt"))
    assert found[0] == found[1] == found[2]
    assert found[0]["opt/git/org/nova/doc"][0] == "drwxr-xr-x"
    assert found[0]["opt/git/org/nova/doc/index"][0] == "-rw-r--r--"
    assert found[0]["opt/git/org/nova/run"][0] == "-rwxr-xr-x"
    assert found[0]["opt/git/.gitconfig"][0] == "-rw-r--r--"


def test_settings_of_the_person_who_builds_change_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = world.pin()
    world.make(trees, "plain")
    shutil.rmtree(world.cache / "caches/git/trees")
    (tmp_path / ".gitconfig").write_text(
        "[core]\n\tautocrlf = true\n\tcompression = 0\n[pack]\n\tdepth = 1\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    world.make(trees, "set")
    assert everything(tmp_path / "plain") == everything(tmp_path / "set")


# --- what is made again -------------------------------------------------------------------------------------------


def test_one_repository_that_moved_is_one_tree_to_make(
    world: World, nova: Repository, tmp_path: Path
) -> None:
    world.make(world.pin(), "yesterday")
    nova.commit("third")
    assert world.make(world.pin(), "today")["made"] == 1
    glance = ORG / "glance/file"
    assert (tmp_path / "today" / glance).stat().st_ino == (tmp_path / "yesterday" / glance).stat().st_ino
    assert (tmp_path / "today" / ORG / "nova/file").read_text() == "third"
    assert (tmp_path / "yesterday" / ORG / "nova/file").read_text() == "first"


def test_two_projects_with_one_upstream_share_no_file_of_the_image(world: World, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"one: {world.base}/org/nova\ntwo: {world.base}/org/nova\n")
    world.make(world.pin())
    for path in everything(tmp_path / "into/mnt/opt/git/one"):
        one, two = (tmp_path / "into/mnt/opt/git" / name / path for name in ("one", "two"))
        assert one.is_dir() or not one.samefile(two) or one.is_symlink()


def test_old_states_are_dropped(world: World, nova: Repository) -> None:
    for number in range(5):
        nova.commit(f"night {number}")
        world.make(world.pin(), f"into-{number}")
    states = [
        len(list(path.iterdir())) for path in (world.cache / "caches/git/trees").iterdir() if path.is_dir()
    ]
    assert sorted(states) == [1, 2]


def test_trees_that_no_image_takes_are_dropped_after_a_while(world: World) -> None:
    world.make(world.pin())
    kept = [path for path in (world.cache / "caches/git/trees").iterdir() if path.is_dir()]
    assert len(kept) == 2
    os.utime(kept[0], (0, 0))
    os.utime(kept[1], (0, 0))
    (world.tmp_path / "list").write_text("org/nova\n")
    world.make(world.pin(), "later")
    assert sum(path.is_dir() for path in kept) == 1


def test_what_was_left_half_made_is_dropped(world: World) -> None:
    trees = world.pin()
    world.make(trees)
    for of_project in [path for path in (world.cache / "caches/git/trees").iterdir() if path.is_dir()]:
        (of_project / ".new.killed").mkdir()
    world.make(trees, "again")
    assert list((world.cache / "caches/git/trees").glob("*/.new.*")) == []


def test_another_file_system_gets_copies(world: World, tmp_path: Path) -> None:
    trees = world.pin()
    world.make(trees)
    memory = Path("/dev/shm", f"imgc-test-{os.getpid()}")
    assert tmp_path.stat().st_dev != Path("/dev/shm").stat().st_dev, "tests need two file systems"
    try:
        make_git_tree(world.source, trees, memory, world.cache, offline=True, on_line=print)
        assert everything(memory) == everything(tmp_path / "into")
    finally:
        shutil.rmtree(memory)


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_projects_that_were_never_fetched_are_left_out(world: World, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("org/nova\norg/none\n")
    facts = world.make(world.pin())
    assert facts == {"projects": 1, "made": 1, "left_out": ["org/none"]}
    assert world.lines[-1] == "imgc: warning: 1 project is not in the image: org/none."
    assert not (tmp_path / "into" / ORG / "none").exists()


def test_offline_and_not_in_the_mirror(world: World) -> None:
    trees = world.pin()
    shutil.rmtree(world.cache)
    with pytest.raises(ImgcError) as caught:
        world.make(trees[:1], offline=True)
    assert caught.value.code == "E604"


def test_another_host_makes_the_same_from_the_pin(world: World, nova: Repository, tmp_path: Path) -> None:
    trees = world.pin()
    world.make(trees, "here")
    shutil.rmtree(world.cache)
    world.make(trees, "there", offline=False)
    assert everything(tmp_path / "here") == everything(tmp_path / "there")


def test_tags_that_moved_since_are_told(world: World, nova: Repository, tmp_path: Path) -> None:
    trees = world.pin()
    nova.git("tag", "2.0", "stable/2026.1")
    nova.git("tag", "3.0", nova.commit("third"))
    shutil.rmtree(world.cache)
    world.make(trees, offline=False)
    assert at(tmp_path / "into" / ORG / "nova", "tag").splitlines() == ["1.0", "2.0"]
    assert any(line.startswith("imgc: warning: org/nova: its tags have moved") for line in world.lines)


def test_a_repository_by_another_hash(tmp_path: Path) -> None:
    path = tmp_path / "up" / "new"
    path.mkdir(parents=True)
    upstream = Repository(path)
    upstream.git("init", "--quiet", "--initial-branch=main", "--object-format=sha256")
    commit = upstream.commit("first")
    (tmp_path / "list").write_text("new\n")
    with git_daemon(tmp_path / "up") as url:
        world = World(tmp_path, url)
        world.make(world.pin())
    tree = tmp_path / "into/mnt/opt/git/new"
    assert at(tree, "rev-parse", "HEAD") == commit
    assert at(tree, "status", "--porcelain") == ""
