"""The trees of the git cache as images have them: repositories with a checkout, made from the mirrors.

The tree of a repository is made once for a state of it, kept in the cache, and linked into the side tree of an image.
It has no path, user or time of this host: no alternates, no reflogs, and an index that says nothing about files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imgc import process
from imgc.caches.git_fetch import ensure
from imgc.caches.git_read import mirror_of
from imgc.caches.mirrors import no_room, tags_of
from imgc.caches.model import Tree
from imgc.errors import Collector, ImgcError
from imgc.lock import Source
from imgc.sources.cache_lock import locked
from imgc.sources.git_program import git_alone

#: Grows when trees are made in another way: those of before are not used then.
_FORM = "1"

#: States of one project that are kept: platforms may want different branches of it.
_KEPT = 2

#: Seconds after which the trees of a repository that no image takes are dropped.
_UNUSED = 14 * 86400

#: The file in the directory of trees that tells git whom to trust; /etc/gitconfig includes it.
GITCONFIG = ".gitconfig"

_CONFIG = """\
[core]
\trepositoryformatversion = {version}
\tfilemode = true
\tbare = false
{extensions}[remote "origin"]
\turl = {origin}
\tfetch = +refs/heads/*:refs/remotes/origin/*
[branch "{head}"]
\tremote = origin
\tmerge = refs/heads/{head}
"""


def make_git_tree(
    source: Source,
    trees: Sequence[Tree],
    into: Path,
    cache: Path,
    *,
    offline: bool,
    on_line: Callable[[str], None],
) -> dict[str, Any]:
    """Fill ``into``/mnt with the directory of trees.  Projects that were never fetched are left out.

    Returns how many projects there are, how many trees had to be made, and which projects are left out.  Raises E604
    for a commit that is not in the cache when ``offline``, E615 when its server no longer has it.
    """
    directory = into / "mnt" / source.get("directory").lstrip("/")
    there = [tree for tree in trees if tree.heads]
    left_out = [tree.name for tree in trees if not tree.heads]
    problems = Collector()
    made = 0
    with _faults_of_disk():
        _directories(into, directory)
        maker = _Maker(source, cache, offline, on_line)

        def one(tree: Tree) -> bool:
            return maker.put(tree, directory / tree.name)

        with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
            for tree, future in [(tree, pool.submit(one, tree)) for tree in there]:
                try:
                    made += future.result()
                except ImgcError as problem:
                    problems.add(problem)
                    if problem.code in ("E307", "E902"):
                        pool.shutdown(cancel_futures=True)
                        raise
                    on_line(f"{tree.name}: {problem.message}")
        problems.check()
        _write(directory / GITCONFIG, gitconfig(source.get("directory"), [tree.name for tree in there]))
        _drop_unused(cache)
    if left_out:
        many = "1 project is" if len(left_out) == 1 else f"{len(left_out)} projects are"
        on_line(f"imgc: warning: {many} not in the image: {', '.join(left_out)}.")
    return {"projects": len(there), "made": made, "left_out": left_out}


def gitconfig(directory: str, names: Sequence[str]) -> str:
    """Settings by which git trusts the trees (whose owner is root) whoever runs it.

    Since 2.35.2 it wants to be told.  For a clone it looks at the inner directory; no pattern is known to them all.
    """
    paths = [f"{directory.rstrip('/')}/{name}" for name in names]
    lines = [f"\tdirectory = {path}\n\tdirectory = {path}/.git\n" for path in paths]
    return "".join(["# Trees of the git cache: safe to use for everybody.\n", "[safe]\n", *lines])


class _Maker:
    """Makes trees that are not in the cache, and links those that are."""

    def __init__(self, source: Source, cache: Path, offline: bool, on_line: Callable[[str], None]) -> None:
        self._source, self._cache, self._offline, self._on_line = source, cache, offline, on_line
        self._trees = cache / "caches" / "git" / "trees"

    def put(self, tree: Tree, at: Path) -> bool:
        """Put the tree of a project at a path; whether it had to be made."""
        process.INTERRUPT.check()
        # Two projects with one upstream have trees of their own: files of an image are no links to each other.
        of_project = self._trees / hashlib.sha256(f"{tree.name} {tree.origin}".encode()).hexdigest()[:32]
        digest = hashlib.sha256(f"{_FORM} {tree.text()}".encode()).hexdigest()
        kept = of_project / digest[:32]
        # What is being linked is not dropped by another imgc.
        with locked(of_project):
            missing = not kept.is_dir()
            if missing:
                self._make(tree, kept)
            os.utime(kept)
            os.utime(of_project)
            _link(kept, at)
            states = sorted(of_project.iterdir(), key=_by_use)
            # What begins with a dot was left by an imgc that was killed.
            for old in [path for path in states if path.name.startswith(".")] + states[_KEPT:]:
                shutil.rmtree(old, ignore_errors=True)
        return missing

    def _make(self, tree: Tree, kept: Path) -> None:
        """Make a tree: whole or not at all."""
        mirror = mirror_of(self._cache, tree.origin)
        ensure(self._source, tree, self._cache, self._offline, self._on_line)
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new.", dir=kept.parent))
        try:
            scratch.chmod(0o755)
            tags = self._tags(tree, mirror)
            _repository(tree, tags, mirror, scratch)
            scratch.rename(kept)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _tags(self, tree: Tree, mirror: Path) -> dict[str, str]:
        """The pinned tags; where this cache never saw them, those of the pinned branches that there are now."""
        tags = tags_of(self._cache, tree.origin, tree.tags)
        if tags is not None:
            return tags
        said = "its tags have moved since it was pinned; the image gets those that its branches have"
        self._on_line(f"imgc: warning: {tree.name}: {said}.")
        merged = [f"--merged={commit}" for _branch, commit in tree.heads]
        form = "--format=%(objectname) %(refname)"
        lines = git_alone(mirror, "for-each-ref", form, *merged, "refs/tags").output.splitlines()
        return {name: commit for commit, _, name in (line.partition(" ") for line in lines)}


# --- one repository -----------------------------------------------------------------------------------------------


def _repository(tree: Tree, tags: dict[str, str], mirror: Path, at: Path) -> None:
    """A repository with all branches and these tags, the default branch checked out, in an empty directory."""
    head, commit = tree.heads[0]
    inner = at / ".git"
    for name in (
        ".git",
        ".git/objects",
        ".git/objects/info",
        ".git/objects/pack",
        ".git/refs",
        ".git/refs/heads",
    ):
        _directory(at / name)
    sha256 = len(commit) == 64
    extensions = "[extensions]\n\tobjectFormat = sha256\n" if sha256 else ""
    version = 1 if sha256 else 0
    config = _CONFIG.format(
        version=version, extensions=extensions, origin=_quoted(tree.origin), head=_inside(head)
    )
    _write(inner / "config", config)
    _write(inner / "HEAD", f"ref: refs/heads/{head}\n")
    found = {f"refs/heads/{branch}": one for branch, one in tree.heads}
    found |= {f"refs/remotes/origin/{branch}": one for branch, one in tree.heads}
    # The branch that a clone of this one, or a job, takes when it does not say which.
    for name in ("refs/remotes", "refs/remotes/origin", "refs/tags"):
        _directory(inner / name)
    if "HEAD" not in dict(tree.heads):
        _write(inner / "refs/remotes/origin/HEAD", f"ref: refs/remotes/origin/{head}\n")
    found |= tags
    lines = [f"{found[name]} {name}\n" for name in sorted(found)]
    _write(inner / "packed-refs", "".join(["# pack-refs with: sorted \n", *lines]))
    _pack(mirror, sorted(set(found.values())), inner / "objects" / "pack")
    git_alone(inner, "read-tree", commit)
    git_alone(inner, f"--work-tree={at}", "checkout-index", "--all", "--quiet", f"--prefix={at}/")
    for path in (inner / "objects" / "pack").iterdir():
        path.chmod(0o444)
    (inner / "index").chmod(0o644)


def _pack(mirror: Path, tips: Sequence[str], into: Path) -> None:
    """One pack of everything that these commits and tags lead to.  One thread: the same objects give the same pack."""
    settings = ("-c", "pack.threads=1", "-c", "pack.writeReverseIndex=false")
    arguments = ["pack-objects", "--revs", "--delta-base-offset", "--quiet", str(into / "pack")]
    git_alone(mirror, *settings, *arguments, stdin="".join(f"{tip}\n" for tip in tips))


def _quoted(value: str) -> str:
    """A value as git's settings have it."""
    return f'"{_inside(value)}"' if any(character in value for character in '"\\#;') else value


def _inside(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


# --- files --------------------------------------------------------------------------------------------------------


def _directories(into: Path, directory: Path) -> None:
    """The directory of trees and those around it, up to the root of the image."""
    into.mkdir(parents=True, exist_ok=True)
    at = into
    for part in directory.relative_to(into).parts:
        at /= part
        _directory(at)


def _directory(path: Path) -> None:
    """A directory whose mode no umask changes."""
    if not path.is_dir():
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    path.chmod(0o644)


def _link(source: Path, at: Path) -> None:
    """The same files at another path: links to them, copies where the file system is another."""
    missing = [path for path in (at, *at.parents) if not path.exists()]
    for path in reversed(missing):
        _directory(path)
    for top, directories, files in os.walk(source):
        below = os.path.join(at, os.path.relpath(top, source))
        for name in directories:
            if os.path.islink(os.path.join(top, name)):
                os.symlink(os.readlink(os.path.join(top, name)), os.path.join(below, name))
            else:
                _directory(Path(below, name))
        for name in files:
            file = os.path.join(top, name)
            try:
                os.link(file, os.path.join(below, name), follow_symlinks=False)
            except OSError:
                # Another file system, or one with no room for links.
                shutil.copy2(file, os.path.join(below, name), follow_symlinks=False)


def _by_use(path: Path) -> tuple[bool, float]:
    """States of a repository that are whole first, of these the one that was used last."""
    return path.name.startswith("."), -path.stat().st_mtime


def _drop_unused(cache: Path) -> None:
    """Drop the trees of repositories that no image has taken for a while, and what was left half made."""
    oldest = time.time() - _UNUSED
    for of_project in (cache / "caches" / "git" / "trees").iterdir():
        if of_project.is_dir() and of_project.stat().st_mtime < oldest:
            with locked(of_project):
                if of_project.stat().st_mtime < oldest:
                    shutil.rmtree(of_project)


@contextmanager
def _faults_of_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise no_room(error) from error
