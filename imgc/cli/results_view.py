"""What came of a build: its outputs, or what failed and where to look."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imgc.cli import errors_view
from imgc.cli.session import Session
from imgc.cli.text import duration, many, printable, size
from imgc.errors import ImgcError, Problems

if TYPE_CHECKING:
    from imgc.build import BuildResult
    from imgc.engine.events import StepFailed
    from imgc.verify.boot import BootReport

#: Lines of a failed step's output that are shown; the log has all of them.
_TAIL = 20


def summary(result: BuildResult) -> Iterator[str]:
    """The outputs of a build that went well, what it took, and its log."""
    took = duration(result.seconds)
    if result.ran:
        what = f"{many(result.ran, 'step')} run, {result.cached} cached, {took}"
    else:
        what = f"unchanged, {many(result.cached, 'step')} cached, {took}"
    yield f"{click.style(result.platform, fg='green', bold=True)}: {what}"
    paths = [relative(artifact.path) for artifact in result.artifacts]
    width = max((len(path) for path in paths), default=0)
    for path, artifact in zip(paths, result.artifacts, strict=True):
        digest = click.style(f"sha256 {artifact.sha256[:12]}", dim=True)
        yield f"  {path:<{width}}  {size(artifact.size):>10}  {digest}"
    for report in result.boot_reports:
        yield f"  {boot_line(report)}"
    if result.log:
        yield f"  log {relative(result.log)}"


def failure(result: BuildResult, failed: StepFailed | None, session: Session) -> None:
    """Say on stderr why a build ended: the error, the step, its file and last lines, the log, what one can do next."""
    error = result.error
    if error is None:
        click.echo(f"{result.platform}: {result.status}", err=True)
        return
    if isinstance(error, Problems):
        errors_view.show(error, session)
        if result.log:
            click.echo(f"    log {relative(result.log)}", err=True)
        return
    tail = failed.tail if failed and failed.tail else error.detail
    last = [printable(line).rstrip() for line in tail.splitlines()][-_TAIL:]
    facts = {
        "step": result.failed_step,
        "hook": failed.file if failed else "",
        "log": relative(result.log) if result.log else "",
    }
    next_step = ""
    if result.failed_step and result.has_state:
        next_step = f"`imgc build {result.platform} --shell` opens a shell where it failed."
    hints = [hint for hint in (error.hint, next_step) if hint and result.status != "interrupted"] or [
        error.hint
    ]
    brief = ImgcError(error.code, error.message, place=error.place)
    shown = {name: value for name, value in facts.items() if value}
    if session.for_people(sys.stderr) and result.status == "failed":
        _panel(brief, shown, last, hints, session)
        return
    rows = [f"    {name} {value}" for name, value in shown.items()]
    for line in (*errors_view.plain(brief), *(f"    | {line}".rstrip() for line in last), *rows):
        click.echo(line, err=True)
    for hint in filter(None, hints):
        click.echo(f"    hint: {hint}", err=True)


def _panel(
    error: ImgcError, facts: dict[str, str], last: list[str], hints: list[str], session: Session
) -> None:
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    output = Text("\n".join(last), style="dim")
    parts = [
        Text(printable(" ".join(error.message.splitlines())), style="bold"),
        *([Text(), output] if last else []),
    ]
    advice = [Text.assemble(("hint: ", "cyan bold"), hint) for hint in hints if hint]
    console = Console(
        stderr=True,
        force_terminal=True,
        highlight=False,
        no_color=True if session.colors() is False else None,
    )
    title = Text(f"error[{error.code}]", style="red bold")
    body = Group(*parts, Text(), table, *advice)
    console.print(Panel(body, title=title, title_align="left", border_style="red"))


def boot_line(report: BootReport) -> str:
    """A boot in one line."""
    verdict = click.style("boots", fg="green") if report.ok else click.style("came up wrong", fg="red")
    held = sum(check.ok for check in report.checks)
    checks = f"{held} of {many(len(report.checks), 'check')} held"
    how = f"{report.firmware}, {report.accelerator}"
    return f"{report.image.name} {verdict} ({how}): SSH after {duration(report.seconds_to_ssh)}, {checks}"


def boot_report(report: BootReport) -> Iterator[str]:
    """A boot with all that was seen."""
    yield boot_line(report)
    if report.system or report.kernel:
        yield f"  {printable(', '.join(filter(None, (report.system, report.kernel))))}"
    width = max((len(check.name) for check in report.checks), default=0)
    for check in report.checks:
        mark = click.style("ok  ", fg="green") if check.ok else click.style("FAIL", fg="red")
        wanted = "" if check.ok else f"wanted {check.wanted}; got "
        yield f"  {mark}  {check.name:<{width}}  {printable(' '.join(f'{wanted}{check.got}'.split()))}".rstrip()
    yield f"  serial console {relative(report.serial_log)}"


def relative(path: Path) -> str:
    """The path from here when it is below here, else the whole path."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
