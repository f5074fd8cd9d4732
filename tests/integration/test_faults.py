"""Signals in the middle of every phase: nothing stays behind, and the next build resumes and tidies up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgc.graph.step import PHASES
from tests.integration.project import HERE, Project, leftovers

#: What a hook does that has no wish to end, and has children that feel the same.
STUBBORN = f"trap '' HUP INT TERM\nsetsid sleep 3333 &\necho {HERE}\nsleep 3333"

#: Each way to end imgc, and the status that it then has.
ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}


@pytest.fixture(scope="module")
def bootstrapped(module_path: Path) -> Path:
    """A cache that has the tiny system already."""
    project = Project(module_path)
    assert project.build().status == 0
    return project.cache


@pytest.fixture
def ready(project: Project, bootstrapped: Path) -> Project:
    # cp, because layers hold whiteouts.
    subprocess.run(["cp", "-a", str(bootstrapped), str(project.cache)], check=True)
    return project


def gone(directory: Path, seconds: float) -> list[str]:
    """What is still there of a build after some time; the kernel needs a moment after SIGKILL."""
    until = time.monotonic() + seconds
    while (found := leftovers(directory)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def interrupted(project: Project, phase: str) -> Iterator[signal.Signals]:
    """Begin to build, end it in ``phase`` in each way; between them, the caller looks at what is left."""
    mounts = Path("/proc/self/mountinfo").read_text().count(str(project.directory))
    for number, status in ENDS.items():
        running = project.start()
        running.wait_for(lambda event: event["event"] == "StepStarted" and f"/{phase}" in event["step"])
        if phase in PHASES:
            running.wait_for_hook()
        else:
            time.sleep(0.3)
        since = time.monotonic()
        running.send(number)
        ended = running.end(seconds=20)
        assert ended.status == status, ended.errors
        assert time.monotonic() - since < 3
        assert "Traceback" not in ended.errors
        assert gone(project.directory, 0 if number != signal.SIGKILL else 3) == []
        assert Path("/proc/self/mountinfo").read_text().count(str(project.directory)) == mounts
        yield number


def check_work(project: Project, number: signal.Signals) -> None:
    """Only a build that had no chance to tidy up leaves its scratch directory, for the next one."""
    left = list((project.cache / "work").iterdir())
    assert bool(left) == (number == signal.SIGKILL), left


@pytest.mark.parametrize("phase", PHASES)
def test_ended_in_a_phase(ready: Project, phase: str) -> None:
    ready.hook(f"one/{phase}/90-one", STUBBORN)
    for number in interrupted(ready, phase):
        check_work(ready, number)
    ready.hook(f"one/{phase}/90-one", "echo went on")
    done = ready.build()
    assert done.status == 0, done.errors
    assert "root.d/10-tiny" not in done.ran
    assert "went on" in done.lines
    assert list((ready.cache / "work").iterdir()) == []
    assert ready.tar.exists()


def test_ended_while_an_output_is_made(ready: Project) -> None:
    """A file of many holes takes the archiver long enough."""
    ready.outputs = "{format: tar, compression: zstd}"
    ready.hook("one/finalise.d/90-one", "truncate -s 500G /root/holes")
    for number in interrupted(ready, "tar.zst"):
        check_work(ready, number)
        assert not ready.images.exists()
    ready.hook("one/finalise.d/90-one", "rm -f /root/holes")
    done = ready.build()
    assert done.status == 0, done.errors
    assert list((ready.cache / "work").iterdir()) == []
    assert [path.name for path in sorted(ready.images.iterdir())] == [
        *("tiny.lock", "tiny.tar.zst", "tiny.tar.zst.md5", "tiny.tar.zst.sha256"),
    ]


def test_a_signal_to_all_of_the_terminal(ready: Project) -> None:
    """Ctrl-C reaches imgc and what it started alike; twice, from someone impatient."""
    ready.hook("one/install.d/50-one", STUBBORN)
    running = ready.start()
    running.wait_for_hook()
    for _ in range(2):
        os.killpg(running.child.pid, signal.SIGINT)
    ended = running.end()
    assert ended.status == 130
    assert "E307" in ended.errors
    assert ended.of("BuildFinished")[0]["status"] == "interrupted"
    assert gone(ready.directory, 0) == []


def test_a_sandbox_that_the_system_kills(ready: Project) -> None:
    """As when memory runs out: a failed step, not a defect, and nothing about how sandboxes are made."""
    ready.hook("one/install.d/50-one", STUBBORN)
    running = ready.start()
    running.wait_for_hook()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"sandbox_init.py" in b" ".join(words) and str(ready.directory).encode() in b" ".join(words):
            os.kill(int(process.name), signal.SIGKILL)
    ended = running.end()
    assert ended.status == 1
    assert "E301: The step was killed (signal 9)." in ended.errors
    assert gone(ready.directory, 3) == []


# --- places that cannot be written -----------------------------------------------------------------------------


def mounted(project: Project, script: str) -> None:
    """Have every command of ``project`` run in a mount namespace in which ``script`` was run first."""
    shell = f'set -eu\n{script}\nexec "$@"'
    project.prefix = ("unshare", "--mount", "--propagation", "private", "bash", "-c", shell, "bash")


def test_an_output_directory_that_is_read_only(ready: Project) -> None:
    assert ready.build().status == 0
    before = ready.tar.read_bytes()
    ready.hook("one/finalise.d/90-one", "touch /etc/new")
    mounted(ready, f"mount --bind {ready.images} {ready.images}; mount -o remount,bind,ro {ready.images}")
    refused = ready.build()
    assert refused.status == 1
    assert refused.errors.count("E405") == 1 and "Read-only file system" in refused.errors
    assert ready.tar.read_bytes() == before
    ready.prefix = ()
    assert ready.build().ran == [], "the work was not lost"
    assert "etc/new" in ready.tree()


def test_an_output_directory_without_room(ready: Project) -> None:
    """On another file system, where outputs are copied: what was there stays whole, what was begun goes."""
    ready.images.mkdir()
    (ready.images / "tiny.tar").write_text("the old image")
    look = f"ls {ready.images} >{ready.directory}/listing; cat {ready.images}/tiny.tar >>{ready.directory}/listing"
    mounted(
        ready,
        f"cp {ready.images}/tiny.tar {ready.directory}/old\n"
        f"mount -t tmpfs -o size=4M tmpfs {ready.images}\n"
        f"cp {ready.directory}/old {ready.images}/tiny.tar\n"
        f'"$@" && status=0 || status=$?; {look}; exit $status\n',
    )
    refused = ready.build()
    assert refused.status == 1
    assert refused.errors.count("E405") == 1 and "No space left on device" in refused.errors
    assert (ready.directory / "listing").read_text() == "tiny.tar\nthe old image"


def test_killed_while_publishing(ready: Project) -> None:
    """Whatever the moment: the file is the old one or the new one, and no checksum stands beside a wrong file."""
    assert ready.build().status == 0
    ready.hook("one/finalise.d/90-one", "touch /etc/new")
    ready.build("-o", "other")
    arguments = ready.command("build", "tiny", "-o", str(ready.images))
    # The n-th call that changes the directory is its last one.
    probe = (
        "import os, signal, sys\n"
        "sys.argv = ['imgc', *sys.argv[2:]]\n"
        "left = [int(os.environ['CALLS'])]\n"
        "def counted(call):\n"
        "    def wrapper(*words, **options):\n"
        f"        if any({str(ready.images)!r} in str(word) for word in words):\n"
        "            left[0] -= 1\n"
        "            if left[0] < 0:\n"
        "                os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return call(*words, **options)\n"
        "    return wrapper\n"
        "for name in ('link', 'replace', 'unlink'):\n"
        "    setattr(os, name, counted(getattr(os, name)))\n"
        "from imgc.__main__ import main\n"
        "main()\n"
    )
    whole = {ready.tar.read_bytes(), (ready.directory / "other" / "tiny.tar").read_bytes()}
    statuses = []
    for calls in range(20):
        done = subprocess.run(
            [sys.executable, "-c", probe, *arguments[2:]],
            cwd=ready.directory,
            env={**ready.environ(), "CALLS": str(calls)},
            capture_output=True,
        )
        statuses.append(done.returncode)
        assert ready.tar.read_bytes() in whole
        for kind in ("sha256", "md5"):
            if Path(f"{ready.tar}.{kind}").exists():
                check = subprocess.run(
                    [f"{kind}sum", "--check", "--quiet", f"tiny.tar.{kind}"], cwd=ready.images
                )
                assert check.returncode == 0, (calls, kind)
        if done.returncode == 0:
            break
    assert statuses[-1] == 0 and len(statuses) > 5 and set(statuses[:-1]) == {-signal.SIGKILL}
    assert "etc/new" in ready.tree()
    assert sorted(path.name for path in ready.images.iterdir()) == [
        "tiny.lock",
        "tiny.tar",
        "tiny.tar.md5",
        "tiny.tar.sha256",
    ]


def test_a_cache_that_is_read_only(ready: Project) -> None:
    ready.hook("one/install.d/50-one", "true")
    mounted(ready, f"mount --bind {ready.cache} {ready.cache}; mount -o remount,bind,ro {ready.cache}")
    refused = ready.build()
    assert refused.status == 1
    assert refused.errors.count("E304") == 1 and "Read-only file system" in refused.errors
    assert ready.imgc("plan", "tiny").returncode == 0


@pytest.mark.parametrize("where", ["hook", "tar"])
def test_a_cache_without_room(project: Project, where: str) -> None:
    if where == "hook":
        project.hook("one/install.d/50-one", "head -c 64M /dev/zero >/etc/large")
    size = {"hook": 32, "tar": 14}[where]
    project.cache.mkdir()
    mounted(project, f"mount -t tmpfs -o size={size}M tmpfs {project.cache}")
    refused = project.build()
    assert refused.status == 1
    what = {"hook": ("E902", "No room is left"), "tar": ("E405", "image.tar: ")}[where]
    assert all(text in refused.errors for text in what), refused.errors
    assert "E901" not in refused.errors and "Traceback" not in refused.errors
    assert refused.of("BuildFinished")[0]["status"] == "failed"
