"""Compiling a platform: what its settings imply, and what it tells the elements."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

import imgc
from imgc.errors import Place
from imgc.graph import compile_plan
from imgc.spec.model import Output


def names(plan):
    return {element.name for element in plan.elements}


def test_settings_imply_elements(debian):
    assert dict(debian.implied) == {
        "debian-minimal": "base is a minimal debian",
        "vm": "an output is a disk",
        "block-device-efi": "disk.boot is both",
        "bootloader": "an output is a disk",
        "imgc-bootstrap": "base is a minimal debian",
        "imgc-initramfs": "debian has initramfs-tools",
    }
    assert {name for name, _ in debian.implied} <= names(debian)


def test_the_shipped_elements_come_before_the_stock_ones(debian):
    shipped = {element.name for element in debian.elements if element.search_path_index == 0}
    assert {"vm", "bootloader", "block-device-efi", "imgc-initramfs"} <= shipped
    for element in debian.elements:
        assert os.path.join(debian.search_paths[element.search_path_index], element.name) == element.path


def test_the_users_elements_come_first(debian_platform, elements):
    elements.add("vm", deps=["block-device", "bootloader"])
    plan = compile_plan(replace(debian_platform, element_paths=(str(elements.path),)))
    (vm,) = [element for element in plan.elements if element.name == "vm"]
    assert vm.path == os.path.realpath(elements.path / "vm")


@pytest.mark.parametrize(
    ("boot", "partitioning", "element"),
    [("bios", "gpt", "gpt"), ("bios", "mbr", "mbr"), ("efi", "gpt", "efi"), ("both", "gpt", "efi")],
)
def test_the_block_device_follows_the_disk(debian_platform, boot, partitioning, element):
    disk = replace(debian_platform.disk, boot=boot, partitioning=partitioning)
    plan = compile_plan(replace(debian_platform, disk=disk))
    assert {name for name in names(plan) if name.startswith("block-device")} == {f"block-device-{element}"}
    assert dict(plan.environment)["DIB_MOUNTPOINTS"] == ("/" if boot == "bios" else "/|/boot/efi")


def test_a_listed_provider_replaces_the_implied_one(debian_platform):
    platform = replace(debian_platform, elements=("block-device-mbr", "growroot"))
    plan = compile_plan(platform)
    assert "block-device-mbr" in names(plan)
    assert "block-device-efi" not in names(plan) | {name for name, _ in plan.implied}


def test_an_implied_element_may_be_listed(debian_platform):
    plan = compile_plan(replace(debian_platform, elements=("vm", "debian-minimal")))
    assert not {"vm", "debian-minimal"} & {name for name, _ in plan.implied}


def test_the_baseline(debian_platform):
    plan = compile_plan(replace(debian_platform, base=replace(debian_platform.base, baseline=True)))
    assert "base" in names(plan)
    assert "SKIP_BASE" not in dict(plan.environment)


def test_a_tree_needs_no_disk(debian_platform):
    plan = compile_plan(replace(debian_platform, outputs=(Output("tar", "tar", ()),)))
    assert not {"vm", "bootloader", "block-device-efi"} & names(plan)


def test_the_environment_repeats_the_settings(debian):
    environment = dict(debian.environment)
    assert environment["DIB_RELEASE"] == "bookworm"
    assert environment["ARCH"] == "amd64"
    assert environment["DIB_ROOT_LABEL"] == "cloudimg-rootfs"
    assert environment["DIB_ROOT_FSTYPE"] == environment["FS_TYPE"] == "ext4"
    assert environment["DIB_GRUB_TIMEOUT"] == "5"
    assert environment["IMAGE_NAME"] == "debian-bookworm"
    assert environment["DIB_DISTRIBUTION_MIRROR"] == "http://mirror.example/debian"
    assert (environment["IMGC_BOOT"], environment["IMGC_PARTITIONING"]) == ("both", "gpt")
    assert "DIB_BOOTLOADER_DEFAULT_CMDLINE" not in environment
    assert list(debian.environment) == sorted(debian.environment)


def test_the_command_line_and_modules_reach_the_elements(compiled, base_platform):
    disk = replace(base_platform.disk, kernel_command_line="console=ttyS0", timeout=0)
    initramfs = replace(base_platform.initramfs, modules="all", extra=("a", "b"))
    environment = dict(compiled(disk=disk, initramfs=initramfs).environment)
    assert environment["DIB_BOOTLOADER_DEFAULT_CMDLINE"] == "console=ttyS0"
    assert environment["DIB_GRUB_TIMEOUT"] == "0"
    assert (environment["IMGC_INITRAMFS_MODULES"], environment["IMGC_INITRAMFS_EXTRA"]) == ("all", "a b")


def test_the_specs_environment_wins_over_mirrors(compiled):
    plan = compiled(
        environment=(("DIB_DISTRIBUTION_MIRROR", "http://own.example/"),),
        mirrors={"DIB_DISTRIBUTION_MIRROR": "http://host.example/", "DIB_OTHER": "x"},
    )
    environment = dict(plan.environment)
    assert environment["DIB_DISTRIBUTION_MIRROR"] == "http://own.example/"
    assert environment["DIB_OTHER"] == "x"


def test_an_environment_that_contradicts_a_setting_is_a_problem(compiled, problems_of):
    place = Place("spec.yaml", 7, 3)
    places = MappingProxyType({"environment.DIB_ROOT_LABEL": place})
    environment = (("DIB_ROOT_LABEL", "other"), ("FS_TYPE", "ext4"))
    (problem,) = problems_of(lambda: compiled(environment=environment, places=places))
    assert (problem.code, problem.place) == ("E115", place)
    assert "disk.label" in problem.hint


def test_nothing_in_a_plans_environment_is_a_path_of_this_host(debian):
    here = (str(Path(imgc.__file__).parent.parent), sys.prefix, os.path.expanduser("~"))
    assert not [value for _, value in debian.environment if value.startswith(here)]


def test_problems_point_at_the_spec(elements, compiled, problems_of):
    elements.add("one", {"install.d/50-x": "#!/bin/sh\n"})
    elements.add("two", deps=["three"])
    elements.add("three", {"install.d/50-x": "#!/bin/sh\n"})
    lines = {f"elements[{index}]": Place("spec.yaml", 10 + index, 5) for index in range(3)}
    (problem,) = problems_of(lambda: compiled("one", "two", places=MappingProxyType(lines)))
    assert problem.place == Place("spec.yaml", 12, 5)


def test_a_search_path_that_is_missing_points_at_the_spec(compiled, elements, problems_of):
    places = MappingProxyType({"element_paths[1]": Place("spec.yaml", 3, 5)})
    (problem,) = problems_of(
        lambda: compiled(element_paths=(str(elements.path), str(elements.path / "none")), places=places)
    )
    assert (problem.code, problem.place) == ("E204", Place("spec.yaml", 3, 5))


def test_problems_of_every_kind_come_together(elements, compiled, problems_of):
    elements.add("one", {"install.d/50-x": "#!/bin/sh\n", "static/a": "1", "pkg-map": "{"})
    elements.add(
        "two", {"install.d/50-x": "#!/bin/sh\n", "static/a": "2", "install.d/60-y": ("#!/bin/sh\n", 0o644)}
    )
    codes = [problem.code for problem in problems_of(lambda: compiled("one", "two"))]
    assert sorted(codes) == ["E205", "E206", "E207", "E209"]


@pytest.mark.parametrize(
    ("name", "content", "line", "column"),
    [
        ("pkg-map", '{\n  "a": }\n', 2, 8),
        ("pkg-map", "[]", 0, 0),
        ("package-installs.yaml", "a:\n  b: [\n", 3, 1),
        ("package-installs.yaml", "- a\n", 0, 0),
        ("package-installs.yaml", b"\xff", 0, 0),
        ("package-installs.json", "{", 2, 1),
    ],
)
def test_a_declaration_that_cannot_be_read_is_a_problem(
    elements, compiled, problems_of, name, content, line, column
):
    elements.add("one", {name: content})
    (problem,) = problems_of(lambda: compiled("one"))
    assert problem.code == "E209"
    assert problem.place.file.endswith(f"one/{name}")
    assert (problem.place.line, problem.place.column) == (line, column)


def test_packages_that_would_be_passed_over_are_warnings(elements, compiled):
    packages = {
        "a": {"phase": "instal.d"},
        "b": {"whn": "X=1"},
        "c": None,
        "d": [{"uninstall": True}, {}],
        "e": "x",
    }
    elements.add("one", {"package-installs.yaml": json.dumps(packages), "package-installs.json": "{}"})
    warnings = "\n".join(compiled("one").warnings)
    assert "phase `instal.d`" in warnings
    assert "unknown setting `whn`" in warnings
    assert "'x' where settings are expected" in warnings
    assert warnings.count("\n") == 2


def test_a_linked_element_gets_a_search_path(elements, more, compiled):
    more.add("real", {"install.d/50-x": "#!/bin/sh\n"})
    (elements.path / "real").symlink_to(more.path / "real")
    plan = compiled("real")
    (real,) = [element for element in plan.elements if element.name == "real"]
    assert os.path.join(plan.search_paths[real.search_path_index], "real") == real.path


def test_importing_the_compiler_is_cheap():
    code = "import sys, imgc.graph; print(sorted({'networkx', 'yaml', 'jinja2'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "[]"
