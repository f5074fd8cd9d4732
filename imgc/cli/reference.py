"""``docs/cli.md``, written from the commands' own declarations: ``python -m imgc.cli.reference > docs/cli.md``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from imgc.cli.command import Command, CommonOption, Group
from imgc.cli.main import cli

_INTRODUCTION = """\
# The command line

This page is written by `python -m imgc.cli.reference`; a test keeps it current.
"""

_COMPLETION = """\
## Errors

At a terminal an error is shown with its source; everywhere else as one line per problem, which editors and scripts
can read, with what helps people indented below it:

    specs/debian-bookworm.yaml:7:3: E105: unknown key `elemnts`
        hint: did you mean `elements`?

`imgc explain-error` explains the codes. A defect in imgc itself (status 3) leaves a report in `crashes/` in the cache;
it holds versions, the command and the traceback, and nothing of the environment.
"""


def markdown() -> str:
    """The whole page."""
    with click.Context(cli, info_name="imgc", **cli.context_settings) as context:
        parts = [_INTRODUCTION, *_group(context), _COMPLETION]
        for name, command in cli.commands.items():
            with click.Context(command, info_name=name, parent=context) as inner:
                parts.extend(_command(inner, command))
                for below, one in command.commands.items() if isinstance(command, Group) else ():
                    with click.Context(one, info_name=below, parent=inner) as lowest:
                        parts.extend(_command(lowest, one))
    return "\n".join(filter(None, parts))


def _group(context: click.Context) -> Iterator[str]:
    yield f"{_text(cli)}\n"
    yield _table(("command", "what it does"), [_index_row(name, one) for name, one in cli.commands.items()])
    yield "## Common options\n\nThese may stand before or after the command's name.\n"
    yield _options(context, cli, common=True)
    yield _examples(cli)


def _index_row(name: str, command: click.Command) -> tuple[str, str]:
    return f"[`imgc {name}`](#imgc-{name})", command.get_short_help_str(limit=200)


def _command(context: click.Context, command: click.Command) -> Iterator[str]:
    yield f"## {context.command_path}\n"
    yield f"    {' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n"
    yield f"{_text(command)}\n"
    yield _options(context, command, common=False)
    yield _examples(command)


def _text(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "")


def _options(context: click.Context, command: click.Command, *, common: bool) -> str:
    options = [one for one in command.params if isinstance(one, click.Option)]
    chosen = [one for one in options if isinstance(one, CommonOption) is common]
    return _table(("option", "what it does"), [_option_row(one, context) for one in chosen]) if chosen else ""


def _option_row(option: click.Option, context: click.Context) -> tuple[str, str]:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    if isinstance(option.type, click.Choice):
        names += f" {' '.join(f'`{choice}`' for choice in option.type.choices)}"
    elif not (option.is_flag or option.count):
        names += f" `{option.metavar or option.type.name.upper()}`"
    default = f" Default: {option.default}." if option.show_default else ""
    return names, f"{option.help or ''}{default}"


def _examples(command: click.Command) -> str:
    if not isinstance(command, Command | Group) or not command.examples:
        return ""
    return "\n".join(f"{what}\n\n    {line}\n" for line, what in command.examples)


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    cells = [
        head,
        ("---", "---"),
        *((left.replace("|", "\\|"), right.replace("|", "\\|")) for left, right in rows),
    ]
    return "".join(f"| {left} | {right} |\n" for left, right in cells)


if __name__ == "__main__":
    print(markdown(), end="")
