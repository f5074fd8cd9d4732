"""What the tests of the command line share: a way to run it, a project with specs, a build by script."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imgc.cli.main import cli

GOOD = """\
schema: 1
name: good
description: A small platform.
base: {kind: minimal, distro: debian, release: bookworm, mirror: default, baseline: false}
elements: [openssh-server]
environment: {DIB_APT_MINIMAL_CREATE_INTERFACES: "0"}
outputs: [{format: qcow2}]
"""

BROKEN = """\
schema: 1
name: broken
base: {kind: minimal, distro: debian, release: bookworm}
elemnts: [vm]
outputs: [{format: qcow3}]
"""

Imgc = Callable[..., Result]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of who runs the tests changes what imgc does, and nothing of imgc lands in their home."""
    for name in ("IMGC_SPECS", "IMGC_CACHE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with specs/good.yaml, which is also where the test runs."""
    specs = tmp_path / "project" / "specs"
    specs.mkdir(parents=True)
    (specs / "good.yaml").write_text(GOOD)
    monkeypatch.chdir(specs.parent)
    return specs.parent


@pytest.fixture
def imgc() -> Imgc:
    """``imgc("check", "good")``: run the command line in this process; a defect's traceback is raised."""

    def run(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
        return CliRunner().invoke(cli, arguments, prog_name="imgc", env=env)

    return run


def run_imgc(arguments: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "imgc", *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
