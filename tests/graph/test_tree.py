"""The hooks tree: the stock driver's layout, dib-run-parts' order, and every file that two elements bring."""

from __future__ import annotations

import itertools
import os
import re
import stat
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgc.errors import ImgcError
from imgc.graph.plan import compile_plan, dib_directory
from imgc.graph.tree import run_order, runs_by_name

NAMES = st.text(st.sampled_from("0123456789-_abXYZ"), min_size=1, max_size=12)


@settings(max_examples=60)
@given(st.sets(NAMES, min_size=1, max_size=40))
def test_hooks_run_in_the_order_of_sort(names):
    sort = subprocess.run(
        ["sort", "-n"],
        input="".join(f"{name}\n" for name in sorted(names)),
        capture_output=True,
        text=True,
        check=True,
        env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
    )
    assert sorted(names, key=run_order) == sort.stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "runs"), [("50-a_B", True), ("50.sh", False), ("50-a~", False), ("", False), ("ünd", False)]
)
def test_names_that_run(name, runs):
    assert runs_by_name(name) is runs


def test_run_parts_lists_the_same_hooks(elements, compiled, tmp_path):
    """The stock dib-run-parts, on the same files."""
    names = ["10-b", "9-a", "100-c", "-5-d", "none", "_x", "08-e", "8-f", "50-x.sh"]
    elements.add("one", {f"install.d/{name}": "#!/bin/sh\n" for name in names[:-1]})
    elements.write("one/install.d/50-x.sh", (b"#!/bin/sh\n", 0o644))
    elements.write("one/install.d/caller", '#!/bin/sh\n. "$(dirname "$0")/50-x.sh"\n')
    listed = subprocess.run(
        ["bash", dib_directory() / "lib/dib-run-parts", "--list", elements.path / "one/install.d"],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [os.path.basename(line) for line in listed.stdout.splitlines()]
    assert [hook.name for hook in compiled("one").hooks["install.d"]] == expected


def stock_hooks(elements, tmp_path):
    """What the stock driver's own generate_hooks lays out for these elements, by relative path."""
    hooks = tmp_path / "stock/hooks"
    hooks.parent.mkdir()
    array = " ".join(f"[{element.name}]={element.path}" for element in elements)
    script = (
        f'export _LIB={dib_directory()}/lib TMP_HOOKS_PATH={hooks}\nget_image_element_array() {{ echo "{array}"; }}\n'
        'source "$_LIB/common-functions"\ngenerate_hooks\n'
    )
    subprocess.run(["bash", "-e", "-c", script], check=True, capture_output=True)
    found = {}
    for directory, directories, files in os.walk(hooks):
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            value = f"link to {os.readlink(path)}" if os.path.islink(path) else f"{mode:04o}"
            found[os.path.relpath(path, hooks)] = value
    return {dest: value for dest, value in found.items() if "__pycache__" not in dest}


def our_hooks(plan):
    return {
        file.dest: f"link to {file.target}" if file.kind == "link" else f"{file.mode:04o}"
        for file in plan.tree
    }


def first_level_directories(hooks):
    """Their modes are nobody's: the stock driver makes them by mkdir."""
    return {dest: value for dest, value in hooks.items() if "/" in dest or "." in dest[:-2]}


def test_the_layout_is_the_stock_drivers(elements, more, compiled, tmp_path):
    elements.add(
        "one",
        {
            "install.d/50-a": "#!/bin/sh\n",
            "install.d/.hidden": ("#!/bin/sh\n", 0o755),
            "static/etc/.inner": "kept",
            "static/.top": "dropped",
            "tests/test_it.py": "x",
            "flat": "1",
            "old.pyc": "x",
            "environment.d/10-a.bash": "export A=1\n",
            "odd-dir.x/deep/er/file": ("x", 0o600),
        },
    )
    (elements.path / "one/install.d/60-link").symlink_to("50-a")
    (elements.path / "one/static/empty").mkdir()
    elements.add("two", {"install.d/70-b": "#!/bin/sh\n", "static/etc/other": "x", "environment.d/9-b": ""})
    plan = compiled("one", "two")
    stock = stock_hooks(plan.elements, tmp_path)
    assert first_level_directories(our_hooks(plan)) == first_level_directories(stock)
    assert set(our_hooks(plan)) == set(stock)
    assert [file.dest for file in plan.environment_files] == ["environment.d/10-a.bash", "environment.d/9-b"]
    assert [hook.name for hook in plan.hooks["install.d"]] == ["50-a", "60-link", "70-b"]
    assert any(".hidden" in warning for warning in plan.warnings)


def test_the_layout_of_a_real_platform_is_the_stock_drivers(debian, tmp_path):
    assert set(our_hooks(debian)) == set(stock_hooks(debian.elements, tmp_path))


def test_a_duplicate_hook_names_both_elements_and_files(elements, compiled, problems_of, place):
    elements.add("one", {"install.d/50-same": "#!/bin/sh\n"})
    elements.add("two", {"install.d/50-same": "#!/bin/sh\n"})
    (problem,) = problems_of(lambda: compiled("one", "two"))
    assert problem.code == "E205"
    assert "`one` and `two` both bring install.d/50-same" in problem.message
    assert "one/install.d/50-same" in problem.message
    assert "two/install.d/50-same" in problem.message


@pytest.mark.parametrize("dest", ["static/file", "bin/file", "static/etc/deep", "yum.repos.d/file"])
def test_a_duplicate_file_is_a_problem(elements, compiled, problems_of, dest):
    elements.add("one", {dest: "1"})
    elements.add("two", {dest: "2"})
    (problem,) = problems_of(lambda: compiled("one", "two"))
    assert (problem.code, dest in problem.message) == ("E206", True)


def test_equal_files_deep_below_are_no_problem(elements, compiled):
    elements.add("one", {"static/etc/deep": "same"})
    elements.add("two", {"static/etc/deep": "same"})
    assert "static/etc/deep" in {file.dest for file in compiled("one", "two").tree}


def test_a_file_in_the_place_of_a_directory_is_a_problem(elements, compiled, problems_of):
    elements.add("one", {"static/etc/thing": "1"})
    elements.add("two", {"static/etc": "2"})
    assert [problem.code for problem in problems_of(lambda: compiled("one", "two"))] == ["E206"]


def test_a_flat_file_that_is_overwritten_is_a_warning(elements, compiled):
    elements.add(
        "one", {"source-repository-x": "x git /a http://one.example\n", "README.rst": "1", "pkg-map": "{}"}
    )
    elements.add(
        "two", {"source-repository-x": "x git /a http://two.example\n", "README.rst": "2", "pkg-map": "{ }"}
    )
    (warning,) = compiled("one", "two").warnings
    assert re.search("source-repository-x.*`two` overwrites that of element `one`", warning)


def test_a_hook_that_cannot_run_is_a_problem(elements, compiled, problems_of):
    elements.add("one", {"install.d/50-plain": ("#!/bin/sh\n", 0o644), "install.d/60-dot.sh": "#!/bin/sh\n"})
    (elements.path / "one/install.d/70-lost").symlink_to("../../elsewhere")
    problems = problems_of(lambda: compiled("one"))
    assert [problem.code for problem in problems] == ["E207"] * 3
    messages = "\n".join(problem.message for problem in problems)
    for reason in ("not executable", "a character that hooks cannot have", "a link to nothing"):
        assert reason in messages


def test_a_helper_beside_its_hook_is_no_problem(elements, compiled):
    elements.add(
        "one",
        {
            "install.d/50-x": '#!/bin/sh\n. "$(dirname "$0")/10-functions.sh"\n',
            "install.d/10-functions.sh": ("#!/bin/sh\n", 0o644),
            "install.d/unit.service": "[Unit]\n",
        },
    )
    plan = compiled("one")
    assert [hook.name for hook in plan.hooks["install.d"]] == ["50-x"]
    assert plan.warnings == ()


def test_an_unreadable_kind_of_file_is_a_problem(elements, compiled, problems_of):
    elements.add("one")
    (elements.path / "one/static").mkdir()
    os.mkfifo(elements.path / "one/static/pipe")
    assert [problem.code for problem in problems_of(lambda: compiled("one"))] == ["E207"]


def install_types(elements):
    elements.add("install-types", {"extra-data.d/99-enable-install-types": "#!/bin/sh\n"})
    elements.add(
        "tool",
        {
            "install.d/tool-source-install/40-tool": "#!/bin/sh\necho source\n",
            "install.d/tool-package-install/40-tool": "#!/bin/sh\necho package\n",
            "install.d/tool-package-install/data.txt": "x",
            "install.d/30-early": "#!/bin/sh\n",
            "install.d/50-late": "#!/bin/sh\n",
        },
    )


@pytest.mark.parametrize(
    ("environment", "dest"),
    [
        ((), "install.d/tool-source-install/40-tool"),
        ((("DIB_INSTALLTYPE_tool", "package"),), "install.d/tool-package-install/40-tool"),
        ((("DIB_DEFAULT_INSTALLTYPE", "package"),), "install.d/tool-package-install/40-tool"),
        ((("DIB_INSTALLTYPE_tool", "repo"),), None),
        (
            (("DIB_DEFAULT_INSTALLTYPE", "package"), ("DIB_INSTALLTYPE_tool", "source")),
            "install.d/tool-source-install/40-tool",
        ),
    ],
)
def test_install_types_are_foreseen(elements, compiled, environment, dest):
    install_types(elements)
    plan = compiled("install-types", "tool", environment=environment)
    assert [hook.dest for hook in plan.predicted] == ([dest] if dest else [])
    names = [hook.name for hook in plan.phase("install.d")]
    assert names == (["30-early", "40-tool", "50-late"] if dest else ["30-early", "50-late"])
    assert "40-tool" not in [hook.name for hook in plan.hooks["install.d"]]


def test_install_types_are_foreseen_from_environment_files(elements, compiled):
    install_types(elements)
    elements.write(
        "tool/environment.d/10-tool", "export DIB_INSTALLTYPE_tool=${DIB_INSTALLTYPE_tool:-package}\n"
    )
    (hook,) = compiled("install-types", "tool").predicted
    assert "package" in hook.dest
    (hook,) = compiled("install-types", "tool", environment=(("DIB_INSTALLTYPE_tool", "source"),)).predicted
    assert "source" in hook.dest


def test_without_install_types_nothing_is_linked(elements, compiled):
    install_types(elements)
    assert compiled("tool").predicted == ()


def test_an_install_type_that_overwrites_a_hook_is_a_problem(elements, compiled, problems_of):
    install_types(elements)
    elements.add("other", {"install.d/40-tool": "#!/bin/sh\n"})
    (problem,) = problems_of(lambda: compiled("install-types", "tool", "other"))
    assert (problem.code, "linked over another install.d/40-tool" in problem.message) == ("E205", True)


def test_stock_elements_have_no_problems_of_their_own(base_platform):
    """Every stock element compiles together with an operating system, as its documentation says to use it."""
    systems = ("", "debian-minimal", "centos-minimal", "opensuse-minimal")
    unusable = set()
    for name in sorted(os.listdir(dib_directory() / "elements")):
        if not (dib_directory() / "elements" / name / "README.rst").exists():
            continue
        choices = [
            [name, *filter(None, more)] for more in itertools.product(systems, ("", "block-device-gpt"))
        ]
        if not any(compiles(replace(base_platform, elements=tuple(choice))) for choice in choices):
            unusable.add(name)
    # It depends on an element that DIB no longer has.
    assert unusable == {"deploy-kexec"}


def compiles(platform):
    try:
        compile_plan(platform)
    except ImgcError:
        return False
    return True
