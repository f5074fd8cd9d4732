"""Pinning many things at once, and the stock source-repositories hook with what was fetched for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from outside_world import Repository, Web, git_daemon, repository, web, wheel

from imgc.errors import ImgcError, Problems
from imgc.graph.plan import dib_directory
from imgc.lock import Lock, Pin, Source
from imgc.sources import download, git_program
from imgc.sources.pinning import fetch, pin, pin_all, relock

ELEMENTS = dib_directory() / "elements"

#: What the chroot's programs are to the hook; the tree that it writes to is the test's own.
SUDO = '#!/bin/bash\nexec "$@"\n'


def nobody(line: str) -> None:
    """Told, and silent."""


class World:
    """An upstream of every kind, a cache, and the stock hook to run on it."""

    def __init__(self, directory: Path, base: str, server: Web) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self.upstream = repository(directory / "upstream" / "glean")
        self.base = base
        self.server = server
        server.files["/get-pip.py"] = b"print('pip')\n"
        server.files["/agent.tar.gz"] = self.archive()
        self.git = self.source("git", "glean", f"{base}/glean", ref="master")
        self.file = self.source("file", "get-pip", f"{server.url}/get-pip.py")
        self.tar = self.source("tar", "nova-agent", f"{server.url}/agent.tar.gz")

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.git, self.file, self.tar)

    @staticmethod
    def source(type: str, name: str, location: str, **detail: str) -> Source:
        detail = {"repository": name, "type": type, **detail}
        return Source("git" if type == "git" else "file", name, location, tuple(sorted(detail.items())))

    def archive(self) -> bytes:
        inner = self.directory / "agent"
        inner.mkdir()
        (inner / "agent.txt").write_text("the agent\n")
        path = self.directory / "agent.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(inner, "agent")
        return path.read_bytes()

    def pin(self, *sources: Source) -> dict[tuple[str, str], Pin]:
        return pin(sources, {}, cache=self.cache, refresh=False, offline=False, tell=nobody)

    def fetch(
        self, sources: Sequence[Source], pins: dict[tuple[str, str], Pin], *, offline: bool = False
    ) -> dict[str, str]:
        """What the hook is to be told."""
        as_seen = str(self.cache / "downloads")
        got = fetch(sources, pins, cache=self.cache, downloads_as=as_seen, offline=offline, tell=nobody)
        return dict(got.environment)

    def take_away(self) -> None:
        """From now on, nothing can be fetched from outside."""
        self.server.files.clear()
        shutil.move(self.upstream.path, self.upstream.path.with_name("away"))

    def hook(self, environment: dict[str, str], lines: Sequence[str]) -> Path:
        """Run the stock hook on these lines; the tree that it made."""
        # As drivers name it; the hook makes the name of a manifest from what follows the dot.
        hooks, tree = self.directory / "build.0" / "hooks", self.directory / "build.0" / "mnt"
        shutil.rmtree(tree, ignore_errors=True)
        for path in (
            hooks,
            tree / "tmp",
            tree / "etc" / "manifests",
            self.directory / "bin",
            self.directory / "home",
        ):
            path.mkdir(parents=True, exist_ok=True)
        shutil.copytree(ELEMENTS / "cache-url" / "bin", hooks / "bin", dirs_exist_ok=True)
        (hooks / "source-repository-test").write_text("".join(f"{line}\n" for line in lines))
        sudo = self.directory / "bin" / "sudo"
        sudo.write_text(SUDO)
        sudo.chmod(0o755)
        env = {
            "PATH": f"{sudo.parent}:{os.environ['PATH']}",
            "HOME": str(self.directory / "home"),
            "LC_ALL": "C",
            "TMP_HOOKS_PATH": str(hooks),
            "TMP_MOUNT_PATH": str(tree),
            "DIB_IMAGE_CACHE": str(self.cache / "downloads"),
            "DIB_DEFAULT_INSTALLTYPE": "source",
            "DIB_MANIFEST_IMAGE_DIR": "/etc/manifests",
            "DIB_OFFLINE": "",
            "IMAGE_NAME": "test",
            **environment,
        }
        script = ELEMENTS / "source-repositories" / "extra-data.d" / "98-source-repositories"
        done = subprocess.run([str(script)], env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return tree

    def lines(self) -> list[str]:
        return [
            f"glean git /opt/glean {self.git.location}",
            f"get-pip file /opt/get-pip.py {self.file.location}",
            f"nova-agent tar /opt/agent {self.tar.location} *",
        ]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(download, "_PAUSE", 0.01)
    monkeypatch.setattr(git_program, "PAUSE", 0.01)
    (tmp_path / "upstream").mkdir()
    with git_daemon(tmp_path / "upstream") as base, web() as server:
        yield World(tmp_path, base, server)


def head(path: Path) -> str:
    return Repository(path).git("rev-parse", "HEAD")


# --- the stock hook -------------------------------------------------------------------------------------------------


def test_the_hook_finds_what_was_pinned_though_everything_moved_and_the_network_is_gone(world: World) -> None:
    pins = world.pin(*world.sources)
    world.fetch(world.sources, pins)
    world.upstream.commit("second")
    world.take_away()
    environment = world.fetch(world.sources, pins, offline=True)
    tree = world.hook(environment, world.lines())
    assert head(tree / "opt/glean") == pins["git", "glean"].get("commit")
    assert (tree / "opt/glean/file").read_text() == "first"
    assert (tree / "opt/get-pip.py").read_text() == "print('pip')\n"
    assert (tree / "opt/agent/agent.txt").read_text() == "the agent\n"


def test_a_pin_that_moves_is_what_the_hook_finds_next(world: World) -> None:
    world.hook(world.fetch(world.sources, world.pin(*world.sources)), world.lines())
    second = world.upstream.commit("second")
    pins = world.pin(*world.sources)
    assert head(world.hook(world.fetch(world.sources, pins), world.lines()) / "opt/glean") == second


@pytest.mark.parametrize("ref", ["stable/one", "v1.0", "refs/changes/72/61972/8", "*", "COMMIT"])
def test_the_hook_finds_the_pinned_commit_by_any_kind_of_ref(world: World, ref: str) -> None:
    """As the hook asks for it; the ref itself says nothing about the pin."""
    upstream = world.upstream
    first = head(upstream.path)
    upstream.git("branch", "stable/one")
    upstream.git("tag", "--annotate", "--message", "release", "v1.0")
    upstream.git("update-ref", "refs/changes/72/61972/8", first)
    ref = first if ref == "COMMIT" else ref
    source = world.source("git", "glean", world.git.location, ref=ref)
    pins = world.pin(source)
    moved = upstream.commit("second")
    for name in ("refs/heads/stable/one", "refs/tags/v1.0", "refs/changes/72/61972/8"):
        upstream.git("update-ref", name, moved)
    environment = world.fetch([source], pins)
    world.take_away()
    tree = world.hook(environment, [f"glean git /opt/glean {source.location} {ref}"])
    assert head(tree / "opt/glean") == first


def test_what_the_spec_says_about_the_ref_does_not_lead_past_the_pin(world: World) -> None:
    world.upstream.git("branch", "wanted")
    source = world.source("git", "glean", world.git.location, ref="wanted")
    pins = world.pin(source)
    environment = world.fetch([source], pins)
    world.take_away()
    environment["DIB_REPOREF_glean"] = "wanted"
    tree = world.hook(environment, [f"glean git /opt/glean {source.location}"])
    assert head(tree / "opt/glean") == pins["git", "glean"].get("commit")


def test_a_repository_at_another_base_is_found_where_the_pin_is(world: World) -> None:
    source = world.source("git", "glean", f"{world.base}/glean", ref="master", relocated="yes")
    pins = world.pin(source)
    environment = world.fetch([source], pins)
    world.take_away()
    environment["DIB_GITREPOBASE"] = world.base
    tree = world.hook(environment, ["glean git /opt/glean https://example.org/glean"])
    assert head(tree / "opt/glean") == pins["git", "glean"].get("commit")


def test_what_nothing_pins_the_hook_fetches_anew_in_every_build(world: World) -> None:
    other = repository(world.upstream.path.with_name("other"))
    pins = world.pin(world.git)
    lines = [f"glean git /opt/glean {world.git.location}", f"other git /opt/other {world.base}/other"]
    world.hook(world.fetch([world.git], pins), lines)
    moved = other.commit("second")
    assert head(world.hook(world.fetch([world.git], pins), lines) / "opt/other") == moved


def test_nothing_to_fetch_tells_hooks_nothing(world: World) -> None:
    assert world.fetch([], {}) == {}
    assert world.fetch([world.git], {}) == {}, "without a pin, it is the hook's own business"


# --- many at once ---------------------------------------------------------------------------------------------------


def test_known_pins_are_kept_without_asking_anyone(world: World) -> None:
    pins = world.pin(*world.sources)
    world.take_away()
    kept = pin(world.sources, pins, cache=world.cache, refresh=False, offline=False, tell=nobody)
    assert kept == pins


def test_a_pin_for_another_ref_is_not_kept(world: World) -> None:
    pins = world.pin(world.git)
    world.upstream.git("checkout", "--quiet", "-b", "stable")
    stable = world.upstream.commit("stable")
    other = world.source("git", "glean", world.git.location, ref="stable")
    found = pin([other], pins, cache=world.cache, refresh=False, offline=False, tell=nobody)
    assert found["git", "glean"].get("commit") == stable


def test_refreshing_looks_everything_up_and_tells_what_it_is(world: World) -> None:
    pins = world.pin(*world.sources)
    second = world.upstream.commit("second")
    told: list[str] = []
    found = pin(world.sources, pins, cache=world.cache, refresh=True, offline=False, tell=told.append)
    assert found["git", "glean"].get("commit") == second
    assert found["file", "get-pip"] == pins["file", "get-pip"]
    assert f"git glean is commit:{second}" in told and len(told) == 3
    assert [status for _, status in world.server.requests] == [200, 200, 304, 304], (
        "only asked whether it changed"
    )


def test_offline_every_missing_pin_is_named(world: World) -> None:
    pins = world.pin(world.git)
    with pytest.raises(Problems) as caught:
        pin(world.sources, pins, cache=world.cache, refresh=True, offline=True, tell=nobody)
    assert [str(one) for one in caught.value.problems] == [
        "E612: file get-pip is not pinned, and nothing may be looked up.",
        "E612: file nova-agent is not pinned, and nothing may be looked up.",
    ]


def test_all_problems_are_told_in_one_run(world: World) -> None:
    del world.server.files["/get-pip.py"]
    lost = world.source("git", "glean", world.git.location, ref="nowhere")
    with pytest.raises(Problems) as caught:
        world.pin(lost, world.file, world.tar)
    assert sorted(one.code for one in caught.value.problems) == ["E601", "E614"]


def test_what_several_platforms_take_is_looked_up_once(world: World) -> None:
    platforms = {"one": [world.file, world.git], "two": [world.file]}
    pins = pin_all(platforms, {}, cache=world.cache, refresh=True, offline=False, tell=nobody)
    assert pins["one"]["file", "get-pip"] == pins["two"]["file", "get-pip"]
    assert list(pins["two"]) == [("file", "get-pip")]
    assert len(world.server.requests) == 1


def test_wheels_are_given_by_element(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(tmp_path / "index", "tool", "1.0")
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path / "index"))):
        monkeypatch.setenv(name, value)
    source = Source("wheels", "tools", "", (("python", "3.11"), ("requirements", "tool")))
    got = fetch([source], world.pin(source), cache=world.cache, downloads_as="/x", offline=False, tell=nobody)
    assert [path.name for path in got.wheels["tools"].iterdir()] == ["tool-1.0-py3-none-any.whl"]
    assert got.environment == {}


def test_a_cache_that_cannot_be_written_is_told(world: World) -> None:
    world.cache.write_text("not a directory")
    with pytest.raises(ImgcError, match=rf"E304: The cache {world.cache} cannot be used"):
        fetch(
            [world.git],
            {world.git.id: Pin("git", "glean", (("commit", head(world.upstream.path)),))},
            cache=world.cache,
            downloads_as="/x",
            offline=False,
            tell=nobody,
        )


def test_a_lock_forgets_what_was_installed_when_a_pin_moves(world: World) -> None:
    pins = world.pin(world.git)
    before = Lock("small", pins, 0, {"bash": "5"})
    assert relock("small", pins, before).packages == {"bash": "5"}
    moved = {("git", "glean"): Pin("git", "glean", (("commit", "1" * 40),))}
    assert relock("small", moved, before).packages == {}
    assert relock("small", pins, None).packages == {}
