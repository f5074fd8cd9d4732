"""A build by script: the events and the result of a build, without building anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from imgc.build import BuildResult
from imgc.engine import events
from imgc.errors import ImgcError
from imgc.publish import Artifact

PLATFORM = "debian-bookworm"
START = 1_700_000_000.0


def good(platform: str = PLATFORM) -> Iterator[events.Event]:
    """Two cached steps, three that run, one output: 30 s."""
    yield events.BuildStarted(platform, 5, 2, "/logs/1.log", 20.0, time=START)
    yield events.StepCached(platform, f"{platform}/root.d/08-bootstrap", "k1", time=START)
    yield events.StepCached(platform, f"{platform}/extra-data.d/20-manifest", "k2", time=START)
    packages = f"{platform}/install.d/01-packages"
    yield events.StepStarted(platform, packages, "hook", "k3", 10.0, time=START)
    yield events.Line(platform, packages, "Unpacking \x1b[31mlibfoo\x1b[0m", time=START + 1)
    yield events.StepFinished(platform, packages, 12.0, time=START + 12)
    yield events.StepStarted(platform, f"{platform}/disk", "assemble", "k4", 8.0, time=START + 12)
    yield events.StepFinished(platform, f"{platform}/disk", 8.0, time=START + 20)
    yield events.StepStarted(platform, f"{platform}/qcow2", "convert", "k5", 2.0, time=START + 20)
    yield events.StepFinished(platform, f"{platform}/qcow2", 10.0, time=START + 30)
    yield events.ArtifactReady(platform, "images/x.qcow2", "qcow2", 3, "ab" * 32, "cd" * 16, time=START + 30)
    yield events.BuildFinished(platform, "ok", 3, 2, 30.0, "/logs/1.log", time=START + 30)


def bad(platform: str = PLATFORM) -> Iterator[events.Event]:
    """A hook that fails in its fourth second."""
    step = f"{platform}/install.d/10-broken"
    yield events.BuildStarted(platform, 5, 0, "/logs/1.log", time=START)
    yield events.StepStarted(platform, step, "hook", "k1", 0.0, time=START)
    yield events.Line(platform, step, "about to fail", time=START + 1)
    yield events.StepFailed(
        platform,
        step,
        4.0,
        "exit status 7",
        "/e/x/install.d/10-broken",
        "about to fail\nno such thing",
        time=START + 4,
    )
    yield events.BuildFinished(platform, "failed", 0, 0, 4.0, "/logs/1.log", time=START + 4)


def good_result(platform: str = PLATFORM, *, ran: int = 3, cached: int = 2) -> BuildResult:
    artifact = Artifact(Path.cwd() / "images/x.qcow2", "qcow2", 327_577_600, "ab" * 32, "cd" * 16)
    return BuildResult(platform, "ok", ran, cached, 30.0, (artifact,), Path("/logs/1.log"))


def bad_result(platform: str = PLATFORM) -> BuildResult:
    error = ImgcError("E301", "10-broken failed: exit status 7.", detail="no such thing\n$ 10-broken")
    return BuildResult(
        platform, "failed", 0, 0, 4.0, (), Path("/logs/1.log"), error, f"{platform}/install.d/10-broken"
    )


def interrupted_result(platform: str = PLATFORM) -> BuildResult:
    error = ImgcError("E307", "The build was interrupted.", hint="It resumes.")
    return BuildResult(platform, "interrupted", 0, 0, 1.0, (), Path("/logs/1.log"), error)
