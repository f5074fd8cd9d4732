"""The package cache's half on the host: from git mirrors to a pin, an offer and a report."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from git_world import Repository, repository

from imgc.caches import git_read, standalone_bindep
from imgc.caches.bindep_cache import asked_by, fetch_bindep, pin_bindep, report_of
from imgc.caches.model import Pinned, Tree
from imgc.errors import ImgcError, Place, Problems
from imgc.lock import Pin, Source

PLACE = Place("specs/ci.yaml", 12, 5)


class Cache:
    """A cache with mirrors of projects, which tests change as they like."""

    def __init__(self, base: Path) -> None:
        self.path, self._upstreams = base / "cache", base / "upstreams"
        self._projects: dict[str, Repository] = {}

    def project(self, name: str, **branches: dict[str, str | bytes]) -> None:
        """Give a project these files on these branches (`stable_a` is stable/a)."""
        if name not in self._projects:
            made = repository(self._upstreams / name)
            self._projects[name] = made
        upstream = self._projects[name]
        for branch, files in branches.items():
            branch = branch.replace("_", "/")
            upstream.git("checkout", "--quiet", "-B", branch, "master")
            for path, content in files.items():
                file = upstream.path / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content.encode() if isinstance(content, str) else content)
            upstream.git("add", "--all")
            upstream.git("commit", "--quiet", "--allow-empty", "--message", "x")

    def git(self) -> Pin:
        """Mirror everything as it is now, and pin it."""
        trees = []
        for name, upstream in sorted(self._projects.items()):
            tree = Tree(name, f"https://git.example.org/{name}")
            mirror = git_read.mirror_of(self.path, tree.origin)
            shutil.rmtree(mirror, ignore_errors=True)
            mirror.parent.mkdir(parents=True, exist_ok=True)
            upstream.git("clone", "--quiet", "--mirror", str(upstream.path), str(mirror))
            listed = upstream.git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads")
            heads = tuple((line.split()[0], line.split()[1]) for line in listed.splitlines())
            trees.append((name, Tree(name, tree.origin, heads).text()))
        return Pin("git-cache", "git", tuple(trees))

    def source(self, *, distro: str = "debian", release: str = "bookworm", **settings: str) -> Source:
        fallback = settings.get("fallback", "")
        detail = {
            "fallback": fallback,
            "fallback_sha256": hashlib.sha256(Path(fallback).read_bytes()).hexdigest() if fallback else "",
            "profiles": settings.get("profiles", "test"),
            "devstack": settings.get("devstack", ""),
            "distro": distro,
            "release": release,
            "arch": "amd64",
        }
        return Source("bindep", f"{distro} {release} amd64", "", tuple(detail.items()), PLACE)

    def pin(self, source: Source | None = None, git: Pin | None = None) -> Pinned:
        told: list[str] = []
        return pin_bindep(source or self.source(), git or self.git(), self.path, tell=told.append)

    def offered(self, pin: Pin, name: str) -> list[str]:
        return (self.path / "caches/bindep" / pin.get("sha256") / name).read_text().splitlines()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_all_branches_of_all_projects_count_and_each_set_is_kept(cache: Cache) -> None:
    cache.project("org/one", stable_a={"bindep.txt": "aa\nbb [test]\nrpm [platform:rpm]\n"})
    cache.project("org/two", master={"bindep.txt": "aa\n"}, stable_a={"bindep.txt": "cc\n"})
    pin = cache.pin().pin
    assert cache.offered(pin, "packages") == ["aa", "bb", "cc"]
    assert cache.offered(pin, "sets") == ["aa", "aa bb", "cc"]
    assert asked_by(report_of(cache.path, pin).parent) == {
        "aa": ("org/one@stable/a", "org/two@master"),
        "bb": ("org/one@stable/a",),
        "cc": ("org/two@stable/a",),
    }


def test_the_older_name_counts_where_there_is_no_bindep_txt(cache: Cache) -> None:
    cache.project("org/old", master={"other-requirements.txt": "old\n"})
    cache.project("org/both", master={"other-requirements.txt": "nowhere\n", "bindep.txt": "new\n"})
    assert cache.offered(cache.pin().pin, "packages") == ["new", "old"]


def test_each_platform_has_its_own(cache: Cache) -> None:
    cache.project("org/one", master={"bindep.txt": "deb [platform:dpkg]\nel [platform:centos-9]\n"})
    git = cache.git()
    apt, dnf = cache.pin(git=git), cache.pin(cache.source(distro="centos", release="9-stream"), git)
    assert cache.offered(apt.pin, "packages") == ["deb"]
    assert cache.offered(dnf.pin, "packages") == ["el"]


def test_profiles_are_evaluated_alone_and_together(cache: Cache) -> None:
    cache.project("org/one", master={"bindep.txt": "aa\nbb [test]\ncc [doc]\ndd [!doc]\n"})
    pin = cache.pin(cache.source(profiles="test doc")).pin
    assert cache.offered(pin, "sets") == ["aa bb cc", "aa bb dd", "aa cc", "aa dd"]


def test_bad_lines_are_findings_with_project_branch_line_and_column(cache: Cache) -> None:
    cache.project(
        "org/bad", master={"bindep.txt": b"good\nfoo [test\n\xff\n"}, big={"bindep.txt": "x" * 100_000}
    )
    for pinned in (cache.pin(), cache.pin()):  # the second is remembered
        assert [str(finding).partition(": ")[0] for finding in pinned.findings or ()] == [
            "org/bad@big:bindep.txt",
            "org/bad@master:bindep.txt:2:10",
            "org/bad@master:bindep.txt:3:1",
        ]
        assert {finding.code for finding in pinned.findings or ()} == {"E656"}
        assert cache.offered(pinned.pin, "packages") == ["good"]


def test_the_fallback_list_counts_and_is_offered(cache: Cache, tmp_path: Path) -> None:
    fallback = tmp_path / "fallback.txt"
    fallback.write_text("basic\nother [platform:rpm]\n")
    source = cache.source(fallback=str(fallback))
    pin = pin_bindep(source, None, cache.path, tell=lambda _line: None).pin
    assert cache.offered(pin, "packages") == ["basic"]
    assert cache.offered(pin, "fallback") == ["basic", "other [platform:rpm]"]
    assert asked_by(report_of(cache.path, pin).parent) == {"basic": ("fallback list",)}
    # Jobs read it by themselves, so what is not for this platform counts, too.
    fallback.write_text("basic\nmore [platform:rpm]\n")
    assert cache.pin(cache.source(fallback=str(fallback))).pin.value != pin.value


def test_a_bad_line_of_the_fallback_list_is_an_error(cache: Cache, tmp_path: Path) -> None:
    fallback = tmp_path / "fallback.txt"
    fallback.write_text("good\nfoo [\nbar [\n")
    with pytest.raises(Problems) as caught:
        cache.pin(cache.source(fallback=str(fallback)))
    assert [problem.place and problem.place.line for problem in caught.value.problems] == [2, 3]
    assert {problem.code for problem in caught.value.problems} == {"E656"}


def test_a_fallback_list_that_is_gone_is_an_error_with_its_place(cache: Cache, tmp_path: Path) -> None:
    fallback = tmp_path / "fallback.txt"
    fallback.touch()
    source = cache.source(fallback=str(fallback))
    fallback.unlink()
    with pytest.raises(ImgcError) as caught:
        cache.pin(source)
    assert (caught.value.code, caught.value.place) == ("E656", PLACE)


def test_devstacks_own_lists_count_for_every_branch(cache: Cache) -> None:
    cache.project(
        "openstack/devstack",
        master={
            "files/debs/general": "aa\nbb # dist:trusty\n",
            "files/debs/nova": "cc # NOPRIME\n",
            "files/rpms/x": "rr\n",
        },
        stable_a={"files/debs/general": "old\n"},
    )
    pin = cache.pin(cache.source(devstack="openstack/devstack")).pin
    assert cache.offered(pin, "packages") == ["aa", "cc", "old"]
    assert cache.offered(pin, "sets") == ["aa", "aa cc", "cc", "cc old", "old"]
    rpms = cache.pin(cache.source(distro="fedora", release="41", devstack="openstack/devstack")).pin
    assert cache.offered(rpms, "packages") == ["rr"]


def test_a_devstack_that_is_not_in_the_git_cache_is_a_finding(cache: Cache) -> None:
    cache.project("org/one")
    (finding,) = cache.pin(cache.source(devstack="openstack/devstack")).findings or ()
    assert (finding.code, finding.place) == ("E656", PLACE)


def test_a_commit_that_changes_no_list_moves_no_pin(cache: Cache) -> None:
    cache.project("org/one", master={"bindep.txt": "aa\n"})
    before = cache.pin()
    cache.project("org/one", master={"README": "hello\n"})
    assert cache.pin().pin == before.pin
    cache.project("org/one", master={"bindep.txt": "bb\n"})
    assert cache.pin().pin != before.pin


def test_nothing_is_read_again_when_nothing_moved(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.project("org/one", master={"bindep.txt": "aa\n"})
    cache.project("org/two", master={"bindep.txt": "bb\n"})
    asked: list[str] = []
    real = git_read.files_at

    def counted(where: Path, tree: Tree, paths: list[str]) -> object:
        asked.append(tree.name)
        return real(where, tree, paths)

    monkeypatch.setattr("imgc.caches.bindep_cache.files_at", counted)
    first = cache.pin()
    assert asked == ["org/one", "org/two"]
    assert cache.pin() == first
    # Another platform, and one project that moved.
    cache.pin(cache.source(distro="ubuntu", release="noble"))
    assert asked == ["org/one", "org/two"]
    cache.project("org/two", master={"bindep.txt": "cc\n"})
    cache.pin()
    assert asked == ["org/one", "org/two", "org/two"]


def test_the_offer_is_made_again_from_the_mirrors(cache: Cache) -> None:
    cache.project("org/one", master={"bindep.txt": "aa\n"})
    git, source = cache.git(), cache.source()
    pin = cache.pin(source, git).pin
    shutil.rmtree(cache.path / "caches/bindep")
    offered = fetch_bindep(source, pin, git, cache.path)
    assert (offered / "packages").read_text() == "aa\n"
    shutil.rmtree(cache.path / "caches/bindep")
    with pytest.raises(ImgcError) as caught:
        fetch_bindep(source, Pin("bindep", source.name, (("sha256", "0" * 64),)), git, cache.path)
    assert caught.value.code == "E615"


def test_a_project_that_was_never_fetched_has_no_lists(cache: Cache) -> None:
    git = Pin(
        "git-cache", "git", (("org/none", Tree("org/none", "https://git.example.org/org/none").text()),)
    )
    pinned = cache.pin(git=git)
    assert cache.offered(pinned.pin, "packages") == []
    assert not pinned.findings


def test_the_report_says_who_asks_for_what(cache: Cache) -> None:
    cache.project("org/one", master={"bindep.txt": "aa\nbb [test]\nfoo [\n"})
    told = json.loads(report_of(cache.path, cache.pin().pin).read_text())
    assert told["platform"] == {"distro": "debian", "release": "bookworm", "arch": "amd64"}
    assert told["packages"] == {"aa": ["org/one@master"], "bb": ["org/one@master"]}
    assert {"packages": ["aa", "bb"], "for": ["org/one@master"]} in told["sets"]
    (finding,) = told["findings"]
    assert (finding["code"], finding["file"], finding["line"]) == ("E656", "org/one@master:bindep.txt", 3)


def test_a_damaged_memory_is_as_good_as_none(cache: Cache) -> None:
    cache.project("org/one", master={"bindep.txt": "aa\n"})
    first = cache.pin()
    for file in (cache.path / "caches/bindep").rglob("*"):
        if file.is_file() and file.parent.parent.name in ("bindep", "texts"):
            file.write_bytes(b'{"texts": [["')
    (cache.path / "caches/bindep" / first.pin.get("sha256") / "report.json").unlink()
    assert cache.pin() == first


def test_without_a_build_the_same_files_come_from_trees_at_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream = repository(tmp_path / "upstreams/one")
    (upstream.path / "bindep.txt").write_text("aa\nfoo [\n")
    upstream.git("add", "--all")
    upstream.git("commit", "--quiet", "--message", "x")
    trees = tmp_path / "trees"
    (trees / "org").mkdir(parents=True)
    upstream.git("clone", "--quiet", str(upstream.path), str(trees / "org/clone"))
    upstream.git("clone", "--quiet", "--bare", str(upstream.path), str(trees / "org/bare.git"))
    into = tmp_path / "into"
    arguments = ["--distro=debian", "--release=bookworm", f"--trees={trees}", f"--into={into}"]
    assert standalone_bindep.run(arguments) == 0
    assert (into / "asked-by").read_text() == "aa\torg/bare@master,org/clone@master\n"
    assert "imgc: warning: org/clone@master:bindep.txt:2:6: E656" in capsys.readouterr().out
