"""The engine's main loop: many platforms, one graph.

Every platform is a :class:`Lane`.  A step runs as soon as its inputs are there, whichever lane it is in; of the steps
that could run, those go first which the longest path of further steps waits for.  Steps of equal keys are one step: it
runs in one lane, and the others take its result.  What goes wrong in a lane ends that lane only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from imgc import process
from imgc.engine import events
from imgc.engine.budget import Budget
from imgc.engine.demand import longest_paths
from imgc.engine.layers import LayerDamaged
from imgc.engine.step_runner import Job, run_step
from imgc.errors import ImgcError
from imgc.graph.step import Step

#: How often a lane starts over because layers turned out damaged, or were taken by another imgc.
_RENEWALS = 5


class Lane:
    """One platform on its way through the engine.

    ``wanted`` are the ids of the steps that it still has to start, ``missing`` of those that have no result yet.
    Afterwards ``ran`` has the ids of the steps that ran here, and ``problem`` and ``failed`` say what ended it and at
    which step, if anything did.  ``need`` is how much room it takes, in bytes.
    """

    def __init__(self, job: Job, wanted: Sequence[str], need: int = 0) -> None:
        self.job = job
        self.need = need
        self.ran: list[str] = []
        self.problem: ImgcError | None = None
        self.failed: Step | None = None
        self.renewals = 0
        self.want(wanted)

    def want(self, wanted: Sequence[str]) -> None:
        """Set anew what is to run."""
        self.wanted = list(wanted)
        self.missing = set(wanted)
        self.paths = longest_paths(self.job.graph, wanted, self.job.store.times()) if wanted else {}

    def ready(self) -> list[str]:
        """Ids of the steps that could start now."""
        return [
            one
            for one in self.wanted
            if not any(above in self.missing for above in self.job.step(one).inputs)
        ]

    def done(self, step_id: str) -> None:
        """A step has a result now; :meth:`after` may change what is wanted."""
        self.missing.discard(step_id)
        if step_id in self.wanted:
            self.wanted.remove(step_id)
        if self.problem is None:
            self.after(step_id)

    def fail(self, step: Step | None, problem: ImgcError) -> None:
        """End this lane; steps of it that are running may still finish."""
        if self.problem is None:
            self.problem, self.failed = problem, step
        self.wanted = []

    def renew(self) -> None:
        """Called when layers that were there are no more: find out again what is wanted."""

    def after(self, step_id: str) -> None:
        """Called when a step has a result, before anything that needs it starts."""

    def finish(self) -> None:
        """Called once at the end, well or not, while other lanes go on."""


def run(lanes: Sequence[Lane], *, jobs: int, budget: Budget, fail_fast: bool = False) -> None:
    """Run what every lane wants, at most ``jobs`` steps at once; what went wrong is left in each lane.

    ``fail_fast`` lets no step start after the first failure.  Only defects are raised.
    """
    with ThreadPoolExecutor(max_workers=jobs + len(lanes)) as pool:
        floor = _Floor(lanes, jobs, budget, pool, fail_fast=fail_fast)
        while floor.start():
            floor.wait()
    if floor.defect:
        raise floor.defect


class _Floor:
    """Everything that is running, and the choice of what runs next."""

    def __init__(
        self, lanes: Sequence[Lane], jobs: int, budget: Budget, pool: ThreadPoolExecutor, *, fail_fast: bool
    ) -> None:
        self._lanes = lanes
        self._jobs = jobs
        self._budget = budget
        self._pool = pool
        self._fail_fast = fail_fast
        self._steps: dict[Future[bool], tuple[Lane, Step, str]] = {}
        self._ends: dict[Future[None], Lane] = {}
        self._ended: set[int] = set()
        #: By key: what has been made here, and what failed here.
        self._made: set[str] = set()
        self._broken: dict[str, tuple[Step, ImgcError]] = {}
        self.defect: BaseException | None = None

    def start(self) -> bool:
        """Start what can start; whether anything is running then."""
        self._stop_if_told()
        for lane in self._lanes:
            self._share(lane)
        for lane in self._lanes:
            self._end(lane)
        for lane, step_id in self._candidates():
            if len(self._steps) >= self._jobs:
                break
            if self._admitted(lane):
                self._start(lane, step_id)
        return bool(self._steps or self._ends)

    def wait(self) -> None:
        """Wait until something ends, and see how."""
        running: set[Future[Any]] = {*self._steps, *self._ends}
        wait(running, return_when=FIRST_COMPLETED)
        for ended in [future for future in self._ends if future.done()]:
            self._lane_ended(ended)
        for made in [future for future in self._steps if future.done()]:
            self._step_ended(made)

    def _stop_if_told(self) -> None:
        stopping = self.defect or (self._fail_fast and any(lane.problem for lane in self._lanes))
        for lane in self._lanes:
            if not lane.wanted:
                continue
            if process.INTERRUPT.is_set():
                lane.fail(None, process.interrupted())
            elif stopping:
                lane.fail(None, ImgcError("E308", "Stopped, because another platform has failed."))

    def _share(self, lane: Lane) -> None:
        """Take what other lanes have made, or failed to make."""
        found = True
        while found:
            found = False
            for step_id in lane.ready():
                key = lane.job.keys[step_id]
                if key in self._broken:
                    step, problem = self._broken[key]
                    lane.fail(step, problem)
                    return
                if key in self._made:
                    lane.job.stream.emit(events.StepCached(lane.job.step(step_id).platform, step_id, key))
                    self._done(lane, step_id)
                    found = True
                    break

    def _end(self, lane: Lane) -> None:
        """Finish a lane that has nothing left to do."""
        running = any(one is lane for one, _, _ in self._steps.values())
        if not (lane.wanted or running or id(lane) in self._ended):
            self._ended.add(id(lane))
            self._ends[self._pool.submit(lane.finish)] = lane

    def _candidates(self) -> Iterator[tuple[Lane, str]]:
        """What could start now, most urgent first."""
        found = [
            (-lane.paths.get(step_id, 0.0), number, lane, step_id)
            for number, lane in enumerate(self._lanes)
            for step_id in lane.ready()
        ]
        for _, _, lane, step_id in sorted(found, key=lambda one: one[:2]):
            busy = {key for _, _, key in self._steps.values()}
            if lane.job.keys[step_id] not in busy:
                yield lane, step_id

    def _admitted(self, lane: Lane) -> bool:
        return self._budget.admit(id(lane), lane.need)

    def _start(self, lane: Lane, step_id: str) -> None:
        lane.wanted.remove(step_id)
        step = lane.job.step(step_id)
        self._steps[self._pool.submit(run_step, lane.job, step)] = (lane, step, lane.job.keys[step_id])

    def _step_ended(self, future: Future[bool]) -> None:
        lane, step, key = self._steps.pop(future)
        problem = future.exception()
        if problem is None:
            self._made.add(key)
            if future.result():
                lane.ran.append(step.id)
            self._done(lane, step.id)
        elif isinstance(problem, LayerDamaged) and lane.renewals < _RENEWALS and not lane.problem:
            lane.renewals += 1
            lane.job.stream.emit(events.Notice(step.platform, problem.message))
            lane.renew()
            self._made -= {lane.job.keys[one] for one in lane.wanted}
            self._spare_running(lane)
        elif isinstance(problem, ImgcError):
            if problem.code != "E307":
                self._broken[key] = (step, problem)
            lane.fail(step, problem)
        else:
            self.defect = self.defect or problem
            lane.fail(step, ImgcError("E901", f"{type(problem).__name__}: {problem}"))

    def _done(self, lane: Lane, step_id: str) -> None:
        lane.done(step_id)
        self._spare_running(lane)

    def _spare_running(self, lane: Lane) -> None:
        """Do not start again what a lane that has just changed its mind has running."""
        for one, step, _ in self._steps.values():
            if one is lane and step.id in lane.wanted:
                lane.wanted.remove(step.id)

    def _lane_ended(self, future: Future[None]) -> None:
        lane = self._ends.pop(future)
        self._budget.release(id(lane))
        self.defect = self.defect or future.exception()
