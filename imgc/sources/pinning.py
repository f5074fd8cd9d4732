"""Pins what builds take from outside, and brings what is pinned into the cache.  Many things at once.

Package archives are pinned here; their packages are fetched while a build runs (:mod:`imgc.sources.archive_server`).
Caches of images are pinned in :mod:`imgc.caches.pinning`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from imgc.errors import Collector, ImgcError
from imgc.lock import Lock, Pin, Pins, Source, epoch_of, moves
from imgc.sources.hook_cache import cache_name, lay_out

#: How many things are looked up or fetched at a time.
_AT_ONCE = 8

#: Told, in the caller's thread, what has been pinned or fetched.
Tell = Callable[[str], None]

_Key = TypeVar("_Key")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Fetched:
    """What was brought into the cache.

    ``environment`` are variables for hooks that read repositories, and for no others.  ``wheels`` has the directory
    of an element's wheels, by the element's name, ``offers`` what else hooks may read, by the name they know it by.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    wheels: Mapping[str, Path] = field(default_factory=dict)
    offers: Mapping[str, Path] = field(default_factory=dict)


def pin(
    sources: Sequence[Source], known: Pins, *, cache: Path, refresh: bool, offline: bool, tell: Tell
) -> dict[tuple[str, str], Pin]:
    """The pin of every source.

    ``known`` pins are kept where they are for the source as it is now; with ``refresh``, everything is looked up.
    Raises E612 for each pin that is missing when ``offline``, and what looking up raises; all problems come together.
    """
    return pin_all({"": sources}, {"": known}, cache=cache, refresh=refresh, offline=offline, tell=tell)[""]


def pin_all(
    wanted: Mapping[str, Sequence[Source]],
    known: Mapping[str, Pins],
    *,
    cache: Path,
    refresh: bool,
    offline: bool,
    tell: Tell,
) -> dict[str, dict[tuple[str, str], Pin]]:
    """The same for several platforms, by their names: what several of them take is looked up once."""
    kept: dict[str, dict[tuple[str, str], Pin]] = {}
    # Equal sources are one key; the pin that any platform had helps to ask whether there is news.
    missing: dict[Source, Pin | None] = {}
    for platform, sources in wanted.items():
        pins = known.get(platform, {})
        kept[platform] = {
            source.id: pins[source.id]
            for source in sources
            if source.id in pins and pins[source.id].is_for(source) and (offline or not refresh)
        }
        for source in sources:
            if source.id not in kept[platform]:
                missing[source] = missing.get(source) or pins.get(source.id)
    if offline and missing:
        _refuse(missing)
    jobs = {source: _lookup(source, before, cache) for source, before in missing.items()}
    found = _side_by_side(
        jobs, cache, lambda source, one: tell(f"{source.kind} {source.name} is {one.value}")
    )
    return {
        platform: {source.id: kept[platform].get(source.id) or found[source] for source in sources}
        for platform, sources in wanted.items()
    }


def relock(platform: str, pins: Pins, before: Lock | None) -> Lock:
    """The lock of a platform with these pins.  What was installed is still known when nothing has moved."""
    same = before is not None and not moves(before.pins, pins)
    return Lock(platform, dict(pins), epoch_of(pins), dict(before.packages) if before and same else {})


def fetch(
    sources: Sequence[Source], pins: Pins, *, cache: Path, downloads_as: str, offline: bool, tell: Tell
) -> Fetched:
    """Bring the pinned repositories, files and wheels into the cache.  Those without a pin are left to the hooks.

    ``downloads_as`` is the path by which hooks see ``cache/downloads``.  Raises E601, E602, E604 and E615; all
    problems come together.
    """
    pinned = [(source, pins[source.id]) for source in sources if source.id in pins]
    jobs: dict[str, Callable[[], Path]] = {}
    for name, group in _repositories(pinned).items():
        jobs[name] = _repository(group, cache, offline)
    for source, one in pinned:
        if source.kind in ("file", "wheels", "base"):
            jobs[_name(source)] = _single(source, one, cache, offline)
    paths = _side_by_side(jobs, cache, lambda name, path: tell(f"{name} is in the cache"))
    copies = [(source, one, paths[_name(source)]) for source, one in pinned if source.kind in ("git", "file")]
    with _faults_of(cache):
        environment = lay_out(copies, cache, downloads_as)
    wheels = {source.name: paths[_name(source)] for source, _ in pinned if source.kind == "wheels"}
    offers = {source.name: paths[_name(source)] for source, _ in pinned if source.kind == "base"}
    return Fetched(environment, wheels, offers)


# --- one source ---------------------------------------------------------------------------------------------------


def _lookup(source: Source, before: Pin | None, cache: Path) -> Callable[[], Pin]:
    """What pins one source."""

    def job() -> Pin:
        if source.kind == "git":
            from imgc.sources.git import pin_git

            return pin_git(source)
        if source.kind == "file":
            from imgc.sources.files import pin_file

            return pin_file(source, cache, known=before)
        if source.kind == "wheels":
            from imgc.sources.wheels import pin_wheels

            return pin_wheels(source, cache)
        if source.kind == "base":
            from imgc.sources.bases import pin_base

            return pin_base(source, cache, known=before)
        if source.kind == "yum":
            from imgc.sources.yum_pins import pin_yum

            return pin_yum(source, cache)
        from imgc.sources.apt_pins import pin_apt

        return pin_apt(source, cache)

    return job


def _repositories(pinned: Iterable[tuple[Source, Pin]]) -> dict[str, list[tuple[Source, Pin]]]:
    """Repositories by what they are called; several refs of what the hook keeps as one repository belong together."""
    groups: dict[str, list[tuple[Source, Pin]]] = {}
    for source, one in pinned:
        if source.kind == "git":
            groups.setdefault(_name(source), []).append((source, one))
    return groups


def _name(source: Source) -> str:
    """What a thing in the cache is called in messages; equal for what is one thing there."""
    return f"git {cache_name(source)}" if source.kind == "git" else f"{source.kind} {source.name}"


def _repository(group: Sequence[tuple[Source, Pin]], cache: Path, offline: bool) -> Callable[[], Path]:
    def job() -> Path:
        from imgc.sources.git import fetch_git

        return fetch_git(group, cache, offline=offline)

    return job


def _single(source: Source, one: Pin, cache: Path, offline: bool) -> Callable[[], Path]:
    def job() -> Path:
        if source.kind == "file":
            from imgc.sources.files import fetch_file

            return fetch_file(source, one, cache, offline=offline)
        if source.kind == "base":
            from imgc.sources.bases import fetch_base

            return fetch_base(source, one, cache, offline=offline)
        from imgc.sources.wheels import fetch_wheels

        return fetch_wheels(source, one, cache, offline=offline)

    return job


def _refuse(missing: Iterable[Source]) -> None:
    """Raise E612 for every source without a pin."""
    problems = Collector()
    for source in missing:
        problems.add(not_pinned(source))
    problems.check()


def not_pinned(source: Source) -> ImgcError:
    """E612 for a source that has no pin where nothing may be looked up."""
    said = f"{source.kind} {source.name} is not pinned, and nothing may be looked up."
    return ImgcError("E612", said, hint="`imgc lock` pins it, with the network.", place=source.place)


# --- side by side -------------------------------------------------------------------------------------------------


def _side_by_side(
    jobs: Mapping[_Key, Callable[[], _Result]], cache: Path, done: Callable[[_Key, _Result], None]
) -> dict[_Key, _Result]:
    """Run all jobs, some at a time, and return what they return.  Their problems are raised together at the end."""
    if not jobs:
        return {}
    problems = Collector()
    results: dict[_Key, _Result] = {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running: dict[_Key, Future[_Result]] = {key: pool.submit(job) for key, job in jobs.items()}
        try:
            for key, future in running.items():
                try:
                    with _faults_of(cache):
                        results[key] = future.result()
                    done(key, results[key])
                except ImgcError as problem:
                    if problem.code == "E307":
                        raise
                    problems.add(problem)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    problems.check()
    return results


@contextmanager
def _faults_of(cache: Path) -> Iterator[None]:
    """Turn a failed access to the cache into E304; a full disk has a code of its own elsewhere."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        said = f"The cache {cache} cannot be used: {error.strerror or error}."
        hint = "Choose another one with --cache or IMGC_CACHE."
        raise ImgcError("E304", said, hint=hint) from error
