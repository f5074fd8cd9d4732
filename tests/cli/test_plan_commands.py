"""`imgc plan` and `imgc graph`, on a real spec and real elements."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import imgc.build as road

from .conftest import Imgc


def test_plan_says_why_each_element_is_there(project: Path, imgc: Imgc) -> None:
    ended = imgc("plan", "good")
    assert (ended.exit_code, ended.stderr) == (0, "")
    words = [line.split(maxsplit=1) for line in ended.output.splitlines() if line.startswith("  ")]
    why = {line[0]: line[1] for line in words if len(line) == 2}
    assert why["openssh-server"] == "listed at specs/good.yaml:5:12"
    assert "minimal" in why["debian-minimal"]
    assert why["debootstrap"] == "debian-minimal depends on it"


def test_plan_has_every_step_in_its_phase_with_its_element(project: Path, imgc: Imgc) -> None:
    lines = imgc("plan", "good").output.splitlines()
    phases = [
        line.strip()
        for line in lines
        if line.startswith("  ") and line.endswith(".d") and " " not in line.strip()
    ]
    assert phases[:4] == ["root.d", "extra-data.d", "pre-install.d", "install.d"]
    first = lines[lines.index("  root.d") + 1]
    assert first.split()[0] == "run"
    assert first.split()[-1] in ("debootstrap", "dib-python", "debian-minimal", "dpkg")


def test_plan_for_programs(project: Path, imgc: Imgc) -> None:
    plan = json.loads(imgc("plan", "good", "--json").output)
    assert plan["platform"] == "good"
    assert plan["outputs"] == ["qcow2"]
    ids = [step["id"] for step in plan["steps"]]
    for step in plan["steps"]:
        assert len(step["key"]) == 64
        assert set(step["inputs"]) <= set(ids[: ids.index(step["id"])]), "in an order in which they can run"
    assert not any(step["cached"] for step in plan["steps"])
    assert {"name", "path", "why"} == set(plan["elements"][0])


def test_plan_tells_what_is_cached(project: Path, imgc: Imgc, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [step["id"] for step in json.loads(imgc("plan", "good", "--json").output)["steps"]]
    monkeypatch.setattr(road, "cached_steps", lambda *_: set(everything[:3]))
    lines = imgc("plan", "good").output.splitlines()
    assert f"{len(everything)} steps: 3 cached, {len(everything) - 3} to run" in lines
    assert sum(line.startswith("    cached  ") for line in lines) == 3
    cached = [
        step["id"] for step in json.loads(imgc("plan", "good", "--json").output)["steps"] if step["cached"]
    ]
    assert cached == everything[:3]


def test_graph_in_every_form(project: Path, imgc: Imgc) -> None:
    steps = [step["id"] for step in json.loads(imgc("plan", "good", "--json").output)["steps"]]
    assert imgc("graph", "good").output.startswith("digraph")
    assert imgc("graph", "good", "--format", "mermaid").output.startswith("flowchart")
    drawn = imgc("graph", "good", "--format", "json").output
    assert json.loads(drawn)
    assert all(step in drawn for step in steps)


def test_the_files_suffix_says_the_form(project: Path, imgc: Imgc) -> None:
    for name, beginning in (("g.mmd", "flowchart"), ("g.json", "{"), ("g.dot", "digraph"), ("g", "digraph")):
        assert imgc("graph", "good", "-o", name).exit_code == 0
        assert (project / name).read_text().startswith(beginning), name


def test_svg_is_drawn_by_graphviz_or_says_that_it_is_missing(project: Path, imgc: Imgc) -> None:
    ended = imgc("graph", "good", "-o", "g.svg")
    if shutil.which("dot"):
        assert "<svg" in (project / "g.svg").read_text()
    else:
        assert ended.exit_code == 1
        assert ended.stderr.startswith("E302: ")
