"""`imgc plan PLATFORM --step STEP`: what the key of one step covers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from imgc.cli.main import cli

SPECS = str(Path(__file__).parent.parent.parent / "specs")


@pytest.mark.parametrize("name", ["install.d/40-glean", "debian-bookworm/install.d/40-glean"])
def test_the_manifest_of_a_step(tmp_path: Path, name: str) -> None:
    arguments = ["--specs", SPECS, "--cache", str(tmp_path), "plan", "debian-bookworm", "--step", name]
    result = CliRunner().invoke(cli, arguments)
    key, first, *facts = result.stdout.splitlines()
    assert result.exit_code == 0
    assert len(key) == 64
    assert first == "step hook = install.d/40-glean"
    assert any(line.startswith("input 0 = ") for line in facts)
    assert any(line.startswith("script install.d/40-glean = 0755 sha256:") for line in facts)
    assert "env DIB_RELEASE = bookworm" in facts
    assert not any("site-packages" in line for line in facts)


def test_an_unknown_step_is_an_error(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "imgc",
        "--specs",
        SPECS,
        "--cache",
        str(tmp_path),
        "plan",
        "debian-bookworm",
    ]
    done = subprocess.run(
        [*command, "--step", "install.d/40-gleam"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "E116: No step `install.d/40-gleam` in debian-bookworm.",
        "    hint: Did you mean `install.d/40-glean`?",
    ]
