"""Lower a plan to a graph of steps.

The steps that change the tree form one chain per platform, in the order of the stock driver; the disk, the outputs
and the final check hang off its end::

    root.d ─ resolv-conf ─ install-type ─ extra-data.d ─ … ─ fstab ─ … ─ cleanup.d ─ finalise ─ disk ─ outputs ─ check
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from imgc.graph.implied import has_disk
from imgc.graph.plan import Plan
from imgc.graph.reach import Reach
from imgc.graph.step import PHASES, PROTOCOL, Fact, Kind, Step
from imgc.graph.tools import tool_identity
from imgc.graph.tree import Hook, run_order
from imgc.spec.model import Output, Platform

if TYPE_CHECKING:
    import networkx

#: The executables that are really in ``hooks/<phase>`` once extra-data.d has run: (name, digest, mode) by phase.
Discovered = Mapping[str, tuple[tuple[str, str, int], ...]]

_PROTOCOL_FACT = Fact("protocol", "imgc", PROTOCOL)

#: Phases whose hooks are known before the build; extra-data.d may add to all others.
_FIXED = ("root.d", "extra-data.d")

_MAKE_FILE_SYSTEM = {
    "ext4": ("mke2fs",),
    "btrfs": ("mkfs.btrfs",),
    "xfs": ("mkfs.xfs",),
}


class _Draft(NamedTuple):
    """A step of the chain before its input is known."""

    kind: Kind
    phase: str
    name: str
    element: str
    facts: tuple[Fact, ...]


def lower(plan: Plan, discovered: Discovered | None = None) -> networkx.DiGraph[str]:
    """The graph of one platform: nodes are step ids with the attribute ``step``, edges lead from input to step.

    ``discovered`` replaces the foreseen hooks of every phase after extra-data.d by those that are really there.
    """
    import networkx

    graph: networkx.DiGraph[str] = networkx.DiGraph()
    platform = plan.platform
    before: tuple[str, ...] = ()
    for draft in _chain(plan, discovered):
        before = (_add(graph, platform.name, draft, before),)
    disk = before
    if has_disk(platform):
        disk = (_add(graph, platform.name, _disk(platform), before),)
    outputs = tuple(
        _add(graph, platform.name, _convert(output), before if output.format == "tar" else disk)
        for output in platform.outputs
    )
    inputs = (*disk, *outputs) if has_disk(platform) else outputs
    _add(graph, platform.name, _Draft(Kind.CHECK, "", "check", "", _tools("e2fsck", "qemu-img")), inputs)
    return graph


def boot_step(graph: networkx.DiGraph[str], platform: Platform) -> Step:
    """Add the step that boots the finished image of ``platform`` to its graph, after the check, and return it."""
    facts = _tools(
        "qemu-system-x86_64" if platform.base.arch == "amd64" else f"qemu-system-{platform.base.arch}"
    )
    id = _add(graph, platform.name, _Draft(Kind.BOOT, "", "boot", "", facts), (f"{platform.name}/check",))
    step: Step = graph.nodes[id]["step"]
    return step


def steps_in_order(graph: networkx.DiGraph[str]) -> list[Step]:
    """Every step after its inputs; among those that are free, the one that was added first."""
    import networkx

    added = {id: number for number, id in enumerate(graph)}
    order = networkx.lexicographical_topological_sort(graph, key=added.__getitem__)
    return [graph.nodes[id]["step"] for id in order]


def foreseen(plan: Plan) -> Discovered:
    """What ``discovered`` is when extra-data.d adds just what is foreseen."""
    return MappingProxyType(
        {
            phase: tuple((hook.name, hook.digest, hook.mode) for hook in plan.phase(phase))
            for phase in PHASES
            if phase not in _FIXED and plan.phase(phase)
        }
    )


def _add(graph: networkx.DiGraph[str], platform: str, draft: _Draft, inputs: tuple[str, ...]) -> str:
    id = "/".join(part for part in (platform, draft.phase, draft.name) if part)
    target = draft.kind is Kind.PACKAGES or PHASES.get(draft.phase, False)
    facts = (_PROTOCOL_FACT, *draft.facts)
    step = Step(id, draft.kind, platform, draft.phase, draft.name, draft.element, target, inputs, facts)
    graph.add_node(id, step=step)
    graph.add_edges_from((input, id) for input in inputs)
    return id


def _chain(plan: Plan, discovered: Discovered | None) -> Iterator[_Draft]:
    """The steps that change the state, in the order of the stock driver."""
    reach = Reach(plan)
    for phase in PHASES:
        yield from (_hook(plan, reach, hook) for hook in _hooks(plan, phase, discovered))
        if phase == "root.d":
            yield _Draft(Kind.DRIVER, "", "resolv-conf", "", ())
            yield _Draft(
                Kind.DRIVER, "", "install-type", "", (Fact("option", "install-type", plan.install_type),)
            )
        elif phase == "install.d" and plan.platform.packages:
            yield _packages(plan)
        elif phase == "block-device.d":
            yield _Draft(Kind.DRIVER, "", "fstab", "", _fstab_options(plan.platform))
    yield _Draft(Kind.DRIVER, "", "finalise", "", ())


def _hooks(plan: Plan, phase: str, discovered: Discovered | None) -> Iterable[Hook]:
    """The hooks of a phase in run order: those of the plan, or those that were found."""
    if discovered is None or phase in _FIXED:
        return plan.phase(phase)
    known = {(hook.name, hook.digest): hook for hook in plan.phase(phase)}
    origin = {file.digest: file for file in plan.tree if file.kind == "file"}
    found = []
    for name, digest, mode in discovered.get(phase, ()):
        hook = known.get((name, digest))
        if hook is None:
            file = origin.get(digest)
            element, source, dest = (
                (file.element, file.source, file.dest) if file else ("", "", f"{phase}/{name}")
            )
            hook = Hook(phase, name, element, source, digest, mode, dest)
        found.append(replace(hook, mode=mode))
    return sorted(found, key=lambda hook: run_order(hook.name))


def _hook(plan: Plan, reach: Reach, hook: Hook) -> _Draft:
    script = Fact("script", f"{hook.phase}/{hook.name}", f"{hook.mode:04o} {hook.digest}")
    sourced = tuple(Fact("file", file.dest, file.value) for file in plan.environment_files)
    facts = (script, *sourced, *reach.facts(hook, target=PHASES[hook.phase]))
    return _Draft(Kind.HOOK, hook.phase, hook.name, hook.element, facts)


def _packages(plan: Plan) -> _Draft:
    sourced = (Fact("file", file.dest, file.value) for file in plan.environment_files)
    environment = (Fact("env", name, value) for name, value in plan.environment)
    packages = Fact("option", "packages", " ".join(plan.platform.packages))
    return _Draft(Kind.PACKAGES, "", "packages", "", (packages, *sourced, *environment))


def _fstab_options(platform: Platform) -> tuple[Fact, ...]:
    """What the tree says about its disk; without a disk there is none."""
    if not has_disk(platform):
        return ()
    disk = platform.disk
    return _options(filesystem=disk.filesystem, label=disk.label, boot=disk.boot)


def _disk(platform: Platform) -> _Draft:
    disk = platform.disk
    options = _options(
        size="auto" if disk.size is None else str(disk.size),
        free=str(disk.free),
        filesystem=disk.filesystem,
        label=disk.label,
        partitioning=disk.partitioning,
        boot=disk.boot,
    )
    esp = ("mkfs.vfat", "mcopy") if disk.boot in ("efi", "both") else ()
    tools = _tools("sfdisk", *_MAKE_FILE_SYSTEM.get(disk.filesystem, ()), *esp)
    return _Draft(Kind.ASSEMBLE, "", "disk", "", (*options, *tools))


def _convert(output: Output) -> _Draft:
    options = (
        Fact("option", "format", output.format),
        *(Fact("option", *option) for option in output.options),
    )
    if output.format == "tar":
        tools = _tools("tar", *(("zstd",) if output.suffix.endswith("zst") else ()))
    else:
        tools = () if output.format == "raw" else _tools("qemu-img")
    return _Draft(Kind.CONVERT, "", output.suffix, "", (*options, *tools))


def _options(**values: str) -> tuple[Fact, ...]:
    return tuple(Fact("option", name, value) for name, value in values.items())


def _tools(*names: str) -> tuple[Fact, ...]:
    return tuple(Fact("tool", name, tool_identity(name)) for name in names)
