"""Git repositories: which commit a ref is, and that commit where the stock source-repositories hook looks for it.

A repository is fetched into a mirror in the cache, once for all platforms.  What a hook gets is a repository of its
own made from it, which holds the pinned commit, its history and the tags in it, and nothing that came later.  Every
name by which a hook may ask for the ref leads to the pinned commit there.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from imgc.errors import ImgcError
from imgc.lock import Pin, Source
from imgc.sources.cache_lock import locked
from imgc.sources.download import shown
from imgc.sources.git_program import git, git_on_network, last_words

#: A commit's full name.
_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")

#: Where git looks for a short name, in this order.
_PREFIXES = ("", "refs/", "refs/tags/", "refs/heads/")

#: The branch that HEAD of a pinned repository is on where its ref is no branch.
_BRANCH = "refs/heads/master"

#: All branches and tags: what a source with this ref wants.
EVERYTHING = "*"

#: Seconds that a question may take; a fetch ends when it stalls.
_TIMEOUT = 60.0


def pin_git(source: Source) -> Pin:
    """The commit that the ref of ``source`` is now; for the ref ``*``, that of every branch.

    Raises E614 when the repository cannot be asked, or has no such ref.
    """
    ref = source.get("ref")
    if _COMMIT.fullmatch(ref):
        return Pin("git", source.name, (("commit", ref),), source.asked)
    refs = _remote_refs(source)
    if ref == EVERYTHING:
        heads = {
            name.removeprefix("refs/"): commit
            for name, commit in refs.items()
            if name.startswith("refs/heads/")
        }
        if "HEAD" in refs and heads:
            return Pin("git", source.name, (("commit", refs["HEAD"]), *sorted(heads.items())), source.asked)
        raise _unknown(source, "it has no branches.")
    found = _lookup(refs, ref)
    if not found:
        near = [name.removeprefix("refs/heads/") for name in refs if name.startswith("refs/heads/")]
        raise _unknown(source, f"it has no ref `{ref}`.", _branches(near))
    return Pin("git", source.name, (("commit", found),), source.asked)


def fetch_git(sources: Sequence[tuple[Source, Pin]], cache: Path, *, offline: bool) -> Path:
    """A repository with the pinned commits of ``sources``, refs of one location.  Made when it is not there.

    Returns its directory, in the cache.  Raises E604 when it takes the network and that may not be used, E601 when
    the repository cannot be reached, E615 when it no longer has a commit.
    """
    names = _names(sources)
    location = sources[0][0].location
    digest = hashlib.sha256(repr((location, sorted(names.items()))).encode()).hexdigest()
    pinned = cache / "downloads" / "pinned" / "git" / digest[:32]
    with locked(pinned):
        if not _holds(pinned, {**names, **{commit: commit for commit in names.values()}}):
            mirror = cache / "git" / hashlib.sha256(location.encode()).hexdigest()[:32]
            with locked(mirror):
                _update(mirror, sources, offline)
                _make(pinned, mirror, names)
    return pinned


# --- asking -------------------------------------------------------------------------------------------------------


def _remote_refs(source: Source) -> dict[str, str]:
    """Every ref of the repository and its commit; that of an annotated tag is what the tag is on."""
    done = git_on_network(["ls-remote", "--quiet", "--", source.location], timeout=_TIMEOUT)
    if done.status:
        raise _unknown(source, f"git says: {last_words(done)}")
    refs: dict[str, str] = {}
    for line in done.output.splitlines():
        fields = re.fullmatch(r"([0-9a-f]{40}|[0-9a-f]{64})\t(\S+)", line)
        if fields:
            # A tag's own line precedes that of what it is on, which has the suffix.
            refs[fields[2].removesuffix("^{}")] = fields[1]
    return refs


def _lookup(refs: Mapping[str, str], ref: str) -> str:
    """The commit of a ref by a name of any length; empty when there is none."""
    return next((refs[prefix + ref] for prefix in _PREFIXES if prefix + ref in refs), "")


def _unknown(source: Source, why: str, hint: str = "") -> ImgcError:
    said = f"The repository of {source.name} ({shown(source.location)}) cannot be pinned: {why}"
    return ImgcError("E614", said, hint=hint, place=source.place)


def _branches(names: Sequence[str]) -> str:
    some = ", ".join(f"`{name}`" for name in sorted(names)[:8])
    return f"Its branches are {some}{' …' if len(names) > 8 else ''}." if names else ""


# --- fetching -----------------------------------------------------------------------------------------------------


def _names(sources: Iterable[tuple[Source, Pin]]) -> dict[str, str]:
    """The refs of the pinned repository and the commit of each; the first is the branch that HEAD is on."""
    names: dict[str, str] = {}
    for source, pin in sources:
        ref, commit = source.get("ref"), pin.get("commit")
        heads = {f"refs/{name}": value for name, value in pin.identity if name.startswith("heads/")}
        if heads:
            # Which branch HEAD is on is not pinned, so it is one that is where HEAD is.
            main = sorted(
                (name for name in heads if heads[name] == commit), key=lambda name: (name != _BRANCH, name)
            )
            names.update({main[0] if main else _BRANCH: commit, **heads})
        elif ref.startswith("refs/heads/") or not (ref == "HEAD" or _COMMIT.fullmatch(ref) or "refs/" in ref):
            # A tag as well gets a branch of its name: that is found by every way of asking for it.
            names[f"refs/heads/{ref.removeprefix('refs/heads/')}"] = commit
        else:
            names.setdefault(_BRANCH, commit)
            if ref.startswith("refs/"):
                names[ref] = commit
    return names


def _holds(repository: Path, names: Mapping[str, str]) -> bool:
    """Whether a repository has all of these refs, on these commits.  It may have been written to by a hook."""
    if not (repository / "HEAD").is_file():
        return False
    asked = "".join(f"{name}^{{commit}}\n" for name in names)
    done = git(repository, "cat-file", "--batch-check=%(objectname)", stdin=asked)
    return not done.status and done.output.splitlines() == list(names.values())


def _update(mirror: Path, sources: Sequence[tuple[Source, Pin]], offline: bool) -> None:
    """Bring the pinned commits into the mirror, and keep them there."""
    wanted = {commit: source for source, pin in sources for name, commit in pin.identity}
    missing = [commit for commit in wanted if not _holds(mirror, {commit: commit})]
    source = sources[0][0]
    if missing and offline:
        said = f"Commit {missing[0]} of {source.name} is not in the cache, and nothing may be fetched."
        raise ImgcError("E604", said, hint="Build once without --offline.", place=source.place)
    if missing:
        _initialise(mirror, len(missing[0]))
        everything = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        _fetch(mirror, source, "--prune", refspecs=everything)
    for commit in missing:
        # A commit that no branch has: a server may give it by its name, or by the ref that it was (a Gerrit change).
        ref = wanted[commit].get("ref")
        for asked in (commit, *([ref] if ref not in ("", EVERYTHING) else [])):
            if not _holds(mirror, {commit: commit}):
                _fetch(mirror, source, "--no-tags", refspecs=[f"+{asked}:refs/imgc/fetched"], check=False)
        if not _holds(mirror, {commit: commit}):
            raise _gone(wanted[commit], commit)
    for commit in wanted:
        git(mirror, "update-ref", f"refs/imgc/pins/{commit}", commit, check=True)


def _gone(source: Source, commit: str) -> ImgcError:
    """The error for a commit that its repository no longer has."""
    try:
        now = pin_git(source).get("commit")
    except ImgcError:
        now = ""
    ref = source.get("ref")
    moved = f"`{ref}` is {now} there now" if now and now != commit else f"`{ref}` is not there now"
    said = (
        f"{shown(source.location)} no longer has commit {commit}, to which {source.name} is pinned; {moved}."
    )
    return ImgcError("E615", said, hint="`imgc lock` pins anew.", place=source.place)


def _make(pinned: Path, mirror: Path, names: Mapping[str, str]) -> None:
    """The pinned repository, whole or not at all."""
    pinned.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".new.", dir=pinned.parent))
    try:
        _initialise(scratch, len(next(iter(names.values()))))
        git(scratch, "symbolic-ref", "HEAD", next(iter(names)), check=True)
        refspecs = [f"+refs/imgc/pins/{commit}:{name}" for name, commit in names.items()]
        # Tags that are on the way come along.
        git(scratch, "fetch", "--quiet", "--update-head-ok", "--", str(mirror), *refspecs, check=True)
        for name, commit in names.items():
            tag = name.replace("refs/heads/", "refs/tags/", 1)
            # A tag goes before a branch of its name, and may have been moved since.
            if tag != name and not _holds(scratch, {tag: commit}):
                git(scratch, "update-ref", "-d", tag, check=True)
        scratch.chmod(0o755)
        if pinned.exists():
            shutil.rmtree(pinned)
        scratch.rename(pinned)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _initialise(repository: Path, digits: int) -> None:
    """An empty repository for commits of so many hexadecimal digits, unless there is one."""
    if (repository / "HEAD").is_file():
        return
    repository.mkdir(parents=True, exist_ok=True)
    kind = ["--object-format=sha256"] if digits == 64 else []
    git(repository, "init", "--quiet", "--bare", "--template=", *kind, check=True)
    # Hooks ask for commits by their names.
    git(repository, "config", "uploadpack.allowAnySHA1InWant", "true", check=True)


def _fetch(mirror: Path, source: Source, *options: str, refspecs: Sequence[str], check: bool = True) -> None:
    arguments = ["-C", str(mirror), "fetch", "--quiet", "--update-head-ok", *options, "--", source.location]
    done = git_on_network([*arguments, *refspecs])
    if done.status and check:
        what = f"The repository of {source.name} ({shown(source.location)})"
        said = f"{what} cannot be fetched: git says: {last_words(done)}"
        raise ImgcError("E601", said, hint="Is the network there?", place=source.place)
