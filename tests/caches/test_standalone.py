"""``python -m imgc.caches``: which cache it is for, and what goes wrong as text."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "imgc.caches", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [[], ["none"], ["--help"]])
def test_usage(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m imgc.caches git|bindep|files")


def test_help_of_the_git_cache() -> None:
    done = run("git", "--help")
    assert done.returncode == 0
    assert "--projects" in done.stdout
