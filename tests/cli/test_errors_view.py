"""How errors look, and with which status they end a run."""

from __future__ import annotations

import errno
import os
import re
import signal
from pathlib import Path

import click
import pytest

from imgc.cli import errors_view, specs_commands
from imgc.cli.session import Session
from imgc.errors import ImgcError, Place, Problems

from .conftest import Imgc


def plain(problem: ImgcError) -> list[str]:
    return list(errors_view.plain(problem))


def pretty(problem: ImgcError) -> list[str]:
    return [click.unstyle(line) for line in errors_view.pretty(problem)]


def test_the_plain_form_is_one_line_that_programs_can_read() -> None:
    problem = ImgcError(
        "E105", "unknown key `x`", place=Place("specs/a.yaml", 7, 3), hint="did you mean `y`?"
    )
    assert plain(problem) == ["specs/a.yaml:7:3: E105: unknown key `x`", "    hint: did you mean `y`?"]


def test_a_message_never_breaks_the_line() -> None:
    problem = ImgcError("E301", "two\nlines\x1b[2J", detail="and\n\x07detail")
    assert plain(problem) == ["E301: two lines", "    and", "    ?detail"]


def test_the_form_for_people_has_the_source_and_a_caret(tmp_path: Path) -> None:
    spec = tmp_path / "a.yaml"
    spec.write_text("one: 1\ntwo: 2\nthree: 3\n  \tfour: 4\nfive: 5\nsix: 6\nseven: 7\n")
    problem = ImgcError("E105", "unknown key", place=Place(str(spec), 4, 4), hint="remove it", detail="more")
    assert pretty(problem) == [
        "error[E105]: unknown key",
        f"  --> {spec}:4:4",
        " 2 | two: 2",
        " 3 | three: 3",
        " 4 |         four: 4",
        "   |         ^",
        " 5 | five: 5",
        " 6 | six: 6",
        "  | more",
        "hint: remove it",
    ]


@pytest.mark.parametrize(
    "place", [Place("gone.yaml", 3, 1), Place("gone.yaml"), Place("/etc/hostname", 4000, 1)]
)
def test_a_place_without_source_is_shown_without_excerpt(place: Place) -> None:
    assert pretty(ImgcError("E101", "cannot read", place=place)) == [
        "error[E101]: cannot read",
        f"  --> {place}",
    ]


def test_of_a_very_long_line_the_part_around_the_column_is_shown(tmp_path: Path) -> None:
    spec = tmp_path / "a.yaml"
    spec.write_text("x" * 5000 + "HERE" + "y" * 5000)
    shown = list(errors_view.excerpt(Place(str(spec), 1, 5001)))
    source, caret = (click.unstyle(line) for line in shown)
    assert len(source) < 200
    assert source[caret.index("^") :].startswith("HERE")


def test_several_problems_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    errors_view.show(
        Problems([ImgcError("E201", "b", place=Place("b", 2, 1)), ImgcError("E105", "a")]), Session()
    )
    assert capsys.readouterr().err == "E105: a\nb:2:1: E201: b\n2 problems\n"


def test_color_asks_for_the_form_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    errors_view.show(ImgcError("E105", "a"), Session(color=True))
    assert "error[E105]" in capsys.readouterr().err


def test_a_code_of_every_room_ends_with_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    for code in ("E105", "E201", "E301", "E404", "E502"):
        assert errors_view.end(ImgcError(code, "message"), Session(), []) == 1
    assert "E404: message" in capsys.readouterr().err


def test_an_interrupt_ends_with_the_signals_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert errors_view.end(KeyboardInterrupt(), Session(), []) == 128 + signal.SIGINT
    assert errors_view.end(ImgcError("E307", "interrupted"), Session(), []) == 128 + signal.SIGINT
    assert "Traceback" not in capsys.readouterr().err


def test_a_full_disk_is_no_defect(capsys: pytest.CaptureFixture[str]) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/x")
    assert errors_view.end(full, Session(), []) == 1
    assert capsys.readouterr().err.startswith("E902: No space left on device (/cache/x).")


def test_a_broken_pipe_is_left_to_click() -> None:
    with pytest.raises(BrokenPipeError):
        errors_view.end(BrokenPipeError(errno.EPIPE, "Broken pipe"), Session(), [])


def test_a_defect_leaves_a_report(imgc: Imgc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("one over\nnothing")

    monkeypatch.setattr(specs_commands, "write", broken)
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    ended = imgc("schema", "--cache", str(tmp_path / "cache"))
    assert ended.exit_code == 3
    assert ended.stderr.splitlines()[0].startswith("E901: A defect in imgc: ")
    assert "Traceback" not in ended.stderr
    (report,) = (tmp_path / "cache" / "crashes").iterdir()
    assert str(report) in ended.stderr
    text = report.read_text()
    assert "ZeroDivisionError: one over" in text
    assert re.search(r"\* imgc \d.*Python 3", text)
    assert "* click " in text
    assert "hunter2" not in text


def test_a_defect_is_reported_even_where_nothing_can_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/proc")
    assert errors_view.end(ZeroDivisionError("x"), Session(cache=tmp_path / "file"), ["list"]) == 3
    assert "ZeroDivisionError: x" in capsys.readouterr().err
