"""Broken specs: exactly these problems, each at exactly this place.

Every directory of ``tests/broken`` is a specs directory with one platform, ``broken``.  Its file ``expected`` lists
``file:line:column CODE`` of every problem that loading and compiling it has to find.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from imgc import spec
from imgc.errors import CODES, ImgcError, Problems
from imgc.graph import compile_plan

BROKEN = Path(__file__).resolve().parent.parent / "broken"
CASES = sorted(path.parent for path in BROKEN.glob("*/expected"))


def problems(directory: Path) -> list[ImgcError]:
    try:
        compile_plan(spec.load("broken", specs_dir=directory, host_environment={}))
    except Problems as several:
        return several.problems
    except ImgcError as one:
        return [one]
    return []


def test_there_are_enough() -> None:
    assert len(CASES) >= 30
    assert [each.name for each in BROKEN.iterdir() if not (each / "expected").is_file()] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_broken(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case)
    found = problems(Path())
    assert [f"{problem.place} {problem.code}" for problem in found] == (
        case / "expected"
    ).read_text().splitlines()
    for problem in found:
        assert problem.code in CODES
        assert problem.message.endswith(".")
        assert problem.message.isprintable()


def test_all_codes_of_specs_are_covered() -> None:
    """Every code about specs and elements has a broken spec, but for those that need no spec to happen."""
    covered = {line.split()[-1] for case in CASES for line in (case / "expected").read_text().splitlines()}
    without_a_spec = {"E116", "E117"}  # a name that no file has, a directory that is not there
    wanted = {code for code in CODES if code.startswith(("E1", "E2"))}
    assert wanted - covered - without_a_spec == set()
