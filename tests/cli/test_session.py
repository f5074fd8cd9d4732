"""The common options and what they default to."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from imgc.cli.session import Session, is_terminal
from imgc.errors import ImgcError

from .conftest import GOOD, Imgc


def test_specs_are_found_upward(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = project / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert Session().specs_dir() == project / "specs"


def test_no_specs_is_an_error_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImgcError) as caught:
        Session().specs_dir()
    assert caught.value.code == "E117"
    assert "--specs" in caught.value.hint
    with pytest.raises(ImgcError) as caught:
        Session(specs=tmp_path / "gone").specs_dir()
    assert caught.value.code == "E117"


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Session().cache_dir() == tmp_path / "imgc"
    monkeypatch.setenv("HOME", "/home/someone")
    for useless in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", useless)
        assert Session().cache_dir() == Path("/home/someone/.cache/imgc")
    assert Session(cache=Path("here")).cache_dir() == Path.cwd() / "here"


def test_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Session().colors() is None
    monkeypatch.setenv("NO_COLOR", "1")
    assert Session().colors() is False
    assert Session(color=True).colors() is True


def test_a_dumb_terminal_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert is_terminal(Terminal())
    assert not is_terminal(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal(Terminal())


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another directory of specs, with a platform `other`."""
    specs = tmp_path / "other"
    specs.mkdir()
    (specs / "other.yaml").write_text(GOOD.replace("name: good", "name: other"))
    return specs


def test_a_common_option_may_stand_before_or_after_the_command(
    project: Path, other: Path, imgc: Imgc
) -> None:
    assert imgc("list", "--names").output == "good\n"
    assert imgc("--specs", str(other), "list", "--names").output == "other\n"
    assert imgc("list", "--specs", str(other), "--names").output == "other\n"


def test_the_command_line_beats_the_environment(project: Path, other: Path, imgc: Imgc) -> None:
    assert imgc("list", "--names", env={"IMGC_SPECS": str(other)}).output == "other\n"
    for arguments in (["--specs", "specs", "list"], ["list", "--specs", "specs"]):
        assert imgc(*arguments, "--names", env={"IMGC_SPECS": str(other)}).output == "good\n"
    assert imgc("--specs", str(other), "list", "--specs", "specs", "--names").output == "good\n"


def test_color_reaches_the_output(project: Path, imgc: Imgc) -> None:
    assert "\x1b[" not in imgc("list").output
    assert "\x1b[" in imgc("list", "--color").output
    assert "\x1b[" in imgc("--color", "list").output
    assert "\x1b[" not in imgc("--color", "list", "--no-color").output
