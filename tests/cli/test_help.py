"""Help, documentation, and what they cost."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from imgc import __version__
from imgc.cli.command import Command, CommonOption, Group
from imgc.cli.main import cli
from imgc.cli.reference import markdown
from imgc.errors import CODES

from .conftest import Imgc, run_imgc

COMMANDS = list(cli.commands)
EXAMPLES = [
    line
    for one in (cli, *cli.commands.values())
    for line, _ in one.examples  # type: ignore[attr-defined]
]


def test_the_commands_are_there() -> None:
    wanted = "list check plan graph lock why caches build boot schema clean cache explain-error completion"
    assert wanted.split() == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, imgc: Imgc) -> None:
    shown = imgc(name, "--help")
    assert shown.exit_code == 0
    assert "Examples:" in shown.output
    assert "--specs DIR" in shown.output
    assert imgc(name, "-h").output == shown.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    command = cli.commands[name]
    assert isinstance(command, Command | Group)
    assert all(one.help for one in command.params if isinstance(one, click.Option))
    assert sum(isinstance(one, CommonOption) for one in command.params) == 4


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_parses(line: str, project: Path, tmp_path: Path) -> None:
    (project / "images").mkdir()
    (project / "images" / "debian-bookworm.qcow2").touch()
    words = shlex.split(
        line.replace("$(imgc list --names)", "debian-bookworm").removeprefix('eval "$(').rstrip(')"')
    )
    for end in ("|", ">"):
        words = words[: words.index(end)] if end in words else words
    name, *arguments = words[1:]
    assert words[0] == "imgc"
    with cli.make_context("imgc", [name, *arguments]) as context:
        cli.commands[name].make_context(name, arguments, parent=context)


def test_the_documentation_is_current(root: Path) -> None:
    """`python -m imgc.cli.reference > docs/cli.md` puts it right."""
    assert (root / "docs" / "cli.md").read_text("utf-8") == markdown()


def test_the_documentation_has_every_option() -> None:
    page = markdown()
    for name, command in cli.commands.items():
        section = page.split(f"## imgc {name}\n")[1].split("\n## ")[0]
        for option in command.params:
            if isinstance(option, click.Option) and not isinstance(option, CommonOption):
                assert all(f"`{one}`" in section for one in option.opts)


def test_version(imgc: Imgc) -> None:
    assert __version__ in imgc("--version").output


def test_wrong_usage_ends_with_status_2(imgc: Imgc) -> None:
    for arguments in (
        ["no-such-command"],
        ["build"],
        ["plan", "--no-such-option", "x"],
        ["build", "x", "--format", "iso"],
    ):
        ended = imgc(*arguments)
        assert ended.exit_code == 2, arguments
        assert "Usage:" in ended.stderr


def test_explain_error(imgc: Imgc) -> None:
    assert imgc("explain-error", "e205").output == f"E205  {CODES['E205']}\n"
    assert len(imgc("explain-error").output.splitlines()) == len(CODES)
    assert imgc("explain-error", "E99").exit_code == 2


def test_help_loads_nothing_heavy() -> None:
    """What a command needs is imported by that command, or `imgc --help` and completion would be slow."""
    code = (
        "import sys\n"
        "from imgc.cli.main import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        "heavy = {'networkx', 'jinja2', 'yaml', 'rich', 'pycdlib', 'openstack', 'diskimage_builder', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "[]\n"


def test_the_module_is_the_command() -> None:
    done = run_imgc(["--version"])
    assert (done.returncode, done.stdout) == (0, f"imgc, version {__version__}\n")
