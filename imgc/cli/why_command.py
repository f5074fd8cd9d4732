"""`imgc why`: what would run, the first thing that changed since the last build, and where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from imgc.cli import plan_view
from imgc.cli.command import command
from imgc.cli.platforms import Platform
from imgc.cli.session import Session, pass_session
from imgc.cli.text import many, printable

if TYPE_CHECKING:
    from pathlib import Path

    from imgc.build import Compiled
    from imgc.graph.difference import Cause
    from imgc.records import Explanation


@dataclass(frozen=True)
class Answer:
    """What would run for a whole platform, or for the step ``subject`` of it, and why.  ``wanted`` are ids in order."""

    platform: str
    subject: str
    steps: int
    wanted: tuple[str, ...]
    explanation: Explanation


@command(
    examples=[
        ("imgc why debian-bookworm", "What would the next build run, and what for?"),
        ("imgc why debian-bookworm install.d/40-glean --diff", "What changed for one step, line by line?"),
        ("imgc why debian-bookworm --fail-on-miss", "In CI: was this commit built?"),
    ],
)
@click.argument("platform", metavar="PLATFORM", type=Platform())
@click.argument("step", metavar="[STEP]", required=False)
@click.option("--diff", is_flag=True, help="Show how the file changed since the last build.")
@click.option("--fail-on-miss", is_flag=True, help="Exit with 1 when a step would run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every change.")
@pass_session
@click.pass_context
def why(
    context: click.Context,
    session: Session,
    platform: str,
    step: str | None,
    diff: bool,
    fail_on_miss: bool,
    as_json: bool,
) -> None:
    """Say why building PLATFORM, or one STEP of it, would run anything.

    Compares the platform with its last build here and names the first thing that changed, in the order of the
    build: a file of an element, a variable or an option of the spec, a pin, a program of this host.
    """
    from imgc import build

    settings = session.settings()
    compiled = build.compile_platform(platform, settings)
    subject = plan_view.step_id(compiled, step) if step else ""
    answer = _answer(compiled, build.cached_steps(compiled, settings), settings.cache_dir, subject)
    if as_json:
        click.echo(json.dumps(_as_json(answer), indent=2, ensure_ascii=False))
    else:
        for line in _lines(answer):
            click.echo(line)
    causes = answer.explanation.causes
    if diff and causes and not as_json:
        for line in _diff(compiled, settings.cache_dir, causes[0][0]):
            click.echo(line)
    if fail_on_miss and answer.wanted:
        context.exit(1)


def _answer(compiled: Compiled, cached: set[str], cache: Path, subject: str) -> Answer:
    """Put together what would run for ``subject`` (a step's id; empty: for the whole platform) and what changed."""
    from imgc import records

    steps = plan_view.steps_of(compiled)
    wanted = [step.id for step in steps if step.id not in cached]
    if subject:
        import networkx

        below = networkx.ancestors(compiled.graph, subject) | {subject}
        # A step that is cached needs nothing, whatever is missing below it.
        wanted = [id for id in wanted if id in below] if subject in wanted else []
    explanation = records.explain(cache, compiled.plan, compiled.graph, compiled.keys, wanted, subject)
    return Answer(compiled.platform.name, subject, len(steps), tuple(wanted), explanation)


def _lines(answer: Answer) -> Iterator[str]:
    """The answer in at most three lines."""
    prefix = f"{answer.platform}/"
    subject = answer.subject.removeprefix(prefix)
    if not answer.wanted:
        what = f"the result of {subject}" if subject else f"every result of {answer.platform}"
        yield f"Nothing would run: {what} is in the cache."
        return
    count = len(answer.wanted)
    run = f"{count} of {many(answer.steps, 'step')}" if not subject else many(count, "step")
    head = f"{answer.platform}: {run} would run" + (f" for {subject}" if subject else "")
    first = answer.wanted[0].removeprefix(prefix)
    yield click.style(head, bold=True) + (f", from {first} on." if count > 1 else f": {first}.")
    explanation = answer.explanation
    yield printable(explanation.line)
    by_cause = explanation.causes and explanation.first not in explanation.evicted
    if by_cause and explanation.causes[0][1]:
        yield printable(f"  at {explanation.causes[0][1]}")


def _as_json(answer: Answer) -> dict[str, Any]:
    return {
        "platform": answer.platform,
        "step": answer.subject or None,
        "built_before": answer.explanation.recorded,
        "would_run": list(answer.wanted),
        "no_longer_cached": list(answer.explanation.evicted),
        "causes": [
            {
                "step": cause.step,
                "kind": cause.kind,
                "name": cause.name,
                "element": cause.element or None,
                "before": cause.before,
                "after": cause.after,
                "text": cause.text,
                "place": where or None,
            }
            for cause, where in answer.explanation.causes
        ],
    }


def _diff(compiled: Compiled, cache: Path, cause: Cause) -> Iterator[str]:
    """How the file of a cause changed since the last build, as a unified diff."""
    import difflib

    from imgc import records
    from imgc.graph import places

    if cause.kind not in ("script", "file"):
        return
    old = b"" if cause.before is None else records.content(cache, cause.before)
    path = places.source(compiled.plan, cause.kind, cause.name, cause.after or "")
    new = _bytes_of(path) if cause.after is not None else b""
    if old is None or new is None or b"\0" in old + new:
        yield "No diff: what it was before is not kept (only text files of up to 1 MiB are)."
        return
    yield from _printable(
        difflib.unified_diff(
            old.decode("utf-8", "replace").splitlines(),
            new.decode("utf-8", "replace").splitlines(),
            f"{cause.name} of the last build",
            f"{cause.name} now",
            lineterm="",
        )
    )


def _bytes_of(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _printable(lines: Iterator[str]) -> Iterator[str]:
    colors = {"+": "green", "-": "red", "@": "cyan"}
    for line in lines:
        yield click.style(printable(line), fg=colors.get(line[:1]))
