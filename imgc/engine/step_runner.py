"""What running one step means: its layers below, its payload in the sandbox, its result in the store."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgc.engine import events, failed_state, host, protocol, sandbox
from imgc.engine.layers import LayerDamaged, Layers
from imgc.engine.store import RESULTS, Store, Work
from imgc.errors import ImgcError
from imgc.graph.found import settle
from imgc.graph.step import PHASES, Kind, Step

if TYPE_CHECKING:
    import networkx as nx

    from imgc.graph.plan import Plan
    from imgc.lock import Source
    from imgc.spec.model import Platform

#: Lines of a failed step's output to show at once; the log has all of them.
TAIL = 20

#: What a hook prints before a line that is a warning for whoever reads about the build.
WARNING = "imgc: warning: "

#: Where a side tree lies in the result of the step that made it.
SIDE = "tree"


@dataclass(frozen=True)
class Files:
    """What a step that makes files may use: a directory to fill, the tree, and the results it builds on."""

    plan: Plan
    step: Step
    made: Path
    scratch: Path
    state: sandbox.State
    sandbox: sandbox.Sandbox
    inputs: Mapping[str, Path]
    key: str
    logs: Path
    on_line: Callable[[str], None]
    #: What the platform takes from outside, the cache that this is kept in, and whether nothing may be fetched.
    sources: Sequence[Source]
    cache: Path
    offline: bool

    @property
    def platform(self) -> Platform:
        return self.plan.platform


#: Makes the files of a step in ``Files.made`` and returns what to record with them.
FileStep = Callable[[Files], dict[str, Any]]


@dataclass
class Job:
    """What the engine needs to run steps of one platform.

    ``base`` is the platform's hooks tree, the lowest layer of its state, and ``sandbox`` where its steps run.
    """

    plan: Plan
    graph: nx.DiGraph[str]
    keys: Mapping[str, str]
    store: Store
    layers: Layers
    work: Work
    base: Path
    sandbox: sandbox.Sandbox
    stream: events.Stream
    file_steps: Mapping[Kind, FileStep]
    #: SOURCE_DATE_EPOCH.
    epoch: int
    sources: Sequence[Source] = ()
    offline: bool = False
    #: What hooks that read repositories are given in their environment for their pins.
    pinned: Mapping[str, str] = field(default_factory=dict)
    #: Variables that name an archive by https, as hooks are to have them: without, for the archive server to read.
    plain: Mapping[str, str] = field(default_factory=dict)
    #: Whether whatever hooks ask for over HTTP is to come from pinned archives, not only what apt asks for.
    only_pinned: bool = False
    #: What kept the hooks so far from getting something from outside.
    blame: Callable[[], Sequence[ImgcError]] = tuple
    debug_trace: int = 0
    #: Replace results that are there already.
    fresh: bool = False
    #: Directories of file steps that are needed only while this build runs (the raw disk), by key; shared by all jobs.
    passing: dict[str, Path] = field(default_factory=dict)

    def step(self, step_id: str) -> Step:
        step: Step = self.graph.nodes[step_id]["step"]
        return step


def run_step(job: Job, step: Step) -> bool:
    """Run one step and commit its result; False when another imgc has made it meanwhile.

    Raises E301 with the step's last lines when it fails, and LayerDamaged when what it builds on is no longer whole.
    """
    if step.kind is Kind.ASSEMBLE:
        # Nobody else can use it: it is gone with this build.
        _run_step(job, step, lambda: None)
        return True
    claim = job.store.claim(job.keys[step.id], waiting=lambda who: _tell_of_wait(job, step, who))
    try:
        if not job.fresh and _is_there(job, step):
            job.stream.emit(events.StepCached(step.platform, step.id, job.keys[step.id]))
            claim.release()
            return False
        _run_step(job, step, claim.release)
    except BaseException:
        claim.release()
        raise
    return True


def _tell_of_wait(job: Job, step: Step, who: str) -> None:
    job.stream.emit(events.Notice(step.platform, f"{step.id} is being made by {who}; waiting for it"))


def _is_there(job: Job, step: Step) -> bool:
    """Whether a result has come into the store.  What a check or a boot found is about files that were replaced."""
    key = job.keys[step.id]
    if step.kind in (Kind.CHECK, Kind.BOOT):
        return False
    return job.store.has_layer(key) if step.changes_state else job.store.has_result(key)


def _run_step(job: Job, step: Step, committed: Callable[[], None]) -> None:
    """Run one step; ``committed`` is called once its result is in the store, which may be later."""
    started = time.monotonic()
    expected = job.store.times().get(step.id, 0.0)
    job.stream.emit(events.StepStarted(step.platform, step.id, step.kind.value, job.keys[step.id], expected))
    tail: list[str] = []
    warnings: list[str] = []

    def on_line(text: str) -> None:
        tail.append(text)
        del tail[:-TAIL]
        job.stream.emit(events.Line(step.platform, step.id, text))
        if text.startswith(WARNING):
            warnings.append(text.removeprefix(WARNING))
            job.stream.emit(events.Notice(step.platform, warnings[-1]))

    scratch = job.work.directory(f"steps/{job.keys[step.id][:16]}")
    try:
        if step.changes_state:
            _run_state_step(job, step, scratch, on_line, warnings, committed)
        else:
            _run_file_step(job, step, scratch, on_line)
            committed()
    except LayerDamaged:
        raise
    except (ImgcError, OSError) as cause:
        problem = cause if isinstance(cause, ImgcError) else _of_the_cache(job.store, cause)
        seconds = time.monotonic() - started
        file = hook_file(job.plan, step)
        text = problem.detail or "\n".join(tail)
        job.stream.emit(events.StepFailed(step.platform, step.id, seconds, problem.message, file, text))
        raise problem from cause
    seconds = time.monotonic() - started
    job.store.record_times({step.id: seconds})
    job.stream.emit(events.StepFinished(step.platform, step.id, seconds))


def _input_keys(job: Job, step: Step) -> list[str]:
    return [job.keys[one] for one in step.inputs]


def _of_the_cache(where: Store, cause: OSError) -> ImgcError:
    """The error for a cache that cannot be written any more; any other cause is a defect, and raised as it is."""
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return ImgcError(
            "E902", f"No room is left in {where.cache}.", hint="`imgc clean` makes room in the cache."
        )
    if cause.errno in (errno.EROFS, errno.EIO):
        return ImgcError("E304", f"The cache directory {where.cache} cannot be used: {cause.strerror}.")
    raise cause


def hook_file(plan: Plan, step: Step) -> str:
    """The file a user would edit to change this step; empty when it is imgc's own."""
    if step.kind is not Kind.HOOK:
        return ""
    return next((hook.path for hook in plan.phase(step.phase) if hook.name == step.name), "")


def chain_below(job: Job, step: Step) -> list[str]:
    """Keys of the layers below a step, topmost first."""
    return [job.keys[one.id] for one in _below(job, step)]


def _below(job: Job, step: Step) -> list[Step]:
    """The steps of the chain before a step, the last one first."""
    found: list[Step] = []
    while True:
        chain = [
            job.step(one) for one in (found[-1] if found else step).inputs if job.step(one).changes_state
        ]
        if not chain:
            return found
        found.append(chain[0])


def state_below(job: Job, step: Step, upper: str = "", work: str = "") -> sandbox.State:
    """The layers of every earlier step in the chain, topmost first, on the hooks tree of this build.

    A step's side trees lie between its own layer and those before it.
    """
    below = _below(job, step)
    job.layers.bring([job.keys[one.id] for one in below])
    lowers = _side_trees(job, step)
    for one in below:
        lowers += [str(job.layers.state(job.keys[one.id])), *_side_trees(job, one)]
    return sandbox.State((*lowers, str(job.base)), upper, work)


def _side_trees(job: Job, step: Step) -> list[str]:
    """Where the side trees lie that a step lays over the rootfs."""
    found = [job.step(one) for one in step.inputs]
    return [str(job.store.result(job.keys[one.id]) / SIDE) for one in found if one.kind is Kind.SIDE]


def mounts_below(job: Job, step: Step) -> list[Mapping[str, Any]]:
    """The mounts that the step before this one left in the rootfs."""
    chain = [one for one in step.inputs if job.step(one).changes_state]
    if not chain:
        return []
    mounts: list[Mapping[str, Any]] = job.layers.meta(job.keys[chain[0]]).get("mounts", [])
    return mounts


def payload_and_target(job: Job, step: Step) -> tuple[sandbox.Payload, sandbox.Target]:
    """The program that a state step runs, and the mounts it finds in the rootfs."""
    mounts = mounts_below(job, step)
    given = {"SOURCE_DATE_EPOCH": str(job.epoch), **(job.pinned if _reads_repositories(step) else {})}
    if step.kind is Kind.HOOK:
        payload = protocol.hook_payload(
            job.plan,
            step.phase,
            step.name,
            in_target=step.target,
            debug_trace=job.debug_trace,
            given=given,
        )
        payload = replace(payload, proxied=_asks_archives(job, step), env={**payload.env, **job.plain})
        return payload, protocol.target(step.phase, mounts, in_target=step.target)
    if step.kind is Kind.PACKAGES:
        packages = job.plan.platform.packages
        payload = protocol.packages_payload(job.plan, packages, debug_trace=job.debug_trace, given=given)
        # apt in the chroot is told of the archive server by its settings; dnf is not.
        payload = replace(payload, proxied=job.only_pinned, env={**payload.env, **job.plain})
        return payload, protocol.target("install.d", mounts, in_target=True)
    options = {fact.name: fact.value for fact in step.facts if fact.kind == "option"}
    if step.name == "resolv-conf":
        # Not a fact: which name servers the host asks must not change what the image is.
        options["resolv_conf"] = host.resolv_conf()
    return _driver_payload(step.name, options), sandbox.Target(replay=tuple(mounts))


def _asks_archives(job: Job, step: Step) -> bool:
    """Whether what a hook asks for over HTTP is to come from the pinned archives.

    A hook that knows of proxies by itself may write them into the image: it gets this host's, not one that is gone
    after the build, unless it is the one that starts the system from an archive.
    """
    if any(fact.kind == "pin" and fact.name.startswith(("apt ", "yum ")) for fact in step.facts):
        return True
    return job.only_pinned and b"http_proxy" not in _text(hook_file(job.plan, step))


def _text(path: str) -> bytes:
    return Path(path).read_bytes() if path and Path(path).exists() else b""


def _reads_repositories(step: Step) -> bool:
    """Whether a step gets git trees or files that are pinned."""
    return any(fact.kind == "pin" and fact.name.startswith(("git ", "file ")) for fact in step.facts)


def _driver_payload(action: str, options: Mapping[str, Any]) -> sandbox.Payload:
    argv = (
        f"{sandbox.BIN}/python3",
        "-I",
        "-S",
        f"{sandbox.PACKAGE}/imgc/engine/driver.py",
        action,
        json.dumps(options),
    )
    return sandbox.Payload(argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"})


def _run_state_step(
    job: Job,
    step: Step,
    scratch: Path,
    on_line: Callable[[str], None],
    warnings: Sequence[str],
    committed: Callable[[], None],
) -> None:
    key = job.keys[step.id]
    payload, target = payload_and_target(job, step)
    state = state_below(job, step, *job.layers.new(key))
    started = time.monotonic()
    outcome = job.sandbox.run(payload, scratch, state=state, target=target, on_line=on_line)
    if outcome.processes:
        on_line(f"imgc: ended what the step left running: {', '.join(outcome.processes)}")
    if outcome.status:
        if job.layers.is_full(key):
            hint = "Build with `--disk`; what is done so far is kept."
            raise ImgcError(
                "E902", f"{_failure_text(step, outcome.status)}  No memory is left for layers.", hint=hint
            )
        failed_state.keep(job, step, scratch, outcome.status)
        raise _failure(job, step, outcome.status)
    meta: dict[str, Any] = {
        "step": step.id,
        "seconds": time.monotonic() - started,
        "mounts": list(outcome.mounts),
        "inputs": _input_keys(job, step),
    }
    if warnings:
        meta["warnings"] = list(warnings)
    if is_handover(job.graph, step):
        # Relative to the plan: a linked script that is edited later must count with its new bytes.
        meta["discovered"] = settle(job.plan, _discover(job, step, scratch))
    job.layers.keep(key, meta, replace=job.fresh, done=committed)


def _failure(job: Job, step: Step, status: int) -> ImgcError:
    """The error of a hook; what it could not get from outside is the better reason where there is one."""
    text = _failure_text(step, status)
    for cause in job.blame():
        return ImgcError(cause.code, f"{text}  {cause.message}", hint=cause.hint, place=cause.place)
    return ImgcError("E301", text)


def _failure_text(step: Step, status: int) -> str:
    how = f"signal {status - 128}" if status > 128 else f"exit status {status}"
    of = f" of element {step.element}" if step.element else ""
    return f"{step.phase + '/' if step.phase else ''}{step.name}{of} failed: {how}."


def is_handover(graph: nx.DiGraph[str], step: Step) -> bool:
    """Whether this is the last step before the hooks that run are known for certain (extra-data.d writes hooks)."""
    early = ("root.d", "extra-data.d")
    if (step.kind is Kind.DRIVER and step.name in ("resolv-conf", "install-type")) or step.phase in early:
        following = [graph.nodes[one]["step"] for one in graph.successors(step.id)]
        return not any(one.phase in early or one.name in ("resolv-conf", "install-type") for one in following)
    return False


def _discover(job: Job, step: Step, scratch: Path) -> dict[str, Any]:
    """The hooks that are really in the hooks tree now, by phase."""
    phases = [phase for phase in PHASES if phase not in ("root.d", "extra-data.d")]
    below = state_below(job, step)
    state = sandbox.State((str(job.layers.state(job.keys[step.id])), *below.lowers))
    listing = scratch / "discover"
    listing.mkdir()
    outcome = job.sandbox.run(
        _driver_payload("discover", {"phases": phases}),
        scratch,
        state=state,
        binds=[(str(listing), sandbox.WORK, "rw")],
    )
    if outcome.status:
        raise ImgcError("E301", f"The hooks tree of {step.platform} could not be read.")
    found: dict[str, Any] = json.loads((listing / "discovered.json").read_text(encoding="utf-8"))
    return found


def _run_file_step(job: Job, step: Step, scratch: Path, on_line: Callable[[str], None]) -> None:
    made = scratch / "made"
    made.mkdir(parents=True)
    inputs = {
        one: job.passing.get(job.keys[one]) or job.store.result(job.keys[one])
        for one in step.inputs
        if not job.step(one).changes_state
    }
    state, key = state_below(job, step), job.keys[step.id]
    logs = job.store.cache / "logs" / step.platform
    files = Files(
        job.plan,
        step,
        made,
        scratch,
        state,
        job.sandbox,
        inputs,
        key,
        logs,
        on_line,
        job.sources,
        job.store.cache,
        job.offline,
    )
    started = time.monotonic()
    meta = job.file_steps[step.kind](files)
    meta |= {"step": step.id, "seconds": time.monotonic() - started, "inputs": _input_keys(job, step)}
    if step.kind is Kind.ASSEMBLE:
        (made / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        job.passing[key] = made
        return
    job.store.commit(RESULTS, job.keys[step.id], made, meta, replace=job.fresh)
    shutil.rmtree(scratch, ignore_errors=True)
