"""A second build of everything: no step, no program, no network."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.integration.test_fleet import Fleet, fleet

__all__ = ["fleet"]

#: Calls by which a process starts another program or reaches a network.
_TRACED = "trace=execve,execveat,fork,vfork,clone,clone3,socket,connect,sendto,bind"


@pytest.fixture
def traced(fleet: Fleet, tmp_path: Path) -> list[str]:
    """The calls of the second `imgc build --all`."""
    first = fleet.build()
    assert first.status == 0, first.errors
    trace = tmp_path / "trace"
    command = fleet.command("build", "--all", "-o", str(fleet.images))
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", str(trace), "-e", _TRACED, *command],
        cwd=fleet.directory,
        env=fleet.environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("unchanged") == 2
    calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines()]
    return [call for call in calls if "exited with" not in call and "resumed>" not in call]


def test_it_starts_no_program(traced: list[str]) -> None:
    # The first is imgc itself.
    assert [call for call in traced if call.startswith("exec")][1:] == []
    # Threads would be fine; other processes are not.
    assert [call for call in traced if re.match(r"v?fork|clone", call) and "CLONE_THREAD" not in call] == []


def test_it_opens_no_connection(traced: list[str]) -> None:
    assert [call for call in traced if re.match("socket|connect|sendto|bind", call)] == []
