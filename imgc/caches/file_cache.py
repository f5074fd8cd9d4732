"""The file cache: files behind URLs, fetched once for all platforms, in one directory of the image.

A pin names each file with its digest and URL.  The bytes lie in the cache by their digest, where those of elements'
files lie too (:mod:`imgc.sources.files`); images get hard links to them.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from imgc.caches.image_list import RunScript, images_of
from imgc.caches.model import Pinned
from imgc.caches.whole import write_whole
from imgc.errors import Collector, ImgcError, Place, Problems
from imgc.lock import EARLIEST_EPOCH, Pin, Source
from imgc.sources.cache_lock import locked
from imgc.sources.download import shown
from imgc.sources.files import fetch_file, pin_file

#: How many files are on their way at a time.
_AT_ONCE = 4

#: What a file may be called.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")

#: The value of a pin: the digest, and where the file came from.
_VALUE = re.compile(r"sha256:([0-9a-f]{64}) (\S+)")

#: What a message calls the file: "The file of the file cache cannot be fetched from …".
_WHAT = "the file cache"


@dataclass(frozen=True)
class _Wanted:
    """One file that somebody asks for.

    ``sha256`` may be empty.  ``place`` is where it is asked for; ``by`` says so in words where that is in no spec.
    """

    name: str
    url: str
    sha256: str
    place: Place | None
    by: str = ""

    def __str__(self) -> str:
        asked = self.by or (str(self.place) if self.place else "")
        return f"{shown(self.url)} ({asked})" if asked else shown(self.url)


@dataclass(frozen=True)
class _Had:
    """A file that is in the cache."""

    wanted: _Wanted
    sha256: str

    @property
    def value(self) -> str:
        # A password in a URL stays in the spec that has it.
        return f"sha256:{self.sha256} {shown(self.wanted.url)}"


def pin_file_cache(
    source: Source,
    before: Pin | None,
    git: Pin | None,
    cache: Path,
    *,
    run_script: RunScript,
    tell: Callable[[str], None],
    places: Sequence[Place] = (),
) -> Pinned:
    """Fetch what is new behind the URLs of ``source``; the files are in the cache afterwards.

    ``places`` are those of the listed files, in their order.  ``before`` is the pin of another day: what cannot be
    fetched stays as it was then, and is left out when it was not there.  Findings are E659, E660 and E661; a strict
    source raises them together.  Two listed files of one name with different bytes are E660 in any case.
    """
    listed, findings = _listed(source, places)
    wanted = list(listed)
    project = source.get("devstack")
    if project:
        images, failed = images_of(project, git, cache, run_script=run_script, tell=tell, place=source.place)
        named, nameless = _named((one.url, "", "", source.place, one.by) for one in images)
        wanted += named
        findings += [*failed, *nameless]
    had = list(_fetched(wanted, before, cache, findings, tell))
    chosen = _without_clashes(had, findings)
    if source.get("strict"):
        Collector(list(findings)).check()
    identity = tuple((name, chosen[name].value) for name in sorted(chosen))
    return Pinned(Pin("file-cache", source.name, identity, source.asked), tuple(findings))


def make_file_tree(
    source: Source, pin: Pin, into: Path, cache: Path, *, offline: bool, on_line: Callable[[str], None]
) -> dict[str, Any]:
    """Put the pinned files below ``into/mnt``, where the image has them; what was put there, for the record.

    They are hard links to those in the cache where the file system can do that.  What the cache has no longer is
    fetched.  Raises together: E601, E602 (its URL has other bytes now), E604 when nothing may be fetched.
    """
    directories = _directories(into / "mnt", source.get("directory"))
    secret = {shown(url): url for url, _, _ in _entries(source)}
    problems = Collector()
    made: list[dict[str, Any]] = []
    for name, value in pin.identity:
        parsed = _VALUE.fullmatch(value)
        if not parsed or not NAME.fullmatch(name):
            raise ImgcError("E611", f"The pin of the file cache has no file in `{name}: {value}`.")
        sha256, url = parsed[1], secret.get(parsed[2], parsed[2])
        try:
            path = fetch_file(_source(url, sha256, source.place), _file_pin(sha256), cache, offline=offline)
        except ImgcError as problem:
            if problem.code not in ("E601", "E602", "E604"):
                raise
            problems.add(problem)
            continue
        _place(path, directories[-1] / name)
        size = path.stat().st_size
        on_line(f"{source.get('directory')}/{name}: {size} bytes from {parsed[2]}")
        made.append({"name": name, "sha256": sha256, "size": size, "url": parsed[2]})
    problems.check()
    for path in directories:
        # When they were made would be seen in the image.
        os.utime(path, (EARLIEST_EPOCH, EARLIEST_EPOCH))
    return {"directory": source.get("directory"), "files": made}


# --- what is wanted -----------------------------------------------------------------------------------------------


def _entries(source: Source) -> list[tuple[str, str, str]]:
    """(URL, sha256, name) of each file that the spec lists."""
    return [
        (str(url), str(sha256), str(name)) for url, sha256, name in json.loads(source.get("files") or "[]")
    ]


def _listed(source: Source, places: Sequence[Place]) -> tuple[list[_Wanted], list[ImgcError]]:
    entries = _entries(source)
    at = [*places, *[source.place] * (len(entries) - len(places))]
    return _named(
        (url, sha256, name, place, "") for (url, sha256, name), place in zip(entries, at, strict=False)
    )


def _named(
    entries: Iterable[tuple[str, str, str, Place | None, str]],
) -> tuple[list[_Wanted], list[ImgcError]]:
    """Files with their names; an E659 for each whose URL has none."""
    found: list[_Wanted] = []
    nameless: list[ImgcError] = []
    for url, sha256, name, place, by in entries:
        name = name or unquote(posixpath.basename(urlsplit(url).path))
        if NAME.fullmatch(name):
            found.append(_Wanted(name, url, sha256.lower(), place, by))
            continue
        said = f"The last part of {shown(url)} is not the name of a file."
        nameless.append(ImgcError("E659", said, hint="Give the file a `name`.", place=place))
    return found, nameless


# --- fetching -----------------------------------------------------------------------------------------------------


def _fetched(
    wanted: Sequence[_Wanted],
    before: Pin | None,
    cache: Path,
    findings: list[ImgcError],
    tell: Callable[[str], None],
) -> Iterator[_Had]:
    """What can be had of ``wanted``, in that order; the rest goes to ``findings``.  A URL is asked once."""
    jobs = dict.fromkeys((one.url, one.sha256) for one in wanted)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = {job: pool.submit(_fetch, *job, cache) for job in jobs}
        try:
            results = {job: future.result() for job, future in running.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    told: set[tuple[str, str]] = set()
    for one in wanted:
        result = results[one.url, one.sha256]
        if isinstance(result, ImgcError):
            kept = "" if one.sha256 else _yesterdays(one, before, cache)
            problem = _finding(one, result, kept)
            if (one.url, one.sha256) not in told:
                findings.append(problem)
            told.add((one.url, one.sha256))
            if kept:
                yield _Had(one, kept)
            continue
        tell(f"file {one.name} is sha256:{result}")
        yield _Had(one, result)


def _fetch(url: str, sha256: str, cache: Path) -> str | ImgcError:
    """The digest of the file behind a URL, in the cache now; E601 or E602 when it is not the one to have."""
    if sha256 and _in_cache(sha256, cache):
        return sha256
    record = cache / "caches" / "files" / f"url.{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"
    try:
        with locked(record):
            # That nothing has changed since would not help a file that is to be another.
            known = None if sha256 else _recorded(record)
            pin = pin_file(_source(url, sha256), cache, known=known)
            text = json.dumps({"sha256": pin.get("sha256"), "notes": dict(pin.notes)}, indent=1)
            write_whole(record, text.encode())
            return pin.get("sha256")
    except ImgcError as problem:
        if problem.code not in ("E601", "E602"):
            raise
        return problem


def _recorded(record: Path) -> Pin | None:
    """What a server said about its file when it was last fetched."""
    try:
        loaded = json.loads(record.read_text(encoding="utf-8"))
        notes = tuple((str(name), str(value)) for name, value in loaded["notes"].items())
        return _file_pin(str(loaded["sha256"]), notes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _yesterdays(one: _Wanted, before: Pin | None, cache: Path) -> str:
    """The digest of the file that ``before`` has by this name and from this URL, as long as the cache has it."""
    parsed = _VALUE.fullmatch(before.get(one.name)) if before else None
    if parsed and parsed[2] == shown(one.url) and _in_cache(parsed[1], cache):
        return parsed[1]
    return ""


def _finding(one: _Wanted, problem: ImgcError, kept: str) -> ImgcError:
    """What became of a file that was not to be had, in the words of the file cache."""
    asked = f" {one.by} names it." if one.by else ""
    if problem.code == "E602":
        said = f"{one.name} is left out: {shown(one.url)} has other bytes than its sha256 says.{asked}"
        detail = problem.detail.replace("pinned:", "wanted:")
        return ImgcError("E660", said, hint="Which of the two is right?", place=one.place, detail=detail)
    instead = "the one of another day is kept" if kept else "it is left out"
    said = f"{problem.message.rstrip('.')}; {instead}.{asked}"
    return ImgcError("E659", said, hint=problem.hint, place=one.place)


def _without_clashes(had: Iterable[_Had], findings: list[ImgcError]) -> dict[str, _Had]:
    """One file for each name.  Raises E660 where the spec has two; elsewhere the first one is taken."""
    chosen: dict[str, _Had] = {}
    clashes: list[ImgcError] = []
    for one in had:
        first = chosen.setdefault(one.wanted.name, one)
        if first.sha256 == one.sha256:
            continue
        said = f"Two different files would be {one.wanted.name}: {first.wanted} and {one.wanted}."
        ours = not one.wanted.by
        hint = "Give one of them another `name`." if ours else "The first one is taken."
        clash = ImgcError("E660", said, hint=hint, place=one.wanted.place)
        (clashes if ours else findings).append(clash)
    if clashes:
        raise Problems([*clashes, *findings]) if len(clashes) + len(findings) > 1 else clashes[0]
    return chosen


def _source(url: str, sha256: str, place: Place | None = None) -> Source:
    return Source("file", _WHAT, url, (("sha256", sha256),) if sha256 else (), place)


def _file_pin(sha256: str, notes: tuple[tuple[str, str], ...] = ()) -> Pin:
    return Pin("file", _WHAT, (("sha256", sha256),), notes)


def _in_cache(sha256: str, cache: Path) -> bool:
    return (cache / "files" / sha256).is_file()


# --- the tree -----------------------------------------------------------------------------------------------------


def _directories(root: Path, directory: str) -> list[Path]:
    """Make ``directory`` below ``root``; its directories, the root first, with the modes they have anywhere."""
    made = [root]
    for part in directory.strip("/").split("/"):
        made.append(made[-1] / part)
    for path in made:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)
    return made


def _place(path: Path, final: Path) -> None:
    """A file of the cache under its name in the tree, without a copy where that can be."""
    try:
        # A link shares time and mode with the file in the cache; neither means anything there.
        path.chmod(0o644)
        os.utime(path, (EARLIEST_EPOCH, EARLIEST_EPOCH))
        os.link(path, final)
    except OSError:
        # Another file system, or a cache of another user.
        shutil.copyfile(path, final)
        final.chmod(0o644)
        os.utime(final, (EARLIEST_EPOCH, EARLIEST_EPOCH))
