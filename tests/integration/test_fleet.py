"""Several platforms built as one graph, by the real program."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.project import HERE, Build, Project, Running


@dataclass
class Fleet(Project):
    """A project with several platforms: each has its own list of elements."""

    platforms: dict[str, list[str]] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        specs = self.directory / "specs"
        (specs / "elements").mkdir(parents=True, exist_ok=True)
        for name, elements in self.platforms.items():
            listed = dict.fromkeys(elements)
            text = Project(self.directory, elements=listed, outputs=self.outputs).spec()
            (specs / f"{name}.yaml").write_text(text.replace("name: tiny\n", f"name: {name}\n"))
        imgc = [sys.executable, "-m", "imgc", "--specs", str(specs), "--cache", str(self.cache)]
        return [*self.prefix, *imgc, *arguments]

    def start(self, *options: str) -> Running:
        return Running(self, ["build", "--all", "--json", "-o", str(self.images), *options])


def ran(build: Build) -> list[str]:
    """The steps that ran, with their platforms."""
    return [event["step"] for event in build.of("StepFinished")]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Two platforms: both have `base`, each something of its own."""
    fleet = Fleet(tmp_path)
    fleet.hook("base/root.d/20-base", "echo base >$TARGET_ROOT/etc/base")
    for name in ("one", "two"):
        fleet.hook(f"{name}/install.d/50-{name}", f"echo {name} >/etc/{name}")
        fleet.platforms[name] = ["base", name]
    return fleet


def test_what_platforms_share_runs_once(fleet: Fleet) -> None:
    build = fleet.build("--jobs", "2")
    assert build.status == 0, build.errors
    steps = ran(build)
    for shared in ("root.d/10-tiny", "root.d/20-base", "install-type"):
        assert len([step for step in steps if step.endswith(shared)]) == 1
    assert {"one/install.d/50-one", "two/install.d/50-two", "one/tar", "two/tar"} <= set(steps)
    assert {path.name for path in fleet.images.glob("*.tar")} == {"one.tar", "two.tar"}
    # Every platform knows of every step of its own, whoever ran it.
    for name in ("one", "two"):
        (started,) = [event for event in build.of("BuildStarted") if event["platform"] == name]
        own = [
            event
            for kind in ("StepFinished", "StepCached")
            for event in build.of(kind)
            if event["platform"] == name
        ]
        assert len(own) == started["total"]

    again = fleet.build()
    assert (again.status, ran(again)) == (0, [])
    assert [event["ran"] for event in again.of("BuildFinished")] == [0, 0]


def test_the_graph_of_all_shows_what_is_shared(fleet: Fleet) -> None:
    drawn = fleet.imgc("graph", "--all", "--format", "json")
    steps = json.loads(drawn.stdout)["steps"]
    shared = {step["name"] for step in steps if step["platforms"] == ["one", "two"]}
    assert {"10-tiny", "20-base"} <= shared
    assert {step["name"] for step in steps if step["platforms"] == ["one"]} >= {"50-one", "tar"}
    assert "shared by 2 platforms" in fleet.imgc("graph", "--all").stdout


def test_a_failure_does_not_stop_other_platforms(fleet: Fleet) -> None:
    fleet.hook("one/install.d/50-one", "echo no; exit 7")
    build = fleet.build()
    assert build.status == 1
    assert {event["platform"]: event["status"] for event in build.of("BuildFinished")} == {
        "one": "failed",
        "two": "ok",
    }
    assert "50-one of element one failed: exit status 7" in build.errors
    assert [path.name for path in fleet.images.glob("*.tar")] == ["two.tar"]


def test_a_broken_spec_does_not_stop_other_platforms(fleet: Fleet) -> None:
    fleet.platforms["one"].append("nowhere")
    build = fleet.build()
    assert build.status == 1
    assert "E201" in build.errors
    assert [path.name for path in fleet.images.glob("*.tar")] == ["two.tar"]


def test_a_shared_step_that_fails_is_run_once_and_fails_every_platform(fleet: Fleet) -> None:
    fleet.hook("base/root.d/20-base", "exit 9")
    build = fleet.build()
    assert build.status == 1
    assert len(build.of("StepFailed")) == 1
    assert [event["status"] for event in build.of("BuildFinished")] == ["failed", "failed"]
    assert build.errors.count("20-base of element base failed: exit status 9") == 2


def test_independent_steps_run_side_by_side(fleet: Fleet) -> None:
    # Each waits until the other is there, so neither ends unless both run at once.
    for name, other in (("one", "two"), ("two", "one")):
        fleet.hook(
            f"{name}/extra-data.d/50-{name}",
            f"touch $DIB_IMAGE_CACHE/{name}; for _ in $(seq 300); do"
            f" [ -e $DIB_IMAGE_CACHE/{other} ] && exit 0; sleep 0.1; done; exit 1",
        )
    build = fleet.build("--jobs", "2")
    assert build.status == 0, build.errors


def test_with_fail_fast_the_others_stop(fleet: Fleet) -> None:
    fleet.hook("one/extra-data.d/50-one", "exit 7")
    fleet.hook("two/extra-data.d/50-two", f"echo {HERE}; sleep 3")
    build = fleet.build("--fail-fast", "--jobs", "2")
    assert build.status == 1
    assert {event["status"] for event in build.of("BuildFinished")} == {"failed"}
    assert "E308" in build.errors


def test_a_budget_lets_one_platform_through_at_a_time(fleet: Fleet) -> None:
    for name in ("one", "two"):
        fleet.hook(f"{name}/extra-data.d/50-{name}", "sleep 0.3")
    build = fleet.build("--jobs", "4", "--memory-budget", "1 MiB")
    assert build.status == 0, build.errors
    order = [
        event["platform"]
        for event in build.events
        if event["event"] == "StepStarted" and not event["step"].endswith(("10-tiny", "20-base"))
    ]
    # No platform starts before the one that did first has ended.
    assert order == sorted(order, key=order.index)
