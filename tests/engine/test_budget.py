"""How many platforms may be under way at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgc.engine.budget import ON_DISK, UNKNOWN, Budget, Sizes, free_disk


def test_room_is_reserved_until_it_is_given_back() -> None:
    budget = Budget(100, None)
    assert budget.admit("a", 60)
    assert not budget.admit("b", 60)
    assert budget.admit("a", 60)
    assert budget.admit("c", 40)
    budget.release("a")
    assert budget.admit("b", 60)


def test_disk_counts_packed_layers_and_outputs_too() -> None:
    budget = Budget(None, 100 * ON_DISK)
    assert budget.admit("a", 50)
    assert not budget.admit("b", 51)
    assert budget.admit("b", 50)


def test_the_first_is_always_admitted() -> None:
    assert Budget(1, 1).admit("a", 1000)


def test_releasing_what_was_not_reserved_is_nothing() -> None:
    Budget(1, 1).release("a")


def test_what_a_platform_needed_is_remembered(tmp_path: Path) -> None:
    assert Sizes(tmp_path).of("a") == UNKNOWN
    Sizes(tmp_path).remember("a", 5)
    Sizes(tmp_path).remember("b", 6)
    assert (Sizes(tmp_path).of("a"), Sizes(tmp_path).of("b")) == (5, 6)


@pytest.mark.parametrize("text", ["", "[]", '{"a": "x"}', "\0"])
def test_a_spoilt_note_is_as_good_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "sizes.json").write_text(text)
    assert Sizes(tmp_path).of("a") == UNKNOWN


def test_some_disk_is_always_left(tmp_path: Path) -> None:
    assert free_disk(tmp_path) >= 0
