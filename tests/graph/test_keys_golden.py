"""The keys of the shipped platforms stay what they were, unless somebody means to change them.

A key that changes by accident makes every user build everything again; a fact that vanishes gives them an old image
for a new spec.  So for each platform there are two files: the key of every step, and every fact with the steps that it
counts for.  Pins, tools and the mirror are made up here; the elements of diskimage-builder are those of the version
that the first line names.

When a change is meant, write them anew with ``IMGC_WRITE_GOLDEN=1 pytest tests/graph/test_keys_golden.py``, read the
difference, and raise ``imgc.graph.step.PROTOCOL`` if steps have other results than before for the same facts.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import os
from collections import defaultdict
from pathlib import Path

import pytest

from imgc import spec
from imgc.graph import compile_plan, keys, lower, reach, steps_in_order
from imgc.graph import lower as lower_function
from imgc.graph.outside import sources_of
from imgc.graph.step import Kind
from imgc.lock import Lock, Pin

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
WRITE = "IMGC_WRITE_GOLDEN=1 pytest tests/graph/test_keys_golden.py"
MIRRORS = {"DIB_DISTRIBUTION_MIRROR": "http://mirror.example.org/debian"}
EPOCH = 1_700_000_000


@pytest.fixture(autouse=True)
def tools_of_nowhere(monkeypatch):
    """Programs that are the same on every host."""
    import sys

    for module in (reach, sys.modules[lower_function.__module__]):
        monkeypatch.setattr(module, "tool_identity", lambda name, *_: f"golden {name}")


def compiled(platform):
    plan = compile_plan(platform, mirrors=MIRRORS)
    sources = sources_of(plan)
    pins = {one.id: Pin(one.kind, one.name, (("sha256", "0" * 64),)) for one in sources}
    return lower(plan, None, Lock(platform.name, pins, EPOCH), sources)


def short(value: str) -> str:
    """A value on one line: the beginning of a digest, of a text its first line."""
    if "sha256:" in value:
        before, digest = value.split("sha256:", 1)
        return f"{before}sha256:{digest[:12]}"
    return value if len(value) <= 60 and "\n" not in value else f"{value.splitlines()[0][:60]}…"


def found(graph) -> dict[str, str]:
    """The texts of both files."""
    steps = steps_in_order(graph)
    version = importlib.metadata.version("diskimage-builder")
    names = {step.id: step.id.partition("/")[2] for step in steps}
    key_lines = [f"{key}  {names[id]}\n" for id, key in keys(graph).items()]
    facts = defaultdict(list)
    for step in steps:
        for fact in dict.fromkeys(step.facts):
            facts[f"{fact.kind} {fact.name} = {short(fact.value)}\n"].append(names[step.id])
    hooks = [names[step.id] for step in steps if step.kind in (Kind.HOOK, Kind.PACKAGES)]
    lines = []
    for fact in sorted(facts):
        counts = facts[fact]
        everywhere = set(hooks) <= set(counts)
        rest = [name for name in counts if not everywhere or name not in hooks]
        lines += [fact, *(["    (every hook)\n"] if everywhere else []), *(f"    {name}\n" for name in rest)]
    heading = f"# diskimage-builder {version}\n"
    return {"keys": heading + "".join(key_lines), "facts": heading + "".join(lines)}


def compare(name: str, texts: dict[str, str]) -> None:
    """Fail when the golden files say something else, with what is different; or write them."""
    if os.environ.get("IMGC_WRITE_GOLDEN"):
        for kind, text in texts.items():
            (GOLDEN / f"{name}.{kind}").write_text(text)
    golden = {kind: (GOLDEN / f"{name}.{kind}").read_text() for kind in texts}
    versions = [text["keys"].splitlines()[0] for text in (golden, texts)]
    if versions[0] != versions[1]:
        pytest.fail(
            f"the golden keys are those of {versions[0][2:]}, and here is {versions[1][2:]}.  {WRITE}"
        )
    before, after = (
        dict(line.split("  ")[::-1] for line in text["keys"].splitlines()[1:]) for text in (golden, texts)
    )
    steps = [id for id in {**before, **after} if before.get(id) != after.get(id)]
    if steps or golden != texts:
        difference = difflib.unified_diff(
            golden["facts"].splitlines(), texts["facts"].splitlines(), "golden", "now", n=1, lineterm=""
        )
        pytest.fail(
            f"{name}: {len(steps)} of {len(after)} steps have another key, from {steps[0] if steps else '-'} on:\n  "
            + "\n  ".join(steps)
            + "\n\nWhat they cover that they did not, or the other way round (steps without a line here have only"
            " another input):\n" + "\n".join(difference) + f"\n\nIf that is meant: {WRITE}"
        )


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "specs").glob("*.yaml")))
def test_the_keys_of_a_shipped_platform_stay_what_they_were(name):
    compare(name, found(compiled(spec.load(name, specs_dir=ROOT / "specs", host_environment={}))))


def test_a_difference_is_told_with_its_steps_and_facts(tmp_path, monkeypatch):
    platform = spec.load("debian-bookworm", specs_dir=ROOT / "specs", host_environment={})
    texts = found(compiled(platform))
    monkeypatch.setattr(f"{__name__}.GOLDEN", tmp_path)
    for kind, text in texts.items():
        (tmp_path / f"x.{kind}").write_text(text)
    monkeypatch.delenv("IMGC_WRITE_GOLDEN", raising=False)
    compare("x", texts)
    lines = texts["keys"].splitlines()
    changed = {
        "keys": "\n".join([*lines[:-1], "0" * 64 + lines[-1][64:]]) + "\n",
        "facts": texts["facts"] + "env NEW = 1\n",
    }
    with pytest.raises(pytest.fail.Exception) as caught:
        compare("x", changed)
    assert "1 of " in str(caught.value)
    assert f"  {lines[-1][66:]}\n" in str(caught.value)
    assert "+env NEW = 1" in str(caught.value)
    assert WRITE in str(caught.value)
    changed = {kind: text.replace(lines[0], "# diskimage-builder 0.0.0") for kind, text in texts.items()}
    with pytest.raises(
        pytest.fail.Exception, match=r"of diskimage-builder .*, and here is diskimage-builder 0\.0\.0"
    ):
        compare("x", changed)
