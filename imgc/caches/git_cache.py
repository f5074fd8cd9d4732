"""The git cache: every project of some lists as a git tree in the image, pinned by the commits of its branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from imgc.caches.git_fetch import fetch_git_cache
from imgc.caches.git_read import has_commits, mirror_of
from imgc.caches.git_trees import make_git_tree
from imgc.caches.mirrors import Failed, Outcome, digest_of_tags, known, matching, refresh
from imgc.caches.model import Pinned, Tree, trees_of
from imgc.caches.projects import Project, asked_for, read_projects
from imgc.caches.refs import Refs
from imgc.errors import ImgcError, Problems
from imgc.lock import Pin, Source

__all__ = ["asked_for", "fetch_git_cache", "make_git_tree", "pin_git_cache"]


def pin_git_cache(
    source: Source, before: Pin | None, cache: Path, *, tell: Callable[[str], None], offline: bool = False
) -> Pinned:
    """Bring the mirrors of all projects up to date, and pin what they have.

    A repository that cannot be refreshed keeps the branches of its mirror, or has none when there is no mirror; that
    is a finding (E652, E653), as a wrong entry of a list is (E651).  With ``strict``, findings are raised, together.
    Raises E651 for a list that cannot be read.  ``offline`` asks nobody: lists and mirrors are what the cache has.
    """
    projects, listed = read_projects(source, cache, offline=offline)
    outcomes = _kept(projects, cache) if offline else refresh(projects, cache, _connections(source), tell)
    earlier = {tree.name: tree for tree in trees_of(before)} if before else {}
    findings = list(listed)
    trees = []
    for project in projects:
        outcome = outcomes[project.name]
        if isinstance(outcome, Failed):
            tree = _earlier(project, source, earlier.get(project.name), cache)
            findings.append(_finding(project, outcome, tree))
        else:
            tree = _tree(project, source, outcome)
        trees.append(tree)
    if findings and source.get("strict"):
        raise findings[0] if len(findings) == 1 else Problems(findings)
    identity = tuple((tree.name, tree.text()) for tree in trees)
    return Pinned(Pin(source.kind, source.name, identity, source.asked), tuple(findings))


def _connections(source: Source) -> int:
    return int(source.get("connections") or 8)


def _kept(projects: Sequence[Project], cache: Path) -> dict[str, Outcome]:
    """What the mirrors of projects have."""
    nothing = Failed("it is not in the cache, and nothing may be fetched.")
    return {project.name: known(cache, project.origin) or nothing for project in projects}


def _tree(project: Project, source: Source, found: Refs) -> Tree:
    heads = matching(found, source.get("branches") or ".*")
    # Tags without a branch are not kept: nothing would be checked out.
    return Tree(project.name, project.origin, heads, digest_of_tags(found) if heads else "")


def _earlier(project: Project, source: Source, pinned: Tree | None, cache: Path) -> Tree:
    """What an upstream had when it could be reached last; no branches when this cache never saw it."""
    found = known(cache, project.origin)
    if found is not None:
        return _tree(project, source, found)
    if pinned and pinned.origin == project.origin and pinned.heads:
        mirror = mirror_of(cache, project.origin)
        if has_commits(mirror, [commit for _branch, commit in pinned.heads]):
            return pinned
    return Tree(project.name, project.origin)


def _finding(project: Project, failed: Failed, tree: Tree) -> ImgcError:
    """What to tell of a repository that could not be refreshed."""
    if failed.unknown:
        said = f"The project {project.name} is not known to its server: {failed.why}"
        hint = "Is its name right, and is the project still there?"
    else:
        said = f"The repository of {project.name} cannot be refreshed: {failed.why}"
        hint = "`caches.git.strict: true` makes this an error."
    kept = "What its mirror has is used." if tree.heads else "It is not in the image."
    return ImgcError("E653" if failed.unknown else "E652", f"{said} {kept}", hint=hint, place=project.place)
