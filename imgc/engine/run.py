"""The engine's main loop: run what has no result yet, each step as soon as its inputs are there.

A step is *wanted* when its own result is missing and something that is asked for needs it.  The raw disk is such a
step: it is made only when an output has to be made from it, and is gone with the build.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from imgc import process
from imgc.engine.protocol import shell_payload
from imgc.engine.sandbox import State
from imgc.engine.step_runner import Job, failed_directory, payload_and_target, run_step, state_below
from imgc.engine.store import Store
from imgc.errors import ImgcError
from imgc.graph.step import Kind, Step

if TYPE_CHECKING:
    import networkx as nx


class StepError(Exception):
    """A step failed; ``problem`` says how."""

    def __init__(self, step: Step, problem: ImgcError) -> None:
        super().__init__(str(problem))
        self.step = step
        self.problem = problem


def stored_steps(graph: nx.DiGraph[str], keys: Mapping[str, str], store: Store) -> set[str]:
    """Ids of the steps whose results are there and can be used.

    A layer is of use only on top of all the layers below it; an output stands by itself.
    """
    from networkx import topological_sort

    usable: set[str] = set()
    for step_id in topological_sort(graph):
        step: Step = graph.nodes[step_id]["step"]
        if step.changes_state:
            below = all(one in usable for one in step.inputs)
            if below and store.has_layer(keys[step_id]):
                usable.add(step_id)
        elif step.kind is Kind.ASSEMBLE or not store.has_result(keys[step_id]):
            continue
        elif step.kind is Kind.CONVERT or _still_true(graph, step, usable):
            usable.add(step_id)
    return usable


def _still_true(graph: nx.DiGraph[str], step: Step, usable: set[str]) -> bool:
    """Whether what a check or a boot found out is about outputs that are still there, not about ones to be made."""
    outputs = [one for one in step.inputs if graph.nodes[one]["step"].kind is Kind.CONVERT]
    return all(one in usable for one in outputs)


def wanted_steps(graph: nx.DiGraph[str], stored: set[str], goals: Iterable[str]) -> list[str]:
    """Ids of the steps that must run for ``goals``, in an order in which they may."""
    from networkx import topological_sort

    wanted: set[str] = set()
    waiting = list(goals)
    while waiting:
        step_id = waiting.pop()
        if step_id in wanted or step_id in stored:
            continue
        wanted.add(step_id)
        waiting.extend(graph.nodes[step_id]["step"].inputs)
    return [step_id for step_id in topological_sort(graph) if step_id in wanted]


def run(job: Job, wanted: Iterable[str], ran: list[str]) -> None:
    """Run the steps of ``wanted``, at most ``job.jobs`` at once, and add the ids of those that ran to ``ran``.

    Raises :class:`StepError` after the steps that were running beside the failed one have ended, and E307 on an
    interrupt.
    """
    left = list(wanted)
    missing = set(left)
    failed: StepError | None = None
    running: dict[Future[None], str] = {}
    with ThreadPoolExecutor(max_workers=job.jobs) as pool:
        while (left and not failed) or running:
            for step_id in _ready(job, left, missing) if not failed else ():
                if len(running) < job.jobs:
                    left.remove(step_id)
                    running[pool.submit(run_step, job, job.step(step_id))] = step_id
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                step_id = running.pop(future)
                problem = future.exception()
                if isinstance(problem, ImgcError):
                    failed = failed or StepError(job.step(step_id), problem)
                elif problem:
                    raise problem
                else:
                    missing.discard(step_id)
                    ran.append(step_id)
    unkept = _settled(job)
    process.INTERRUPT.check()
    if failed:
        raise failed
    if unkept:
        raise unkept


def _settled(job: Job) -> ImgcError | None:
    """Wait for the layers of the steps that ran; what kept one of them from getting into the store, if anything."""
    try:
        job.layers.settle()
    except ImgcError as problem:
        return problem
    return None


def failed_shell(job: Job, step_id: str) -> int:
    """Run an interactive shell where a step failed, with its environment and mounts; the shell's exit status."""
    kept = failed_directory(job.store, job.plan.platform.name)
    if job.store.meta(kept).get("step") != step_id:
        raise ImgcError(
            "E301", f"The state in which {step_id} failed is no longer kept.", hint="Build again."
        )
    step = job.step(step_id)
    payload, target = payload_and_target(job, step)
    below = state_below(job, step)
    # The failed state stays as it is: the shell works on a layer of its own above it.
    state = State(
        (str(job.layers.unpack(kept / "state.tar", "failed")), *below.lowers), *job.layers.new("shell")
    )
    return job.sandbox.interact(
        shell_payload(payload), job.work.directory("shell"), state=state, target=target
    )


def _ready(job: Job, left: list[str], missing: set[str]) -> list[str]:
    return [one for one in left if not any(above in missing for above in job.step(one).inputs)]
