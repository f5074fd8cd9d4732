"""Locks of platforms: pin what their builds take from outside, see whether a lock fits, and what has moved since."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imgc.errors import Collector, ImgcError
from imgc.pins import lock_file, record

if TYPE_CHECKING:
    from imgc.caches.pinning import Wanted
    from imgc.compiling import Compiled, Settings
    from imgc.graph import Plan
    from imgc.lock import Lock, Move, Pin, Source
    from imgc.sources.newer import Newer


#: Seconds for which a build that pins may say nothing.
_SILENCE = 5.0


@dataclass(frozen=True)
class Job:
    """A platform, what it takes from outside, where its lock is, and the lock that is there.

    ``warnings`` are about what it takes and nothing can pin.
    """

    name: str
    sources: tuple[Source, ...]
    path: Path
    warnings: tuple[str, ...] = ()
    before: Lock | None = None


@dataclass(frozen=True)
class Result:
    """What came of one platform."""

    job: Job
    lock: Lock
    moves: tuple[Move, ...] = ()
    newer: tuple[Newer, ...] = field(default=())


def jobs_of(names: Sequence[str], settings: Settings) -> list[Job]:
    """Find out what the platforms take.  The problems of all of them are raised together."""
    from imgc.graph.outside import sources_of, warnings_of

    problems, jobs = Collector(), []
    for name in names:
        try:
            plan = _plan(name, settings)
            path = lock_file(plan.platform)
            jobs.append(Job(plan.platform.name, sources_of(plan), path, tuple(warnings_of(plan))))
        except ImgcError as problem:
            problems.add(problem)
    problems.check()
    return jobs


def _plan(name: str, settings: Settings) -> Plan:
    """A platform as far as it takes no lock: a lock that cannot be read is no reason not to write a new one."""
    from imgc import spec
    from imgc.compiling import mirror_environment
    from imgc.graph import compile_plan

    platform = spec.load(name, specs_dir=settings.specs_dir, host_environment=settings.host_environment)
    return compile_plan(platform, mirrors=mirror_environment(platform))


def check(jobs: Sequence[Job]) -> list[Result]:
    """Read all locks; everything that is wrong with any of them is raised together."""
    from imgc import lock as locks

    problems, results = Collector(), []
    for job in jobs:
        try:
            results.append(Result(job, locks.check(job.path, job.name, job.sources)))
        except ImgcError as problem:
            problems.add(problem)
    problems.check()
    return results


def pin(
    jobs: Sequence[Job],
    settings: Settings,
    tell: Callable[[str], None],
    warn: Callable[[str, str], None],
    *,
    diff: bool,
    offline: bool,
) -> list[Result]:
    """Pin what the platforms take; write their locks, or with ``diff`` only see what has moved.

    ``offline`` looks nothing up.  ``tell`` is given a line for each source as it is pinned, ``warn`` a platform and
    what did not go as asked without stopping anything.
    """
    from imgc import lock as locks
    from imgc.caches.pinning import Wanted
    from imgc.sources.newer import newer_packages
    from imgc.sources.pinning import relock

    jobs = [_with_lock(job, required=diff) for job in jobs]
    pinned = _look_up(
        [Wanted(job.name, job.sources, _known(job, settings)) for job in jobs],
        settings,
        refresh=True,
        offline=offline,
        tell=tell,
        warn=warn,
    )
    results = []
    for job in jobs:
        after = relock(job.name, pinned[job.name], job.before)
        if not after.packages:
            # Not written into the lock yet, but built from these very pins.
            after = relock(job.name, pinned[job.name], _recorded(job, settings))
        moves = locks.moves(job.before.pins if job.before else {}, after.pins)
        newer: tuple[Newer, ...] = ()
        if diff and job.before:
            moved = [
                source for source in job.sources if any((one.kind, one.name) == source.id for one in moves)
            ]
            newer = newer_packages(job.before.packages, moved, after.pins, settings.cache_dir)
        results.append(Result(job, after, moves, newer))
    if not diff:
        for one in results:
            locks.write(one.lock, one.job.path)
    return results


def _with_lock(job: Job, *, required: bool) -> Job:
    """The job with the lock that is there.  Where that is about to be replaced, it need not be readable."""
    from imgc import lock as locks

    try:
        return replace(job, before=locks.read(job.path) if job.path.exists() else None)
    except ImgcError:
        if required:
            raise
        return job


def _known(job: Job, settings: Settings) -> dict[tuple[str, str], Pin]:
    """The pins of the last build of a platform, and over them those of its lock."""
    recorded = _recorded(job, settings)
    return {**(recorded.pins if recorded else {}), **(job.before.pins if job.before else {})}


def _recorded(job: Job, settings: Settings) -> Lock | None:
    """What the last build of a platform used; None when it was never built here."""
    from imgc import lock as locks

    try:
        return locks.read(locks.path_of(settings.cache_dir / "pins", job.name))
    except ImgcError:
        return None


def _look_up(
    wanted: Sequence[Wanted],
    settings: Settings,
    *,
    refresh: bool,
    offline: bool,
    tell: Callable[[str], None],
    warn: Callable[[str, str], None],
) -> dict[str, dict[tuple[str, str], Pin]]:
    """The pin of everything that platforms take from outside, by their names.  What was found goes to ``warn``."""
    from imgc.caches.pinning import KINDS, pin_caches, remember
    from imgc.engine.scripts import runner
    from imgc.sources.pinning import pin_all

    cache = settings.cache_dir
    plain = {one.platform: [source for source in one.sources if source.kind not in KINDS] for one in wanted}
    known = {one.platform: one.known for one in wanted}
    found = pin_all(plain, known, cache=cache, refresh=refresh, offline=offline, tell=tell)
    with_caches = [one for one in wanted if len(plain[one.platform]) < len(one.sources)]
    pinned = pin_caches(
        with_caches, cache=cache, refresh=refresh, offline=offline, run_script=runner(cache), tell=tell
    )
    for platform, each in pinned.items():
        found[platform] |= {id: one.pin for id, one in each.items()}
        for one in each.values():
            for finding in one.findings or ():
                warn(platform, str(finding))
        remember(platform, each.values(), cache)
    return found


# --- for builds -----------------------------------------------------------------------------------------------------


def pinned(
    compiled: Sequence[Compiled],
    settings: Settings,
    *,
    refresh: bool,
    offline: bool,
    tell: Callable[[str, str], None],
) -> dict[str, Lock | ImgcError]:
    """What to build each platform from, by name: what is known of it, with what is missing pinned now.

    ``refresh`` pins everything anew.  Nothing is fetched when nothing is missing.  What is pinned is recorded, so that
    the next build uses the same pins.  A source that several platforms read is looked up once, and a platform of
    which one cannot be pinned gets the problem in place of a lock.  ``tell`` is given a platform and a text.
    """
    wanting = [one for one in compiled if refresh or any(_missing(one))]
    found: dict[str, Lock | ImgcError] = {one.platform.name: one.lock for one in compiled}
    if not wanting:
        return found
    from imgc.caches.pinning import Wanted
    from imgc.sources.pinning import relock

    for one in wanting:
        name, missing = one.platform.name, [f"{source.kind} {source.name}" for source in _missing(one)]
        if missing and not refresh and lock_file(one.platform).exists():
            tell(name, f"its lock has no pin for {', '.join(missing)}; `imgc lock {name}` adds it")

    def look_up(group: Sequence[Compiled]) -> None:
        each = _look_up(
            [Wanted(one.platform.name, one.sources, one.lock.pins) for one in group],
            settings,
            refresh=refresh,
            offline=offline,
            tell=_now_and_then(partial(tell, group[0].platform.name)),
            warn=tell,
        )
        for one in group:
            lock = relock(one.platform.name, each[one.platform.name], one.lock)
            record(lock, one.platform, settings.cache_dir)
            found[lock.platform] = lock

    try:
        look_up(wanting)
    except ImgcError:
        # One by one, so that each platform gets its own problems, and only these.
        for one in wanting:
            try:
                look_up([one])
            except ImgcError as problem:
                found[one.platform.name] = problem
    return found


def _now_and_then(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Tells what is being done when that takes long, a line every few seconds: filling a git cache takes minutes."""
    begun = time.monotonic()
    told, count = begun, 0

    def hear(text: str) -> None:
        nonlocal told, count
        count += 1
        now = time.monotonic()
        if now - told >= _SILENCE:
            told = now
            tell(f"pinning what comes from outside: {text} ({count} things in {now - begun:.0f} s)")

    return hear


def _missing(compiled: Compiled) -> Iterator[Source]:
    """What a platform takes from outside and its lock does not have."""
    for source in compiled.sources:
        pin = compiled.lock.pins.get(source.id)
        if pin is None or not pin.is_for(source):
            yield source
