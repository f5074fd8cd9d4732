"""Mirrors: bare repositories in the cache, one for each upstream, refreshed side by side.

A mirror holds what it ever fetched: nothing is pruned from it, so what a pin names stays there.  What its upstream had
when a fetch was last whole is in a small file of the mirror; comparing that with what the upstream has now is all
that happens when nothing moved.  A fetch that dies leaves that file, and every object that was there.
"""

from __future__ import annotations

import errno
import hashlib
import queue
import re
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from imgc import process
from imgc.caches import refs
from imgc.caches.git_read import mirror_of
from imgc.caches.projects import Project
from imgc.caches.refs import Refs, Unknown, Unreachable
from imgc.caches.whole import write_whole
from imgc.errors import ImgcError
from imgc.sources.cache_lock import locked
from imgc.sources.git_program import git_alone, git_on_network, last_words

#: What the upstream had when a fetch was last whole.
_STATE = "imgc-refs"

#: The tags of each state, by the digest that pins have of them.
_TAGS = "imgc-tags"

#: More packs than these are put together, and more refs than these that have a file each.
_MOST_PACKS = 20
_MOST_LOOSE = 64

#: Seconds that a fetch may take.  HTTP ends sooner when it stalls; other ways may not.
_LONGEST = 4 * 3600.0

#: So many repositories of a host that cannot be reached, one after the other: the rest of them is not tried.
_PATIENCE = 12

_CONFIG = """\
[core]
\trepositoryformatversion = {version}
\tfilemode = true
\tbare = true
[gc]
\tauto = 0
\tpruneExpire = never
{extensions}"""

#: Paths of a commit are exported as they are, whatever the repository says about its release archives.
_ATTRIBUTES = "* -export-ignore -export-subst\n"


@dataclass(frozen=True)
class Failed:
    """Why a repository could not be refreshed.  ``unknown``: its server has no such repository."""

    why: str
    unknown: bool = False


#: What became of a repository: what its upstream has, or why that is not known.
Outcome = Refs | Failed


def refresh(
    projects: Sequence[Project], cache: Path, connections: int, tell: Callable[[str], None]
) -> dict[str, Outcome]:
    """Bring the mirrors of ``projects`` up to date, by name, with at most ``connections`` per host.

    ``tell`` is given a line for each that has moved.  Raises E307 when interrupted, E902 when there is no room.
    """
    _clear(cache / "caches" / "git" / "mirrors")
    hosts = {project.name: _host(project.location) for project in projects}
    patience = {host: _Patience() for host in hosts.values()}

    def one(project: Project) -> tuple[Outcome, bool]:
        return patience[hosts[project.name]].call(lambda: _refresh(project, cache))

    outcomes: dict[str, Outcome] = {}
    try:
        for project, result in _side_by_side(projects, hosts, connections, one):
            outcome, moved = result
            outcomes[project.name] = outcome
            if moved and isinstance(outcome, Refs):
                tell(f"{project.name} has moved")
    except OSError as error:
        raise no_room(error) from error
    return outcomes


def known(cache: Path, origin: str) -> Refs | None:
    """What an upstream had when its mirror was last fetched; None when it never was."""
    try:
        return Refs.parse((mirror_of(cache, origin) / _STATE).read_text("utf-8", "surrogateescape"))
    except OSError:
        return None


def digest_of_tags(found: Refs) -> str:
    """16 digits that stand for the tags of an upstream; empty without tags."""
    text = _tags(found.refs)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16] if text else ""


def tags_of(cache: Path, origin: str, digest: str) -> dict[str, str] | None:
    """The tags (``refs/tags/…``) that a digest stands for; None when this cache never saw them."""
    if not digest:
        return {}
    try:
        text = (mirror_of(cache, origin) / _TAGS / digest).read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    return {name: commit for commit, _, name in (line.partition(" ") for line in text.splitlines())}


def fetch_commits(origin: str, location: str, commits: Sequence[str], cache: Path) -> str:
    """Fetch a mirror, and then those of ``commits`` by their names that no branch has.  Why it failed, or empty."""
    mirror = mirror_of(cache, origin)
    try:
        found = refs.ask(location)
        with locked(mirror):
            _fetch(mirror, location, found)
            git_on_network([*_fetch_command(mirror, location), *commits], _LONGEST)
    except (Unknown, Unreachable) as error:
        return str(error)
    return ""


# --- one repository -----------------------------------------------------------------------------------------------


def _refresh(project: Project, cache: Path) -> tuple[Outcome, bool]:
    """What the upstream has, and whether that moved.  Its mirror has it then."""
    try:
        found = refs.ask(project.location)
        if known(cache, project.origin) == found:
            return found, False
        mirror = mirror_of(cache, project.origin)
        with locked(mirror):
            # Another imgc may have fetched it while this one waited.
            if known(cache, project.origin) == found:
                return found, True
            return _fetch(mirror, project.location, found), True
    except Unknown as error:
        return Failed(str(error), unknown=True), False
    except Unreachable as error:
        return Failed(str(error)), False
    except ImgcError as problem:
        if problem.code != "E301":
            raise
        return Failed(problem.message), False


def _fetch(mirror: Path, location: str, found: Refs) -> Refs:
    """Fetch a mirror whose lock is held; what the upstream had then.  Raises Unknown and Unreachable.

    A mirror from which git cannot go on (a disk that lost something) is made anew.
    """
    _prepare(mirror, found)
    done = git_on_network([*_fetch_command(mirror, location), *_REFSPECS], _LONGEST)
    if done.status and (mirror / _STATE).is_file() and not _sound(mirror):
        done = _start_over(mirror, location, found)
    if done.status:
        raise refs.unreachable(last_words(done))
    now = _refs_of(mirror)
    head = found.head if found.head in now else refs.head_of("", found.refs.get(found.head, ""), now)
    fetched = Refs(head, now)
    _keep_tags(mirror, fetched)
    _write(mirror / "HEAD", f"ref: {head or 'refs/heads/master'}\n")
    _write(mirror / _STATE, fetched.text())
    _tidy(mirror)
    return fetched


_REFSPECS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")


def _fetch_command(mirror: Path, location: str) -> list[str]:
    """git's arguments up to the refspecs.  What comes is kept as a pack, however little it is."""
    settings = ["-c", "fetch.unpackLimit=1", "-c", "fetch.writeCommitGraph=false", f"--git-dir={mirror}"]
    options = ["--quiet", "--prune", "--no-tags", "--update-head-ok", "--no-write-fetch-head"]
    return [*settings, "fetch", *options, "--no-recurse-submodules", "--", location]


def _prepare(mirror: Path, found: Refs) -> None:
    """An empty repository unless there is one; without what a fetch that was killed left."""
    sha256 = any(len(commit) == 64 for commit in found.refs.values())
    for name in ("objects/pack", "objects/info", "refs", "info", _TAGS):
        (mirror / name).mkdir(parents=True, exist_ok=True)
    if not (mirror / "config").is_file() or not (mirror / _STATE).is_file():
        extensions = "[extensions]\n\tobjectFormat = sha256\n" if sha256 else ""
        _write(mirror / "config", _CONFIG.format(version=1 if sha256 else 0, extensions=extensions))
        _write(mirror / "info" / "attributes", _ATTRIBUTES)
    if not (mirror / "HEAD").is_file():
        _write(mirror / "HEAD", "ref: refs/heads/master\n")
    locks = (
        mirror / "HEAD.lock",
        mirror / "packed-refs.lock",
        mirror / "config.lock",
        mirror / "shallow.lock",
    )
    for left in (*locks, *(mirror / "refs").rglob("*.lock"), *(mirror / "objects" / "pack").glob("tmp_*")):
        # The lock of the mirror is held: nobody else writes here.
        left.unlink(missing_ok=True)


def _sound(mirror: Path) -> bool:
    """Whether git can read every commit that the refs lead to, their trees and the names of their files."""
    done = git_alone(mirror, "rev-list", "--objects", "--all", "--quiet", check=False)
    return not done.status


def _start_over(mirror: Path, location: str, found: Refs) -> process.Completed:
    """Fetch into a new mirror, and put it in the place of the damaged one when that is done."""
    scratch = Path(tempfile.mkdtemp(prefix=".new.", dir=mirror.parent))
    try:
        _prepare(scratch, found)
        done = git_on_network([*_fetch_command(scratch, location), *_REFSPECS], _LONGEST)
        if not done.status:
            scratch.chmod(0o755)
            if (mirror / _TAGS).is_dir():
                shutil.copytree(mirror / _TAGS, scratch / _TAGS, dirs_exist_ok=True)
            shutil.rmtree(mirror)
            scratch.rename(mirror)
        return done
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refs_of(mirror: Path) -> dict[str, str]:
    """The branches and tags of a mirror, read from git's files: those of a repository that this file made."""
    found: dict[str, str] = {}
    packed = mirror / "packed-refs"
    if packed.is_file():
        for line in packed.read_text("utf-8", "surrogateescape").splitlines():
            commit, _, name = line.partition(" ")
            if name and line[0] not in "#^":
                found[name] = commit
    for path in sorted((mirror / "refs").rglob("*")):
        if path.is_file() and not path.name.endswith(".lock"):
            found[str(path.relative_to(mirror))] = path.read_text("ascii").strip()
    return {name: found[name] for name in sorted(found) if name.startswith(("refs/heads/", "refs/tags/"))}


def _tags(found: Mapping[str, str]) -> str:
    return "".join(f"{found[name]} {name}\n" for name in sorted(found) if name.startswith("refs/tags/"))


def _keep_tags(mirror: Path, found: Refs) -> None:
    digest = digest_of_tags(found)
    if digest and not (mirror / _TAGS / digest).is_file():
        _write(mirror / _TAGS / digest, _tags(found.refs))


def _tidy(mirror: Path) -> None:
    """Few packs and few files, now and then.  Objects that no ref leads to any more are kept: a pin may."""
    if sum(1 for path in (mirror / "refs").rglob("*") if path.is_file()) > _MOST_LOOSE:
        git_alone(mirror, "pack-refs", "--all", check=False)
    if sum(1 for _ in (mirror / "objects" / "pack").glob("*.pack")) > _MOST_PACKS:
        git_alone(mirror, "repack", "-q", "-d", "--geometric=2", check=False)


def _write(path: Path, text: str) -> None:
    write_whole(path, text.encode("utf-8", "surrogateescape"))


def _clear(mirrors: Path) -> None:
    """Make the directory of mirrors, or clear it of what imgc left there when it was killed."""
    mirrors.mkdir(parents=True, exist_ok=True)
    for scratch in mirrors.glob(".new.*"):
        if scratch.stat().st_mtime < time.time() - 2 * _LONGEST:
            shutil.rmtree(scratch, ignore_errors=True)


# --- many ---------------------------------------------------------------------------------------------------------


def _host(location: str) -> str:
    """What connections are counted by."""
    parts = urlsplit(location)
    return parts.netloc.rpartition("@")[2].lower() or parts.scheme


class _Patience:
    """Gives up on a host when nothing but failures to reach it has come from it for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed = 0
        self._why = ""

    def call(self, work: Callable[[], tuple[Outcome, bool]]) -> tuple[Outcome, bool]:
        with self._lock:
            if self._failed >= _PATIENCE:
                return Failed(
                    f"{self._why} (so said of {self._failed} others of its host, and not tried again.)"
                ), False
        outcome, moved = work()
        with self._lock:
            if isinstance(outcome, Failed) and not outcome.unknown:
                self._failed += 1
                self._why = outcome.why
            else:
                self._failed = 0
        return outcome, moved


def _side_by_side(
    projects: Sequence[Project],
    hosts: Mapping[str, str],
    connections: int,
    work: Callable[[Project], tuple[Outcome, bool]],
) -> Iterable[tuple[Project, tuple[Outcome, bool]]]:
    """Results as they come.  The threads are daemons: an interrupt does not wait for a silent server."""
    waiting: dict[str, deque[Project]] = {}
    for project in projects:
        waiting.setdefault(hosts[project.name], deque()).append(project)
    done: queue.SimpleQueue[tuple[Project, tuple[Outcome, bool] | BaseException]] = queue.SimpleQueue()
    ended = threading.Event()

    def worker(mine: deque[Project]) -> None:
        while not ended.is_set():
            try:
                project = mine.popleft()
            except IndexError:
                return
            try:
                done.put((project, work(project)))
            except BaseException as error:
                done.put((project, error))

    for host, mine in waiting.items():
        for number in range(min(connections, len(mine))):
            threading.Thread(target=worker, args=(mine,), name=f"git {host} {number}", daemon=True).start()
    try:
        for _ in projects:
            project, result = _next(done)
            if isinstance(result, BaseException):
                raise result
            yield project, result
    finally:
        ended.set()


def _next(
    done: queue.SimpleQueue[tuple[Project, tuple[Outcome, bool] | BaseException]],
) -> tuple[Project, tuple[Outcome, bool] | BaseException]:
    """The next result; E307 when imgc is interrupted before it comes."""
    while True:
        process.INTERRUPT.check()
        try:
            return done.get(timeout=0.1)
        except queue.Empty:
            continue


def matching(found: Refs, branches: str) -> tuple[tuple[str, str], ...]:
    """The branches whose whole name a regular expression matches, with their commits; the default one first."""
    wanted = re.compile(branches)
    heads = {
        name.removeprefix("refs/heads/"): commit
        for name, commit in found.refs.items()
        # A name that is no text cannot be written into a lock.
        if name.startswith("refs/heads/")
        and name.isprintable()
        and wanted.fullmatch(name[len("refs/heads/") :])
    }
    default = found.head.removeprefix("refs/heads/")
    # Without the branch that HEAD is upstream, the one that most repositories call so.
    order = {default: 0, "master": 1, "main": 2}
    return tuple((name, heads[name]) for name in sorted(heads, key=lambda name: (order.get(name, 3), name)))


def no_room(error: OSError) -> ImgcError:
    """The error for a fault of this host's own disk."""
    code = "E902" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "E304"
    return ImgcError(code, f"The git cache cannot be written: {error.strerror or error}.")
