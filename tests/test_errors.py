"""Errors carry a registered code, sort by place, and travel together."""

from __future__ import annotations

import pytest

from imgc.errors import CODES, Collector, ImgcError, Place, Problems, sorted_problems


def test_codes_are_well_formed() -> None:
    assert all(len(code) == 4 and code[0] == "E" and code[1:].isdigit() for code in CODES)
    assert all(text.endswith(".") for text in CODES.values())
    assert list(CODES) == sorted(CODES)


def test_an_unregistered_code_is_refused() -> None:
    with pytest.raises(ValueError, match="E999"):
        ImgcError("E999", "Something.")


def test_places_read_as_editors_know_them() -> None:
    assert str(Place("specs/a.yaml", 3, 7)) == "specs/a.yaml:3:7"
    assert str(Place("specs/a.yaml")) == "specs/a.yaml"
    assert str(ImgcError("E105", "Unknown key.", place=Place("a", 1, 2))) == "a:1:2: E105: Unknown key."
    assert str(ImgcError("E105", "Unknown key.")) == "E105: Unknown key."


def test_problems_are_flat_sorted_and_said_once() -> None:
    late = ImgcError("E105", "late", place=Place("b", 2, 1))
    early = ImgcError("E107", "early", place=Place("b", 1, 9), hint="first")
    other = ImgcError("E105", "other", place=Place("a", 9, 9))
    nowhere = ImgcError("E303", "nowhere")
    twice = ImgcError("E105", "late", place=Place("b", 2, 1))
    together = Problems([late, Problems([early, nowhere]), twice, other])
    assert together.problems == [nowhere, other, early, late]
    assert (together.code, together.message) == ("E303", "nowhere")
    assert str(together).splitlines() == [
        *("E303: nowhere", "a:9:9: E105: other", "b:1:9: E107: early", "b:2:1: E105: late"),
    ]
    assert sorted_problems([]) == []


def test_a_collector_raises_what_it_has() -> None:
    collector = Collector()
    collector.check()
    first = ImgcError("E105", "one", place=Place("a", 2, 1))
    collector.add(first)
    with pytest.raises(ImgcError) as alone:
        collector.check()
    assert alone.value is first
    collector.add(ImgcError("E105", "two", place=Place("a", 1, 1)))
    with pytest.raises(Problems) as several:
        collector.check()
    assert [problem.message for problem in several.value.problems] == ["two", "one"]
