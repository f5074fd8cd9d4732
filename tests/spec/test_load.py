"""Finding and loading platforms: values, defaults, contradictions, and all problems in one run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from imgc import spec
from imgc.errors import ImgcError, Place
from imgc.spec.settings import SPEC, VARIABLES
from imgc.spec.types import Section

from .conftest import Specs

MIB = 1 << 20


def test_defaults(specs: Specs) -> None:
    specs.platform()
    platform = specs.load()
    assert platform.base == spec.Base("minimal", "debian", "bookworm", "amd64", "auto", None, True)
    assert platform.initramfs == spec.Initramfs("cloud", ())
    line = "nofb nomodeset gfxpayload=text"
    assert platform.disk == spec.Disk(None, 256 * MIB, "ext4", "cloudimg-rootfs", "gpt", "both", line, 1)
    assert platform.outputs == (spec.Output("qcow2", "qcow2", (("compression", "zstd"), ("compat", "1.1"))),)
    assert platform.elements == platform.element_paths == platform.packages == platform.environment == ()


@pytest.mark.parametrize(
    ("more", "boot"),
    [
        ("", "both"),
        ("disk: {partitioning: mbr}\n", "bios"),
        ("  arch: arm64\n", "efi"),
        ("  arch: arm64\ndisk: {partitioning: mbr}\n", "efi"),
        ("disk: {boot: bios}\n", "bios"),
    ],
)
def test_boot_follows_the_partition_table(specs: Specs, more: str, boot: str) -> None:
    specs.platform(more)
    assert specs.load().disk.boot == boot


@pytest.mark.parametrize(
    ("text", "size"),
    [("auto", None), ("4 GiB", 4096 * MIB), ("512M", 512 * MIB), ("1.5GiB", 1536 * MIB), ("1T", MIB * MIB)],
)
def test_sizes(specs: Specs, text: str, size: int | None) -> None:
    specs.platform(f"disk:\n  size: {text}\n")
    assert specs.load().disk.size == size


@pytest.mark.parametrize(
    "text", ["4", "4.5", "4 GB", "4 gib", "1 MiB", "100 TiB", "65.5M", "1.0000001 GiB", "-1 GiB", "x"]
)
def test_sizes_that_are_none(checked: Callable[[str], list[str]], text: str) -> None:
    assert checked(f"disk:\n  size: {text}\n") == ["one.yaml:7:9 E109"]


@pytest.mark.parametrize(
    ("written", "suffix", "options"),
    [
        ("qcow2", "qcow2", {"compression": "zstd", "compat": "1.1"}),
        (
            "{format: qcow2, compat: '0.10', compression: zlib}",
            "qcow2",
            {"compression": "zlib", "compat": "0.10"},
        ),
        ("vhd", "vhd", {"variant": "dynamic"}),
        ("{format: vhd, variant: xenserver}", "vhd", {"variant": "xenserver"}),
        ("raw", "raw", {}),
        ("tar", "tar.zst", {"compression": "zstd"}),
        ("{format: tar, compression: gzip}", "tar.gz", {"compression": "gzip"}),
        ("{format: tar, compression: none}", "tar", {"compression": "none"}),
    ],
)
def test_outputs(specs: Specs, written: str, suffix: str, options: dict[str, str]) -> None:
    specs.platform(f"outputs:\n- {written}\n")
    (output,) = specs.load().outputs
    assert (output.suffix, dict(output.options)) == (suffix, options)


def test_places_of_outputs(specs: Specs) -> None:
    specs.platform("outputs:\n- raw\n- format: qcow2\n  compression: zlib\n")
    platform = specs.load()
    assert platform.place("outputs[0].format") == Place("one.yaml", 7, 3)
    assert platform.place("outputs[1].compression") == Place("one.yaml", 9, 16)


def test_environment_is_text_as_written(specs: Specs) -> None:
    specs.platform('environment: {B: 0755, A: 1.10, D: "yes", C: "", E: 2024-01-01, F: 1:30}\n')
    assert dict(specs.load().environment) == {
        "A": "1.10", "B": "0755", "C": "", "D": "yes", "E": "2024-01-01", "F": "1:30",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_a_variable_that_a_setting_decides(checked: Callable[[str], list[str]], name: str) -> None:
    assert checked(f"environment:\n  {name}: x\n") == [f"one.yaml:7:{len(name) + 5} E115"]


def test_aliases(specs: Specs) -> None:
    specs.platform("elements: &names [one, two]\npackages: *names\n")
    assert specs.load().packages == ("one", "two")


def test_all_problems_of_all_platforms_at_once(specs: Specs) -> None:
    specs.write("common/a.yaml", "schema: 1\ndisk: {sise: 4 GiB}\n")
    specs.platform("extends: common/a.yaml\ntypo: 1\n", name="one")
    specs.platform("extends: common/a.yaml\ndescription: '{{ nothing }}'\n", name="two")
    specs.platform(name="three")
    assert specs.found("one", "two", "three", "four") == [
        "None E116",  # a name on the command line has no place
        "common/a.yaml:2:8 E105",
        "one.yaml:7:1 E105",
        "two.yaml:7:14 E111",
    ]


def test_templates_are_checked_though_another_file_cannot_be_read(specs: Specs) -> None:
    specs.write("bad.yaml", "[")
    specs.platform("extends: bad.yaml\ndescription: '{{ nothing }}'\npackages: ['{{']\n")
    assert specs.found() == ["bad.yaml:1:2 E102", "one.yaml:7:14 E111", "one.yaml:8:12 E110"]


def test_overridden_values_are_checked_too(specs: Specs) -> None:
    specs.write("a.yaml", "schema: 1\ndisk: {filesystem: fat}\n")
    specs.platform("extends: a.yaml\ndisk: {filesystem: ext4}\n")
    assert specs.found() == ["a.yaml:2:20 E108"]


def test_load_all_keeps_the_order(specs: Specs) -> None:
    specs.platform(name="b")
    specs.platform(name="a")
    loaded = spec.load_all(["b", "a"], specs_dir=specs.directory, host_environment={})
    assert [platform.name for platform in loaded] == ["b", "a"]


def test_find(specs: Specs) -> None:
    specs.platform(name="b")
    specs.platform(name="a")
    specs.write("common/part.yaml", "schema: 1\n")
    specs.write(".hidden.yaml", "")
    specs.write("notes.txt", "")
    found = spec.find(specs.directory)
    assert found == [("a", specs.directory / "a.yaml"), ("b", specs.directory / "b.yaml")]
    with pytest.raises(ImgcError) as caught:
        spec.find(specs.directory / "nowhere")
    assert caught.value.code == "E117"


def test_an_unknown_platform(specs: Specs) -> None:
    specs.platform(name="debian-bookworm")
    with pytest.raises(ImgcError) as caught:
        specs.load("debian-bokworm")
    assert caught.value.code == "E116"
    assert caught.value.hint == "Did you mean `debian-bookworm`?"


def test_a_platform_by_its_path(specs: Specs) -> None:
    specs.platform(name="one")
    assert specs.load("./one.yaml") == specs.load("one")
    assert specs.load(str(specs.directory / "one.yaml")).name == "one"
    with pytest.raises(ImgcError) as caught:
        specs.load("two.yaml")
    assert (caught.value.code, str(caught.value.place)) == ("E101", "two.yaml")


def test_a_byte_order_mark(specs: Specs) -> None:
    specs.write("one.yaml", b"\xef\xbb\xbfschema: 1\nname: one\nbase: {distro: debian, release: sid}\nx: 1\n")
    assert specs.found() == ["one.yaml:4:1 E105"]


def test_what_a_message_quotes_is_printable(checked: Callable[[str], list[str]], specs: Specs) -> None:
    assert checked('"\\e[31mred": 1\n"' + "long" * 100 + '": 2\n') == [
        "one.yaml:6:1 E105",
        "one.yaml:7:1 E105",
    ]
    for problem in specs.problems():
        assert problem.message.isprintable()
        assert len(problem.message) < 120


def test_variables_belong_to_one_setting_each() -> None:
    named = variables(SPEC)
    assert len(named) == len(set(named))
    # The users are a list, and all of them one variable.
    assert {*named, "DIB_CI_USERS"} == set(VARIABLES)


def variables(section: Section) -> list[str]:
    """The variables of a section's settings, at every depth."""
    inner = [variables(each.type) for each in section.settings if isinstance(each.type, Section)]
    return [each.variable for each in section.settings if each.variable] + [
        one for each in inner for one in each
    ]


def test_a_file_that_is_too_large(specs: Specs) -> None:
    specs.write("one.yaml", "schema: 1\n" + "# comment\n" * 30_000)
    assert specs.found() == ["one.yaml E102"]


def test_a_directory_named_like_a_platform_is_none(specs: Specs) -> None:
    Path("one.yaml").mkdir()
    assert spec.find(specs.directory) == []
