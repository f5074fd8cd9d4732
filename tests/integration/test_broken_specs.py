"""Every broken spec at the command line: the exact place and code of each problem, status 1, no traceback.

Python's start and imports would be nearly all that such a run costs, so one process makes them and then forks for every
spec; a few run as a user would run them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = Path(__file__).resolve().parents[1] / "broken"
CASES = sorted(path.parent for path in BROKEN.glob("*/expected"))

PROBLEM = re.compile(r"(?P<place>[^:\s][^:]*(:\d+:\d+)?): (?P<code>E\d{3}): (?P<message>.+)")

ARGUMENTS = ("imgc", "--specs", ".", "check", "broken")

#: Runs the command line in a fork for every directory of the arguments; its output goes to files in the first one.
_FORKS = f"""\
import os, sys
from imgc.__main__ import main
import imgc.build, imgc.cli.main, imgc.graph, imgc.spec, jinja2, networkx, yaml
out, *directories = sys.argv[1:]
for directory in directories:
    child = os.fork()
    if not child:
        os.chdir(directory)
        name = os.path.join(out, os.path.basename(directory))
        for number, kind in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{{name}}.{{kind}}", os.O_CREAT | os.O_WRONLY), number)
        sys.argv = {list(ARGUMENTS)!r}
        main()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(os.path.join(out, os.path.basename(directory) + ".status"), "w") as file:
        file.write(str(status))
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(BROKEN.parents[1]), "XDG_CACHE_HOME": "/nonexistent"}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what `imgc check` said to each of them."""
    out = tmp_path_factory.mktemp("checked")
    argv = [sys.executable, "-c", _FORKS, str(out), *map(str, CASES)]
    subprocess.run(argv, env=environment(), stdin=subprocess.DEVNULL, check=True, timeout=300)
    return out


def problems(errors: str) -> list[str]:
    found = [match for line in errors.splitlines() if (match := PROBLEM.fullmatch(line))]
    return [f"{match['place']} {match['code']}" for match in found]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_broken(case: Path, checked: Path) -> None:
    output, errors, status = (
        (checked / f"{case.name}.{kind}").read_text() for kind in ("out", "err", "status")
    )
    assert status == "1"
    assert "Traceback" not in errors + output
    assert problems(errors) == (case / "expected").read_text().splitlines()


@pytest.mark.parametrize("name", ["binary-junk", "extends-cycle", "many-files", "unknown-element"])
def test_as_a_user_runs_it(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *ARGUMENTS],
        cwd=BROKEN / name,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert problems(done.stderr) == (BROKEN / name / "expected").read_text().splitlines()
