"""The virtual machine images that a project's ``tools/image_list.sh`` names, as devstack has it, on each branch."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgc.caches.git_read import export, files_at
from imgc.caches.model import Tree, trees_of
from imgc.caches.whole import write_whole
from imgc.errors import ImgcError, Place
from imgc.lock import Pin

#: The script, as a path in the project.
SCRIPT = "tools/image_list.sh"

#: Runs a program in a directory that it may write to, without the network and without this host's environment; its
#: lines go to the last argument, its exit status is returned.
RunScript = Callable[[Path, Sequence[str], Callable[[str], None]], int]

#: A line of a script's output that names a file.  What else it prints is for people.
_URL = re.compile(r"https?://[^\s\"'`$\\]+")

#: Lines of a script that failed, shown with the error.
_TAIL = 15


@dataclass(frozen=True)
class Image:
    """A URL that a script names; ``by`` is the project and branch (``openstack/devstack@master``)."""

    url: str
    by: str


def images_of(
    project: str,
    git: Pin | None,
    cache: Path,
    *,
    run_script: RunScript,
    tell: Callable[[str], None],
    place: Place | None = None,
) -> tuple[list[Image], list[ImgcError]]:
    """The images that ``project`` names on its branches, and what went wrong (E661 each, with ``place``).

    The script of a branch runs once for a commit.  When that of a new commit fails, what the branch named before
    holds.
    """
    tree = next((one for one in trees_of(git) if one.name == project), None) if git else None
    if tree is None or not tree.heads:
        why = "it is not in the git cache" if tree is None else "nothing of it could be fetched yet"
        hint = "Is it in a list of caches.git.projects?" if tree is None else ""
        return [], [ImgcError("E661", f"{project} names no files: {why}.", hint=hint, place=place)]
    lists = _Lists(cache, project)
    found: list[Image] = []
    findings: list[ImgcError] = []
    done: dict[str, list[str] | ImgcError] = {}
    for branch, commit in _branches(cache, tree):
        if commit not in done:
            known = lists.of_commit(commit)
            done[commit] = _run(cache, tree, branch, run_script, tell) if known is None else known
        result = done[commit]
        if isinstance(result, ImgcError):
            findings.append(
                _failed(result, f"{project}@{branch}", place, known=bool(lists.of_branch(branch)))
            )
        else:
            lists.remember(branch, commit, result)
        found += [Image(url, f"{project}@{branch}") for url in lists.of_branch(branch)]
    lists.write({branch for branch, _ in tree.heads})
    return found, findings


def _branches(cache: Path, tree: Tree) -> Iterator[tuple[str, str]]:
    """The branches that have the script, and their commits."""
    commits = dict(tree.heads)
    for branch, _path, _content in files_at(cache, tree, [SCRIPT]):
        yield branch, commits[branch]


def _run(
    cache: Path, tree: Tree, branch: str, run_script: RunScript, tell: Callable[[str], None]
) -> list[str] | ImgcError:
    """The URLs that the script of one branch prints; the error when it fails."""
    tell(f"{tree.name}@{branch}: {SCRIPT}")
    home = _home(cache)
    home.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    # What a script leaves there may belong to a user of its sandbox.
    with tempfile.TemporaryDirectory(dir=home, prefix="list.", ignore_cleanup_errors=True) as scratch:
        directory = Path(scratch) / "tree"
        export(cache, tree, branch, directory)
        status = run_script(directory, ("bash", SCRIPT), lines.append)
    if status:
        return ImgcError("E661", f"exit status {status}", detail="\n".join(lines[-_TAIL:]))
    return sorted({line.strip() for line in lines if _URL.fullmatch(line.strip())})


def _failed(error: ImgcError, by: str, place: Place | None, *, known: bool) -> ImgcError:
    instead = "the files that it named before are kept" if known else "it names no files"
    said = f"{SCRIPT} of {by} failed ({error.message}); {instead}."
    hint = "It runs without the network, in a copy of its branch."
    return ImgcError("E661", said, hint=hint, place=place, detail=error.detail)


def _home(cache: Path) -> Path:
    return cache / "caches" / "files"


class _Lists:
    """What the branches of a project named when their scripts last ran well, kept in the cache."""

    def __init__(self, cache: Path, project: str) -> None:
        self._path = _home(cache) / f"images.{hashlib.sha256(project.encode()).hexdigest()[:32]}.json"
        self._known: dict[str, Mapping[str, Any]] = {}
        try:
            loaded = json.loads(self._path.read_text(encoding="utf-8"))
            for branch, one in loaded.items():
                self._known[str(branch)] = {"commit": str(one["commit"]), "urls": [*map(str, one["urls"])]}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            self._known = {}

    def of_commit(self, commit: str) -> list[str] | None:
        """What some branch named at this commit; None when that is not known."""
        return next((list(one["urls"]) for one in self._known.values() if one["commit"] == commit), None)

    def of_branch(self, branch: str) -> list[str]:
        """What a branch named when its script last ran well."""
        return list(self._known[branch]["urls"]) if branch in self._known else []

    def remember(self, branch: str, commit: str, urls: list[str]) -> None:
        self._known[branch] = {"commit": commit, "urls": urls}

    def write(self, branches: set[str]) -> None:
        """Keep what is known of these branches; the others are gone."""
        kept = {branch: dict(one) for branch, one in sorted(self._known.items()) if branch in branches}
        write_whole(self._path, json.dumps(kept, indent=1).encode())
