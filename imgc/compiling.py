"""The pure half of the road: a spec to a graph with keys.  No root, no network, milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgc.errors import Collector, ImgcError
from imgc.graph.step import Kind, Step

if TYPE_CHECKING:
    import networkx as nx

    from imgc.engine.store import Store
    from imgc.graph import Discovered, Plan
    from imgc.graph.reach import Reach
    from imgc.lock import Lock, Source
    from imgc.spec.model import Platform


@dataclass(frozen=True)
class Settings:
    """Where things are on this host, and the host variables that templates may read."""

    specs_dir: Path
    cache_dir: Path
    host_environment: Mapping[str, str]


@dataclass(frozen=True)
class Compiled:
    """A platform as a graph; ``keys`` by step id.

    ``sources`` is what it takes from outside and ``lock`` what those were; ``discovered`` are the hooks that an
    earlier run of extra-data.d left (None: as foreseen), ``reach`` what each hook can see, and with ``boots`` the
    graph ends in boots of the image.
    """

    platform: Platform
    plan: Plan
    sources: tuple[Source, ...]
    lock: Lock
    reach: Reach
    graph: nx.DiGraph[str]
    keys: dict[str, str]
    discovered: Discovered | None = None
    boots: bool = False

    @property
    def warnings(self) -> tuple[str, ...]:
        """What its elements may not have meant, and what it takes from outside that nothing can pin."""
        from imgc.graph.outside import warnings_of

        return (*self.plan.warnings, *warnings_of(self.plan))


def compile_platform(name: str, settings: Settings) -> Compiled:
    """Load a spec, resolve its elements and lower it to a graph with keys.

    Raises an :class:`ImgcError` that holds every problem found.
    """
    from imgc import spec

    platform = spec.load(name, specs_dir=settings.specs_dir, host_environment=settings.host_environment)
    return compile_loaded(platform, settings)


def compile_loaded(platform: Platform, settings: Settings) -> Compiled:
    """Resolve and lower a loaded platform, with the pins that are known for it."""
    from imgc.engine.store import Store
    from imgc.graph import compile_plan
    from imgc.graph.outside import sources_of
    from imgc.graph.reach import Reach
    from imgc.pins import known_lock

    plan = compile_plan(platform, mirrors=mirror_environment(platform))
    lock = known_lock(platform, settings.cache_dir)
    compiled = lower(plan, sources_of(plan), lock, Reach(plan))
    return with_known_hooks(compiled, Store(settings.cache_dir)) if settings.cache_dir.exists() else compiled


def compile_platforms(names: Sequence[str], settings: Settings) -> list[Compiled]:
    """Compile several platforms; the problems of all of them are raised together."""
    compiled, problems = compile_each(names, settings)
    collector = Collector()
    for problem in problems.values():
        collector.add(problem)
    collector.check()
    return compiled


def compile_each(names: Sequence[str], settings: Settings) -> tuple[list[Compiled], dict[str, ImgcError]]:
    """Compile several platforms: those that could be, and what was wrong with the others by name."""
    compiled, problems = [], {}
    for name in names:
        try:
            compiled.append(compile_platform(name, settings))
        except ImgcError as problem:
            problems[name] = problem
    return compiled, problems


def lower(
    plan: Plan,
    sources: tuple[Source, ...],
    lock: Lock,
    reach: Reach,
    discovered: Discovered | None = None,
    *,
    boots: bool = False,
) -> Compiled:
    """The graph and the keys of a plan."""
    from imgc import graph

    lowered = graph.lower(plan, discovered, lock, sources, reach)
    if boots:
        lowered = graph.add_boot(lowered, plan.platform)
    keys = graph.keys(lowered)
    return Compiled(plan.platform, plan, sources, lock, reach, lowered, keys, discovered, boots)


def with_lock(compiled: Compiled, lock: Lock, store: Store) -> Compiled:
    """The same platform built from other pins."""
    if lock == compiled.lock:
        return compiled
    again = lower(compiled.plan, compiled.sources, lock, compiled.reach, boots=compiled.boots)
    return with_known_hooks(again, store)


def with_boots(compiled: Compiled) -> Compiled:
    """The same platform with a boot of its image by each firmware that the spec names."""
    one = compiled
    return lower(one.plan, one.sources, one.lock, one.reach, one.discovered, boots=True)


def with_known_hooks(compiled: Compiled, store: Store) -> Compiled:
    """The graph with the hooks that a stored extra-data phase left; the same one when that has not run."""
    found = store.meta(store.layer(compiled.keys[handover(compiled)])).get("discovered")
    if found is None:
        return compiled
    hooks = {phase: tuple((name, digest, mode) for name, digest, mode in one) for phase, one in found.items()}
    one = compiled
    return lower(one.plan, one.sources, one.lock, one.reach, hooks, boots=one.boots)


def handover(compiled: Compiled) -> str:
    """The last step before the hooks that run are known for certain."""
    from imgc.engine.step_runner import is_handover

    return next(step.id for step in steps_of(compiled) if is_handover(compiled.graph, step))


def steps_of(compiled: Compiled) -> list[Step]:
    """Every step after its inputs."""
    from imgc.graph import steps_in_order

    return steps_in_order(compiled.graph)


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


def goals(compiled: Compiled, formats: Sequence[str]) -> list[str]:
    """Ids of the steps a user asks for: the outputs, their check, what lies beside them, the boots.

    ``formats`` picks outputs by format or suffix (empty: all of them).  A platform without outputs is built up to its
    tree.  Raises E405 when nothing is picked.
    """
    steps = steps_of(compiled)
    if not any(step.kind is Kind.CONVERT for step in steps):
        return [step.id for step in steps if step.changes_state][-1:]
    picked = [step.id for step in outputs(compiled, formats)]
    if not picked:
        offered = ", ".join(step.name for step in outputs(compiled, ()))
        raise ImgcError(
            "E405",
            f"{compiled.platform.name} has no output {' or '.join(formats)}.",
            hint=f"Its spec makes: {offered}.",
            place=compiled.platform.place("outputs"),
        )
    checks = [] if formats else [step.id for step in steps if step.kind is Kind.CHECK]
    beside = [step.id for step in steps if step.kind is Kind.COLLECT]
    return [*picked, *checks, *beside, *(step.id for step in steps if step.kind is Kind.BOOT)]


def outputs(compiled: Compiled, formats: Sequence[str]) -> Iterator[Step]:
    """The steps that make the outputs of these formats (empty: of all)."""
    for step in steps_of(compiled):
        if step.kind is Kind.CONVERT and (
            not formats or step.option("format") in formats or step.name in formats
        ):
            yield step


def cached_steps(compiled: Compiled, settings: Settings) -> set[str]:
    """Ids of the steps that a build would not run."""
    from imgc.engine.demand import stored_steps, wanted_steps
    from imgc.engine.store import Store

    stored: set[str] = set()
    if settings.cache_dir.exists():
        stored = stored_steps(compiled.graph, compiled.keys, Store(settings.cache_dir))
    return set(compiled.graph.nodes) - set(wanted_steps(compiled.graph, stored, goals(compiled, ())))


def fleet(compiled: Sequence[Compiled]) -> Compiled:
    """Several platforms as one graph, in which steps of equal keys are one node, named after the first platform."""
    import networkx

    first = compiled[0]
    graph: nx.DiGraph[str] = networkx.DiGraph()
    names: dict[str, str] = {}
    keys: dict[str, str] = {}
    for one in compiled:
        for step in steps_of(one):
            key = one.keys[step.id]
            if key in names:
                graph.nodes[names[key]]["platforms"].append(step.platform)
                continue
            names[key] = step.id
            keys[step.id] = key
            inputs = tuple(names[one.keys[above]] for above in step.inputs)
            graph.add_node(step.id, step=replace(step, inputs=inputs), platforms=[step.platform])
            graph.add_edges_from((above, step.id) for above in inputs)
    return replace(first, graph=graph, keys=keys)
