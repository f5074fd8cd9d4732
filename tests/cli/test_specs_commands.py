"""`imgc list`, `imgc check` and `imgc schema`, on real specs and elements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imgc import spec

from .conftest import BROKEN, Imgc, run_imgc


@pytest.fixture
def broken(project: Path) -> Path:
    (project / "specs" / "broken.yaml").write_text(BROKEN)
    return project


def test_list_shows_what_each_platform_is(broken: Path, imgc: Imgc) -> None:
    ended = imgc("list")
    assert ended.exit_code == 0
    first, second = ended.output.splitlines()
    assert first.startswith("broken  broken: specs/broken.yaml:4:1: E105")
    assert second == "good    A small platform."


def test_list_for_programs(broken: Path, imgc: Imgc) -> None:
    assert imgc("list", "--names").output == "broken\ngood\n"
    listed = json.loads(imgc("list", "--json").output)
    assert [(one["name"], bool(one["problem"])) for one in listed] == [("broken", True), ("good", False)]
    assert Path(listed[1]["file"]).name == "good.yaml"


def test_no_platform_at_all(project: Path, imgc: Imgc) -> None:
    (project / "specs" / "good.yaml").unlink()
    for command in ("list", "check"):
        ended = imgc(command)
        assert (ended.exit_code, ended.stdout) == (0, "")
        assert "No platform in" in ended.stderr


def test_check_of_a_good_spec(project: Path, imgc: Imgc) -> None:
    for arguments in ([], ["good"], ["specs/good.yaml"], ["good", "good"]):
        ended = imgc("check", *arguments)
        assert (ended.exit_code, ended.stderr) == (0, ""), arguments
        (line,) = ended.stdout.splitlines()
        assert line.startswith("good  ok  ")
        assert "elements" in line
        assert "steps" in line


def test_check_reports_every_problem_with_its_place(broken: Path) -> None:
    done = run_imgc(["check", "--specs", str(broken / "specs")], PYTHONPATH=str(Path(__file__).parents[2]))
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("    ")]
    assert lines[0].startswith("specs/broken.yaml:4:1: E105: ")
    assert lines[1].startswith("specs/broken.yaml:5:20: E108: ")
    assert lines[-1] == "2 problems"
    assert "    hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_platform_is_told_which_there_are(project: Path, imgc: Imgc) -> None:
    ended = imgc("check", "god")
    assert ended.exit_code == 1
    assert "E116" in ended.stderr
    assert "good" in ended.stderr


def test_schema(imgc: Imgc, tmp_path: Path) -> None:
    assert json.loads(imgc("schema").output) == spec.json_schema()
    assert imgc("schema", "-o", str(tmp_path / "s.json")).output == ""
    assert json.loads((tmp_path / "s.json").read_text()) == spec.json_schema()


def test_a_file_that_cannot_be_written_is_an_error(imgc: Imgc) -> None:
    ended = imgc("schema", "-o", "/proc/nothing/here.json")
    assert ended.exit_code == 1
    assert ended.stderr.startswith("E405: Cannot write /proc/nothing/here.json")
