"""Caches and bases as sources, who reads what is offered of them, and the side trees that they bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from imgc.errors import ImgcError
from imgc.graph import Plan, keys, lower, steps_in_order
from imgc.graph.caches import reads_offer
from imgc.graph.outside import pin_facts, sources_of
from imgc.graph.step import Kind
from imgc.lock import Lock, Pin, Source
from imgc.spec.model import Base, CachedFile, Caches, FileCache, GitCache

from .conftest import Compile, Elements

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = CachedFile("https://example.org/it")


@pytest.fixture
def caches(elements: Elements, compiled: Compile, tmp_path: Path) -> Callable[..., Plan]:
    """A plan with all caches; changes to the git cache as keywords."""
    (tmp_path / "projects.txt").write_text("org/one\n")
    elements.add("cache-git", {"install.d/50-cache-git": "#!/bin/bash\ntrue\n"})
    elements.add("cache-files")
    elements.add(
        "cache-bindep", {"finalise.d/99-it": "#!/bin/bash\ncat $IMGC_OFFERS/cache-bindep/packages\n"}
    )

    def plan(**git: object) -> Plan:
        settings: dict[str, object] = {"projects": (str(tmp_path / "projects.txt"),), "base": "https://git"}
        cache = GitCache(**{**settings, **git})  # type: ignore[arg-type]
        return compiled("cache-bindep", caches=Caches(git=cache, files=FileCache((FILE,))))

    return plan


def by_kind(plan: Plan) -> dict[str, Source]:
    return {source.kind: source for source in sources_of(plan)}


def lock_of(plan: Plan, **values: str) -> Lock:
    """Pins of one project, one file, and a list."""
    found = by_kind(plan)
    git = found["git-cache"]
    identity = (("org/one", values.get("one", f"https://git/org/one master={COMMIT}")),)
    files = (("it", "sha256:" + "1" * 64 + " https://example.org/it"),)
    packages = (("sha256", values.get("packages", "2" * 64)),)
    pins = [
        Pin("git-cache", "git", identity, git.asked),
        Pin("file-cache", "files", files, found["file-cache"].asked),
        Pin("bindep", found["bindep"].name, packages, found["bindep"].asked),
    ]
    return Lock(plan.platform.name, {(pin.kind, pin.name): pin for pin in pins}, 0)


def keys_of(plan: Plan, lock: Lock) -> dict[str, str]:
    found = keys(lower(plan, None, lock))
    return {id.partition("/")[2]: key for id, key in found.items()}


def test_settings_imply_the_elements(caches: Callable[..., Plan]) -> None:
    plan = caches()
    assert {"cache-git", "cache-files", "cache-bindep"} <= {element.name for element in plan.elements}
    assert set(by_kind(plan)) == {"git-cache", "bindep", "file-cache"}


def test_side_trees_have_no_inputs_and_lie_below_the_last_step(caches: Callable[..., Plan]) -> None:
    plan = caches()
    graph = lower(plan, None, lock_of(plan))
    steps = {step.name: step for step in steps_in_order(graph)}
    assert [steps[name].kind for name in ("git-trees", "cached-files")] == [Kind.SIDE] * 2
    assert steps["git-trees"].inputs == steps["cached-files"].inputs == ()
    assert [one.rpartition("/")[2] for one in steps["finalise"].inputs][1:] == ["git-trees", "cached-files"]
    chain = [step for step in steps.values() if step.changes_state]
    assert all(step.inputs[0].rpartition("/")[2] == before.name for before, step in pairwise(chain))


def test_a_project_that_moved_changes_only_what_follows_the_side_tree(caches: Callable[..., Plan]) -> None:
    plan = caches()
    before = keys_of(plan, lock_of(plan))
    after = keys_of(plan, lock_of(plan, one=f"https://git/org/one master={'f' * 40}"))
    moved = {id for id in before if before[id] != after[id]}
    assert moved == {"git-trees", "finalise", "side-outputs", "tar", "check"}


def test_a_list_of_packages_that_moved_reruns_the_hook_that_reads_it(caches: Callable[..., Plan]) -> None:
    plan = caches()
    before = keys_of(plan, lock_of(plan))
    after = keys_of(plan, lock_of(plan, packages="3" * 64))
    moved = {id for id in before if before[id] != after[id]}
    assert "finalise.d/99-it" in moved and "install.d/50-cache-git" not in moved and "git-trees" not in moved


def test_side_trees_are_the_same_for_every_platform(caches: Callable[..., Plan]) -> None:
    one = caches()
    other = replace(one, platform=replace(one.platform, name="other"))
    mine, theirs = keys_of(one, lock_of(one)), keys_of(other, lock_of(other))
    assert mine["git-trees"] == theirs["git-trees"] and mine["cached-files"] == theirs["cached-files"]


def test_where_things_are_fetched_from_is_not_asked(caches: Callable[..., Plan]) -> None:
    plain, mirrored = (
        by_kind(caches()),
        by_kind(caches(mirror="git://127.0.0.1/", connections=2, strict=True)),
    )
    assert plain["git-cache"].asked == mirrored["git-cache"].asked
    assert plain["git-cache"].asked != by_kind(caches(branches="master"))["git-cache"].asked


def test_an_edited_list_is_asked_for_anew(caches: Callable[..., Plan], tmp_path: Path) -> None:
    before = by_kind(caches())["git-cache"].asked
    (tmp_path / "projects.txt").write_text("org/one\norg/two\n")
    assert by_kind(caches())["git-cache"].asked != before


def test_lists_that_are_not_there(
    caches: Callable[..., Plan], problems_of: Callable[[Callable[[], object]], list[ImgcError]]
) -> None:
    plan = caches(projects=("/no/such/list",))
    assert [problem.code for problem in problems_of(lambda: sources_of(plan))] == ["E651"]


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("cat $IMGC_OFFERS/cache-bindep/packages", True),
        ('lists="${IMGC_OFFERS:-/tmp}/cache-bindep"', True),
        ("# $IMGC_OFFERS/cache-bindep", False),
        ('[ -n "${IMGC_OFFERS:-}" ] && exit 0', False),
        ("cat $IMGC_OFFERS/base", False),
    ],
)
def test_who_reads_an_offer(elements: Elements, compiled: Compile, text: str, reads: bool) -> None:
    elements.add("it", {"install.d/50-it": f"#!/bin/bash\n{text}\n"})
    elements.add("cache-bindep")
    plan = compiled("it", "cache-bindep")
    hook = plan.hooks["install.d"][0]
    source = by_kind(plan)["bindep"]
    assert reads_offer(hook, source) is reads
    pins = {source.id: Pin("bindep", source.name, (("sha256", "4" * 64),), source.asked)}
    assert bool(pin_facts(plan, hook, pins)) is reads


def test_a_base_on_this_host_is_asked_for_anew_when_it_changes(compiled: Compile, tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    image.write_bytes(b"one")
    base = Base("none", "none", "1", "amd64", "default", None, False, str(image))

    def asked() -> tuple[tuple[str, str], ...]:
        return by_kind(compiled(base=base))["base"].asked

    before = asked()
    assert dict(before)["name"] == "image.qcow2"
    assert asked() == before
    image.write_bytes(b"another")
    assert asked() != before


def test_a_base_that_is_not_there(
    compiled: Compile, problems_of: Callable[[Callable[[], object]], list[ImgcError]]
) -> None:
    base = Base("none", "none", "1", "amd64", "default", None, False, "/no/such/tree")
    assert [one.code for one in problems_of(lambda: sources_of(compiled(base=base)))] == ["E665"]
