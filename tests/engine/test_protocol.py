"""What hooks are promised: environment, working directory, mounts, the hooks tree; phase by phase."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import MappingProxyType

import pytest

from imgc.engine import protocol, sandbox
from imgc.engine.hooks_tree import materialise
from imgc.graph import PHASES, Plan, compile_plan
from imgc.graph.plan import dib_directory
from imgc.spec.model import Base, Disk, Initramfs, Output, Platform

MOUNTS = ({"type": "tmpfs", "source": "none", "target": "var/cache", "flags": 0, "data": ""},)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A platform of two elements below two search paths."""
    top = tmp_path_factory.mktemp("a b")
    (top / "first/one/install.d").mkdir(parents=True)
    (top / "first/one/element-provides").write_text("operating-system\n")
    (top / "first/one/install.d/50-one").write_text("#!/bin/sh\n")
    (top / "first/one/install.d/50-one").chmod(0o755)
    (top / "first/one/environment.d").mkdir()
    (top / "first/one/environment.d/10-one.bash").write_text("export ONE=1\n")
    (top / "second/two/static/etc").mkdir(parents=True)
    (top / "second/two/static/etc/link").symlink_to("nowhere")
    (top / "second/two/bin").mkdir()
    (top / "second/two/bin/helper").write_text("#!/bin/sh\n")
    platform = Platform(
        name="p",
        description="",
        base=Base("none", "none", "1", "amd64", "default", None, False),
        elements=("one", "two"),
        element_paths=(str(top / "first"), str(top / "second")),
        environment=(("DIB_QUOTED", 'a "b" $c `d` \\e'), ("OTHER", "x"), ("LC_ALL", "C.UTF-8")),
        packages=(),
        initramfs=Initramfs("cloud", ()),
        disk=Disk(None, 0, "ext4", "root", "gpt", "bios", "", 5),
        outputs=(Output("tar", "tar", (("compression", "none"),)),),
        file="p.yaml",
        places=MappingProxyType({}),
    )
    return compile_plan(platform)


@pytest.mark.parametrize("phase", PHASES)
def test_no_path_of_the_host_is_in_the_environment(plan: Plan, phase: str) -> None:
    environment = protocol.environment(plan, phase, in_target=PHASES[phase])
    text = "\n".join(environment.values())
    assert not any(path in text for path in plan.search_paths)
    assert str(dib_directory()) not in text
    assert os.path.expanduser("~") + "/" not in text
    assert ("TARGET_ROOT" in environment) == (phase in ("root.d", "cleanup.d"))
    assert environment["HOME"] == ("/root" if PHASES[phase] else sandbox.HOME)
    assert environment["IMAGE_ELEMENT"].split() == ["one", "two"]
    assert environment["OTHER"] == "x"
    assert environment["LC_ALL"] == "C.UTF-8", "the spec has the last word"


def test_dib_env_is_what_bash_declares(plan: Plan) -> None:
    """The manifests element writes it into the image, and whoever sources that gets the values back."""
    declared = protocol.dib_env(plan.environment)
    assert "OTHER" not in declared
    script = f'{declared}\nprintf %s "$DIB_QUOTED"'
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout == 'a "b" $c `d` \\e'


def test_elements_are_found_by_name(plan: Plan) -> None:
    yaml = protocol.image_element_yaml(plan)
    assert yaml == f"one: {sandbox.ELEMENTS}/0/one\ntwo: {sandbox.ELEMENTS}/1/two\n"
    paths = protocol.environment(plan, "root.d", in_target=False)["ELEMENTS_PATH"].split(":")
    assert paths[:2] == [f"{sandbox.ELEMENTS}/0", f"{sandbox.ELEMENTS}/1"]
    functions = protocol.functions(plan).replace(f"{sandbox.DIB}/lib", str(dib_directory() / "lib"))
    script = f'_LIB={dib_directory()}/lib\n{functions}\ndeclare -A e="($(get_image_element_array))"; echo ${{e[two]}}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout == f"{sandbox.ELEMENTS}/1/two\n", done.stderr


@pytest.mark.parametrize("phase", PHASES)
def test_mounts_of_a_phase(plan: Plan, phase: str) -> None:
    target = protocol.target(phase, MOUNTS, in_target=PHASES[phase])
    assert target.built == (phase == "block-device.d")
    assert target.hooks == PHASES[phase]
    assert target.system == (phase not in ("root.d", "block-device.d"))
    late = ("block-device.d", "pre-finalise.d", "finalise.d", "cleanup.d")
    assert bool(target.replay) == (phase not in late)


def test_the_programs_of_hooks(plan: Plan) -> None:
    inside = protocol.hook_payload(plan, "install.d", "50-one", in_target=True, debug_trace=0, given={})
    assert (inside.cwd, inside.chroot) == ("/", protocol.ROOTFS)
    assert inside.argv[-3:] == (protocol.IN_TARGET, "install.d", "50-one")
    given = {"SOURCE_DATE_EPOCH": "5", "OTHER": "given"}
    outside = protocol.hook_payload(plan, "cleanup.d", "50-one", in_target=False, debug_trace=2, given=given)
    assert (outside.cwd, outside.chroot) == (protocol.OUT, "")
    assert outside.env["DIB_DEBUG_TRACE"] == "2"
    # What the spec says wins over what follows from pins.
    assert (outside.env["SOURCE_DATE_EPOCH"], outside.env["OTHER"]) == ("5", "x")
    packages = protocol.packages_payload(plan, ["a", "b"], debug_trace=0, given={})
    assert packages.argv[-2:] == ("a", "b") and packages.chroot == protocol.ROOTFS
    shell = protocol.shell_payload(inside)
    assert shell.chroot == inside.chroot and not shell.ignore_syncs
    assert {**inside.env, "TERM": shell.env["TERM"]} == shell.env


def test_the_hooks_tree(plan: Plan, tmp_path: Path) -> None:
    base = tmp_path / "base"
    materialise(plan, base, dib_directory() / "lib")
    assert {"built", "hooks", "mnt", "out"} <= set(os.listdir(base))
    hooks = base / "hooks"
    assert os.access(hooks / "install.d/50-one", os.X_OK)
    assert (hooks / "environment.d/10-one.bash").read_text() == "export ONE=1\n"
    assert os.readlink(hooks / "static/etc/link") == "nowhere"
    assert (hooks / "bin/helper").exists()
    assert os.access(hooks / "dib-run-parts", os.X_OK)
    assert {path.name for path in hooks.iterdir()} == {
        *{file.dest.split("/")[0] for file in plan.tree},
        "dib-run-parts",
    }


def test_environment_files_are_sourced_as_the_stock_driver_does(tmp_path: Path) -> None:
    """Bytewise order; only names that dib-run-parts takes; a failing file fails the hook."""
    files = Path(sandbox.__file__).parent / "sandbox_files"
    (tmp_path / "environment.d").mkdir()
    (tmp_path / "install.d").mkdir()
    for name in ("10-a", "9-b", "10-B.bash", "a b", "skip~"):
        (tmp_path / "environment.d" / name).write_text(f'export ORDER="${{ORDER:-}}[{name}]"\n')
    hook = tmp_path / "install.d" / "50-x"
    hook.write_text('#!/bin/sh\necho "$ORDER $0"\n')
    hook.chmod(0o755)
    argv = ["bash", str(files / "run-hook"), str(tmp_path), "install.d", "50-x"]
    done = subprocess.run(argv, capture_output=True, text=True, env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"})
    assert done.stdout == f"[10-B.bash][10-a][9-b] {hook}\n", done.stderr
    (tmp_path / "environment.d/99-bad").write_text("false\n")
    assert subprocess.run(argv, capture_output=True, env={"PATH": os.defpath}).returncode != 0
