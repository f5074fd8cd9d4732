"""Content keys: what changes them, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgc.graph.keys import HashWriter, explanation, key_of, keys, manifest
from imgc.graph.lower import lower
from imgc.graph.plan import compile_plan
from imgc.graph.step import Fact, Kind, Step

TEXT = st.text(max_size=12)
FACTS = st.lists(st.builds(Fact, TEXT, TEXT, TEXT), max_size=4)


def hashed(facts):
    writer = HashWriter()
    for fact in facts:
        writer.write(fact)
    return writer.key()


@given(FACTS, FACTS)
def test_different_manifests_have_different_keys(one, other):
    assert (hashed(one) == hashed(other)) == (one == other)


@given(TEXT, TEXT, TEXT, TEXT)
def test_a_boundary_cannot_be_moved(a, b, c, d):
    assert (hashed([Fact(a + b, c, d)]) == hashed([Fact(a, b + c, d)])) == (not b)
    shifted = hashed([Fact(a, b, c), Fact(d, "", "")])
    assert (shifted == hashed([Fact(a, b, c + d), Fact("", "", "")])) == (not d)


@given(FACTS)
def test_key_explanation_and_manifest_agree(facts):
    step = Step("p/x", Kind.DRIVER, "p", "", "x", "", False, ("p/before",), tuple(facts))
    listed = manifest(step, {"p/before": "0" * 64})
    assert hashed(listed) == key_of(step, {"p/before": "0" * 64})
    assert listed[:2] == [Fact("step", "driver", "x"), Fact("input", "0", "0" * 64)]
    assert listed[2:] == facts
    assert explanation(step, {"p/before": "0" * 64}).startswith("step driver = x\ninput 0 = 000")


def test_an_explanation_shows_every_line_of_a_value():
    step = Step("p/x", Kind.DRIVER, "p", "", "x", "", False, (), (Fact("env", "X", "one\ntwo"),))
    assert explanation(step, {}) == "step driver = x\nenv X = one\n    two\n"


def test_equal_work_of_two_platforms_has_equal_keys(elements, compiled, keys_of):
    elements.add("one", {"root.d/10-x": "#!/bin/sh\n", "install.d/10-x": "#!/bin/sh\n"})
    assert keys_of(compiled("one")) == keys_of(compiled("one", name="another"))


# --- what changes a key -------------------------------------------------------------------------------------------

SMALL = {
    "alpha": {
        "root.d/10-base": '#!/bin/sh\ntouch "$TARGET_ROOT/base"\n',
        "extra-data.d/20-copy": '#!/bin/sh\ncp "$TMP_HOOKS_PATH/data/settings" "$TMP_MOUNT_PATH/etc"\n',
        "data/settings": "x=1\n",
        "environment.d/10-alpha": "export ALPHA=1\n",
        "README.rst": "Alpha\n",
    },
    "beta": {
        "install.d/10-static": '#!/bin/sh\ncp -r "$(dirname "$0")/../static/." /\n',
        "install.d/50-beta": '#!/bin/sh\n. "$(dirname "$0")/beta.inc"\n',
        "install.d/beta.inc": "echo beta\n",
        "install.d/60-last": "#!/bin/sh\n",
        "static/etc/beta": "beta\n",
        "cleanup.d/90-end": "#!/bin/sh\n",
    },
}
CHAIN = [
    "root.d/10-base",
    "resolv-conf",
    "install-type",
    "extra-data.d/20-copy",
    "install.d/10-static",
    "install.d/50-beta",
    "install.d/60-last",
    "fstab",
    "cleanup.d/90-end",
    "finalise",
    "side-outputs",
    "tar",
    "check",
]


@pytest.fixture
def small(elements):
    for name, files in SMALL.items():
        elements.add(name, files)
    return ("alpha", "beta")


def changed(before, after):
    assert list(before) == list(after)
    return [id for id in before if before[id] != after[id]]


#: The first step that a change to a file reaches; every step after it changes too, and none before.
REACHED = {
    "alpha/root.d/10-base": "root.d/10-base",
    "alpha/extra-data.d/20-copy": "extra-data.d/20-copy",
    "alpha/data/settings": "extra-data.d/20-copy",
    "alpha/environment.d/10-alpha": "root.d/10-base",
    "alpha/README.rst": None,
    "beta/install.d/10-static": "install.d/10-static",
    "beta/install.d/50-beta": "install.d/50-beta",
    "beta/install.d/beta.inc": "install.d/10-static",
    "beta/install.d/60-last": "install.d/60-last",
    "beta/static/etc/beta": "install.d/10-static",
    "beta/cleanup.d/90-end": "cleanup.d/90-end",
}


def test_every_file_of_the_small_elements_is_mutated():
    assert set(REACHED) == {f"{name}/{dest}" for name, files in SMALL.items() for dest in files}


@pytest.mark.parametrize(("file", "first"), REACHED.items())
def test_a_byte_of_a_file_changes_the_step_that_reaches_it_and_those_after(
    elements, small, compiled, keys_of, file, first
):
    before = keys_of(compiled(*small))
    assert list(before) == CHAIN
    path = elements.path / file
    path.write_bytes(path.read_bytes() + b"#")
    assert changed(before, keys_of(compiled(*small))) == (CHAIN[CHAIN.index(first) :] if first else [])


@pytest.mark.parametrize(("file", "first"), REACHED.items())
@pytest.mark.parametrize("bit", [0o040, 0o020, 0o4000])
def test_a_mode_bit_of_a_file_changes_the_same_steps(elements, small, compiled, keys_of, file, first, bit):
    before = keys_of(compiled(*small))
    path = elements.path / file
    path.chmod(path.stat().st_mode ^ bit)
    assert changed(before, keys_of(compiled(*small))) == (CHAIN[CHAIN.index(first) :] if first else [])


def test_a_new_hook_changes_only_what_comes_after_it(elements, small, compiled, keys_of):
    before = keys_of(compiled(*small))
    elements.write("beta/install.d/55-new", "#!/bin/sh\n")
    after = keys_of(compiled(*small))
    assert [id for id in after if before.get(id) != after[id]] == ["install.d/55-new", *CHAIN[6:]]


def test_a_variable_of_programs_changes_every_hook(small, compiled, keys_of):
    before = keys_of(compiled(*small))
    assert changed(before, keys_of(compiled(*small, environment=(("LANG", "C"),)))) == CHAIN


def test_a_variable_of_elements_changes_the_hooks_that_mention_it(elements, small, compiled, keys_of):
    elements.write("beta/install.d/50-beta", '#!/bin/sh\necho "${DIB_ALPHA:-}"\n')
    before = keys_of(compiled(*small))
    after = keys_of(compiled(*small, environment=(("DIB_ALPHA", "1"),)))
    assert changed(before, after) == CHAIN[CHAIN.index("install.d/50-beta") :]


def test_packages_change_only_what_comes_after_them(small, compiled, keys_of):
    before = keys_of(compiled(*small, packages=("vim",)))
    after = keys_of(compiled(*small, packages=("vim", "nano")))
    assert changed(before, after)[0] == "packages"


def test_the_size_of_the_disk_changes_no_hook(debian, keys_of):
    disk = replace(debian.platform.disk, size=4 << 30)
    before, after = keys_of(debian), keys_of(replace(debian, platform=replace(debian.platform, disk=disk)))
    assert changed(before, after) == ["disk", "qcow2", "vhd", "check"]


def test_an_option_of_an_output_changes_only_that_output(debian, keys_of):
    qcow2, vhd = debian.platform.outputs
    outputs = (replace(qcow2, options=(("compression", "zlib"), ("compat", "1.1"))), vhd)
    after = keys_of(replace(debian, platform=replace(debian.platform, outputs=outputs)))
    assert changed(keys_of(debian), after) == ["qcow2", "check"]


def test_another_package_map_leaves_the_bootstrap_cached(elements, debian_platform, keys_of):
    """The case that matters most in practice, on the stock elements."""
    elements.add("extra", {"pkg-map": "{}", "install.d/90-extra": "#!/bin/sh\n"})
    platform = replace(
        debian_platform, element_paths=(str(elements.path),), elements=(*debian_platform.elements, "extra")
    )
    before = keys_of(compile_plan(platform))
    elements.write("extra/pkg-map", '{"default": {}}')
    assert changed(before, keys_of(compile_plan(platform)))[0] == "extra-data.d/10-create-pkg-map-dir"
    elements.write("extra/pkg-map", "{}")
    elements.write("extra/install.d/90-extra", "#!/bin/sh\ntrue\n")
    assert changed(before, keys_of(compile_plan(platform)))[0] == "install.d/90-extra"


def test_keys_follow_the_inputs(debian):
    graph = lower(debian)
    found = keys(graph)
    assert set(found) == set(graph)
    assert len({key for id, key in found.items()}) == len(found)
    step = graph.nodes[f"{debian.platform.name}/fstab"]["step"]
    assert key_of(step, found) == found[step.id]
    assert key_of(step, {**found, step.inputs[0]: "0" * 64}) != found[step.id]
