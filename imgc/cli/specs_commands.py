"""`imgc list`, `imgc check` and `imgc schema`: about spec files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from imgc.cli.command import command
from imgc.cli.platforms import Platform
from imgc.cli.session import Session, pass_session
from imgc.cli.text import many, printable
from imgc.errors import ImgcError


@command(
    "list",
    examples=[
        ("imgc list", "The platforms of this project:"),
        ("imgc build $(imgc list --names)", "Build all of them:"),
    ],
)
@click.option("--names", is_flag=True, help="Only the names, one per line.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_session
def list_platforms(session: Session, names: bool, as_json: bool) -> None:
    """List the platforms there are specs for.

    A platform whose spec does not load is listed too, with its first problem; `imgc check` shows them all.
    """
    from imgc import spec

    found = spec.find(session.specs_dir())
    if names:
        for one in found:
            click.echo(one.name)
        return
    rows = [(one.name, *_described(one.path, session), str(one.path)) for one in found]
    if as_json:
        keys = ("name", "description", "problem", "file")
        click.echo(
            json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2, ensure_ascii=False)
        )
        return
    width = max((len(row[0]) for row in rows), default=0)
    for name, description, problem, _ in rows:
        shown = click.style(f"broken: {problem}", fg="red") if problem else description
        click.echo(f"{click.style(f'{name:<{width}}', bold=True)}  {shown}".rstrip())
    if not rows:
        click.echo(f"No platform in {session.specs_dir()}.", err=True)


def _described(path: Path, session: Session) -> tuple[str, str]:
    """The description of the spec at ``path`` on one line, or what is wrong with it."""
    import os

    from imgc import spec

    try:
        platform = spec.load(str(path), specs_dir=session.specs_dir(), host_environment=dict(os.environ))
    except ImgcError as error:
        return "", printable(str(error).splitlines()[0])
    return printable(" ".join(platform.description.split())), ""


@command(
    examples=[
        ("imgc check", "Check every platform:"),
        ("imgc check debian-bookworm", "Check one:"),
        ("imgc check specs/debian-bookworm.yaml", "Name it by its file:"),
    ],
)
@click.argument("platforms", metavar="[PLATFORM]...", nargs=-1, type=Platform())
@pass_session
def check(session: Session, platforms: tuple[str, ...]) -> None:
    """Check specs and the elements they name.

    Every problem of every file is reported in one run, each with its place. Nothing is built. With no
    PLATFORM, all are checked.
    """
    from imgc import build, spec

    settings = session.settings()
    names = list(dict.fromkeys(platforms)) or [found.name for found in spec.find(settings.specs_dir)]
    compiled = build.compile_platforms(names, settings)
    width = max((len(one.platform.name) for one in compiled), default=0)
    for one in compiled:
        steps = many(one.graph.number_of_nodes(), "step")
        elements = many(len(one.plan.elements), "element")
        click.echo(f"{one.platform.name:<{width}}  {click.style('ok', fg='green')}  {elements}, {steps}")
        for warning in one.warnings:
            click.echo(
                f"{click.style('warning', fg='yellow')}: {one.platform.name}: {printable(str(warning))}",
                err=True,
            )
    if not compiled:
        click.echo(f"No platform in {settings.specs_dir}.", err=True)


@command(
    examples=[("imgc schema -o imgc.schema.json", "Write it where an editor's YAML plug-in finds it:")],
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
def schema(output: Path | None) -> None:
    """Print the JSON Schema of spec files, for editors."""
    from imgc import spec

    write(json.dumps(spec.json_schema(), indent=2, ensure_ascii=False), output)


def write(text: str, output: Path | None) -> None:
    """Print ``text``, or write it to the file ``output``; E405 when that cannot be done."""
    if output is None:
        click.echo(text)
        return
    try:
        output.write_text(text if text.endswith("\n") else f"{text}\n", "utf-8")
    except OSError as error:
        raise ImgcError("E405", f"Cannot write {output}: {error.strerror}.") from error
