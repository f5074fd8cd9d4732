"""The bench of the git cache: a small run of it with both tools, and what it makes of its measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import git_cache
from cold_build import Took
from git_cache import FILL, REFRESH, TREES
from imgc import process
from imgc.errors import ImgcError

TOOK = {
    ("stock", FILL): Took(100.0, 50.0, 0.0),
    ("imgc", FILL): Took(20.0, 10.0, 0.0),
    ("stock", REFRESH): Took(60.0, 30.0, 0.0),
    ("imgc", REFRESH): Took(3.0, 1.0, 0.0),
    ("imgc", TREES): Took(6.0, 2.0, 0.0),
}


def test_ratios_are_to_what_stock_does_for_the_same_end() -> None:
    assert git_cache.ratios(TOOK) == {FILL: 5.0, REFRESH: 20.0, TREES: 10.0}


def test_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    git_cache.report(1000, TOOK)
    assert "unchanged refresh: imgc is 20.0 times as fast" in capsys.readouterr().out


def test_a_small_run_with_both_tools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = tmp_path / "work"
    work.mkdir()
    arguments = ["--repositories", "3", "--work", str(work), "--json", str(tmp_path / "took.json")]
    assert git_cache.main(arguments) == 0, capsys.readouterr().err
    took = json.loads((tmp_path / "took.json").read_text())
    assert took["repositories"] == 3
    assert set(took["took"]) == {f"{tool}: {what}" for tool, what in TOOK}
    assert all(one["seconds"] > 0 for one in took["took"].values())
    assert list(work.iterdir()) == []


def test_trees_that_differ_are_told(tmp_path: Path) -> None:
    for tool in ("stock", "imgc"):
        tree = tmp_path / f"{tool}.fill/mnt/opt/git/a"
        git_cache.make_repository(tree / ".git", 1 if tool == "stock" else 2)
        (tree / ".git/config").write_text("[core]\n\trepositoryformatversion = 0\n")
        process.run(["git", "-C", str(tree), "-c", "safe.directory=*", "reset", "--quiet", "--hard"])
    with pytest.raises(ImgcError, match="differ"):
        git_cache.check(git_cache.Bench(tmp_path, ("a",), "", 1), "fill")


def test_repositories_are_the_same_on_every_run(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        git_cache.make_repository(tmp_path / name, 5)
        argv = ["git", f"--git-dir={tmp_path / name}", "for-each-ref", "--format=%(objectname) %(refname)"]
        found.append(process.run(argv).output)
    assert found[0] == found[1]
    assert len(found[0].splitlines()) == 6
