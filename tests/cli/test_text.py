"""Durations, sizes, other people's output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgc.cli import text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (0.44, "0.4 s"), (59.94, "59.9 s"), (59.96, "1:00"), (125, "2:05"), (3723, "1:02:03")],
)
def test_duration(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-3, "0:00"), (7.4, "0:07"), (59.7, "1:00"), (3600, "1:00:00")]
)
def test_clock(seconds: float, shown: str) -> None:
    assert text.clock(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (327_577_600, "312.4 MiB"),
        (2**30 - 1, "1.0 GiB"),
        (5 * 2**50, "5120.0 TiB"),
    ],
)
def test_size(count: int, shown: str) -> None:
    assert text.size(count) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("10 %\r50 %\r100 %", "100 %"),
        ("ends with a return\r", "ends with a return"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;file:///x\x1b\\link", "link"),
        ("a\tb", "a       b"),
        ("bell\x07", "bell?"),
        ("\x9b31mC1", "?31mC1"),
        ("right\u202eleft", "right?left"),
        ("héllo ✓", "héllo ✓"),
    ],
)
def test_printable(line: str, shown: str) -> None:
    assert text.printable(line) == shown


@given(st.text())
def test_nothing_printable_can_command_a_terminal(line: str) -> None:
    shown = text.printable(line)
    assert not [char for char in shown if ord(char) < 32 or 127 <= ord(char) < 160]
    assert text.printable(shown) == shown
