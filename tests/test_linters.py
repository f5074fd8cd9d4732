"""The linters, and the rules of this repository that no linter knows.  `./dev lint` runs this file."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from imgc.sources.apt import read_sources

ROOT = Path(__file__).resolve().parent.parent
ELEMENTS = ROOT / "imgc/elements"
#: Specs and elements that are wrong on purpose.
BROKEN = ROOT / "tests/broken"

LINES_OF_A_FILE = 600
LINES_OF_A_FUNCTION = 60

#: What no file may hold.  Put together here, or this file would hold it.
UNFINISHED = re.compile(
    r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b|pragma: no " + r"cover|NotImplemented" + r"Error"
)

#: Hosts of packages that every machine knows; those of this machine are looked up.
PACKAGE_HOSTS = (
    "py" + "pi.org",
    "python" + "hosted.org",
    "deb." + "debian.org",
    "security." + "debian.org",
    "ftp." + "debian.org",
    "archive." + "ubuntu.com",
    "security." + "ubuntu.com",
    "ports." + "ubuntu.com",
)

#: Modules that take long to import and that most commands do not need.
HEAVY = ("bindep", "diskimage_builder", "hypothesis", "jinja2", "networkx", "openstack", "pycdlib", "rich")


@cache
def committed() -> tuple[Path, ...]:
    """Every file of the repository that git has or would take."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return tuple(ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file())


def run(*argv: str, env: dict[str, str] | None = None) -> str:
    """The output of a program of the virtualenv or the system; the test fails, showing it, when the program does."""
    scripts = f"{sysconfig.get_path('scripts')}:{Path(sys.executable).parent}"
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", **(env or {})}
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(argv[:4])} …\n{done.stdout}{done.stderr}"
    return done.stdout


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(200).decode("utf-8", "replace")


def is_python(path: Path) -> bool:
    return path.suffix == ".py" or bool(re.match(r"#!.*python", first_line(path)))


def is_shell(path: Path) -> bool:
    return path.suffix == ".sh" or bool(re.match(r"#!\S*[/ ](env )?(ba|da)?sh\b", first_line(path)))


def python_files() -> list[Path]:
    return [path for path in committed() if is_python(path)]


def shell_files() -> list[Path]:
    """All shell scripts: ours, and hooks.  What elements set in environment.d has no first line to tell it by."""
    found = [path for path in committed() if is_shell(path) or path.parent.name == "environment.d"]
    return [path for path in found if BROKEN not in path.parents]


def test_ruff_check() -> None:
    run("ruff", "check", ".")


def test_ruff_format() -> None:
    run("ruff", "format", "--check", ".")


def test_mypy() -> None:
    run("mypy")


def test_rooms_import_only_from_floors_below() -> None:
    run("lint-imports")


def test_shellcheck() -> None:
    scripts = [named(path) for path in shell_files()]
    assert {"dev", ".ci/run"} <= set(scripts)
    fragments = [name for name in scripts if "/environment.d/" in name]
    whole = [name for name in scripts if name not in fragments]
    run("shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *whole)
    if fragments:
        # Bash by the protocol; what they set is for others to read.
        run("shellcheck", "--shell=bash", "--exclude=SC2034", *fragments)


def test_dib_lint() -> None:
    # It looks for tabs in the driver's library as well, which is not ours: it gets the elements twice.
    run("dib-lint", env={"ELEMENTS_DIR": named(ELEMENTS), "LIB_DIR": named(ELEMENTS)})


def test_scripts_are_executable() -> None:
    """A hook without its exec bit does not run, and says nothing."""
    scripts = [path for path in committed() if first_line(path).startswith("#!")]
    wrong = [named(path) for path in scripts if not os.access(path, os.X_OK) and BROKEN not in path.parents]
    assert not wrong, "a first line `#!` and no exec bit"


@pytest.mark.parametrize("path", python_files(), ids=named)
def test_size_of_files_and_functions(path: Path) -> None:
    text = text_of(path)
    lines = len(text.splitlines())
    assert lines <= LINES_OF_A_FILE, f"{lines} lines"
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    long = {node.name: size for node in functions if (size := length(node)) > LINES_OF_A_FUNCTION}
    assert not long, f"more than {LINES_OF_A_FUNCTION} lines"


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the end, as a reader sees them."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_nothing_is_unfinished() -> None:
    found = [
        f"{named(path)}:{number}: {line.strip()}"
        for path in committed()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not found


def test_no_test_is_switched_off() -> None:
    """A test that is skipped or expected to fail tells nobody anything."""
    off = re.compile(r"\.(skip|skipif|xfail|importorskip)\b")
    tests = [path for path in python_files() if ROOT / "tests" in path.parents]
    found = [named(path) for path in tests if off.search(text_of(path)) and path != Path(__file__).resolve()]
    assert not found


def hosts_of_this_machine() -> Iterator[str]:
    """Where this machine gets its packages: apt's sources, and what pip is told."""
    for source in read_sources():
        yield urlsplit(source.uri).hostname or ""
    settings = [
        value for name, value in os.environ.items() if re.fullmatch(r"(PIP|UV)_\w*(URL|INDEX)\w*", name)
    ]
    settings += run(sys.executable, "-m", "pip", "config", "list").splitlines()
    for setting in settings:
        yield from re.findall(r"https?://(?:[^/@\s]*@)?([^/:'\"\s]+)", setting)


def test_no_package_host_is_named() -> None:
    """Specs and tests must work from any mirror; a host that is named is one that somebody has no access to."""
    hosts = {*PACKAGE_HOSTS, *hosts_of_this_machine()} - {"", "localhost", "127.0.0.1"}
    named_host = re.compile("|".join(rf"\b{re.escape(host)}\b" for host in sorted(hosts)))
    found = [
        f"{named(path)}: {match[0]}"
        for path in committed()
        for match in [named_host.search(text_of(path))]
        if match
    ]
    assert not found


def test_help_imports_nothing_heavy() -> None:
    """`imgc --help` and shell completion start on every keystroke of somebody."""
    program = (
        "import sys\n"
        "from imgc.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print('heavy:', sorted(set(sys.modules) & set({HEAVY!r})))\n"
    )
    assert run(sys.executable, "-c", program).splitlines()[-1] == "heavy: []"
