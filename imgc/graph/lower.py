"""Lower a plan to a graph of steps.

The steps that change the tree form one chain per platform, in the order of the stock driver; the disk, the outputs
and the final check hang off its end::

    root.d ─ resolv-conf ─ install-type ─ extra-data.d ─ … ─ fstab ─ … ─ cleanup.d ─ finalise ─ disk ─ outputs ─ check
                                                             side trees (git, files) ─┘ └ side-outputs
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from imgc.graph.caches import SIDES, side_facts, sides
from imgc.graph.found import Discovered, hooks_now
from imgc.graph.implied import DISK_FORMATS, has_disk
from imgc.graph.outside import pin_facts, sources_of
from imgc.graph.plan import Plan
from imgc.graph.reach import Reach
from imgc.graph.step import PHASES, PROTOCOL, Fact, Kind, Step
from imgc.graph.tools import tool_identity
from imgc.graph.tree import Hook
from imgc.lock import EARLIEST_EPOCH, Lock, Pins, Source
from imgc.spec.model import ESP_LABEL, Output, Platform

if TYPE_CHECKING:
    import networkx

_PROTOCOL_FACT = Fact("protocol", "imgc", PROTOCOL)

#: What makes each file system.
_MAKE_FILE_SYSTEM = {
    "ext4": ("mke2fs",),
    "btrfs": ("mkfs.btrfs",),
    "xfs": ("mkfs.xfs",),
}

#: The names that QEMU has for architectures which Debian names otherwise.
_QEMU_ARCH = {"amd64": "x86_64", "arm64": "aarch64"}


class _Draft(NamedTuple):
    """A step of the chain before its input is known."""

    kind: Kind
    phase: str
    name: str
    element: str
    facts: tuple[Fact, ...]


def lower(
    plan: Plan,
    discovered: Discovered | None = None,
    lock: Lock | None = None,
    sources: Sequence[Source] | None = None,
    reach: Reach | None = None,
) -> networkx.DiGraph[str]:
    """The graph of one platform: nodes are step ids with the attribute ``step``, edges lead from input to step.

    ``discovered`` (see :func:`imgc.graph.found.settle`) replaces what install-types is foreseen to link by what
    extra-data.d really did.  ``lock`` has the pins of ``sources``, which are those of the plan; without it nothing is
    pinned.  ``reach`` is one of this plan that is known already.
    """
    import networkx

    graph: networkx.DiGraph[str] = networkx.DiGraph()
    platform = plan.platform
    lock = lock or Lock(platform.name, {}, EARLIEST_EPOCH)
    epoch = Fact("pin", "epoch", str(lock.epoch))
    sources = sources_of(plan) if sources is None else sources
    before: tuple[str, ...] = ()
    for draft in _chain(plan, discovered, lock.pins, sources, reach or Reach(plan)):
        if draft.name == "finalise" and draft.kind is Kind.DRIVER:
            before = (*before, *_sides(graph, platform.name, sources, lock.pins))
        before = (_add(graph, platform.name, _at(draft, epoch), before),)
    _add(graph, platform.name, _Draft(Kind.COLLECT, "", "side-outputs", "", ()), before)
    disk = before
    if has_disk(platform):
        disk = (_add(graph, platform.name, _at(_disk(platform), epoch), before),)
    outputs = tuple(
        _add(graph, platform.name, _at(_convert(output), epoch), before if output.format == "tar" else disk)
        for output in platform.outputs
    )
    inputs = (*disk, *outputs) if has_disk(platform) else outputs
    _add(graph, platform.name, _Draft(Kind.CHECK, "", "check", "", _tools("e2fsck", "qemu-img")), inputs)
    return graph


def add_boot(graph: networkx.DiGraph[str], platform: Platform) -> networkx.DiGraph[str]:
    """A copy of a platform's graph with a boot of its image by each firmware that the spec names.

    A boot reads the first output that is a disk, and waits for the check.  There is none without a disk.
    """
    booted = graph.copy()
    disks = [output.suffix for output in platform.outputs if output.format in DISK_FORMATS]
    if not disks:
        return booted
    arch = platform.base.arch
    tools = _tools(f"qemu-system-{_QEMU_ARCH.get(arch, arch)}")
    inputs = (f"{platform.name}/{disks[0]}", f"{platform.name}/check")
    for firmware in ("bios", "efi") if platform.disk.boot == "both" else (platform.disk.boot,):
        facts = (*_options(firmware=firmware), *tools)
        _add(booted, platform.name, _Draft(Kind.BOOT, "", f"boot-{firmware}", "", facts), inputs)
    return booted


def steps_in_order(graph: networkx.DiGraph[str]) -> list[Step]:
    """Every step after its inputs; among those that are free, the one that was added first."""
    import networkx

    added = {id: number for number, id in enumerate(graph)}
    order = networkx.lexicographical_topological_sort(graph, key=added.__getitem__)
    return [graph.nodes[id]["step"] for id in order]


def _add(graph: networkx.DiGraph[str], platform: str, draft: _Draft, inputs: tuple[str, ...]) -> str:
    id = "/".join(part for part in (platform, draft.phase, draft.name) if part)
    target = draft.kind is Kind.PACKAGES or PHASES.get(draft.phase, False)
    facts = (_PROTOCOL_FACT, *draft.facts)
    step = Step(id, draft.kind, platform, draft.phase, draft.name, draft.element, target, inputs, facts)
    graph.add_node(id, step=step)
    graph.add_edges_from((input, id) for input in inputs)
    return id


def _at(draft: _Draft, epoch: Fact) -> _Draft:
    """A step that sees SOURCE_DATE_EPOCH, or writes times."""
    return draft._replace(facts=(*draft.facts, epoch))


def _chain(
    plan: Plan, discovered: Discovered | None, pins: Pins, sources: Sequence[Source], reach: Reach
) -> Iterator[_Draft]:
    """The steps that change the state, in the order of the stock driver."""
    for phase in PHASES:
        for hook in hooks_now(plan, phase, discovered):
            draft = _hook(plan, reach, hook)
            yield draft._replace(facts=(*draft.facts, *pin_facts(plan, hook, pins, sources)))
        if phase == "root.d":
            yield _Draft(Kind.DRIVER, "", "resolv-conf", "", ())
            yield _Draft(
                Kind.DRIVER, "", "install-type", "", (Fact("option", "install-type", plan.install_type),)
            )
        elif phase == "install.d" and plan.platform.packages:
            yield _packages(plan, reach)
        elif phase == "block-device.d":
            yield _Draft(Kind.DRIVER, "", "fstab", "", _fstab_options(plan.platform))
    yield _Draft(Kind.DRIVER, "", "finalise", "", _https(sources))


def _sides(
    graph: networkx.DiGraph[str], platform: str, sources: Sequence[Source], pins: Pins
) -> Iterator[str]:
    """The side trees, made beside everything else and laid over the tree when all hooks have run."""
    for source in sides(sources):
        tools = _tools("git") if source.kind == "git-cache" else ()
        draft = _Draft(Kind.SIDE, "", SIDES[source.kind], "", (*side_facts(source, pins), *tools))
        yield _add(graph, platform, draft, ())


def _hook(plan: Plan, reach: Reach, hook: Hook) -> _Draft:
    script = Fact("script", f"{hook.phase}/{hook.name}", f"{hook.mode:04o} {hook.digest}")
    sourced = tuple(Fact("file", file.dest, file.value) for file in plan.environment_files)
    facts = (script, *sourced, *reach.facts(hook, target=PHASES[hook.phase]))
    return _Draft(Kind.HOOK, hook.phase, hook.name, hook.element, facts)


def _packages(plan: Plan, reach: Reach) -> _Draft:
    sourced = (Fact("file", file.dest, file.value) for file in plan.environment_files)
    packages = Fact("option", "packages", " ".join(plan.platform.packages))
    return _Draft(Kind.PACKAGES, "", "packages", "", (packages, *sourced, *reach.packages()))


def _https(sources: Sequence[Source]) -> tuple[Fact, ...]:
    """The archives that the image is to reach by https: hooks, and what they write, know them by http."""
    found = sorted(
        {one.location for one in sources if one.kind == "apt" and one.location.startswith("https:")}
    )
    return _options(https=" ".join(found)) if found else ()


def _fstab_options(platform: Platform) -> tuple[Fact, ...]:
    """What the tree says about its disk; without a disk there is none."""
    if not has_disk(platform):
        return ()
    disk = platform.disk
    esp = ESP_LABEL if disk.boot in ("efi", "both") else ""
    return _options(filesystem=disk.filesystem, label=disk.label, esp=esp)


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
