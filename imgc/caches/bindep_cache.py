"""The package cache's half on the host: which packages the projects of the git cache ask for on one platform.

Nothing here needs the network.  What projects declare is read from the mirrors once for each state of a project, and
shared by all platforms; what they ask for on one platform is worked out once for each state of all of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from imgc.caches.bindep_lists import FILES
from imgc.caches.bindep_platform import Target
from imgc.caches.bindep_sets import Asked, Evaluation, Texts, finding_as_json
from imgc.caches.devstack_lists import directory_of
from imgc.caches.git_read import files_at, mirror_of
from imgc.caches.model import Pinned, Tree, trees_of
from imgc.caches.whole import write_whole
from imgc.errors import Collector, ImgcError, Place
from imgc.lock import Pin, Source

#: Part of what is remembered: another number when what is read from lists, or made of them, changes.
_FORM = 1

#: Texts and results that nobody has asked for in so many seconds are dropped.
_KEPT = 30 * 86400.0


def pin_bindep(source: Source, git: Pin | None, cache: Path, *, tell: Callable[[str], None]) -> Pinned:
    """The packages that a platform's jobs may ask for: the pin is the digest of their list.

    ``source`` is of kind ``bindep``, ``git`` the pin of the git cache (None: only the fallback list counts).  Raises
    E656 when the fallback list cannot be read, with every bad line, and E604 when a mirror lacks what is pinned.
    """
    fallback = _fallback(source)
    memo = _memo(source, git, cache)
    known = _remembered(memo)
    if known and (_directory(cache, known["sha256"]) / "report.json").is_file():
        found = [_finding(one) for one in known["findings"]]
        return Pinned(_pin(source, known["sha256"]), tuple(found))
    asked = _evaluate(source, git, cache, fallback, tell)
    digest = _keep(asked, _target(source), cache)
    findings = [finding_as_json(one) for one in asked.findings]
    _write(memo, json.dumps({"sha256": digest, "findings": findings}).encode())
    _prune(memo.parent)
    return Pinned(_pin(source, digest), tuple(asked.findings))


def fetch_bindep(source: Source, pin: Pin, git: Pin | None, cache: Path) -> Path:
    """The directory that hooks are offered: made again from the git cache's mirrors when it is not there.

    Raises E615 when the lists are no longer those that were pinned, and what :func:`pin_bindep` raises.
    """
    directory = _directory(cache, pin.get("sha256"))
    if (directory / "report.json").is_file():
        return directory
    asked = _evaluate(source, git, cache, _fallback(source), lambda _line: None)
    if asked.digest() != pin.get("sha256"):
        said = f"The packages that jobs on {source.name} may ask for are no longer those that are pinned."
        hint = "`imgc lock` pins anew.  They follow from the git cache's pin, the fallback list and the profiles."
        raise ImgcError("E615", said, hint=hint, place=source.place)
    _keep(asked, _target(source), cache)
    return directory


def asked_by(offered: Path) -> dict[str, tuple[str, ...]]:
    """Who asks for each package of an offered directory: ``org/repo@branch``, ``fallback list``.

    Empty when that is not known here.
    """
    try:
        text = (offered / "asked-by").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.split("\t") for line in text.splitlines())
    return {package: tuple(who.split(",")) for package, who in pairs}


def report_of(cache: Path, pin: Pin) -> Path:
    """The JSON report of a pin; docs/package-cache.md has its form."""
    return _directory(cache, pin.get("sha256")) / "report.json"


def _target(source: Source) -> Target:
    return Target(source.get("distro"), source.get("release"), source.get("arch"))


def _pin(source: Source, digest: str) -> Pin:
    return Pin("bindep", source.name, (("sha256", digest),), source.asked)


def _directory(cache: Path, digest: str) -> Path:
    return cache / "caches" / "bindep" / digest


# --- evaluating ---------------------------------------------------------------------------------------------------


def _fallback(source: Source) -> bytes:
    """The bytes of the fallback list; E656 when they cannot be had."""
    path = source.get("fallback")
    if not path:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        said = f"The fallback list {_shown(path)} cannot be read: {error.strerror}."
        raise ImgcError("E656", said, place=source.place) from error


def _evaluate(
    source: Source, git: Pin | None, cache: Path, fallback: bytes, tell: Callable[[str], None]
) -> Asked:
    evaluation = Evaluation(_target(source), source.get("profiles").split())
    if source.get("fallback"):
        evaluation.fallback(fallback, _shown(source.get("fallback")))
        problems = Collector(list(evaluation.asked.findings))
        problems.check()
    trees = trees_of(git) if git else ()
    for tree, texts in _texts(trees, cache):
        evaluation.project(tree.name, texts)
    _add_devstack(source, trees, cache, evaluation)
    tell(f"{source.name}: {len(evaluation.asked.by)} packages from {evaluation.asked.lists} lists")
    return evaluation.asked


def _add_devstack(source: Source, trees: Sequence[Tree], cache: Path, evaluation: Evaluation) -> None:
    name = source.get("devstack")
    if not name:
        return
    tree = next((one for one in trees if one.name == name and one.heads), None)
    if tree is None:
        said = f"{name}, whose lists of packages the package cache takes, is not in the git cache."
        evaluation.asked.findings.append(ImgcError("E656", said, place=source.place))
        return
    below = directory_of(_target(source))
    evaluation.devstack(name, _remembered_texts(tree, cache, below, lambda: _listed(tree, cache, below)))


def _listed(tree: Tree, cache: Path, directory: str) -> Sequence[str]:
    """The paths of the files in a directory, of any branch."""
    from imgc.sources.git_program import git_alone

    found: set[str] = set()
    for _branch, commit in tree.heads:
        names = ("ls-tree", "-z", "--name-only", "--full-tree", commit, f"{directory}/")
        output = git_alone(mirror_of(cache, tree.origin), *names).output
        found.update(path for path in output.split("\0") if path and "\n" not in path)
    return sorted(found)


def _shown(path: str) -> str:
    """A path as a user would name it."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


# --- what is kept -------------------------------------------------------------------------------------------------


def _texts(trees: Sequence[Tree], cache: Path) -> Iterator[tuple[Tree, Texts]]:
    """The lists of every project."""
    for tree in trees:
        if tree.heads:
            yield tree, _remembered_texts(tree, cache, "", lambda: FILES)


def _remembered_texts(tree: Tree, cache: Path, what: str, paths: Callable[[], Sequence[str]]) -> Texts:
    """Files of all branches of a project: from the mirror the first time, then as they are remembered."""
    heads = " ".join(f"{branch}={commit}" for branch, commit in tree.heads)
    name = hashlib.sha256(f"{_FORM} {what} {tree.origin} {heads}".encode()).hexdigest()[:32]
    kept = cache / "caches" / "bindep" / "texts" / name[:2] / name
    known = _remembered(kept)
    if known is not None:
        return {(branch, path): base64.b64decode(text) for branch, path, text in known["texts"]}
    found = {(branch, path): content for branch, path, content in files_at(cache, tree, paths())}
    listed = [[*key, base64.b64encode(content).decode()] for key, content in found.items()]
    _write(kept, json.dumps({"texts": listed}).encode())
    return found


def _memo(source: Source, git: Pin | None, cache: Path) -> Path:
    """Where the result for this source and this state of all projects is remembered."""
    import bindep

    # Another bindep may read lists in another way; its file tells them apart where it has no version.
    version = Path(bindep.__file__).with_name("depends.py").stat()
    facts = [
        _FORM,
        version.st_size,
        version.st_mtime_ns,
        source.name,
        source.detail,
        git.value if git else "",
    ]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    return cache / "caches" / "bindep" / "results" / name


def _remembered(path: Path) -> dict[str, Any] | None:
    """A JSON file of ours; None where there is none, or half of one.  Its time says that it is in use."""
    try:
        found = json.loads(path.read_bytes())
        os.utime(path)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _keep(asked: Asked, target: Target, cache: Path) -> str:
    """Write the directory that is offered; its digest.  Of what is no part of the digest, the last one counts."""
    digest = asked.digest()
    directory = _directory(cache, digest)
    # The report is last: where it is, the rest is.
    files = {**asked.files(), **asked.further_files(), "report.json": asked.report(target)}
    for name, content in files.items():
        _write(directory / name, content)
    return digest


def _write(path: Path, content: bytes) -> None:
    """A file, whole or not at all; E304 when the cache cannot be written."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise ImgcError("E304", f"Cannot write {path}: {error.strerror}.") from error


def _prune(results: Path) -> None:
    """Drop what nobody has used for long; another process may do so at the same time."""
    oldest = time.time() - _KEPT
    for directory in (results, *(results.parent / "texts").glob("??")):
        for file in directory.iterdir():
            try:
                if file.stat().st_mtime < oldest:
                    file.unlink()
            except OSError:
                continue


def _finding(told: dict[str, Any]) -> ImgcError:
    place = Place(told["file"], told["line"], told["column"]) if "file" in told else None
    return ImgcError(told["code"], told["message"], place=place)
