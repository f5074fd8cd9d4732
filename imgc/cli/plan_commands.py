"""`imgc plan` and `imgc graph`: what a build would do."""

from __future__ import annotations

import json
from pathlib import Path

import click

from imgc.cli import plan_view
from imgc.cli.command import command
from imgc.cli.platforms import Platform, chosen
from imgc.cli.session import Session, pass_session
from imgc.cli.specs_commands import write

FORMATS = ("dot", "mermaid", "json", "svg")


@command(
    examples=[
        ("imgc plan debian-bookworm", "What would the next build do?"),
        (
            "imgc plan debian-bookworm --json | jq -r '.steps[] | select(.cached | not) | .id'",
            "Only what would run:",
        ),
        ("imgc plan debian-bookworm --step install.d/40-glean", "What can change the result of one step?"),
    ],
)
@click.argument("platform", metavar="PLATFORM", type=Platform())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--step", metavar="STEP", help="Print everything that the key of this step covers.")
@pass_session
def plan(session: Session, platform: str, as_json: bool, step: str | None) -> None:
    """Show what building PLATFORM takes.

    That is its elements, with why each is there, and its steps in order. A step is one hook script, or something
    imgc does itself. Each is shown with the element that brought it, and whether its result is in the cache or it
    would run.
    """
    from imgc import build

    settings = session.settings()
    compiled = build.compile_platform(platform, settings)
    if step:
        click.echo(plan_view.step(compiled, step), nl=False)
        return
    cached = build.cached_steps(compiled, settings)
    if as_json:
        click.echo(json.dumps(plan_view.as_json(compiled, cached), indent=2, ensure_ascii=False))
        return
    for line in plan_view.lines(compiled, cached):
        click.echo(line)


@command(
    examples=[
        ("imgc graph debian-bookworm -o graph.svg", "A drawing (needs graphviz):"),
        ("imgc graph debian-bookworm --format mermaid", "To paste into Markdown:"),
        ("imgc graph --all -o fleet.svg", "All platforms in one, with the steps that they share:"),
    ],
)
@click.argument("platforms", metavar="[PLATFORM]...", nargs=-1, type=Platform())
@click.option("--all", "everything", is_flag=True, help="Draw every platform that has a spec.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="The form of the graph. Default: what the file's suffix says, else dot.",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
@pass_session
def graph(
    session: Session, platforms: tuple[str, ...], everything: bool, form: str | None, output: Path | None
) -> None:
    """Draw the steps of each PLATFORM and what each one needs.

    Several platforms make one graph, in which a step that they share is one node.
    """
    from imgc import build
    from imgc.graph import draw

    settings = session.settings()
    each = build.compile_platforms(chosen(platforms, settings, everything=everything), settings)
    compiled = build.fleet(each)
    cached = set().union(*(build.cached_steps(one, settings) for one in each))
    drawing = {"dot": draw.dot, "mermaid": draw.mermaid, "json": draw.as_json, "svg": draw.svg}[
        form or _form(output)
    ]
    write(drawing(compiled.graph, compiled.keys, cached), output)


def _form(output: Path | None) -> str:
    """What a file's name says about its content."""
    suffix = output.suffix.lstrip(".") if output else ""
    return {"mmd": "mermaid", "svg": "svg", "json": "json"}.get(suffix, "dot")
