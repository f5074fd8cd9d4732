"""One platform's way through a build: which graph it follows by now, what has run, what has been made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgc import lock as locks
from imgc import process
from imgc.compiling import Compiled, goals, handover, outputs, steps_of, with_known_hooks
from imgc.engine import events
from imgc.engine.demand import stored_steps, wanted_steps
from imgc.engine.log import Log
from imgc.errors import ImgcError
from imgc.graph.step import Kind
from imgc.pins import lock_file, record, recorded_file
from imgc.publish import Artifact, publish, publish_lock, publish_side, publish_text

if TYPE_CHECKING:
    from imgc.engine.events import Stream
    from imgc.engine.run import Lane
    from imgc.engine.step_runner import Job
    from imgc.engine.store import Store
    from imgc.engine.store_locks import Use
    from imgc.verify.boot import BootReport


@dataclass(frozen=True)
class BuildOptions:
    """What to do with the compiled platforms.

    ``formats`` picks outputs by format or suffix (empty: all of them).  ``jobs`` is how many steps run at once;
    ``memory`` whether layers are unpacked in memory (None: when there is plenty of it).  The budgets are in bytes,
    None for what the machine has.  ``refresh`` pins anew, ``offline`` uses the network for nothing.
    """

    output_dir: Path
    formats: tuple[str, ...] = ()
    boot: bool = False
    fresh: bool = False
    debug_trace: int = 0
    jobs: int = 2
    memory: bool | None = None
    memory_budget: int | None = None
    disk_budget: int | None = None
    fail_fast: bool = False
    refresh: bool = False
    offline: bool = False


@dataclass(frozen=True)
class BuildResult:
    """How a build ended: ``status`` is ``ok``, ``failed`` or ``interrupted``.  ``log`` is None when it never began."""

    platform: str
    status: str
    ran: int
    cached: int
    seconds: float
    artifacts: tuple[Artifact, ...]
    log: Path | None
    error: ImgcError | None = None
    failed_step: str = ""
    boot_reports: tuple[BootReport, ...] = ()
    #: Whether a shell can be opened in the state in which ``failed_step`` failed; steps that make files have none.
    has_state: bool = True


class Course:
    """Use it as a context manager: it keeps the platform's log open."""

    def __init__(
        self, compiled: Compiled, options: BuildOptions, store: Store, use: Use, stream: Stream
    ) -> None:
        self.compiled = compiled
        self.options = options
        self.store = store
        self.stream = stream
        self.name = compiled.platform.name
        self.ran: list[str] = []
        self.result: BuildResult | None = None
        self._artifacts: list[Artifact] = []
        self._boot_reports: list[BootReport] = []
        self._use = use
        self._used: set[str] = set()
        self._stored: set[str] = set()
        self._started = time.monotonic()
        self._open = ExitStack()

    def __enter__(self) -> Course:
        self.log = self._open.enter_context(Log(self.store.cache / "logs" / self.name, self.name))
        self.stream.add(self.log)
        self._open.callback(self.stream.remove, self.log)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def wanted(self) -> list[str]:
        """Ids of the steps still to run.  What is not among them stays in the store until the build has ended."""
        keys = set(self.compiled.keys.values())
        self._use.add(keys - self._used)
        self._used |= keys
        stored = stored_steps(self.compiled.graph, self.compiled.keys, self.store)
        self._stored = set(stored)
        if self.options.fresh:
            stored &= set(self.ran)
        return wanted_steps(self.compiled.graph, stored, goals(self.compiled, self.options.formats))

    def announce(self, wanted: Sequence[str]) -> None:
        """Tell the readers of the stream what is going to happen."""
        total = len(self.compiled.graph)
        times = self.store.times() if wanted else {}
        expected = sum(times.get(step_id, 0.0) for step_id in wanted)
        log = str(self.log.path)
        self.stream.emit(events.BuildStarted(self.name, total, total - len(wanted), log, expected))
        if wanted:
            self.stream.emit(events.Notice(self.name, self._cause(wanted)))
        for warning in self.compiled.warnings if wanted else ():
            self.stream.emit(events.Notice(self.name, warning))
        running = set(wanted)
        for step in steps_of(self.compiled):
            if step.id not in running:
                self.stream.emit(events.StepCached(self.name, step.id, self.compiled.keys[step.id]))

    def _cause(self, wanted: Sequence[str]) -> str:
        """Why anything has to run, in a line."""
        from imgc import records

        if self.options.fresh:
            return "Everything runs again, because that was asked for."
        one = self.compiled
        return records.explain(self.store.cache, one.plan, one.graph, one.keys, wanted).line

    def need_tools(self, wanted: Sequence[str]) -> None:
        """Raise E302 now, not after minutes, when a program that imgc's own steps start is not installed."""
        chosen = set(wanted)
        steps = [step for step in steps_of(self.compiled) if step.id in chosen and not step.changes_state]
        process.need(*sorted({fact.name for step in steps for fact in step.facts if fact.kind == "tool"}))

    def lower_again(self) -> bool:
        """Replace the graph by one with the hooks that extra-data.d has left; whether that changed anything."""
        again = with_known_hooks(self.compiled, self.store)
        changed = again is not self.compiled
        self.compiled = again
        return changed

    def finish(self, problem: ImgcError | None = None, failed: str = "", *, has_state: bool = True) -> None:
        """Put the outputs under their final names when all went well; tell how the build ended."""
        if problem is None:
            try:
                self._publish()
                self._renew_lock()
            except ImgcError as unpublished:
                problem = unpublished
        try:
            self._record()
        except ImgcError as unrecorded:
            self.stream.emit(events.Notice(self.name, unrecorded.message))
        status = "failed" if problem else "ok"
        if process.INTERRUPT.is_set() or (problem and problem.code == "E307"):
            status = "interrupted"
        self.store.touch(self._used)
        seconds = time.monotonic() - self._started
        ran = len(self.ran)
        cached = len(self.compiled.graph) - ran
        log = self.log.path
        self.stream.emit(events.BuildFinished(self.name, status, ran, cached, seconds, str(log)))
        self.result = BuildResult(
            self.name,
            status,
            ran,
            cached,
            seconds,
            tuple(self._artifacts),
            log,
            problem,
            failed,
            tuple(self._boot_reports),
            has_state,
        )

    def _renew_lock(self) -> None:
        """After a build of what is new outside, the lock beside the spec says so, if there is one."""
        file = lock_file(self.compiled.platform)
        if self.options.refresh and file.exists():
            locks.write(locks.read(recorded_file(self.compiled.platform, self.store.cache)), file)

    def _record(self) -> None:
        """Remember what was built, for `imgc why`."""
        from imgc import records

        done = self._stored | set(self.ran)
        records.record(self.store.cache, self.compiled.plan, self.compiled.graph, self.compiled.keys, done)

    def _publish(self) -> None:
        """Put the outputs under their final names and read the verdicts of the boots."""
        from imgc.file_steps import boot_report

        keys, output_dir = self.compiled.keys, self.options.output_dir
        places = [self.store.result(keys[step.id]) for step in outputs(self.compiled, self.options.formats)]
        made = [(place / meta["file"], meta) for place in places for meta in (self.store.meta(place),)]
        for artifact in publish(self.name, made, output_dir):
            self._artifacts.append(artifact)
            self.stream.emit(
                events.ArtifactReady(
                    self.name,
                    str(artifact.path),
                    artifact.format,
                    artifact.size,
                    artifact.sha256,
                    artifact.md5,
                )
            )
        for step in steps_of(self.compiled):
            if step.kind is Kind.COLLECT:
                place = self.store.result(keys[step.id])
                publish_side(place / "out", output_dir)
                self._publish_report()
                packages = self.store.meta(place).get("packages", {})
                lock = replace(self.compiled.lock, packages=packages)
                publish_lock(lock, output_dir)
                # For `imgc lock`, and for the next build where there is no lock.
                record(lock, self.compiled.platform, self.store.cache)
            if step.kind is Kind.BOOT:
                self._boot_reports.append(boot_report(self.store.meta(self.store.result(keys[step.id]))))

    def _publish_report(self) -> None:
        """Put what is in the caches of the image, and who asked for it, beside the image."""
        from imgc.cache_report import cache_report

        one = self.compiled
        told = cache_report(self.name, one.sources, one.lock.pins, one.graph, one.keys, self.store)
        if told:
            publish_text(
                self.options.output_dir / f"{self.name}.caches.json",
                json.dumps(told, indent=1, ensure_ascii=False) + "\n",
            )


def lane_of(course: Course, job: Job, wanted: Sequence[str], need: int, done: Callable[[], None]) -> Lane:
    """The course as the engine's main loop sees it; ``done`` is called when it has finished."""
    from imgc.engine.run import Lane

    class CourseLane(Lane):
        """A lane whose graph may change on the way."""

        def after(self, step_id: str) -> None:
            if step_id == handover(course.compiled):
                # The layer must be in the store to be read there.
                job.layers.settle([job.keys[step_id]])
                if course.lower_again():
                    self._follow()
            course.ran = self.ran

        def renew(self) -> None:
            self._follow()

        def _follow(self) -> None:
            course.ran = self.ran
            job.graph, job.keys = course.compiled.graph, course.compiled.keys
            self.want(course.wanted())

        def finish(self) -> None:
            course.ran = self.ran
            problem = self.problem
            # What a failed build got done is worth as much; one that is interrupted has no time.
            if not process.INTERRUPT.is_set():
                try:
                    job.layers.settle(job.keys.values())
                except ImgcError as unkept:
                    problem = problem or unkept
                course.store.make_durable(course.compiled.keys.values())
            failed = self.failed
            course.finish(
                problem, failed.id if failed else "", has_state=failed.changes_state if failed else True
            )
            done()

    return CourseLane(job, wanted, need)
