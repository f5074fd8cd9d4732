"""``imgc``: the group of all commands."""

from __future__ import annotations

import click

import imgc
from imgc.cli.boot_command import boot
from imgc.cli.build_commands import build, clean
from imgc.cli.cache_commands import cache
from imgc.cli.caches_command import caches
from imgc.cli.command import Group, command
from imgc.cli.completion import completion
from imgc.cli.lock_command import lock
from imgc.cli.plan_commands import graph, plan
from imgc.cli.specs_commands import check, list_platforms, schema
from imgc.cli.why_command import why
from imgc.errors import CODES


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    examples=[
        ("imgc list", "Which platforms are there?"),
        ("imgc check", "Are their specs sound?"),
        ("imgc build debian-bookworm --boot", "Build one, and see it boot:"),
    ],
)
@click.version_option(imgc.__version__, prog_name="imgc")
def cli() -> None:
    """Compile platform specs to disk images that boot the same way on every cloud.

    Exit status: 0 done; 1 something to put right in a spec, an element or the system; 2 wrong usage; 3 a defect in
    imgc, with a report to send; 130 or 143 when ended by SIGINT or SIGTERM.
    """


@command(
    "explain-error",
    examples=[
        ("imgc explain-error E205", "What does this code mean?"),
        ("imgc explain-error", "All of them:"),
    ],
)
@click.argument("code", required=False, type=click.STRING)
def explain_error(code: str | None) -> None:
    """Say what an error CODE means."""
    if code and code.upper() not in CODES:
        import difflib

        near = difflib.get_close_matches(code.upper(), CODES, n=1)
        raise click.BadParameter(f"no such code: {code}." + (f" Did you mean {near[0]}?" if near else ""))
    for one in [code.upper()] if code else CODES:
        click.echo(f"{one}  {CODES[one]}")


def main() -> None:
    """What the ``imgc`` script calls."""
    cli(prog_name="imgc")


for one in (
    list_platforms,
    check,
    plan,
    graph,
    lock,
    why,
    caches,
    build,
    boot,
    schema,
    clean,
    cache,
    explain_error,
    completion,
):
    cli.add_command(one)
