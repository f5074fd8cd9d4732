"""`imgc build` and `imgc clean`: what has effects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from imgc.cli import errors_view, results_view
from imgc.cli.command import command
from imgc.cli.completion import Platform
from imgc.cli.session import Session, at_terminal, pass_session
from imgc.cli.text import size

if TYPE_CHECKING:
    from imgc.build import BuildOptions, BuildResult, Compiled, Settings
    from imgc.engine.events import Event

FORMATS = ("qcow2", "vhd", "raw", "tar")


@command(
    examples=[
        ("imgc build debian-bookworm", "Build what the spec asks for, into images/:"),
        ("imgc build debian-bookworm --format qcow2 --boot", "Only the qcow2, and see it boot:"),
        (
            "imgc build debian-bookworm debian-trixie --keep-going -o /srv/images",
            "Several, whatever happens:",
        ),
        ("imgc build debian-bookworm --shell", "Land in the chroot of a step that fails:"),
        (
            "imgc build debian-bookworm --json | jq -r 'select(.event == \"StepFinished\") | .step'",
            "For programs:",
        ),
    ],
)
@click.argument("platforms", metavar="PLATFORM...", nargs=-1, required=True, type=Platform())
@click.option(
    "-o",
    "--output",
    "output_dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("images"),
    show_default=True,
    help="Where the finished images go.",
)
@click.option(
    "--format",
    "formats",
    type=click.Choice(FORMATS),
    multiple=True,
    help="Make only this format of those in the spec. May be given several times.",
)
@click.option("--boot", is_flag=True, help="Boot the image in QEMU and check the guest.")
@click.option(
    "--memory/--disk",
    "memory",
    default=None,
    help="Where layers lie while the build runs. Default: in memory when at least 6 GiB of it are available.",
)
@click.option("--fresh", is_flag=True, help="Use no cached step: run all of them again.")
@click.option("--keep-going", is_flag=True, help="Build the other platforms after one has failed.")
@click.option(
    "--shell", is_flag=True, help="After a failure, open a shell in the chroot of the step that failed."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print every event as a line of JSON, and nothing else."
)
@click.option("--trace", "debug_trace", count=True, help="Run hooks with `set -x`; twice, their helpers too.")
@pass_session
@click.pass_context
def build(
    context: click.Context,
    session: Session,
    platforms: tuple[str, ...],
    output_dir: Path,
    formats: tuple[str, ...],
    boot: bool,
    memory: bool | None,
    fresh: bool,
    keep_going: bool,
    shell: bool,
    as_json: bool,
    debug_trace: int,
) -> None:
    """Build the images of each PLATFORM.

    Steps whose inputs have not changed are taken from the cache, so the same command again does nothing, and after a
    failure it resumes at the step that failed. The terminal shows progress; a file per build keeps everything.
    """
    from imgc import build as road
    from imgc.cli import signals

    settings = session.settings()
    compiled = road.compile_platforms(list(dict.fromkeys(platforms)), settings)
    options = road.BuildOptions(
        output_dir=output_dir,
        formats=formats,
        boot=boot,
        fresh=fresh,
        debug_trace=debug_trace,
        memory=memory,
    )
    status = 0
    with signals.latched():
        for one in compiled:
            result = _build(one, options, settings, session, as_json=as_json)
            if result.status == "ok":
                continue
            status = _status(result)
            if shell and result.status == "failed" and result.failed_step and result.has_state:
                _shell(one, result, settings)
            if result.status == "interrupted" or not keep_going:
                break
    context.exit(status)


def _build(
    compiled: Compiled, options: BuildOptions, settings: Settings, session: Session, *, as_json: bool
) -> BuildResult:
    """Build one platform, showing it all along and what came of it."""
    from imgc import build as road
    from imgc.cli import display
    from imgc.engine.events import StepFailed, Stream

    failed: list[StepFailed] = []

    def remember(event: Event) -> None:
        if isinstance(event, StepFailed):
            failed.append(event)

    with display.shown(session, as_json=as_json) as reader:
        result = road.build(compiled, options, settings, Stream(reader, remember))
    if result.status != "ok":
        results_view.failure(result, failed[-1] if failed else None, session)
    elif not as_json:
        for line in results_view.summary(result):
            click.echo(line)
    return result


def _status(result: BuildResult) -> int:
    """The status to exit with after a build that did not end well."""
    return errors_view.status_of(result.error) if result.error else errors_view.USER_ERROR


def _shell(compiled: Compiled, result: BuildResult, settings: Settings) -> None:
    """Open a shell where ``result`` failed, or say why not."""
    from imgc import build as road
    from imgc.cli import signals

    if not at_terminal():
        click.echo(
            f"--shell needs a terminal. At one, run: imgc build {result.platform} --shell",
            err=True,
        )
        return
    click.echo(
        f"A shell where {result.failed_step} failed. `exit` ends it; nothing done in it is kept.", err=True
    )
    with signals.left_to_the_terminal():
        road.shell(compiled, result.failed_step, settings)


@command(
    examples=[
        ("imgc clean --all --dry-run", "How much is there?"),
        ("imgc clean --layers", "Build from the start next time, without downloading everything again:"),
    ],
)
@click.option("--layers", is_flag=True, help="Results of steps, outputs kept beside them, and logs.")
@click.option("--downloads", is_flag=True, help="What was downloaded: packages, git repositories, files.")
@click.option("--all", "everything", is_flag=True, help="Both.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@pass_session
def clean(session: Session, layers: bool, downloads: bool, everything: bool, dry_run: bool) -> None:
    """Remove what the cache holds.

    Always goes what failed and killed builds have left behind; results and downloads go when named. Finished images
    in their own directory are never touched.
    """
    from imgc import build as road

    removed = road.clean(
        session.cache_settings(),
        layers=layers or everything,
        downloads=downloads or everything,
        dry_run=dry_run,
    )
    found = [one for one in removed if one.count]
    for one in found:
        click.echo(f"{'would remove' if dry_run else 'removed'} {one.count} {one.what}, {size(one.bytes)}")
    if not found:
        click.echo("Nothing to remove.")
