"""Shell completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import GOOD, Imgc, run_imgc


def completed(words: str, **environment: str) -> list[str]:
    """What bash would offer for the last word of ``words``."""
    given = words.split(" ")
    done = run_imgc(
        [],
        COMP_WORDS=words,
        COMP_CWORD=str(len(given) - 1),
        _IMGC_COMPLETE="bash_complete",
        **environment,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root))


@pytest.fixture
def second(project: Path, importable: None) -> Path:
    (project / "specs" / "goose.yaml").write_text(GOOD.replace("name: good", "name: goose"))
    return project


def test_commands_and_options_complete(importable: None) -> None:
    assert completed("imgc pl") == ["plain,plan"]
    assert "plain,--check-reproducible" in completed("imgc build --ch")


def test_platforms_complete(second: Path) -> None:
    assert completed("imgc build ") == ["plain,good", "plain,goose"]
    assert completed("imgc plan goos") == ["plain,goose"]
    assert completed("imgc build good goo") == ["plain,goose"], "what is there already is not offered again"


def test_platforms_complete_from_where_the_options_point(second: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "else.yaml").write_text("not even a spec")
    assert completed(f"imgc --specs {other} build ") == ["plain,else"]
    assert completed(f"imgc build --specs {other} ") == ["plain,else"]
    assert completed("imgc build ", IMGC_SPECS=str(other)) == ["plain,else"]


def test_paths_are_left_to_the_shell(second: Path) -> None:
    assert completed("imgc check specs/g") == ["file,specs/g"]


def test_without_specs_there_is_silence(
    importable: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert completed("imgc build ") == [""]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_for_its_shell(shell: str, imgc: Imgc) -> None:
    ended = imgc("completion", shell)
    assert ended.exit_code == 0
    assert f"_IMGC_COMPLETE={shell}_complete" in ended.output


def test_bash_takes_the_script(imgc: Imgc, second: Path, tmp_path: Path, root: Path) -> None:
    """In a real bash, with `imgc` on PATH, Tab after `imgc build goos` gives goose."""
    command = tmp_path / "bin" / "imgc"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m imgc "$@"\n')
    command.chmod(0o755)
    (tmp_path / "script").write_text(imgc("completion", "bash").output)
    tab = 'source "$1"; COMP_WORDS=(imgc build goos); COMP_CWORD=2; _imgc_completion imgc goos build'
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'{tab}; printf "%s\\n" "${{COMPREPLY[@]}}"',
            "bash",
            str(tmp_path / "script"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"},
    )
    assert (done.stdout, done.stderr) == ("goose\n", "")
