"""The graph of a platform."""

from __future__ import annotations

import json
from dataclasses import replace

import networkx
import pytest

from imgc.graph import add_boot, keys, lower, settle, steps_in_order
from imgc.graph.step import PHASES, Kind
from imgc.graph.tree import digest_of
from imgc.spec.model import Output

SCRIPT = "#!/bin/sh\n"


def everything(elements):
    elements.add("all", {f"{phase}/50-x": SCRIPT for phase in PHASES})
    return "all"


def test_the_chain_is_the_stock_drivers(elements, compiled, steps_of):
    steps = steps_of(compiled(everything(elements), packages=("vim",)))
    assert list(steps) == [
        "root.d/50-x",
        "resolv-conf",
        "install-type",
        "extra-data.d/50-x",
        "pre-install.d/50-x",
        "install.d/50-x",
        "packages",
        "post-install.d/50-x",
        "post-root.d/50-x",
        "block-device.d/50-x",
        "fstab",
        "pre-finalise.d/50-x",
        "finalise.d/50-x",
        "cleanup.d/50-x",
        "finalise",
        "side-outputs",
        "tar",
        "check",
    ]
    chain = [step for step in steps.values() if step.changes_state]
    assert [step.inputs for step in chain] == [(), *((step.id,) for step in chain[:-1])]
    inside = {step.phase for step in chain if step.target}
    assert inside == {"pre-install.d", "install.d", "post-install.d", "finalise.d", ""}
    assert steps["packages"].target


def test_outputs_hang_off_the_disk(debian):
    platform = replace(debian.platform, outputs=(*debian.platform.outputs, Output("tar", "tar.zst", ())))
    graph = lower(replace(debian, platform=platform))
    nodes = {id.partition("/")[2]: graph.nodes[id]["step"] for id in graph}
    name = platform.name
    assert nodes["disk"].inputs == (f"{name}/finalise",)
    assert nodes["qcow2"].inputs == nodes["vhd"].inputs == (f"{name}/disk",)
    assert nodes["tar.zst"].inputs == (f"{name}/finalise",)
    assert nodes["check"].inputs == (f"{name}/disk", f"{name}/qcow2", f"{name}/vhd", f"{name}/tar.zst")
    assert [nodes[one].kind for one in ("disk", "vhd", "check")] == [Kind.ASSEMBLE, Kind.CONVERT, Kind.CHECK]
    assert nodes["vhd"].option("format") == "vhd"
    assert nodes["disk"].option("boot") == "both"


def test_without_packages_there_is_no_step_for_them(elements, compiled, steps_of):
    assert "packages" not in steps_of(compiled(everything(elements)))


def test_every_step_comes_after_its_inputs(debian):
    graph = lower(debian)
    seen = set()
    for step in steps_in_order(graph):
        assert set(step.inputs) <= seen
        seen.add(step.id)
    assert networkx.is_directed_acyclic_graph(graph)
    assert {(before, after) for before, after in graph.edges} == {
        (input, step.id) for step in steps_in_order(graph) for input in step.inputs
    }


def test_the_order_is_stable_over_two_platforms(debian):
    other = replace(debian, platform=replace(debian.platform, name="another"))
    both = networkx.compose(lower(debian), lower(other))
    order = [step.id for step in steps_in_order(both)]
    assert order == [step.id for step in steps_in_order(networkx.compose(lower(debian), lower(other)))]
    assert len(order) == 2 * len(lower(debian))


def found_by(plan, *hooks, without=()):
    """What a look at the hooks tree finds: the hooks of the plan, and more."""
    found = {}
    for phase in PHASES:
        for hook in plan.phase(phase):
            if hook.name not in without:
                found.setdefault(phase, []).append([hook.name, hook.digest, hook.mode])
    for phase, *hook in hooks:
        found.setdefault(phase, []).append(hook)
    return json.loads(json.dumps(found))


def test_what_is_foreseen_and_found_gives_the_same_keys(elements, compiled):
    elements.add(
        "tool", {"install.d/tool-source-install/40-tool": "#!/bin/sh\ntrue\n"}, deps=["install-types"]
    )
    plan = compiled("tool")
    assert [hook.name for hook in plan.predicted] == ["40-tool"]
    settled = settle(plan, found_by(plan))
    assert settled == {"install.d": (("40-tool", "tree:install.d/tool-source-install/40-tool", 0o755),)}
    assert keys(lower(plan, settled)) == keys(lower(plan))


def test_found_hooks_come_and_go(elements, compiled):
    plan = compiled(everything(elements))
    written = "sha256:" + "0" * 64
    found = found_by(
        plan,
        ("install.d", "60-new", written, 0o755),
        ("install.d", "9-first", plan.hooks["root.d"][0].digest, 0o755),
        ("root.d", "99-ignored", written, 0o755),
        without=("50-x",),
    )
    settled = settle(plan, found)
    steps = {step.id.partition("/")[2]: step for step in steps_in_order(lower(plan, settled))}
    hooks = [id for id in steps if ".d/" in id]
    assert hooks == ["root.d/50-x", "extra-data.d/50-x", "install.d/9-first", "install.d/60-new"]
    assert steps["install.d/9-first"].element == "all"
    assert steps["install.d/60-new"].element == ""
    assert ("script", "install.d/60-new", f"0755 {written}") in steps["install.d/60-new"].facts


def test_what_was_found_outlives_a_change_to_the_elements(elements, compiled):
    """The result of extra-data.d stays cached when an element's later hooks change; what it linked follows them."""
    elements.add("install-types", {"extra-data.d/99-enable-install-types": SCRIPT})
    elements.add("one", {"install.d/one-repo-install/40-linked": SCRIPT, "install.d/50-x": SCRIPT})
    plan = compiled("install-types", "one")
    assert plan.predicted == ()
    linked = plan.entries["install.d/one-repo-install/40-linked"].digest
    settled = settle(plan, found_by(plan, ("install.d", "40-linked", linked, 0o755)))

    elements.write("one/install.d/one-repo-install/40-linked", f"{SCRIPT}changed\n")
    elements.write("one/install.d/50-x", f"{SCRIPT}changed\n")
    elements.write("one/install.d/60-new", SCRIPT)
    plan = compiled("install-types", "one")
    graph = lower(plan, settled)
    steps = [step for step in steps_in_order(graph) if step.phase == "install.d"]
    assert [step.name for step in steps] == ["40-linked", "50-x", "60-new"]
    for step in steps[:2]:
        (script,) = [fact.value for fact in step.facts if fact.kind == "script"]
        assert script.endswith(digest_of(f"{SCRIPT}changed\n".encode()))

    (elements.path / "one/install.d/one-repo-install/40-linked").unlink()
    steps = steps_in_order(lower(compiled("install-types", "one"), settled))
    assert "40-linked" not in [step.name for step in steps]


def test_a_hook_of_unknown_text_reaches_everything(elements, compiled):
    elements.add("one", {"static/a": "1", "data/b": "2"})
    found = {"install.d": (("60-new", "sha256:" + "0" * 64, 0o755),)}
    graph = lower(compiled("one"), found)
    names = {fact.name for fact in graph.nodes["small/install.d/60-new"]["step"].facts}
    assert {"static/a", "data/b"} <= names


def test_no_fact_names_a_path_of_this_host(debian):
    texts = [text for step in steps_in_order(lower(debian)) for fact in step.facts for text in fact]
    for path in (*debian.search_paths, "/work", "/home", "/usr/lib/python"):
        assert not [text for text in texts if text.startswith(path)]


@pytest.mark.parametrize(
    ("arch", "tool"), [("amd64", "qemu-system-x86_64"), ("arm64", "qemu-system-aarch64")]
)
def test_each_firmware_boots_the_first_disk_after_the_check(debian, arch, tool):
    platform = replace(debian.platform, base=replace(debian.platform.base, arch=arch))
    graph = lower(debian)
    steps = steps_in_order(add_boot(graph, platform))
    assert [step.name for step in steps[-2:]] == ["boot-bios", "boot-efi"]
    for step, firmware in zip(steps[-2:], ("bios", "efi"), strict=True):
        assert (step.kind, step.option("firmware")) == (Kind.BOOT, firmware)
        assert step.inputs == (f"{platform.name}/qcow2", f"{platform.name}/check")
        assert tool in [fact.name for fact in step.facts]
    assert len(graph) == len(steps) - 2


def test_one_firmware_boots_once_and_a_tree_never(debian, compiled):
    platform = replace(debian.platform, disk=replace(debian.platform.disk, boot="efi"))
    assert [step.name for step in steps_in_order(add_boot(lower(debian), platform))][-1] == "boot-efi"
    plan = compiled()
    assert set(add_boot(lower(plan), plan.platform)) == set(lower(plan))
