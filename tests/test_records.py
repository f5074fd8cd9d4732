"""The record of the last build: what it holds, that it is whole, and that it does not grow."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from imgc.engine.store import Store
from imgc.errors import ImgcError
from imgc.graph import compile_plan, keys, lower
from imgc.graph.difference import Record, why
from imgc.graph.keys import manifest
from imgc.graph.places import owners
from imgc.graph.plan import Plan
from imgc.records import MOST_BYTES, content, last, record
from imgc.spec import load

ROOT = Path(__file__).parent.parent
FILES = {
    "one/install.d/50-x": '#!/bin/sh\n. "$(dirname "$0")/../data/x"\ncat "$(dirname "$0")/../data/"*\n',
    "one/data/x": "echo\n",
    "one/data/large": "x" * (MOST_BYTES + 1),
    "one/install.d/60-y": "#!/bin/sh\n",
    "system/element-provides": "operating-system\n",
}
SPEC = """\
schema: 1
name: {name}
base: {{distro: none, release: "1", mirror: default, baseline: false}}
elements: [system, none-minimal, one]
element_paths: [../elements]
outputs: !replace [{{format: tar, compression: none}}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for dest, text in {**FILES, "none-minimal/README.rst": ""}.items():
        path = tmp_path / "elements" / dest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    (tmp_path / "elements/one/data/binary").write_bytes(b"\0\1")
    (tmp_path / "specs").mkdir()
    return tmp_path


def compiled(project: Path, name: str = "small") -> Plan:
    (project / f"specs/{name}.yaml").write_text(SPEC.format(name=name))
    shipped = project / "shipped"
    shipped.mkdir(exist_ok=True)
    platform = load(name, specs_dir=project / "specs", host_environment={})
    return compile_plan(platform, elements_dir=shipped)


def remember(project: Path, plan: Plan, *, without: tuple[str, ...] = ()) -> Record:
    """Record a build in which everything was made except what ``without`` names and what stands on it."""
    graph = lower(plan)
    prefix = f"{plan.platform.name}/"
    done = {id for id in graph if id.removeprefix(prefix) not in without}
    record(project / "cache", plan, graph, keys(graph), done)
    found = last(project / "cache", plan.platform.name)
    assert found is not None
    return found


def blobs(project: Path) -> set[str]:
    return {path.name for path in (project / "cache/records/blobs").iterdir()}


def sha256(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def test_a_record_holds_the_manifests_that_keys_are_made_of(project: Path) -> None:
    plan = compiled(project)
    graph = lower(plan)
    found = keys(graph)
    kept = remember(project, plan)
    assert kept.unmade == ()
    assert kept.files == owners(plan)
    assert list(kept.steps) == list(graph)
    for id, one in kept.steps.items():
        step = graph.nodes[id]["step"]
        assert (one.key, one.element, one.inputs) == (found[id], step.element, step.inputs)
        assert list(one.facts) == manifest(step, found)
    assert why(graph, found, kept, owners(plan)) == []


def test_texts_of_the_elements_are_kept_by_their_digests(project: Path) -> None:
    kept = remember(project, compiled(project))
    texts = (FILES["one/install.d/50-x"], FILES["one/data/x"], FILES["one/install.d/60-y"])
    assert blobs(project) == set(map(sha256, texts)), "neither what is large nor what is binary"
    values = [fact.value for one in kept.steps.values() for fact in one.facts if fact.name == "data/x"]
    assert content(project / "cache", values[0]) == b"echo\n"
    assert content(project / "cache", f"0644 sha256:{sha256(FILES['one/data/large'])}") is None
    assert content(project / "cache", "link to x") is None


def test_without_a_build_there_is_no_record(project: Path) -> None:
    assert last(project / "cache", "small") is None


def test_an_unchanged_build_writes_nothing(project: Path) -> None:
    remember(project, compiled(project))
    path = project / "cache/records/small.json"
    before = path.stat()
    remember(project, compiled(project))
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_of_a_build_that_failed_only_what_it_made_is_new(project: Path) -> None:
    everything = ("install.d/50-x", "install.d/60-y", "fstab", "finalise", "side-outputs", "tar", "check")
    first = remember(project, compiled(project), without=everything)
    assert [id.removeprefix("small/") for id in first.unmade] == list(everything)
    second = remember(project, compiled(project), without=everything[1:])
    assert [id.removeprefix("small/") for id in second.unmade] == list(everything[1:])
    whole = remember(project, compiled(project))
    assert whole.unmade == ()

    hook = project / "elements/one/install.d/50-x"
    hook.write_text(FILES["one/install.d/50-x"] + "false\n")
    failed = remember(project, compiled(project), without=everything)
    assert failed.steps["small/install.d/50-x"] == whole.steps["small/install.d/50-x"]
    graph = lower(compiled(project))
    (cause,) = why(graph, keys(graph), failed, owners(compiled(project)))
    assert cause.text == "script install.d/50-x of element one changed"


def test_what_a_result_stands_on_was_made_with_it(project: Path) -> None:
    """The raw disk is never kept, and what was built from it is."""
    plan = compiled(project)
    graph = lower(plan)
    record(project / "cache", plan, graph, keys(graph), {"small/check", "small/side-outputs"})
    found = last(project / "cache", "small")
    assert found is not None
    assert (found.unmade, set(found.steps)) == ((), set(graph))


def test_steps_that_are_gone_are_forgotten_once_a_build_comes_to_its_end(project: Path) -> None:
    remember(project, compiled(project))
    (project / "elements/one/install.d/60-y").unlink()
    assert (
        "small/install.d/60-y"
        in remember(
            project, compiled(project), without=("fstab", "finalise", "side-outputs", "tar", "check")
        ).steps
    )
    assert "small/install.d/60-y" not in remember(project, compiled(project)).steps


def test_texts_that_no_record_mentions_are_dropped(project: Path) -> None:
    remember(project, compiled(project))
    remember(project, compiled(project, "other"))
    path = project / "elements/one/data/x"
    path.write_text("echo new\n")
    old, new = sha256("echo\n"), sha256("echo new\n")
    (project / "cache/records/.new-left-behind").write_text("{")
    remember(project, compiled(project))
    assert {old, new} <= blobs(project), "the other platform still has the old one"
    remember(project, compiled(project, "other"))
    assert old not in blobs(project)
    assert new in blobs(project)
    assert sorted(path.name for path in (project / "cache/records").iterdir()) == [
        "blobs",
        "lock",
        "other.json",
        "small.json",
    ]


def test_a_file_edited_since_it_was_compiled_is_not_kept_under_a_wrong_digest(project: Path) -> None:
    plan = compiled(project)
    (project / "elements/one/data/x").write_text("echo later\n")
    (project / "elements/one/install.d/60-y").unlink()
    remember(project, plan)
    assert blobs(project) == {sha256(FILES["one/install.d/50-x"])}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"version": 0}', '{"version": 1, "facts": 3}', "\xff", '{"version": 1}']
)
def test_a_record_that_cannot_be_read_is_none_and_is_replaced(project: Path, text: str) -> None:
    kept = remember(project, compiled(project))
    (project / "cache/records/small.json").write_bytes(text.encode("latin-1"))
    assert last(project / "cache", "small") is None
    assert remember(project, compiled(project)) == kept


def test_a_record_that_cannot_be_written_is_one_error(project: Path) -> None:
    (project / "cache").mkdir()
    (project / "cache/records").write_text("in the way")
    with pytest.raises(ImgcError) as caught:
        remember(project, compiled(project))
    assert caught.value.code == "E631"
    assert "records/small.json" in caught.value.message


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_records import compiled, remember
project = Path(sys.argv[2])
plans = [compiled(project, sys.argv[3])]
(project / "elements/one/data/x").write_text(f"echo {sys.argv[3]}\\n")
plans.append(compiled(project, sys.argv[3]))
for turn in range(15):
    remember(project, plans[turn % 2])
"""


def test_several_builds_at_once_leave_whole_records(project: Path) -> None:
    names = ("small", "small", "other", "third")
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(ROOT / "tests"), str(project), name], cwd=ROOT)
        for name in names
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    for name in set(names):
        kept = remember(project, compiled(project, name))
        for one in kept.steps.values():
            for fact in one.facts:
                if fact.kind == "script":
                    assert content(project / "cache", fact.value) is not None
    for path in (project / "cache/records/blobs").iterdir():
        assert sha256(path.read_bytes()) == path.name


def test_a_real_platform_is_remembered_in_little_room(project: Path) -> None:
    spec = ROOT / "specs"
    plan = compile_plan(load("debian-bookworm", specs_dir=spec, host_environment={}))
    graph = lower(plan)
    found = keys(graph)
    Store(project / "cache")
    record(project / "cache", plan, graph, found, set(graph))
    path = project / "cache/records/debian-bookworm.json"
    assert path.stat().st_size < 200_000
    assert len(json.loads(path.read_text())["steps"]) == len(graph)
    kept = last(project / "cache", "debian-bookworm")
    assert kept is not None
    for one in kept.steps.values():
        for fact in one.facts:
            if fact.kind in ("script", "file") and "sha256:" in fact.value:
                assert content(project / "cache", fact.value) is not None, fact
