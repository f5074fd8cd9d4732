"""The state in which a step failed, one per platform, kept for ``imgc build --shell``."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from imgc.engine.protocol import shell_payload
from imgc.engine.sandbox import State
from imgc.errors import ImgcError

if TYPE_CHECKING:
    from imgc.engine.step_runner import Job
    from imgc.engine.store import Store
    from imgc.graph.step import Step


def keep(job: Job, step: Step, scratch: Path, status: int) -> None:
    """Keep the state in which a step failed, in place of the platform's last one."""
    made = scratch / "failed"
    made.mkdir()
    job.layers.pack(job.keys[step.id], made)
    meta = {"step": step.id, "key": job.keys[step.id], "status": status}
    (made / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    kept = directory(job.store, step.platform)
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(exist_ok=True)
    try:
        made.rename(kept)
    except OSError as problem:
        if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Another imgc has just kept the state in which its own build of this platform failed; it may.


def directory(store: Store, platform: str) -> Path:
    """Where the state of a platform's last failure is kept."""
    return store.cache / "failed" / platform


def shell(job: Job, step_id: str) -> int:
    """Run an interactive shell where a step failed, with its environment and mounts; the shell's exit status.

    Raises E301 when that state is not kept.
    """
    from imgc.engine.step_runner import payload_and_target, state_below

    kept = directory(job.store, job.plan.platform.name)
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
