"""The whole road on one page: load, resolve, lower, run, assemble, convert, check, boot, publish.

Everything up to :func:`compile_platform` is pure: no root, no network, milliseconds.  :func:`build` is the rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imgc import process
from imgc.errors import Collector, ImgcError
from imgc.graph.step import Kind, Step
from imgc.publish import Artifact, publish, publish_side

if TYPE_CHECKING:
    import networkx as nx

    from imgc.engine.events import Stream
    from imgc.engine.layers import Layers
    from imgc.engine.store import Store, Work
    from imgc.graph import Discovered, Plan
    from imgc.spec.model import Platform
    from imgc.verify.boot import BootReport


@dataclass(frozen=True)
class Settings:
    """Where things are on this host, and the host variables that templates may read."""

    specs_dir: Path
    cache_dir: Path
    host_environment: Mapping[str, str]


@dataclass(frozen=True)
class Compiled:
    """A platform as a graph; ``keys`` by step id."""

    platform: Platform
    plan: Plan
    graph: nx.DiGraph[str]
    keys: dict[str, str]


@dataclass(frozen=True)
class BuildOptions:
    """What to do with the compiled platform.  ``formats`` picks outputs by format or suffix (empty: all of them)."""

    output_dir: Path
    formats: tuple[str, ...] = ()
    boot: bool = False
    fresh: bool = False
    debug_trace: int = 0
    jobs: int = 2
    #: Whether layers are unpacked in memory while the build runs; None: when there is plenty of it.
    memory: bool | None = None


@dataclass(frozen=True)
class BuildResult:
    """How a build ended: ``status`` is ``ok``, ``failed`` or ``interrupted``."""

    platform: str
    status: str
    ran: int
    cached: int
    seconds: float
    artifacts: tuple[Artifact, ...]
    log: Path
    error: ImgcError | None = None
    failed_step: str = ""
    boot_reports: tuple[BootReport, ...] = ()
    #: Whether :func:`shell` can open the state in which ``failed_step`` failed; steps that make files have none.
    has_state: bool = True


@dataclass(frozen=True)
class Removed:
    """What :func:`clean` removed (or would): a kind of thing, how many, and their size in bytes."""

    what: str
    count: int
    bytes: int


# --- compiling ----------------------------------------------------------------------------------------------------


def compile_platform(name: str, settings: Settings) -> Compiled:
    """Load a spec, resolve its elements and lower it to a graph with keys.

    Raises an :class:`ImgcError` that holds every problem found.
    """
    from imgc import spec

    platform = spec.load(name, specs_dir=settings.specs_dir, host_environment=settings.host_environment)
    return compile_loaded(platform, settings)


def compile_loaded(platform: Platform, settings: Settings) -> Compiled:
    """Resolve and lower a loaded platform."""
    from imgc.engine.store import Store
    from imgc.graph import compile_plan

    plan = compile_plan(platform, mirrors=mirror_environment(platform))
    compiled = lower(plan, None)
    return _with_known_hooks(compiled, Store(settings.cache_dir)) if settings.cache_dir.exists() else compiled


def compile_platforms(names: Sequence[str], settings: Settings) -> list[Compiled]:
    """Compile several platforms; the problems of all of them are raised together."""
    problems, compiled = Collector(), []
    for name in names:
        try:
            compiled.append(compile_platform(name, settings))
        except ImgcError as problem:
            problems.add(problem)
    problems.check()
    return compiled


def lower(plan: Plan, discovered: Discovered | None) -> Compiled:
    """The graph and the keys of a plan, with the hooks that an earlier run found in place of predicted ones."""
    from imgc import graph

    lowered = graph.lower(plan, discovered)
    return Compiled(plan.platform, plan, lowered, graph.keys(lowered))


def mirror_environment(platform: Platform) -> dict[str, str]:
    """The element variables that say where packages come from; empty for the elements' own defaults."""
    from imgc.sources.apt import host_mirror

    base = platform.base
    if base.mirror == "default":
        return {}
    if base.mirror not in ("host", "auto"):
        return _mirror_variables(base.distro, base.mirror, base.security_mirror or "")
    mirror = host_mirror(base.distro, base.release)
    if mirror:
        return _mirror_variables(base.distro, mirror.url, base.security_mirror or mirror.security_url or "")
    if base.mirror == "host":
        raise ImgcError(
            "E306",
            f"This host has no apt source for {base.distro}.",
            hint="Set base.mirror to a URL, or to `default` for the element's own.",
            place=platform.place("base.mirror"),
        )
    return {}


def _mirror_variables(distro: str, url: str, security_url: str) -> dict[str, str]:
    values = {"DIB_DISTRIBUTION_MIRROR": url}
    if security_url and distro == "debian":
        values["DIB_DEBIAN_SECURITY_MIRROR"] = security_url
    return values


def cached_steps(compiled: Compiled, settings: Settings) -> set[str]:
    """Ids of the steps that a build would not run."""
    from imgc.engine.run import stored_steps, wanted_steps
    from imgc.engine.store import Store

    stored: set[str] = set()
    if settings.cache_dir.exists():
        stored = stored_steps(compiled.graph, compiled.keys, Store(settings.cache_dir))
    return set(compiled.graph.nodes) - set(wanted_steps(compiled.graph, stored, _goals(compiled, ())))


# --- building -------------------------------------------------------------------------------------------------------


def build(compiled: Compiled, options: BuildOptions, settings: Settings, stream: Stream) -> BuildResult:
    """Build one platform: run what is missing, publish the outputs.  Problems are in the result, not raised."""
    from imgc.engine import events
    from imgc.engine.log import Log
    from imgc.engine.run import StepError
    from imgc.engine.store import Store

    started = time.monotonic()
    name = compiled.platform.name
    store = Store(settings.cache_dir)
    with Log(store.cache / "logs" / name) as log:
        stream.add(log)
        course = _Course(_with_boot(compiled) if options.boot else compiled, options, store, stream)
        status, error, failed, has_state = "ok", None, "", True
        try:
            course.go(log.path)
        except StepError as problem:
            status, error, failed = "failed", problem.problem, problem.step.id
            has_state = problem.step.changes_state
        except ImgcError as problem:
            status, error = "failed", problem
        if process.INTERRUPT.is_set() or (error and error.code == "E307"):
            status = "interrupted"
        seconds = time.monotonic() - started
        ran, cached = len(course.ran), len(course.compiled.graph) - len(course.ran)
        stream.emit(events.BuildFinished(name, status, ran, cached, seconds, str(log.path)))
        stream.remove(log)
    return BuildResult(
        name,
        status,
        ran,
        cached,
        seconds,
        tuple(course.artifacts),
        log.path,
        error,
        failed,
        tuple(course.boot_reports),
        has_state,
    )


class _Course:
    """One build on its way: which graph it follows by now, what has run, what has been made."""

    def __init__(self, compiled: Compiled, options: BuildOptions, store: Store, stream: Stream) -> None:
        self.compiled = compiled
        self.options = options
        self.store = store
        self.stream = stream
        self.ran: list[str] = []
        self.artifacts: list[Artifact] = []
        self.boot_reports: list[BootReport] = []

    def go(self, log: Path) -> None:
        """Run the steps that lack a result, if any; publish the outputs; collect the verdicts."""
        wanted = self.wanted()
        self.announce(wanted, log)
        if wanted:
            self.run_steps(wanted)
        self.publish()

    def wanted(self) -> list[str]:
        """Ids of the steps still to run."""
        from imgc.engine.run import stored_steps, wanted_steps

        stored = stored_steps(self.compiled.graph, self.compiled.keys, self.store)
        if self.options.fresh:
            stored &= set(self.ran)
        return wanted_steps(self.compiled.graph, stored, _goals(self.compiled, self.options.formats))

    def announce(self, wanted: Sequence[str], log: Path) -> None:
        """Tell the readers of the stream what is going to happen."""
        from imgc.engine import events

        name, total = self.compiled.platform.name, len(self.compiled.graph)
        times = self.store.times() if wanted else {}
        expected = sum(times.get(step_id, 0.0) for step_id in wanted)
        self.stream.emit(events.BuildStarted(name, total, total - len(wanted), str(log), expected))
        for step in _steps(self.compiled):
            if step.id not in wanted:
                self.stream.emit(events.StepCached(name, step.id, self.compiled.keys[step.id]))

    def run_steps(self, wanted: Sequence[str]) -> None:
        """Run up to the last step of extra-data.d, see which hooks there are now, run the rest."""
        self.need_tools(wanted)
        with _ground(self.compiled, self.store, memory=self.options.memory) as (layers, work):
            handover = _handover(self.compiled)
            try:
                if handover in wanted:
                    self.run_some(layers, work, wanted[: wanted.index(handover) + 1])
                    self.lower_again()
                    wanted = self.wanted()
                self.run_some(layers, work, wanted)
            finally:
                # What a failed build got done is worth as much; one that is interrupted has no time.
                if not process.INTERRUPT.is_set():
                    self.store.make_durable(self.compiled.keys.values())

    def need_tools(self, wanted: Sequence[str]) -> None:
        """Raise E302 now, not after minutes, when a program that imgc's own steps start is not installed."""
        steps = [step for step in _steps(self.compiled) if step.id in wanted and not step.changes_state]
        process.need(*sorted({fact.name for step in steps for fact in step.facts if fact.kind == "tool"}))

    def run_some(self, layers: Layers, work: Work, wanted: Sequence[str]) -> None:
        """Run some steps, and remember them even when one of them fails."""
        from imgc.engine.run import run
        from imgc.engine.step_runner import Job
        from imgc.file_steps import FILE_STEPS

        job = Job(
            self.compiled.plan,
            self.compiled.graph,
            self.compiled.keys,
            self.store,
            layers,
            work,
            self.stream,
            FILE_STEPS,
            jobs=self.options.jobs,
            debug_trace=self.options.debug_trace,
            fresh=self.options.fresh,
        )
        run(job, wanted, self.ran)

    def lower_again(self) -> None:
        """Replace the graph by one with the hooks that are really there after extra-data.d."""
        again = _with_known_hooks(self.compiled, self.store)
        if again is not self.compiled:
            self.compiled = _with_boot(again) if self.options.boot else again

    def publish(self) -> None:
        """Put the outputs under their final names and read the verdicts of the boots."""
        from imgc.engine import events
        from imgc.file_steps import boot_report

        outputs = [step for step in _steps(self.compiled) if step.kind is Kind.CONVERT]
        places = [
            self.store.result(self.compiled.keys[step.id])
            for step in outputs
            if _chosen(step, self.options.formats)
        ]
        made = [(place / meta["file"], meta) for place in places for meta in (self.store.meta(place),)]
        for artifact in publish(self.compiled.platform.name, made, self.options.output_dir):
            self.artifacts.append(artifact)
            self.stream.emit(
                events.ArtifactReady(
                    self.compiled.platform.name,
                    str(artifact.path),
                    artifact.format,
                    artifact.size,
                    artifact.sha256,
                    artifact.md5,
                )
            )
        for step in _steps(self.compiled):
            if step.kind is Kind.COLLECT:
                publish_side(self.store.result(self.compiled.keys[step.id]) / "out", self.options.output_dir)
            if step.kind is Kind.BOOT:
                self.boot_reports.append(
                    boot_report(self.store.meta(self.store.result(self.compiled.keys[step.id])))
                )


def shell(compiled: Compiled, step_id: str, settings: Settings) -> int:
    """Open an interactive shell in the state in which a step failed; its exit status.

    Raises E301 when no failed state of that step is kept.
    """
    from imgc.engine.events import Stream
    from imgc.engine.run import failed_shell
    from imgc.engine.step_runner import Job
    from imgc.engine.store import Store
    from imgc.file_steps import FILE_STEPS

    store = Store(settings.cache_dir)
    compiled = _with_known_hooks(compiled, store)
    with _ground(compiled, store) as (layers, work):
        job = Job(compiled.plan, compiled.graph, compiled.keys, store, layers, work, Stream(), FILE_STEPS)
        return failed_shell(job, step_id)


def clean(settings: Settings, *, layers: bool, downloads: bool, dry_run: bool) -> tuple[Removed, ...]:
    """Empty the cache: what dead builds left, always; results (``layers``) and downloads when asked to."""
    from imgc.engine.sandbox import Sandbox
    from imgc.engine.store import Store

    store = Store(settings.cache_dir)
    sandbox = Sandbox(store.downloads)
    removed = store.clean(sandbox.remover(store), layers=layers, downloads=downloads, dry_run=dry_run)
    return tuple(Removed(*one) for one in removed)


# --- small helpers --------------------------------------------------------------------------------------------------


@contextmanager
def _ground(compiled: Compiled, store: Store, *, memory: bool | None = None) -> Iterator[tuple[Layers, Work]]:
    """Where the steps of a platform run: scratch space with its hooks tree in it, and room for unpacked layers."""
    from imgc.engine import protocol
    from imgc.engine.hooks_tree import materialise
    from imgc.engine.layers import unpacked
    from imgc.engine.sandbox import Sandbox
    from imgc.graph.plan import dib_directory

    plan = compiled.plan
    sandbox = Sandbox(store.downloads, plan.search_paths, protocol.functions(plan))
    with (
        store.work(compiled.platform.name, sandbox.remover(store)) as work,
        unpacked(sandbox, store, work, memory=memory) as layers,
    ):
        materialise(plan, work.path / "base", dib_directory() / "lib")
        yield layers, work


def _steps(compiled: Compiled) -> list[Step]:
    from imgc.graph import steps_in_order

    return steps_in_order(compiled.graph)


def _with_boot(compiled: Compiled) -> Compiled:
    """The same platform with a boot of its image by each firmware that the spec names."""
    from imgc import graph

    with_boot = graph.add_boot(compiled.graph, compiled.platform)
    return Compiled(compiled.platform, compiled.plan, with_boot, graph.keys(with_boot))


def _handover(compiled: Compiled) -> str:
    from imgc.engine.step_runner import is_handover

    return next(step.id for step in _steps(compiled) if is_handover(compiled.graph, step))


def _with_known_hooks(compiled: Compiled, store: Store) -> Compiled:
    """The graph with the hooks that a stored extra-data phase left; the same one when that has not run."""
    found = store.meta(store.layer(compiled.keys[_handover(compiled)])).get("discovered")
    if found is None:
        return compiled
    hooks = {phase: tuple((name, digest, mode) for name, digest, mode in one) for phase, one in found.items()}
    return lower(compiled.plan, hooks)


def _chosen(step: Step, formats: Sequence[str]) -> bool:
    return not formats or step.option("format") in formats or step.name in formats


def _goals(compiled: Compiled, formats: Sequence[str]) -> list[str]:
    """Ids of the steps a user asks for: the outputs, their check, what lies beside them, the boots.

    A platform without outputs is built up to its tree.
    """
    steps = _steps(compiled)
    if not any(step.kind is Kind.CONVERT for step in steps):
        return [step.id for step in steps if step.changes_state][-1:]
    chosen = [step.id for step in steps if step.kind is Kind.CONVERT and _chosen(step, formats)]
    if not chosen:
        offered = ", ".join(step.name for step in steps if step.kind is Kind.CONVERT)
        raise ImgcError(
            "E405",
            f"{compiled.platform.name} has no output {' or '.join(formats)}.",
            hint=f"Its spec makes: {offered}.",
            place=compiled.platform.place("outputs"),
        )
    checks = [] if formats else [step.id for step in steps if step.kind is Kind.CHECK]
    beside = [step.id for step in steps if step.kind is Kind.COLLECT]
    return [*chosen, *checks, *beside, *(step.id for step in steps if step.kind is Kind.BOOT)]
