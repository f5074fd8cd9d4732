"""``extends``: what is inherited, in which order, and from where."""

from __future__ import annotations

import os

import pytest

from imgc.errors import ImgcError, Place

from .conftest import Specs


def test_maps_merge_and_lists_append(specs: Specs) -> None:
    specs.write("common/a.yaml", "schema: 1\nelements: [one]\ndisk:\n  label: a\n  timeout: 3\n")
    specs.write("common/b.yaml", "schema: 1\nelements: [two]\ndisk: {label: b}\n")
    specs.platform("extends: [common/a.yaml, common/b.yaml]\nelements: [three]\ndisk: {filesystem: btrfs}\n")
    platform = specs.load()
    assert platform.elements == ("one", "two", "three")
    assert (platform.disk.label, platform.disk.timeout, platform.disk.filesystem) == ("b", 3, "btrfs")


def test_every_value_keeps_its_place(specs: Specs) -> None:
    specs.write("common/a.yaml", "schema: 1\nelements:\n  - one\nenvironment: {A: 1}\n")
    specs.platform("extends: common/a.yaml\nelements: [two]\n")
    platform = specs.load()
    assert platform.place("elements[0]") == Place("common/a.yaml", 3, 5)
    assert platform.place("elements[1]") == Place("one.yaml", 7, 12)
    assert platform.place("environment.A") == Place("common/a.yaml", 4, 18)
    assert platform.place("base.release") == Place("one.yaml", 5, 12)
    # What nobody wrote is placed where it would be written.
    assert platform.place("base.mirror") == Place("one.yaml", 4, 3)
    assert platform.place("disk.label") == Place("one.yaml")


def test_replace_drops_what_is_inherited(specs: Specs) -> None:
    specs.write("a.yaml", "schema: 1\nelements: [one, two]\nenvironment: {A: 1}\n")
    specs.platform("extends: a.yaml\nelements: !replace [three]\nenvironment: !replace {B: 2}\n")
    platform = specs.load()
    assert platform.elements == ("three",)
    assert platform.environment == (("B", "2"),)


def test_a_file_reached_twice_counts_once(specs: Specs) -> None:
    specs.write("bottom.yaml", "schema: 1\noutputs: [raw]\nelements: [bottom]\n")
    specs.write("left.yaml", "schema: 1\nextends: bottom.yaml\nelements: [left]\n")
    specs.write("right.yaml", "schema: 1\nextends: ./bottom.yaml\nelements: [right]\n")
    specs.platform("extends: [left.yaml, right.yaml]\n")
    platform = specs.load()
    assert platform.elements == ("bottom", "left", "right")
    assert [output.format for output in platform.outputs] == ["raw"]


def test_a_file_wins_over_what_it_extends_wherever_that_is_listed(specs: Specs) -> None:
    specs.write("bottom.yaml", "schema: 1\ndisk: {label: bottom}\n")
    specs.write("left.yaml", "schema: 1\nextends: bottom.yaml\ndisk: {label: left}\n")
    specs.platform("extends: [left.yaml, bottom.yaml]\n")
    assert specs.load().disk.label == "left"


def test_repeats_count_once_where_they_stand_first(specs: Specs) -> None:
    specs.write("a.yaml", "schema: 1\nelements: [one, two, one]\n")
    specs.platform("extends: a.yaml\nelements: [two, three]\n")
    platform = specs.load()
    assert platform.elements == ("one", "two", "three")
    assert [platform.place(f"elements[{i}]") for i in range(3)] == [
        Place("a.yaml", 2, 12),
        Place("a.yaml", 2, 17),
        Place("one.yaml", 7, 17),
    ]
    assert "elements[3]" not in platform.places


def test_own_settings_are_not_inherited(specs: Specs) -> None:
    specs.platform("description: first\n")
    specs.write("two.yaml", "schema: 1\nname: two\nextends: one.yaml\n")
    platform = specs.load("two")
    assert (platform.name, platform.description) == ("two", "")


def test_element_paths_are_relative_to_the_file_that_names_them(specs: Specs) -> None:
    specs.write("common/a.yaml", "schema: 1\nelement_paths: [elements, ../shared, /srv/elements]\n")
    specs.platform("extends: common/a.yaml\nelement_paths: [own]\n")
    here = str(specs.directory)
    assert specs.load().element_paths == (
        f"{here}/common/elements",
        f"{here}/shared",
        "/srv/elements",
        f"{here}/own",
    )


def test_places_outside_the_current_directory_are_absolute(
    specs: Specs, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs.platform("elements: [one]\n")
    (specs.directory / "elsewhere").mkdir()
    monkeypatch.chdir(specs.directory / "elsewhere")
    assert specs.load("../one.yaml").file == str(specs.directory / "one.yaml")
    monkeypatch.chdir(specs.directory.parent)
    assert specs.load().file == f"{specs.directory.name}/one.yaml"


def test_a_long_chain(specs: Specs) -> None:
    specs.write("part0.yaml", "schema: 1\nelements: [first]\n")
    for i in range(1, 1050):
        specs.write(f"part{i}.yaml", f"schema: 1\nextends: part{i - 1}.yaml\n")
    specs.platform("extends: part1049.yaml\n")
    assert specs.load().elements == ("first",)


def test_a_cycle_is_found_from_inside_and_from_outside(specs: Specs) -> None:
    specs.write("a.yaml", "schema: 1\nextends: b.yaml\n")
    specs.write("b.yaml", "schema: 1\nextends: [c.yaml, a.yaml]\n")
    specs.write("c.yaml", "schema: 1\n")
    specs.platform("extends: a.yaml\n")
    assert specs.found() == ["b.yaml:2:19 E113"]
    assert "a.yaml → b.yaml → a.yaml" in specs.problems()[0].message


def test_every_reference_to_a_missing_file_is_reported(specs: Specs) -> None:
    specs.write("a.yaml", "schema: 1\nextends: gone.yaml\n")
    specs.platform("extends: [a.yaml, gone.yaml, a.yaml/b.yaml]\n")
    assert specs.found() == ["a.yaml:2:10 E112", "one.yaml:6:19 E112", "one.yaml:6:30 E112"]


@pytest.mark.parametrize("kind", ["fifo", "device", "loop"])
def test_what_is_not_a_file_is_not_read(specs: Specs, kind: str) -> None:
    """In particular, imgc does not wait for somebody to write to it."""
    path = specs.directory / "odd.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(path)
    specs.platform("extends: odd.yaml\n")
    assert specs.found() == ["one.yaml:6:10 E101"]
    with pytest.raises(ImgcError) as caught:
        specs.load("odd.yaml")
    assert caught.value.code == "E101"
