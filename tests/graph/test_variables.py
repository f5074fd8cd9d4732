"""Which variables a text can read, and which of the spec's count for which hook."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgc import spec
from imgc.graph import compile_plan, implied, keys, lower
from imgc.graph.assignments import statements
from imgc.graph.plan import dib_directory
from imgc.graph.reach import Reach
from imgc.graph.step import PHASES
from imgc.graph.tree import digest_of
from imgc.graph.variables import _ALWAYS, REVIEWED, readings

ROOT = Path(__file__).parents[2]


# --- texts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "echo ${!name}",
        "part=DIB; name=${part}_X; echo ${!name}",
        "for name in $names; do echo ${!name}; done",
        'eval "echo \\$$name"',
        "env | grep DIB_",
        "sudo -E env -0 > file",
        "x=$(printenv)",
        "printenv",
        "export -p",
        "declare -x > file",
        "declare -px",
        "set | grep X",
        "compgen -v",
        "envsubst < template",
        "tr '\\0' '\\n' < /proc/self/environ",
        "declare -n other=$name",
        "#!/usr/bin/python3\nprint(os.environ)",
        "#!/usr/bin/python3\nos.environ.get(name)",
        "#!/usr/bin/python3\nos.environ['DIB' + '_X']",
        "#!/usr/bin/python3\nfrom os import environ as e",
        "perl -e 'print %ENV'",
        "perl -e 'print $ENV{$x}'",
        "awk '{ print ENVIRON[name] }'",
        'bash -c "echo \\$$name"',
    ],
)
def test_a_text_that_reads_without_naming_reads_everything(text):
    assert readings(text.encode()).everything


@pytest.mark.parametrize(
    ("text", "names", "prefixes"),
    [
        ("echo $DIB_X", {"DIB_X"}, set()),
        ("set -eu; set -o pipefail", set(), set()),
        ("env LC_ALL=C sort file", {"LC_ALL"}, set()),
        ("#!/usr/bin/env bash\ntrue", set(), set()),
        ("export DIB_X=1; declare -x DIB_Y=2", {"DIB_X", "DIB_Y"}, set()),
        ("printenv DIB_X", {"DIB_X"}, set()),
        ('eval set -- "$TEMP"', {"TEMP"}, set()),
        ('for i in "${!array[@]}"; do true; done', {"array"}, set()),
        ("echo ${!DIB_REPO*}", set(), {"DIB_REPO"}),
        ("name=DIB_REF_$x; echo ${!name}", set(), {"DIB_REF_"}),
        ('eval_me="\\$DIB_$x"', set(), {"DIB_"}),
        ("#!/usr/bin/python3\nos.environ.get('DIB_X', '')", {"DIB_X"}, set()),
        ("#!/usr/bin/python3\nif 'DIB_X' in os.environ: pass", {"DIB_X"}, set()),
        ("# env\n# $DIB_X is not read, but a comment could be data\n", {"DIB_X"}, set()),
    ],
)
def test_a_text_that_names_what_it_reads(text, names, prefixes):
    found = readings(text.encode())
    assert not found.everything
    assert names <= found.names
    assert prefixes <= found.prefixes


@given(st.binary(max_size=300) | st.text(st.sampled_from("$(){}`\"'!; =\nenvDIB_X|&<>#[]"), max_size=120))
def test_any_bytes_have_readings_and_statements(data):
    data = data if isinstance(data, bytes) else data.encode()
    assert isinstance(readings(data).everything, bool)
    assert all(statement.text or statement.effect for statement in statements(data))


def test_the_reviewed_scripts_are_those_of_the_installed_diskimage_builder():
    elements = dib_directory() / "elements"
    names = (
        "install-types/extra-data.d/99-enable-install-types",
        "source-repositories/extra-data.d/98-source-repositories",
        "package-installs/bin/package-installs-squash",
        "pypi/pre-install.d/04-configure-pypi-mirror",
    )
    assert {digest_of((elements / name).read_bytes()) for name in names} == set(REVIEWED)


# --- environment.d --------------------------------------------------------------------------------------------------


def only(text):
    (found,) = statements(text.encode())
    return found


@pytest.mark.parametrize(
    "text",
    [
        "export X=${X:-1}",
        'X="a $Y"  # why',
        'if [[ $A =~ (x|y) ]]; then\n  export X=1\nelif [ -n "$B" ]; then X=2; else X=3; fi',
        "case $A in\n  a|b) X=1 ;;\n  *) X=2 ;;\nesac",
        "for X in $A; do Y=$X; done",
        '[ -n "$A" ] || X=1',
        "X=$(echo \"$A\" | tr , ' ' | sed 's/a/b/')",
        "echo $A >/dev/null 2>&1; ",
        "unset X",
        "while read_nothing=$A; do X=1; done",
    ],
)
def test_plain_statements_have_no_effect(text):
    assert not any(statement.effect for statement in statements(text.encode()))


@pytest.mark.parametrize(
    "text",
    [
        "exit 1",
        "if [ $A = 1 ]; then exit 1; fi",
        '[ -n "$A" ] && X=1',
        "source /x",
        "X=$(cat /etc/x)",
        'X=$(grep a <<< "$A")',
        "X=`echo a`",
        "echo $A > file",
        "cat <<EOF\n$A\nEOF",
        "f() { true; }",
        "X=(a b)",
        "set -a; X=1",
        "export $A=1",
        "declare -x X=1",
        "printf -v X a",
        "sed -i s/a/b/ x",
        "tr $A b",
        "return",
        "X=$((A + 1))",
        "if true; then X=1",
        "'",
        "${",
    ],
)
def test_whatever_else_has_an_effect(text):
    assert any(statement.effect for statement in statements(text.encode()))


def test_statements_are_told_apart():
    found = statements(b"export A=$B\nC=$D; unset E\n\n# comment\nif true; then F=1; fi\n")
    assert [sorted(one.assigned) for one in found] == [["A"], ["C"], ["E"], ["F"]]
    assert [sorted(one.sure) for one in found] == [["A"], ["C"], [], []]
    assert [sorted(one.exported) for one in found] == [["A"], [], ["E"], []]
    assert [sorted(one.required) for one in found] == [["B"], ["D"], [], []]


def test_a_name_with_a_default_is_not_required():
    assert only("X=${A:-$B}${C}${D+1}${E:?}").required == {"B", "C", "E"}


def test_every_stock_file_is_understood_unless_it_needs_more_than_assignments():
    opaque = set()
    for path in sorted(dib_directory().glob("elements/*/environment.d/*")):
        found = statements(path.read_bytes())
        if len(found) == 1 and found[0].effect and len(path.read_text().splitlines()) > 12:
            opaque.add(path.parent.parent.name)
    assert opaque <= {"gentoo", "block-device-efi-4k", "block-device-efi-lvm", "openstack-ci-mirrors"}


# --- what counts for a hook -----------------------------------------------------------------------------------------


def counted(plan, dest):
    phase, name = dest.split("/")
    hook = next(hook for hook in plan.phase(phase) if hook.name == name)
    return {fact.name for fact in Reach(plan).facts(hook, target=PHASES[phase]) if fact.kind == "env"}


ENVIRONMENT = (("COLOUR", "red"), ("DIB_A", "1"), ("DIB_B", "2"), ("IMGC_C", "3"))


def of_one(elements, compiled, script, environment=ENVIRONMENT, **files):
    files = {dest.replace("__", "/").replace("_d/", ".d/"): text for dest, text in files.items()}
    elements.add("one", {"root.d/10-x": f"#!/bin/bash\n{script}\n", **files})
    return counted(compiled("one", environment=environment), "root.d/10-x") - {"ARCH"}


def test_a_variable_of_elements_counts_where_it_is_mentioned(elements, compiled):
    assert of_one(elements, compiled, "echo $DIB_A") == {"COLOUR", "DIB_A"}


def test_a_variable_of_anybody_counts_everywhere(elements, compiled):
    assert of_one(elements, compiled, "true") == {"COLOUR"}


def test_everything_counts_for_a_hook_that_lists_variables(elements, compiled):
    found = of_one(elements, compiled, "env | sort")
    assert {"COLOUR", "DIB_A", "DIB_B", "IMGC_C", "IMAGE_NAME", "IMAGE_ELEMENT", "ELEMENTS_PATH"} <= found


def test_dib_env_holds_all_that_begins_with_dib(elements, compiled):
    found = of_one(elements, compiled, "echo $DIB_ENV")
    assert {"DIB_A", "DIB_B", "DIB_RELEASE"} <= found
    assert not {"IMGC_C", "IMAGE_NAME"} & found


@pytest.mark.parametrize("name", ["DIB_ARGS", "IMAGE_ELEMENT"])
def test_the_list_of_elements_counts_where_it_is_mentioned(elements, compiled, name):
    assert of_one(elements, compiled, f"echo ${name}") == {"COLOUR", "IMAGE_ELEMENT"}


def test_what_environment_files_make_counts_for_those_who_read_it(elements, compiled):
    elements.add("env", {"environment.d/10-x": "export DIB_Y=${DIB_A:-}\nexport DIB_Z=${DIB_Y}${DIB_B:-}\n"})
    elements.add(
        "one",
        {
            f"root.d/{name}": f"#!/bin/bash\necho ${text}\n"
            for name, text in (("10-y", "DIB_Y"), ("20-z", "DIB_Z"), ("30-n", "0"))
        },
    )
    plan = compiled("env", "one", environment=ENVIRONMENT)
    found = [
        counted(plan, f"root.d/{name}") & {"DIB_A", "DIB_B", "IMGC_C"} for name in ("10-y", "20-z", "30-n")
    ]
    assert found == [{"DIB_A"}, {"DIB_A", "DIB_B"}, set()]


@pytest.mark.parametrize(
    "line",
    [
        'if [ "${DIB_A:-}" = 1 ]; then exit 1; fi',
        "export LANG=$DIB_A",
        "echo ${DIB_A:-} > /tmp/x",
        "export IMGC_X=${DIB_A?}",
        'source "$TMP_HOOKS_PATH/data/more"',
    ],
)
def test_what_environment_files_do_with_it_counts_for_every_hook(elements, compiled, line):
    elements.add("env", {"environment.d/10-x": f"{line}\n", "data/more": "echo $DIB_A\n"})
    elements.add("one", {"root.d/10-x": "#!/bin/bash\ntrue\n"})
    found = counted(compiled("env", "one", environment=ENVIRONMENT), "root.d/10-x")
    assert "DIB_A" in found and "DIB_B" not in found


def test_a_value_that_names_a_variable_brings_it(elements, compiled):
    values = (("DIB_A", "echo $DIB_B"), ("DIB_B", "2"), ("DIB_C", "3"))
    assert of_one(elements, compiled, 'bash -c "$DIB_A"', values) == {"DIB_A", "DIB_B"}


def test_a_file_that_is_reached_brings_what_is_in_it(elements, compiled):
    found = of_one(elements, compiled, 'cp -r "$(dirname "$0")/../data" /x', data__script="echo $DIB_B\n")
    assert found == {"COLOUR", "DIB_B"}


def test_packages_count_what_install_packages_reads(elements, compiled):
    elements.add(
        "one",
        {"bin/install-packages": "#!/bin/bash\nhelper $DIB_A\n", "bin/helper": "#!/bin/bash\necho $DIB_B\n"},
    )
    plan = compiled("one", environment=ENVIRONMENT, packages=("vim",))
    names = {fact.name for fact in lower(plan).nodes["small/packages"]["step"].facts if fact.kind == "env"}
    assert {"COLOUR", "DIB_A", "DIB_B"} <= names
    assert "IMGC_C" not in names


def test_what_every_build_sets_is_set_by_every_plan(base_platform, debian_platform):
    from imgc.engine.protocol import environment

    for platform in (base_platform, replace(debian_platform, outputs=(), elements=())):
        values = implied.environment(platform, {}, None)
        plan = replace_environment(values)
        assert set(environment(plan, "install.d", in_target=False)) >= _ALWAYS


def replace_environment(values):
    """Enough of a plan for the protocol's environment."""

    class Plan:
        environment, elements, search_paths = values, (), ()

    return Plan()


# --- the shipped platforms ------------------------------------------------------------------------------------------


def shipped(name="debian-bookworm", overlay="", tmp_path=None, **mirrors):
    """A shipped platform, or one that extends it."""
    directory = ROOT / "specs"
    if overlay:
        directory = tmp_path / "specs"
        directory.mkdir(exist_ok=True)
        if not (directory / "common").exists():
            for entry in (ROOT / "specs").iterdir():
                os.symlink(entry, directory / entry.name)
        (directory / "changed.yaml").write_text(
            f"schema: 1\nname: changed\ndescription: x\nextends: {name}.yaml\n{overlay}"
        )
        name = "changed"
    platform = spec.load(name, specs_dir=directory, host_environment={})
    plan = compile_plan(
        platform, mirrors={"DIB_DISTRIBUTION_MIRROR": "http://mirror.example.org/debian", **mirrors}
    )
    graph = lower(plan)
    found = keys(graph)
    return {id.partition("/")[2]: (graph.nodes[id]["step"], key) for id, key in found.items()}


def direct(before, after):
    """The steps whose own facts differ."""
    return [id for id in before if [*before[id][0].facts] != [*after[id][0].facts]]


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        (
            "disk:\n  kernel_command_line: quiet\n",
            ["finalise.d/50-bootloader", "cleanup.d/01-copy-manifests-dir"],
        ),
        ("disk:\n  timeout: 9\n", ["finalise.d/50-bootloader", "cleanup.d/01-copy-manifests-dir"]),
        ("initramfs:\n  modules: all\n", ["finalise.d/45-imgc-initramfs"]),
    ],
)
def test_a_setting_of_the_boot_changes_only_the_hooks_that_use_it(tmp_path, overlay, expected):
    before = shipped(overlay="environment:\n  IMGC_X: 1\n", tmp_path=tmp_path)
    after = shipped(overlay=f"environment:\n  IMGC_X: 1\n{overlay}", tmp_path=tmp_path)
    assert direct(before, after) == expected
    first = list(before).index(expected[0])
    assert [id for id in before if before[id][1] == after[id][1]] == list(before)[:first]


def test_another_name_leaves_the_bootstrap_and_the_packages_alone(tmp_path):
    overlay = "environment:\n  IMGC_X: 1\n"
    before, after = shipped(), shipped(overlay=overlay, tmp_path=tmp_path)
    assert set(direct(before, after)) <= {
        "finalise.d/99-write-dpkg-manifest",
        "cleanup.d/01-copy-manifests-dir",
    }


def test_the_release_and_the_mirror_change_everything_from_the_first_hook_on():
    before = shipped()
    for after in (
        shipped(DIB_DISTRIBUTION_MIRROR="http://other.example.org/debian"),
        shipped("debian-trixie"),
    ):
        assert before["root.d/08-debootstrap"][1] != after["root.d/08-debootstrap"][1]
