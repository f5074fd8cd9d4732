"""The whole road on one page: load, resolve, pin, lower, run, assemble, convert, check, boot, publish, record.

:mod:`imgc.compiling` is its pure half, up to a graph with keys.  :func:`build_all` is the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imgc import process
from imgc.compiling import (
    Compiled,
    Settings,
    cached_steps,
    compile_each,
    compile_loaded,
    compile_platform,
    compile_platforms,
    fleet,
    with_boots,
    with_known_hooks,
    with_lock,
)
from imgc.course import BuildOptions, BuildResult, Course, lane_of
from imgc.engine.events import Notice
from imgc.errors import ImgcError

if TYPE_CHECKING:
    from imgc.engine.events import Stream
    from imgc.engine.layers import Layers
    from imgc.engine.run import Lane
    from imgc.engine.sandbox import Sandbox
    from imgc.engine.step_runner import Job
    from imgc.engine.store import Store, Work
    from imgc.engine.store_locks import Use
    from imgc.lock import Lock

__all__ = [
    "BuildOptions",
    "BuildResult",
    "Compiled",
    "Removed",
    "Settings",
    "build",
    "build_all",
    "cached_steps",
    "clean",
    "compile_each",
    "compile_loaded",
    "compile_platform",
    "compile_platforms",
    "fleet",
    "shell",
]


def build(compiled: Compiled, options: BuildOptions, settings: Settings, stream: Stream) -> BuildResult:
    """Build one platform; problems are in the result, not raised."""
    return build_all([compiled], options, settings, stream)[0]


def build_all(
    compiled: Sequence[Compiled], options: BuildOptions, settings: Settings, stream: Stream
) -> list[BuildResult]:
    """Build platforms as one graph: run what is missing, publish the outputs.

    What goes wrong with one platform is in its result; the others go on.
    """
    from imgc.engine.store import Store
    from imgc.engine.store_eviction import limit_of

    store = Store(settings.cache_dir)
    limit = limit_of(store.cache, settings.host_environment)
    with ExitStack() as held:
        name = _name_of(compiled)
        use = held.enter_context(store.using(name, ()))
        courses = [
            held.enter_context(Course(with_boots(one) if options.boot else one, options, store, use, stream))
            for one in compiled
        ]
        locks = _locks(courses, options, settings, stream)
        to_run = []
        for course in courses:
            wanted = _prepared(course, locks[course.name])
            if wanted:
                to_run.append((course, wanted))
            elif course.result is None:
                course.finish()
        if to_run:
            _run(to_run, name, options, store)
            _trim(store, use, limit)
        return [course.result for course in courses if course.result]


def _locks(
    courses: Sequence[Course], options: BuildOptions, settings: Settings, stream: Stream
) -> dict[str, Lock | ImgcError]:
    """What each platform is to be built from, by name; the problem where that cannot be found out."""
    from imgc.locking import pinned

    return pinned(
        [course.compiled for course in courses],
        settings,
        refresh=options.refresh,
        offline=options.offline,
        tell=lambda platform, text: stream.emit(Notice(platform, text)),
    )


def _prepared(course: Course, lock: Lock | ImgcError) -> list[str]:
    """Find what has to run; a course that cannot begin ends here."""
    try:
        if isinstance(lock, ImgcError):
            raise lock
        course.compiled = with_lock(course.compiled, lock, course.store)
        wanted = course.wanted()
        course.announce(wanted)
        course.need_tools(wanted)
    except ImgcError as problem:
        course.finish(problem)
        return []
    return wanted


def _name_of(compiled: Sequence[Compiled]) -> str:
    """What other imgc call this build."""
    first, *others = [one.platform.name for one in compiled] or ["nothing"]
    return f"{first}+{len(others)}" if others else first


def _run(courses: Sequence[tuple[Course, list[str]]], name: str, options: BuildOptions, store: Store) -> None:
    """Run the steps of all courses as one graph."""
    from imgc.engine.budget import Budget, Sizes, free_disk
    from imgc.engine.run import run

    sizes = Sizes(store.cache)
    with ExitStack() as ground:
        layers, work = ground.enter_context(_ground(store, name, memory=options.memory))
        passing: dict[str, Path] = {}
        lanes: list[Lane] = []
        for course, wanted in courses:
            try:
                job = ground.enter_context(_job(course.compiled, options, store, layers, work, course.stream))
            except ImgcError as problem:
                course.finish(problem)
                continue
            job.passing = passing

            def done(course: Course = course) -> None:
                sizes.remember(course.name, store.layers_size(course.compiled.keys.values()))

            lanes.append(lane_of(course, job, wanted, sizes.of(course.name), done))
        disk = options.disk_budget if options.disk_budget is not None else free_disk(store.cache)
        memory = options.memory_budget if options.memory_budget is not None else layers.capacity
        run(lanes, jobs=options.jobs, budget=Budget(memory, disk), fail_fast=options.fail_fast)


def _trim(store: Store, use: Use, limit: int) -> None:
    """Keep the cache below its size, now that this build needs nothing of it any more."""
    from imgc.engine.sandbox import Sandbox
    from imgc.engine.store_eviction import trim

    if not process.INTERRUPT.is_set():
        trim(store, Sandbox(store.downloads).remover(store), limit, ended=use)


def shell(compiled: Compiled, step_id: str, settings: Settings) -> int:
    """Open an interactive shell in the state in which a step failed; its exit status.

    Raises E301 when no failed state of that step is kept.
    """
    from imgc.engine import failed_state
    from imgc.engine.events import Stream
    from imgc.engine.store import Store

    store = Store(settings.cache_dir)
    compiled = with_known_hooks(compiled, store)
    options = BuildOptions(Path())
    with (
        _ground(store, compiled.platform.name) as (layers, work),
        _job(compiled, options, store, layers, work, Stream()) as job,
    ):
        return failed_state.shell(job, step_id)


@contextmanager
def _ground(store: Store, name: str, *, memory: bool | None = None) -> Iterator[tuple[Layers, Work]]:
    """Where steps run: scratch space, and room for unpacked layers."""
    from imgc.engine.layers import unpacked
    from imgc.engine.sandbox import Sandbox

    sandbox = Sandbox(store.downloads)
    with (
        store.work(name, sandbox.remover(store)) as work,
        unpacked(sandbox, store, work, memory=memory) as layers,
    ):
        yield layers, work


@contextmanager
def _job(
    compiled: Compiled, options: BuildOptions, store: Store, layers: Layers, work: Work, stream: Stream
) -> Iterator[Job]:
    """A platform ready to run: its hooks tree on disk, its sources at hand, its sandbox.  Raises what they lack."""
    from imgc.engine.hooks_tree import materialise
    from imgc.engine.step_runner import Job
    from imgc.file_steps import FILE_STEPS
    from imgc.graph.plan import dib_directory
    from imgc.sources.archive_server import serve

    plan, pins = compiled.plan, compiled.lock.pins

    def tell(text: str) -> None:
        stream.emit(Notice(plan.platform.name, text))

    base = work.directory("hooks") / plan.platform.name
    materialise(plan, base, dib_directory() / "lib")
    with serve(compiled.sources, pins, store.cache, offline=options.offline, tell=tell) as server:
        sandbox, environment = _sandbox(compiled, options, store, layers, work, server.url)
        yield Job(
            plan,
            compiled.graph,
            compiled.keys,
            store,
            layers,
            work,
            base,
            sandbox,
            stream,
            FILE_STEPS,
            compiled.lock.epoch,
            sources=compiled.sources,
            offline=options.offline,
            pinned=environment,
            debug_trace=options.debug_trace,
            fresh=options.fresh,
            blame=lambda: tuple(server.problems),
            plain=_plain(compiled),
            # dnf has no setting from outside, as apt has.
            only_pinned=options.offline or any(one.kind == "yum" for one in compiled.sources),
        )


def _sandbox(
    compiled: Compiled, options: BuildOptions, store: Store, layers: Layers, work: Work, proxy: str
) -> tuple[Sandbox, Mapping[str, str]]:
    """Where a platform's steps run, with what is pinned at hand, and the variables that say so to hooks."""
    from imgc.caches.pinning import offers
    from imgc.engine import protocol, sandbox
    from imgc.sources.pinning import fetch

    plan, pins = compiled.plan, compiled.lock.pins
    fetched = fetch(
        compiled.sources,
        pins,
        cache=store.cache,
        downloads_as=sandbox.CACHE,
        offline=options.offline,
        tell=lambda _: None,
    )
    listed = offers(compiled.sources, pins, store.cache, offline=options.offline, tell=lambda _: None)
    inside = sandbox.Sandbox(
        store.downloads,
        plan.search_paths,
        protocol.functions(plan),
        proxy=proxy,
        package_caches=work.directory(f"packages/{plan.platform.name}"),
        wheels=fetched.wheels,
        offers={**fetched.offers, **listed},
        holder=layers.sandbox.holder,
    )
    return inside, fetched.environment


def _plain(compiled: Compiled) -> dict[str, str]:
    """The variables that name a pinned archive by https, with http: the archive server goes there by https itself."""
    from imgc.graph.archives import PACKAGES
    from imgc.sources.archive_server import plain_url

    found = {}
    for name, value in compiled.plan.environment:
        plain = value
        for source in compiled.sources:
            if source.kind in PACKAGES:
                plain = plain.replace(source.location, plain_url(source.location))
            if source.kind == "yum" and source.location.startswith(f"{value.rstrip('/')}/"):
                # A mirror below which there are several repositories.
                plain = plain_url(value)
        if plain != value:
            found[name] = plain
    return found


@dataclass(frozen=True)
class Removed:
    """What :func:`clean` removed (or would): a kind of thing, how many, and their size in bytes."""

    what: str
    count: int
    bytes: int


def clean(settings: Settings, *, layers: bool, downloads: bool, dry_run: bool) -> tuple[Removed, ...]:
    """Empty the cache: what dead builds left, always; results (``layers``) and downloads when asked to."""
    from imgc.engine.sandbox import Sandbox
    from imgc.engine.store import Store

    store = Store(settings.cache_dir)
    sandbox = Sandbox(store.downloads)
    removed = store.clean(sandbox.remover(store), layers=layers, downloads=downloads, dry_run=dry_run)
    return tuple(Removed(*one) for one in removed)
