"""``python -m imgc.caches bindep``: the package cache's lists without a build, for the stock driver.

It takes the git trees that are at hand, repositories of any kind below one directory, for the git cache, and writes
the directory that imgc would offer.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from imgc.caches.bindep_cache import fetch_bindep, pin_bindep
from imgc.caches.git_read import mirror_of
from imgc.caches.model import Tree
from imgc.lock import Pin, Source
from imgc.sources.git_program import git_alone

#: Where repositories have their branches: those of a clone are its origin's.
_REMOTE, _LOCAL = "refs/remotes/origin/", "refs/heads/"


def run(arguments: Sequence[str]) -> int:
    """Write the lists, and print what is wrong with them.  Raises what :func:`pin_bindep` raises."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="imgc-bindep-") as scratch:
        _write(options, Path(scratch))
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m imgc.caches bindep", description="Work out which packages jobs may ask for."
    )
    parser.add_argument("--distro", required=True, help="debian, ubuntu, centos, rocky, fedora")
    parser.add_argument("--release", required=True, help="bookworm, trusty, 9-stream, 41")
    parser.add_argument("--arch", default="amd64")
    parser.add_argument("--trees", required=True, type=Path, help="the directory with git trees: ORG/REPO")
    parser.add_argument("--fallback", default="", help="the list for projects that declare nothing")
    parser.add_argument("--profile", action="append", default=[], help="a profile of bindep; may be repeated")
    parser.add_argument("--devstack", default="", help="the project with devstack's lists")
    parser.add_argument("--into", required=True, type=Path, help="the directory to write")
    return parser.parse_args(arguments)


def _write(options: argparse.Namespace, scratch: Path) -> None:
    """Lay the trees out as a cache that has them mirrored, and go on as a build does."""
    trees = []
    for name, repository in _repositories(options.trees):
        tree = Tree(name, str(repository.absolute()), tuple(_branches(repository)))
        mirror = mirror_of(scratch, tree.origin)
        mirror.parent.mkdir(parents=True, exist_ok=True)
        mirror.symlink_to(repository.absolute())
        trees.append((name, tree.text()))
    source = _source(options)
    git = Pin("git-cache", "git", tuple(trees))
    pinned = pin_bindep(source, git, scratch, tell=print)
    for finding in pinned.findings or ():
        print(f"imgc: warning: {finding}")
    shutil.copytree(fetch_bindep(source, pinned.pin, git, scratch), options.into, dirs_exist_ok=True)


def _source(options: argparse.Namespace) -> Source:
    digest = ""
    if options.fallback and Path(options.fallback).is_file():
        digest = hashlib.sha256(Path(options.fallback).read_bytes()).hexdigest()
    detail = {
        "fallback": options.fallback,
        "fallback_sha256": digest,
        "profiles": " ".join(options.profile),
        "devstack": options.devstack,
        "distro": options.distro,
        "release": options.release,
        "arch": options.arch,
    }
    return Source("bindep", f"{options.distro} {options.release} {options.arch}", "", tuple(detail.items()))


def _repositories(trees: Path) -> Iterator[tuple[str, Path]]:
    """Names and git directories of clones and bare repositories at ``trees``/ORG/REPO."""
    for tree in sorted(trees.glob("*/*")):
        found = next((git for git in (tree / ".git", tree) if (git / "HEAD").is_file()), None)
        # A branch or path with a blank has no place in a pin.
        if found and " " not in str(found.absolute()):
            yield tree.relative_to(trees).as_posix().removesuffix(".git"), found


def _branches(repository: Path) -> Iterator[tuple[str, str]]:
    """Branches and their commits; of a clone, those of its origin."""
    form = "--format=%(refname) %(objectname)"
    lines = git_alone(repository, "for-each-ref", form, _REMOTE, _LOCAL).output.splitlines()
    prefix = _REMOTE if any(line.startswith(_REMOTE) for line in lines) else _LOCAL
    for line in lines:
        ref, _, commit = line.partition(" ")
        if ref.startswith(prefix) and ref != f"{_REMOTE}HEAD":
            yield ref.removeprefix(prefix), commit
