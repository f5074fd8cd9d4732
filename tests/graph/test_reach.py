"""Reach by mention: what each of the stock hooks reaches, and what it does not."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from imgc.engine.protocol import environment
from imgc.graph import compile_plan
from imgc.graph.reach import Reach
from imgc.graph.step import PHASES
from imgc.graph.tools import ABSENT, HOOKS_PATH, tool_identity


def facts(plan, dest):
    phase, name = dest.split("/")
    hook = next(hook for hook in plan.phase(phase) if hook.name == name)
    return Reach(plan).facts(hook, target=PHASES[phase])


def files(plan, dest):
    return {fact.name for fact in facts(plan, dest) if fact.kind == "file"}


def variables(plan, dest):
    return {fact.name for fact in facts(plan, dest) if fact.kind == "env"} - {
        name for name, _ in plan.environment
    }


def tools(plan, dest):
    return {fact.name for fact in facts(plan, dest) if fact.kind == "tool"}


def below(plan, top):
    return {file.dest for file in plan.tree if file.dest.startswith(f"{top}/")}


def declared(plan, *names):
    """The declaration of each element that has one, as facts name them."""
    found = set()
    for element in plan.elements:
        for name in names:
            for index, path in enumerate(plan.search_paths):
                if os.path.exists(os.path.join(path, element.name, name)):
                    own = index == element.search_path_index
                    found.add(f"elements/{element.name}{'' if own else ' (overridden)'}/{name}")
    return found


@pytest.fixture(scope="module")
def wide(debian_platform):
    """A platform with more of the stock elements."""
    more = ("svc-map", "element-manifest", "dhcp-all-interfaces", "apt-sources", "devuser")
    return compile_plan(replace(debian_platform, elements=(*debian_platform.elements, *more)))


def test_install_static_reaches_the_static_trees(debian):
    assert files(debian, "install.d/10-install-static-files") == below(debian, "static")


def test_install_bin_reaches_the_helpers(debian):
    assert files(debian, "pre-install.d/01-install-bin") == below(debian, "bin")


@pytest.mark.parametrize(
    "dest", ["install.d/20-install-init-scripts", "post-install.d/10-enable-init-scripts"]
)
def test_dib_init_system_reaches_the_init_scripts(debian, dest):
    assert files(debian, dest) == below(debian, "init-scripts")


def test_pkg_map_reaches_every_elements_map(debian):
    dest = "extra-data.d/10-create-pkg-map-dir"
    assert files(debian, dest) == {name for name in declared(debian, "pkg-map") if "overridden" not in name}
    assert variables(debian, dest) == {"IMAGE_ELEMENT_YAML"}


def test_package_installs_reaches_every_elements_packages(debian):
    dest = "extra-data.d/99-squash-package-install"
    names = files(debian, dest)
    assert {name for name in names if "package-installs." in name} == declared(
        debian, "package-installs.yaml", "package-installs.json"
    )
    assert {name for name in names if "package-installs." not in name} == {
        "bin/package-installs-squash",
        "elements/package-installs/bin/package-installs-squash",
    }
    assert variables(debian, dest) == {"IMAGE_ELEMENT", "ELEMENTS_PATH"}
    assert tools(debian, dest) == {"python3", "diskimage-builder"}


@pytest.mark.parametrize("phase", ["pre-install.d/10", "install.d/01", "post-install.d/00"])
def test_package_installs_in_the_chroot_reaches_no_declaration(debian, phase):
    assert files(debian, f"{phase}-package-installs") == {"bin/pkg-map"}


def test_package_installs_reads_the_old_lists_of_its_phase(elements, compiled):
    for name, dest in (("near", "install.d"), ("far", "post-install.d")):
        elements.add(name, {f"{dest}/package-installs-{name}": "thing\n"})
    plan = compiled("near", "far", "package-installs")
    assert "install.d/package-installs-near" in files(plan, "install.d/01-package-installs")
    assert "post-install.d/package-installs-far" not in files(plan, "install.d/01-package-installs")


def test_install_types_sees_names_only(elements, compiled):
    elements.add(
        "one", {f"install.d/one-{kind}-install/40-x": f"#!/bin/sh\n# {kind}\n" for kind in ("repo", "source")}
    )
    dest = "extra-data.d/99-enable-install-types"
    plan = compiled("one", "install-types")
    assert files(plan, dest) == {"install.d/"}
    (listing,) = [fact.value for fact in facts(plan, dest) if fact.name == "install.d/"]
    assert listing == "hooks one-repo-install/40-x one-source-install/40-x"


def test_source_repositories_reaches_the_lists_and_the_downloader(elements, compiled):
    elements.add("one", {"source-repository-one": "one git /opt/one http://example.org/one\n", "other": "x"})
    plan = compiled("one", "source-repositories")
    dest = "extra-data.d/98-source-repositories"
    # cache-url asks where it is, so what is beside it counts as well.
    assert files(plan, dest) == {"source-repository-one", *below(plan, "bin")}
    assert {"git", "tar", "curl"} <= tools(plan, dest)


def test_svc_map_reaches_every_elements_map(wide):
    dest = "extra-data.d/10-merge-svc-map-files"
    assert files(wide, dest) == declared(wide, "svc-map")
    assert variables(wide, dest) == {"IMAGE_ELEMENT_YAML"}


def test_manifests_see_the_elements(wide):
    assert variables(wide, "extra-data.d/75-inject-element-manifest") == {"IMAGE_ELEMENT"}
    assert files(wide, "extra-data.d/75-inject-element-manifest") == set()
    assert variables(wide, "cleanup.d/01-copy-manifests-dir") == {"IMAGE_ELEMENT"}
    assert files(wide, "cleanup.d/01-copy-manifests-dir") == set()


def test_the_bootstrap_reaches_no_files(debian):
    dest = "root.d/08-debootstrap"
    assert (files(debian, dest), variables(debian, dest)) == (set(), set())
    assert tools(debian, dest) == {"debootstrap", "mmdebstrap", "tar"}


@pytest.mark.parametrize(
    "dest",
    [
        "root.d/50-block-daemons",
        "root.d/75-debian-minimal-baseinstall",
        "extra-data.d/20-manifest-dir",
        "extra-data.d/50-modprobe-blacklist",
        "pre-install.d/04-dib-init-system",
        "pre-install.d/99-apt-get-update",
        "install.d/10-debian-networking",
        "install.d/40-glean",
        "install.d/60-simple-init-remove-interfaces",
        "post-install.d/80-growroot",
        "post-install.d/80-simple-init",
        "finalise.d/99-write-dpkg-manifest",
        "cleanup.d/40-unblock-daemons",
    ],
)
def test_hooks_that_reach_no_files(debian, dest):
    assert files(debian, dest) == set()


def test_modprobe_reaches_the_elements_directories(elements, compiled):
    elements.add("blacklist", {"modprobe.d/x.conf": "blacklist x\n", "other.d/y.conf": "y"})
    plan = compiled("blacklist", "modprobe")
    assert files(plan, "extra-data.d/50-modprobe-blacklist") == {"elements/blacklist/modprobe.d/x.conf"}


def test_a_hook_reaches_the_files_beside_it(wide):
    names = files(wide, "install.d/50-dhcp-all-interfaces")
    assert {"install.d/dhcp-all-interfaces.sh", "install.d/dhcp-interface@.service"} <= names
    assert not {name for name in names if name.startswith(("static/", "bin/", "elements/"))}


def test_a_mentioned_script_brings_what_it_mentions(elements, compiled):
    script = '#!/bin/sh\n"$TMP_HOOKS_PATH/bin/helper"\n'
    elements.add("one", {"extra-data.d/10-x": script, "data/a": "1", "other/b": "2"})
    elements.add("two", {"bin/helper": '#!/bin/sh\ncat "$TMP_HOOKS_PATH/data/a"\n'})
    assert files(compiled("one", "two"), "extra-data.d/10-x") == {"bin/helper", "data/a"}


def test_a_helper_in_the_chroot_brings_what_it_mentions(elements, compiled):
    elements.add("one", {"install.d/10-x": "#!/bin/sh\nhelper\n", "data/a": "1", "other/b": "2"})
    elements.add("two", {"bin/helper": "#!/bin/sh\ncat /tmp/in_target.d/data/a\n"})
    assert files(compiled("one", "two"), "install.d/10-x") == {"data/a"}


def test_a_hook_of_another_step_is_reached_by_its_name(elements, compiled):
    script = '#!/bin/sh\n"$(dirname "$0")/../install.d/20-y"\n'
    elements.add(
        "one",
        {"post-install.d/10-x": script, "install.d/20-y": "#!/bin/sh\n", "install.d/30-z": "#!/bin/sh\n"},
    )
    assert files(compiled("one"), "post-install.d/10-x") == {"install.d/20-y"}


@pytest.mark.parametrize(
    "script",
    [
        'cd "$TMP_HOOKS_PATH"; ls',
        'cat "$TMP_HOOKS_PATH/$1"',
        'D=$(dirname $0)/..; find "$D"',
        "run_d $TMP_HOOKS_PATH",
    ],
)
def test_a_hook_that_does_not_tell_reaches_everything(elements, compiled, script):
    elements.add("one", {"extra-data.d/10-x": f"#!/bin/sh\n{script}\n", "data/a": "1", "README.rst": "doc"})
    elements.add("two", {"static/b": "2", "install.d/50-y": "#!/bin/sh\n"})
    names = files(compiled("one", "two"), "extra-data.d/10-x")
    assert {"data/a", "static/b", "install.d/", "install.d/50-y", "README.rst"} <= names


def test_a_hook_that_walks_all_elements_reaches_those_that_are_not_included(elements, compiled):
    elements.add(
        "one", {"extra-data.d/10-x": "#!/bin/sh\nfor d in ${ELEMENTS_PATH//:/ }; do cat $d/*/special; done\n"}
    )
    elements.add("apart", {"special": "x"})
    assert "elements/apart (overridden)/special" in files(compiled("one"), "extra-data.d/10-x")


def test_a_file_that_only_the_chroot_could_reach_is_not_reached_by_variables(elements, compiled):
    elements.add(
        "one", {"install.d/10-x": "#!/bin/sh\ncat $TMP_HOOKS_PATH/data/a $_LIB/die\n", "data/a": "1"}
    )
    assert files(compiled("one"), "install.d/10-x") == set()


def test_the_stock_drivers_files_are_reached_by_name(elements, compiled):
    elements.add("one", {"cleanup.d/10-x": "#!/bin/bash\nsource $_LIB/img-functions\n"})
    names = files(compiled("one"), "cleanup.d/10-x")
    assert "lib/img-functions" in names
    assert "lib/ramdisk-functions" not in names


def test_what_environment_files_reach_counts_for_every_hook(elements, compiled):
    elements.add(
        "one", {"environment.d/10-x": "source $TMP_HOOKS_PATH/data/a\n", "data/a": "1", "data/b": "2"}
    )
    elements.add("two", {"root.d/10-y": "#!/bin/sh\n", "install.d/10-z": "#!/bin/sh\n"})
    plan = compiled("one", "two")
    assert files(plan, "root.d/10-y") == files(plan, "install.d/10-z") == {"data/a"}


def test_tools_have_an_identity():
    assert tool_identity("sh").startswith("sha256:")
    assert tool_identity("no-such-program") == ABSENT
    assert tool_identity("diskimage-builder").count(".") == 2


def test_a_hooks_programs_are_those_of_the_system_wherever_the_caller_has_others(tmp_path, monkeypatch):
    (tmp_path / "tar").write_text("#!/bin/sh\n")
    (tmp_path / "tar").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    of_hooks, of_imgc = tool_identity.__wrapped__("tar", HOOKS_PATH), tool_identity.__wrapped__("tar")
    assert of_hooks.startswith("sha256:") and of_imgc.startswith("sha256:")
    assert of_hooks != of_imgc


def test_the_engine_gives_hooks_that_path(debian):
    path = environment(debian, "root.d", in_target=False)["PATH"]
    assert path.endswith(f":{HOOKS_PATH}")


@pytest.mark.parametrize(("program", "counts"), [("cp", True), ("cat", False)])
def test_the_mode_of_a_file_in_an_elements_own_directory_counts_for_hooks_that_copy(
    elements, compiled, program, counts
):
    hook = f"#!/bin/bash\nfor one in $(get_image_element_array); do {program} $one/thing.d/x; done\n"
    elements.add("one", {"extra-data.d/10-x": hook, "thing.d/x": "x"})
    plan = compiled("one")
    before = facts(plan, "extra-data.d/10-x")
    # As a umask of 077 would have made all of it.
    for path in sorted((elements.path / "one").rglob("*"), reverse=True):
        path.chmod(path.stat().st_mode & 0o700)
    (elements.path / "one").chmod(0o700)
    after = facts(compiled("one"), "extra-data.d/10-x")
    assert {fact.name for fact in before} == {fact.name for fact in after} >= {"elements/one/thing.d/x"}
    assert (before != after) == counts
