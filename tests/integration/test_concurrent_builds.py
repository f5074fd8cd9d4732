"""Builds side by side with one cache: no step twice, nothing taken from anybody, whatever is damaged is made again."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

from tests.integration.project import HERE, Project, Running


def wait_for(running: Running, text: str, seconds: float = 60) -> None:
    """Until a build says something, as a notice."""
    running.wait_for(lambda event: event["event"] == "Notice" and text in str(event), seconds)


def slow(project: Project) -> None:
    """A platform whose steps take long enough to meet at every one of them."""
    for phase in ("extra-data.d", "install.d", "post-install.d", "finalise.d"):
        project.hook(f"one/{phase}/50-slow", "sleep 0.4\ndate +%N >>/tmp/slow; echo ran")


def test_two_builds_of_one_platform_run_each_step_once(project: Project) -> None:
    slow(project)
    others = project.directory / "others"
    running = [project.start(), Running(project, ["build", "tiny", "--json", "-o", str(others)])]
    ended = [one.end() for one in running]
    assert [one.status for one in ended] == [0, 0], [one.errors for one in ended]
    # The raw disk of a tiny system is not made; what a check found is about each build's own files.
    ran = sorted(step for one in ended for step in one.ran if step != "check")
    assert len(ran) == len(set(ran)), [step for step in ran if ran.count(step) > 1]
    assert (others / "tiny.tar").read_bytes() == project.tar.read_bytes()
    assert sorted(step for step in project.build("--fresh").ran if step != "check") == ran
    assert leavings(project) == []


def test_a_build_that_waits_for_a_killed_one_makes_the_step_itself(project: Project) -> None:
    project.hook("one/install.d/50-one", f"echo {HERE}; sleep 8")
    first = project.start()
    first.wait_for_hook()
    second = project.start()
    wait_for(second, f"process {first.child.pid}")
    first.send(signal.SIGKILL)
    first.end()
    done = second.end()
    assert done.status == 0, done.errors
    assert "install.d/50-one" in done.ran and "root.d/10-tiny" not in done.ran
    # The scratch directory of the killed one goes when somebody next wants one, or tidies up.
    assert project.imgc("clean").returncode == 0
    assert leavings(project) == []


def test_a_build_that_waits_can_be_interrupted(project: Project) -> None:
    project.hook("one/install.d/50-one", f"echo {HERE}; sleep 5")
    first = project.start()
    first.wait_for_hook()
    second = project.start()
    wait_for(second, "waiting")
    since = time.monotonic()
    second.send(signal.SIGINT)
    ended = second.end()
    assert ended.status == 130 and time.monotonic() - since < 3, ended.errors
    assert first.end().status == 0


def test_removing_takes_nothing_from_a_running_build(project: Project) -> None:
    """Everything is old and there is no room at all; the build that uses it goes on, and resumes from it."""
    project.hook("one/install.d/50-one", "true")
    assert project.build().status == 0
    project.hook("two/post-install.d/50-two", f"echo {HERE}; sleep 2")
    running = project.start()
    running.wait_for_hook()
    shown = json.loads(project.imgc("cache", "show", "--json").stdout)
    assert [re.sub("-.*", "", name) for name in shown["builds"]] == ["tiny"]
    gone = project.imgc("cache", "gc", "--size", "1K")
    assert gone.returncode == 0, gone.stderr
    refused = project.imgc("clean", "--layers")
    assert refused.returncode == 1 and "E304" in refused.stderr
    done = running.end()
    assert done.status == 0, done.errors
    assert "root.d/10-tiny" not in done.ran
    assert project.build().ran == []
    assert project.imgc("cache", "gc", "--size", "1K").returncode == 0
    assert list((project.cache / "layers").iterdir()) == []
    again = project.build()
    assert again.status == 0 and "root.d/10-tiny" in again.ran


def test_a_layer_with_a_flipped_bit_is_made_again_in_the_same_build(project: Project) -> None:
    project.hook("one/install.d/50-one", "head -c 5000 /dev/zero >/etc/one")
    first = project.build()
    key = next(one["key"] for one in first.of("StepStarted") if one["step"].endswith("install.d/50-one"))
    flip(project.cache / "layers" / key / "state.tar")
    project.hook("two/post-install.d/50-two", "[[ $(tr -d '\\0' </etc/one | wc -c) == 0 ]]; echo same")
    again = project.build()
    assert again.status == 0, again.errors
    assert again.lines == ["same"]
    assert "install.d/50-one" in again.ran and "root.d/10-tiny" not in again.ran
    assert not again.of("StepFailed")
    assert project.imgc("cache", "verify").returncode == 0
    assert leavings(project) == []


def test_verify_finds_what_a_build_would_find(project: Project) -> None:
    first = project.build()
    keys = {one["step"].partition("/")[2]: one["key"] for one in first.of("StepStarted")}
    flip(project.cache / "layers" / keys["root.d/10-tiny"] / "state.tar")
    found = project.imgc("cache", "verify", "--json")
    assert found.returncode == 1, found.stderr
    assert [one["path"] for one in json.loads(found.stdout)["damaged"]] == [
        f"layers/{keys['root.d/10-tiny']}"
    ]
    assert project.build().status == 0
    assert project.imgc("cache", "verify").returncode == 0


def flip(archive: Path) -> None:
    """Change one bit of a file as a failing disk does: its size and its time stay."""
    status, content = archive.stat(), bytearray(archive.read_bytes())
    content[content.index(bytes(300)) + 150] ^= 1
    archive.write_bytes(content)
    os.utime(archive, ns=(status.st_atime_ns, status.st_mtime_ns))


def leavings(project: Project) -> list[Path]:
    """What builds have left of their locks and scratch directories."""
    return [path for name in ("work", "locks", "inuse") for path in project.cache.glob(f"{name}/*")]
