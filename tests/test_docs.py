"""What the documents say is so: pages written from code are current, commands exist, links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

import generate
from imgc.cli.main import cli
from imgc.errors import CODES

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(("name", "text"), generate.pages().items(), ids=generate.pages())
def test_written_pages_are_current(name: str, text: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, "run docs/generate.py"


def test_every_code_is_on_the_page() -> None:
    page = generate.errors()
    assert [code for code in CODES if f"| {code} |" not in page] == []


def options_of(command: click.Command) -> set[str]:
    """The options of a command, with those of the commands in it."""
    own = {
        name
        for one in command.params
        if isinstance(one, click.Option)
        for name in one.opts + one.secondary_opts
    }
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return own.union(*map(options_of, inner))


def test_every_command_and_option_is_on_the_page() -> None:
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    for name, command in cli.commands.items():
        assert f"## imgc {name}\n" in page
        sections = [one for one in page.split("\n## ") if re.match(rf"imgc {name}( \S+)?\n", one)]
        section = "\n".join(sections)
        shown = set(re.findall(r"`(--?[a-z-]+)`", section + page.split("## imgc ")[0]))
        assert options_of(command) - {"--help", "-h"} <= shown, name


def code_of(text: str) -> Iterator[str]:
    """Each line of a document's code blocks (fenced or indented), and each code span."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```[^\n]*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(.+)$", rest, re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", rest)
    for block in fenced:
        yield from block.replace("\\\n", " ").splitlines()
    yield from indented
    yield from spans


def uses(text: str, program: str) -> Iterator[list[str]]:
    """The words that follow ``program`` wherever ``text`` shows how it is called."""
    for line in code_of(text):
        for call in re.split(r"\s(?:&&|\|\|?|;)\s", line.split(" #")[0]):
            words = call.removeprefix("$ ").split()
            while words and re.fullmatch(r"[A-Z_]+=\S*|sudo", words[0]):
                words.pop(0)
            if words[:1] == [program] and len(words) > 1:
                yield words[1:]


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_commands_in_documents_exist(path: Path) -> None:
    common = options_of(cli)
    for words in uses(path.read_text(encoding="utf-8"), "imgc"):
        wrong = list(unknown(words, common))
        assert not wrong, f"imgc {' '.join(words)}: {wrong}"


def unknown(words: list[str], common: set[str]) -> Iterator[str]:
    """The words of a call of imgc that are neither its commands nor their options."""
    commands = [word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)]
    options = {word.split("=")[0] for word in words if re.fullmatch(r"-(-[a-z][a-z-]*(=.*)?|[a-zA-Z])", word)}
    known = common | {"--help", "-h", "--version"}
    if commands and not words[0].startswith("-"):
        command = cli.commands.get(commands[0])
        if command is None:
            yield commands[0]
            return
        known |= options_of(command)
    yield from sorted(options - known)


@cache
def dev_commands() -> set[str]:
    """The commands of ./dev, from its own list of them."""
    usage = (ROOT / "dev").read_text(encoding="utf-8").split("<<'USAGE'\n")[1].split("\nUSAGE\n")[0]
    return set(re.findall(r"^ {2}([a-z]+)\b", usage, re.MULTILINE))


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_dev_commands_in_documents_exist(path: Path) -> None:
    assert {"build", "test", "lint", "bench", "setup"} <= dev_commands()
    used = {words[0] for words in uses(path.read_text(encoding="utf-8"), "./dev")}
    assert {word for word in used if not word.startswith("[")} <= dev_commands() | {"COMMAND", "help"}


def anchors(path: Path) -> set[str]:
    """What a link into the document may name: its headings, as they are spelled in links."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = (path.parent / name).resolve() if name else path
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target
