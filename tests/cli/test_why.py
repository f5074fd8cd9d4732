"""`imgc why`: three lines that say what would run, what changed, and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import imgc.build as road
from imgc.build import Compiled, Settings
from imgc.records import record

from .conftest import Imgc

SPEC = """\
schema: 1
name: small
base: {distro: none, release: "1", mirror: default, baseline: false}
elements: [system, none-minimal, one]
element_paths: [../elements]
environment:
  DIB_COLOUR: blue
outputs:
  - {format: tar, compression: none}
"""
FILES = {
    "system/element-provides": "operating-system\n",
    "none-minimal/README.rst": "",
    "one/root.d/10-base": "#!/bin/sh\necho base\n",
    "one/install.d/50-x": '#!/bin/sh\n. "$(dirname "$0")/../data/x"\n',
    "one/data/x": "echo $DIB_COLOUR\necho 2\necho 3\n",
    "one/install.d/60-y": "#!/bin/sh\n",
}


class Cache:
    """The results that a cache has: keys, as builds put them there."""

    def __init__(self, project: Path) -> None:
        self.settings = Settings(project / "specs", project / "cache", {})
        self.keys: set[str] = set()

    def build(self, *, but: tuple[str, ...] = ()) -> None:
        """Make everything, except ``but`` and what stands on them, and remember it as a build does."""
        compiled = road.compile_platform("small", self.settings)
        for id, key in compiled.keys.items():
            if id not in {f"small/{name}" for name in but}:
                self.keys.add(key)
        done = self.cached_steps(compiled, self.settings)
        record(self.settings.cache_dir, compiled.plan, compiled.graph, compiled.keys, done)

    def evict(self, *names: str) -> None:
        """Lose the results of some steps."""
        compiled = road.compile_platform("small", self.settings)
        self.keys -= {compiled.keys[f"small/{name}"] for name in names}

    def cached_steps(self, compiled: Compiled, settings: Settings) -> set[str]:
        """What imgc.build's does, with these results: a layer is of use only on top of all the layers below it."""
        cached: set[str] = set()
        for id, step in compiled.graph.nodes(data="step"):
            if compiled.keys[id] in self.keys and all(one in cached for one in step.inputs):
                cached.add(id)
        return cached


@pytest.fixture
def cache(project: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    (project / "specs/small.yaml").write_text(SPEC)
    for dest, text in FILES.items():
        path = project / "elements" / dest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    monkeypatch.setenv("IMGC_CACHE", str(project / "cache"))
    made = Cache(project)
    monkeypatch.setattr(road, "cached_steps", made.cached_steps)
    return made


def said(imgc: Imgc, *arguments: str, status: int = 0) -> list[str]:
    ended = imgc("why", "small", *arguments)
    assert (ended.exit_code, ended.stderr) == (status, "")
    return ended.stdout.splitlines()


def edit(project: Path, dest: str, old: str, new: str) -> None:
    path = project / dest
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_before_the_first_build(cache: Cache, imgc: Imgc) -> None:
    assert said(imgc) == [
        "small: 10 of 10 steps would run, from root.d/10-base on.",
        "small was never built here: the cache has no record of it.",
    ]


def test_when_nothing_changed(cache: Cache, imgc: Imgc) -> None:
    cache.build()
    assert said(imgc) == ["Nothing would run: every result of small is in the cache."]
    assert said(imgc, "install.d/50-x") == [
        "Nothing would run: the result of install.d/50-x is in the cache."
    ]
    assert said(imgc, "--diff") == said(imgc)


def test_a_file_of_an_element(cache: Cache, project: Path, imgc: Imgc) -> None:
    cache.build()
    edit(project, "elements/one/data/x", "echo 2", "echo two")
    assert said(imgc) == [
        "small: 7 of 10 steps would run, from install.d/50-x on.",
        "file data/x of element one changed.",
        "  at elements/one/data/x",
    ]
    assert said(imgc, "--diff")[3:] == [
        "--- data/x of the last build",
        "+++ data/x now",
        "@@ -1,3 +1,3 @@",
        " echo $DIB_COLOUR",
        "-echo 2",
        "+echo two",
        " echo 3",
    ]


def test_a_variable_of_the_spec(cache: Cache, project: Path, imgc: Imgc) -> None:
    cache.build()
    edit(project, "specs/small.yaml", "blue", "red")
    assert said(imgc, "--diff") == [
        "small: 7 of 10 steps would run, from install.d/50-x on.",
        "variable DIB_COLOUR: 'blue' -> 'red'.",
        "  at specs/small.yaml:7:15",
    ]


def test_an_option_of_an_output(cache: Cache, project: Path, imgc: Imgc) -> None:
    cache.build()
    edit(project, "specs/small.yaml", "{format: tar, compression: none}", "{format: tar, compression: gzip}")
    lines = said(imgc)
    assert lines[0] == "small: 2 of 10 steps would run, from tar.gz on."
    assert lines[1] == "step tar.gz is new (and 1 more change)."
    assert lines[2].startswith("  at specs/small.yaml:9:")


def test_several_changes_lead_with_the_first_of_the_build(cache: Cache, project: Path, imgc: Imgc) -> None:
    cache.build()
    edit(project, "elements/one/install.d/60-y", "#!/bin/sh\n", "#!/bin/sh\ntrue\n")
    edit(project, "elements/one/root.d/10-base", "base", "ground")
    lines = said(imgc)
    assert lines[0] == "small: 10 of 10 steps would run, from root.d/10-base on."
    assert lines[1] == "script root.d/10-base of element one changed (and 1 more change)."
    found = json.loads("\n".join(said(imgc, "--json")))
    assert [(one["kind"], one["name"], one["place"]) for one in found["causes"]] == [
        ("script", "root.d/10-base", "elements/one/root.d/10-base"),
        ("script", "install.d/60-y", "elements/one/install.d/60-y"),
    ]
    assert found["built_before"] is True
    assert len(found["would_run"]) == 10
    assert found["no_longer_cached"] == []


@pytest.mark.parametrize("step", ["install.d/60-y", "small/install.d/60-y"])
def test_one_step(cache: Cache, project: Path, imgc: Imgc, step: str) -> None:
    cache.build()
    edit(project, "elements/one/data/x", "echo 2", "echo two")
    assert said(imgc, step) == [
        "small: 2 steps would run for install.d/60-y, from install.d/50-x on.",
        "file data/x of element one changed.",
        "  at elements/one/data/x",
    ]
    assert said(imgc, "root.d/10-base", "--fail-on-miss") == [
        "Nothing would run: the result of root.d/10-base is in the cache."
    ]


def test_an_unknown_step(cache: Cache, imgc: Imgc) -> None:
    ended = imgc("why", "small", "install.d/50-y")
    assert ended.exit_code == 1
    assert ended.stderr.splitlines()[0] == "E116: No step `install.d/50-y` in small."


def test_a_hook_that_is_gone(cache: Cache, project: Path, imgc: Imgc) -> None:
    cache.build()
    (project / "elements/one/install.d/50-x").unlink()
    assert said(imgc)[1:] == [
        "step install.d/50-x of element one is gone.",
        "  at elements/one/install.d/50-x",
    ]


def test_results_that_are_no_longer_in_the_cache(cache: Cache, imgc: Imgc) -> None:
    cache.build()
    cache.evict("install.d/60-y")
    assert said(imgc) == [
        "small: 6 of 10 steps would run, from install.d/60-y on.",
        "Nothing changed before install.d/60-y, but its result is no longer in the cache.",
    ]
    assert json.loads("\n".join(said(imgc, "--json")))["no_longer_cached"][0] == "small/install.d/60-y"


def test_a_build_that_did_not_come_to_its_end(cache: Cache, imgc: Imgc) -> None:
    cache.build(but=("install.d/60-y", "fstab", "finalise", "side-outputs", "tar", "check"))
    assert said(imgc) == [
        "small: 6 of 10 steps would run, from install.d/60-y on.",
        "Nothing changed: the last build ended before install.d/60-y.",
    ]


def test_ci_asks_whether_a_commit_was_built(cache: Cache, project: Path, imgc: Imgc) -> None:
    assert len(said(imgc, "--fail-on-miss", status=1)) == 2
    cache.build()
    said(imgc, "--fail-on-miss")
    edit(project, "elements/one/data/x", "echo 2", "echo two")
    assert len(said(imgc, "--fail-on-miss", status=1)) == 3
    assert json.loads("\n".join(said(imgc, "--fail-on-miss", "--json", status=1)))["would_run"]


def test_a_diff_of_what_is_not_kept(cache: Cache, project: Path, imgc: Imgc) -> None:
    (project / "elements/one/data/x").write_bytes(b"\0\1")
    cache.build()
    (project / "elements/one/data/x").write_bytes(b"\0\2")
    assert said(imgc, "--diff")[3:] == [
        "No diff: what it was before is not kept (only text files of up to 1 MiB are)."
    ]


def test_nothing_in_a_file_can_command_the_terminal(cache: Cache, project: Path, imgc: Imgc) -> None:
    cache.build()
    edit(project, "elements/one/data/x", "echo 2", "echo \x1b]0;title\x07two")
    edit(project, "specs/small.yaml", "blue", '"\\e[31mred"')
    assert "\x1b" not in imgc("why", "small", "--diff").stdout
