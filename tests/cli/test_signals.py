"""Signals end a build in good order: quickly, with the signal's status, without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A build whose only step sleeps, through the one function that starts programs.
_SLEEPER = """\
import signal, sys
if {ignored}:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
from types import SimpleNamespace
from pathlib import Path
import imgc.build as road
from imgc import process
from imgc.engine import events
from imgc.errors import ImgcError

def build_all(compiled, options, settings, stream):
    stream.emit(events.BuildStarted("a", 1, 0, "log"))
    try:
        process.run(["sleep", "{seconds}"])
    except ImgcError as error:
        return [road.BuildResult("a", "interrupted", 0, 0, 1.0, (), Path("log"), error)]
    return [road.BuildResult("a", "ok", 1, 0, 1.0, (), Path("log"))]

road.compile_each = lambda names, settings: ([SimpleNamespace(platform=None)], {{}})
road.build_all = build_all
from imgc.cli.main import main
main()
"""


def started(
    project: Path, root: Path, *, seconds: float = 60, ignored: bool = False
) -> subprocess.Popen[str]:
    """An `imgc build` whose step runs."""
    child = subprocess.Popen(
        [sys.executable, "-c", _SLEEPER.format(seconds=seconds, ignored=ignored), "build", "a"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=True,
    )
    assert child.stdout
    assert "start" in child.stdout.readline()
    return child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_build_with_its_status(number: signal.Signals, project: Path, root: Path) -> None:
    with started(project, root) as child:
        began = time.monotonic()
        child.send_signal(number)
        _, errors = child.communicate(timeout=10)
    assert child.returncode == 128 + number
    assert time.monotonic() - began < 3
    assert errors.splitlines()[0] == "E307: The build was interrupted."
    assert "Traceback" not in errors


def test_impatience_changes_nothing(project: Path, root: Path) -> None:
    with started(project, root) as child:
        deadline = time.monotonic() + 10
        while child.poll() is None and time.monotonic() < deadline:
            child.send_signal(signal.SIGTERM)
            time.sleep(0.001)
        assert child.stderr
        errors = child.stderr.read()
    assert child.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


def test_a_build_under_nohup_does_not_end_with_the_terminal(project: Path, root: Path) -> None:
    with started(project, root, seconds=1, ignored=True) as child:
        child.send_signal(signal.SIGHUP)
        child.communicate(timeout=10)
    assert child.returncode == 0


def test_a_short_command_ends_with_130_as_well(project: Path, root: Path) -> None:
    code = (
        "import os, signal\n"
        "from imgc import spec\n"
        "spec.find = lambda _: os.kill(os.getpid(), signal.SIGINT)\n"
        "from imgc.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "list"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 130
    assert done.stderr == "\nInterrupted.\n"
