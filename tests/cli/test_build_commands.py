"""`imgc build` and `imgc clean`: what they ask of the rooms below, and what they say came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import imgc.build as road
from imgc.build import BuildOptions, BuildResult, Removed, Settings
from imgc.engine.events import Event, Stream
from imgc.errors import ImgcError, Place, Problems

from . import script
from .conftest import Imgc
from .test_boot_command import ADDRESS, HOSTNAME, report

Script = Callable[[str], tuple[Iterable[Event], BuildResult]]


class Road:
    """Stands where a build would be: plays a script per platform, remembers what it was asked for."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.asked: list[tuple[str, BuildOptions, Settings]] = []
        self.broken: dict[str, ImgcError] = {}

    def compile_each(
        self, names: Iterable[str], _settings: Settings
    ) -> tuple[list[Any], dict[str, ImgcError]]:
        compiled = [SimpleNamespace(platform=SimpleNamespace(name=name)) for name in names]
        return [one for one in compiled if one.platform.name not in self.broken], self.broken

    def build_all(
        self, compiled: Iterable[Any], options: BuildOptions, settings: Settings, stream: Stream
    ) -> list[BuildResult]:
        results = []
        for name in (one.platform.name for one in compiled):
            self.asked.append((name, options, settings))
            events, result = self.scripts.get(name, well)(name)
            for event in events:
                stream.emit(event)
            results.append(result)
        return results


def well(name: str) -> tuple[Iterator[Event], BuildResult]:
    return script.good(name), script.good_result(name)


def badly(name: str) -> tuple[Iterator[Event], BuildResult]:
    return script.bad(name), script.bad_result(name)


def cut_short(name: str) -> tuple[Iterator[Event], BuildResult]:
    return iter(()), script.interrupted_result(name)


@pytest.fixture
def played(project: Path, monkeypatch: pytest.MonkeyPatch) -> Road:
    played = Road()
    monkeypatch.setattr(road, "compile_each", played.compile_each)
    monkeypatch.setattr(road, "build_all", played.build_all)
    return played


# --- build


def test_a_build_says_what_it_made(played: Road, imgc: Imgc) -> None:
    ended = imgc("build", "a")
    assert ended.exit_code == 0
    assert ended.stdout.splitlines()[-3:] == [
        "a: 3 steps run, 2 cached, 30.0 s",
        "  images/x.qcow2   312.4 MiB  sha256 abababababab",
        "  log /logs/1.log",
    ]


def test_a_build_that_had_nothing_to_do_says_so(played: Road, imgc: Imgc) -> None:
    played.scripts["a"] = lambda name: (iter(()), script.good_result(name, ran=0, cached=5))
    assert "a: unchanged, 5 steps cached, 30.0 s" in imgc("build", "a").stdout


def test_options_reach_the_build(played: Road, imgc: Imgc, tmp_path: Path) -> None:
    line = (
        f"build a -o {tmp_path}/out --format qcow2 --format raw --boot --fresh --trace --trace --cache {tmp_path}/c"
        " --jobs 3 --memory-budget 8G --disk-budget 1.5GiB --fail-fast --refresh --offline --disk"
    )
    imgc(*line.split())
    ((_, options, settings),) = played.asked
    assert options == BuildOptions(
        tmp_path / "out",
        ("qcow2", "raw"),
        boot=True,
        fresh=True,
        debug_trace=2,
        jobs=3,
        memory=False,
        memory_budget=8 * 2**30,
        disk_budget=3 * 2**29,
        fail_fast=True,
        refresh=True,
        offline=True,
    )
    assert settings.cache_dir == tmp_path / "c"
    assert settings.host_environment == dict(os.environ)


def test_by_default_images_go_to_images(played: Road, imgc: Imgc) -> None:
    imgc("build", "a")
    ((_, options, _settings),) = played.asked
    assert options == BuildOptions(Path("images"), jobs=os.cpu_count() or 1)


def test_a_platform_named_twice_is_built_once(played: Road, imgc: Imgc) -> None:
    imgc("build", "a", "b", "a")
    assert [name for name, _, _ in played.asked] == ["a", "b"]


def test_a_failure_says_where_and_what_next(played: Road, imgc: Imgc) -> None:
    played.scripts["a"] = badly
    ended = imgc("build", "a")
    assert ended.exit_code == 1
    assert ended.stderr.splitlines() == [
        "E301: 10-broken failed: exit status 7.",
        "    | about to fail",
        "    | no such thing",
        "    step a/install.d/10-broken",
        "    hook /e/x/install.d/10-broken",
        "    log /logs/1.log",
        "    hint: `imgc build a --shell` opens a shell where it failed.",
    ]


def test_a_failure_at_a_terminal_is_a_panel(played: Road, imgc: Imgc) -> None:
    played.scripts["a"] = badly
    shown = imgc("build", "a", "--color").stderr
    assert "╭─" in shown
    for part in ("error[E301]", "about to fail", "/e/x/install.d/10-broken", "/logs/1.log", "--shell"):
        assert part in shown


def test_a_failure_outside_any_step(played: Road, imgc: Imgc) -> None:
    error = ImgcError("E303", "No user namespaces.", hint="Run it as root.", detail="unshare: denied")
    played.scripts["a"] = lambda name: (
        iter(()),
        BuildResult(name, "failed", 0, 0, 0.1, (), Path("/logs/1.log"), error),
    )
    lines = imgc("build", "a").stderr.splitlines()
    assert lines == [
        "E303: No user namespaces.",
        "    | unshare: denied",
        "    log /logs/1.log",
        "    hint: Run it as root.",
    ]


def test_several_problems_of_a_build_are_all_shown(played: Road, imgc: Imgc) -> None:
    problems = Problems([ImgcError("E404", "qcow2 is unsound"), ImgcError("E404", "vhd is unsound")])
    played.scripts["a"] = lambda name: (
        iter(()),
        BuildResult(name, "failed", 0, 0, 0.1, (), Path("/logs/1.log"), problems),
    )
    assert imgc("build", "a").stderr.splitlines() == [
        "E404: qcow2 is unsound",
        "E404: vhd is unsound",
        "2 problems",
        "    log /logs/1.log",
    ]


def test_one_failure_is_the_status_of_all(played: Road, imgc: Imgc) -> None:
    played.scripts["a"] = badly
    ended = imgc("build", "a", "b")
    assert ended.exit_code == 1
    assert "b: 3 steps run" in ended.stdout


def test_a_spec_that_is_broken_does_not_keep_the_others_from_being_built(played: Road, imgc: Imgc) -> None:
    played.broken["a"] = ImgcError("E105", "Unknown key `x`.", place=Place("specs/a.yaml", 2, 1))
    ended = imgc("build", "a", "b")
    assert ended.exit_code == 1
    assert ended.stderr.startswith("specs/a.yaml:2:1: E105")
    assert [name for name, _, _ in played.asked] == ["b"]


def test_with_fail_fast_a_broken_spec_ends_the_run(played: Road, imgc: Imgc) -> None:
    played.broken["a"] = ImgcError("E105", "Unknown key `x`.")
    assert imgc("build", "a", "b", "--fail-fast").exit_code == 1
    assert played.asked == []


def test_an_interrupt_is_the_status_whatever_else_happened(played: Road, imgc: Imgc) -> None:
    played.scripts |= {"a": cut_short, "b": badly}
    ended = imgc("build", "a", "b", "--shell")
    assert ended.exit_code == 130
    assert ended.stderr.splitlines()[:3] == [
        "E307: The build was interrupted.",
        "    log /logs/1.log",
        "    hint: It resumes.",
    ]


def test_all_means_every_spec_there_is(played: Road, imgc: Imgc) -> None:
    imgc("build", "--all")
    assert [name for name, _, _ in played.asked] == sorted(
        path.stem for path in (Path.cwd() / "specs").glob("*.yaml")
    )


@pytest.mark.parametrize("words", [["build"], ["build", "a", "--all"], ["graph"], ["graph", "a", "--all"]])
def test_either_platforms_are_named_or_all_are_meant(words: list[str], imgc: Imgc) -> None:
    ended = imgc(*words)
    assert ended.exit_code == 2
    assert "Name platforms, or say --all." in ended.stderr


def test_a_size_must_be_one(imgc: Imgc) -> None:
    ended = imgc("build", "a", "--memory-budget", "8 gb")
    assert ended.exit_code == 2
    assert "8 GiB" in ended.stderr


def test_json_is_all_there_is_on_stdout(played: Road, imgc: Imgc) -> None:
    played.scripts["b"] = badly
    ended = imgc("build", "a", "b", "--json")
    kinds = [json.loads(line)["event"] for line in ended.stdout.splitlines()]
    assert kinds == [type(event).__name__ for event in (*script.good(), *script.bad())]
    assert "E301" in ended.stderr


def test_the_specs_are_all_checked_before_anything_is_built(project: Path, imgc: Imgc) -> None:
    ended = imgc("build", "good", "nothing-of-this-name")
    assert ended.exit_code == 1
    assert "E116" in ended.stderr
    assert not (project / "images").exists()


def test_shell_without_a_terminal_says_what_to_do(played: Road, imgc: Imgc) -> None:
    played.scripts["a"] = badly
    ended = imgc("build", "a", "--shell")
    assert ended.exit_code == 1
    assert "--shell needs a terminal" in ended.stderr


# The user presses Ctrl-C in the shell, which is nothing to imgc.
_AT_TERMINAL = """\
import os
import sys
sys.path.insert(0, sys.argv.pop(1))
from tests.cli import test_build_commands as here
import imgc.build as road
played = here.Road()
played.scripts["a"] = here.badly
road.compile_each, road.build_all = played.compile_each, played.build_all
road.shell = lambda compiled, step, settings: (print("a shell in", step), os.system("kill -INT $PPID; sleep 0.2"))
from imgc.cli.main import main
main()
"""


def test_shell_at_a_terminal_opens_where_it_failed(project: Path, root: Path) -> None:
    ours, theirs = os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", _AT_TERMINAL, str(root), "build", "a", "--shell"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": str(root)},
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:
            break
        output += data
    os.close(ours)
    assert child.wait() == 1
    assert b"a shell in a/install.d/10-broken" in output
    assert "╭─".encode() in output


def test_a_build_with_boots_has_a_line_for_each(played: Road, imgc: Imgc) -> None:
    boots = (report(HOSTNAME), report(HOSTNAME, ADDRESS))
    played.scripts["a"] = lambda name: (iter(()), replace(script.good_result(name), boot_reports=boots))
    lines = imgc("build", "a").stdout.splitlines()
    assert "  x.qcow2 boots (efi, tcg): SSH after 31.5 s, 1 of 1 check held" in lines
    assert "  x.qcow2 came up wrong (efi, tcg): SSH after 31.5 s, 1 of 2 checks held" in lines


# --- clean


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ([], {"layers": False, "downloads": False, "dry_run": False}),
        (["--layers"], {"layers": True, "downloads": False, "dry_run": False}),
        (["--downloads", "-n"], {"layers": False, "downloads": True, "dry_run": True}),
        (["--all"], {"layers": True, "downloads": True, "dry_run": False}),
    ],
)
def test_clean_asks_for_what_was_said(
    flags: list[str], asked: dict[str, bool], project: Path, imgc: Imgc, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, bool]] = []

    def clean(_settings: Settings, **given: bool) -> tuple[Removed, ...]:
        calls.append(given)
        return Removed("layers", 12, 3 * 2**20), Removed("downloads", 0, 0)

    monkeypatch.setattr(road, "clean", clean)
    ended = imgc("clean", *flags)
    assert calls == [asked]
    assert ended.stdout == f"{'would remove' if asked['dry_run'] else 'removed'} 12 layers, 3.0 MiB\n"


def test_clean_of_an_empty_cache_needs_no_specs(
    imgc: Imgc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = imgc("clean", "--all")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert ended.stdout == "Nothing to remove.\n"


# --- anything at all


def test_an_error_of_a_build_has_a_place_when_it_has_one(played: Road, imgc: Imgc) -> None:
    error = ImgcError("E306", "No apt source.", place=Place("specs/a.yaml", 3, 9))
    played.scripts["a"] = lambda name: (
        iter(()),
        BuildResult(name, "failed", 0, 0, 0.1, (), Path("/logs/1.log"), error),
    )
    assert imgc("build", "a").stderr.startswith("specs/a.yaml:3:9: E306: No apt source.")
