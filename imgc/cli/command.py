"""The click classes that every command uses: common options, examples, and one place where errors end a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from imgc.cli import errors_view
from imgc.cli.session import Session

#: An example: the command line, and what it does.
Example = tuple[str, str]


class CommonOption(click.Option):
    """An option that may stand before or after the command's name."""


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    """Put what was given into the session.  What stands after the command comes later, so it wins."""
    session = context.ensure_object(Session)
    if value is not None and parameter.name:
        setattr(session, parameter.name, value)
    context.find_root().color = context.color = session.colors()


def common_options(*, environment: bool) -> list[click.Parameter]:
    """The options every command takes.  Only the group reads the environment, or it would beat the command line."""
    directory = click.Path(path_type=Path, file_okay=False)
    settings: list[tuple[Sequence[str], dict[str, Any]]] = [
        (
            ["--specs"],
            {
                "type": directory,
                "metavar": "DIR",
                "envvar": "IMGC_SPECS",
                "help": "Where the specs are (IMGC_SPECS). Default: the nearest specs/ from here upward.",
            },
        ),
        (
            ["--cache"],
            {
                "type": directory,
                "metavar": "DIR",
                "envvar": "IMGC_CACHE",
                "help": "Where results are kept (IMGC_CACHE). Default: $XDG_CACHE_HOME/imgc, else ~/.cache/imgc.",
            },
        ),
        (
            ["--color/--no-color"],
            {"default": None, "help": "Colors always, or never. Default: on a terminal."},
        ),
        (
            ["-v", "--verbose"],
            {"is_flag": True, "default": None, "help": "Show everything that hooks print, as a plain log."},
        ),
    ]
    options: list[click.Parameter] = []
    for names, given in settings:
        if not environment:
            given.pop("envvar", None)
        options.append(CommonOption(names, expose_value=False, callback=_remember, **given))
    return options


class _Shown(click.Command):
    """How commands and groups show themselves: their own options, the common ones, examples."""

    examples: tuple[Example, ...] = ()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        for title, common in (("Options", False), ("Common options", True)):
            chosen = [one for one in options if isinstance(one, CommonOption) is common]
            rows = [row for row in (one.get_help_record(ctx) for one in chosen) if row]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for line, what in self.examples:
                    formatter.write_text(what)
                    # Not wrapped, so that it can be copied.
                    formatter.write(f"{'':{formatter.current_indent}}  {line}\n")


class Command(_Shown):
    """A command with the common options and examples."""

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(common_options(environment=False))
        self.examples = tuple(examples)


class Group(_Shown, click.Group):
    """``imgc`` itself, and groups in it (without ``environment``): every error of every command ends here."""

    command_class = Command

    def __init__(
        self, *args: Any, examples: Sequence[Example] = (), environment: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(common_options(environment=environment))
        self.examples = tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        _Shown.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """In the order in which a newcomer needs them, which is the order in which they were added."""
        rows = [
            (name, command.get_short_help_str(limit=80))
            for name, command in self.commands.items()
            if not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            ctx.exit(errors_view.end(error, ctx.ensure_object(Session), sys.argv[1:]))


def command(
    name: str | None = None, *, examples: Sequence[Example] = ()
) -> Callable[[Callable[..., Any]], Command]:
    """``@command(examples=…)``: like ``click.command``, for :class:`Command`."""
    return click.command(name, cls=Command, examples=examples)
