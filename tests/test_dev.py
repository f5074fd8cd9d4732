"""./dev: what it says, and that it makes a clone work."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def dev(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    argv = [root / "dev", *arguments]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.mark.parametrize("argument", ["help", "--help", "-h"])
def test_help_goes_to_standard_output(argument: str) -> None:
    done = dev(argument)
    assert done.returncode == 0
    assert "./dev COMMAND" in done.stdout and not done.stderr


def test_an_unknown_command_is_wrong_usage() -> None:
    done = dev("biuld")
    assert done.returncode == 2
    assert "./dev COMMAND" in done.stderr and not done.stdout


def fresh_clone(target: Path) -> Path:
    """A clone of what is here, with what is not committed yet, and with nothing that ./dev made."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


@pytest.mark.slow  # it downloads and installs everything once more: about a minute
def test_a_fresh_clone_works_and_the_second_call_is_quick(tmp_path: Path) -> None:
    clone = fresh_clone(tmp_path / "clone")
    first = dev("imgc", "--version", root=clone)
    assert first.returncode == 0, first.stderr
    assert "making the virtualenv" in first.stderr and first.stdout.startswith("imgc")

    started = time.monotonic()
    second = dev("imgc", "--version", root=clone)
    assert time.monotonic() - started < 2
    assert second.returncode == 0 and not second.stderr

    # Other words in bindep.txt are looked at again; the virtualenv is kept.
    with (clone / "bindep.txt").open("a") as file:
        file.write("no-such-package-of-any-name [build platform:dpkg]\n")
    third = dev("imgc", "--version", root=clone)
    assert third.returncode != 0
    assert "no-such-package-of-any-name" in third.stderr and "virtualenv" not in third.stderr
