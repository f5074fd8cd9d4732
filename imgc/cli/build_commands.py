"""`imgc build` and `imgc clean`: what has effects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgc.cli import errors_view, results_view
from imgc.cli.command import command
from imgc.cli.platforms import Platform, chosen
from imgc.cli.session import Session, at_terminal, pass_session
from imgc.cli.sizes import Size
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
            "imgc build --all --refresh -o /srv/images",
            "Every night: all platforms, from what is new outside:",
        ),
        ("imgc build debian-bookworm --shell", "Land in the chroot of a step that fails:"),
        (
            "imgc build debian-bookworm --json | jq -r 'select(.event == \"StepFinished\") | .step'",
            "For programs:",
        ),
    ],
)
@click.argument("platforms", metavar="[PLATFORM]...", nargs=-1, type=Platform())
@click.option("--all", "everything", is_flag=True, help="Build every platform that has a spec.")
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
    "-j",
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Run at most N steps at once. Default: as many as there are processors.",
)
@click.option(
    "--memory/--disk",
    "memory",
    default=None,
    help="Where layers lie while the build runs. Default: in memory when at least 6 GiB of it are available.",
)
@click.option(
    "--memory-budget",
    metavar="SIZE",
    type=Size(),
    help="Start no further platform when the layers of those under way take this much (8G).",
)
@click.option(
    "--disk-budget", metavar="SIZE", type=Size(), help="The same for what builds write to the cache's disk."
)
@click.option("--refresh", is_flag=True, help="Take what is outside today, not what was pinned.")
@click.option("--offline", is_flag=True, help="Use no network: build from caches, or say what is missing.")
@click.option("--fresh", is_flag=True, help="Use no cached step: run all of them again.")
@click.option("--fail-fast", is_flag=True, help="Start nothing more once a platform has failed.")
@click.option(
    "--check-reproducible",
    is_flag=True,
    help="Build each platform a second time, from nothing and under other circumstances, and compare every byte.",
)
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
    /,
    platforms: tuple[str, ...],
    everything: bool,
    check_reproducible: bool,
    shell: bool,
    as_json: bool,
    jobs: int | None,
    **given: Any,
) -> None:
    """Build the images of each PLATFORM.

    All of them are one graph: steps that platforms share run once, and steps that do not need each other run side by
    side. What goes wrong with one platform does not stop the others.

    Steps whose inputs have not changed are taken from the cache, so the same command again does nothing, and after a
    failure it resumes at the step that failed. What comes from outside is as the platform's lock says (`imgc lock`);
    without a lock, as it was when the platform was first built here, until --refresh. The terminal shows progress; a
    file per build keeps everything.
    """
    from imgc import build as road
    from imgc.cli import signals

    settings = session.settings()
    names = chosen(platforms, settings, everything=everything)
    options = road.BuildOptions(jobs=jobs or os.cpu_count() or 1, **given)
    compiled, problems = road.compile_each(names, settings)
    for problem in problems.values():
        errors_view.show(problem, session)
    if problems and (options.fail_fast or not compiled):
        context.exit(errors_view.USER_ERROR)
    if check_reproducible and (shell or options.formats):
        raise click.UsageError("--check-reproducible compares all outputs, and opens no shell.")
    run = _build_twice if check_reproducible else _build
    with signals.latched():
        results = run(compiled, options, settings, session, as_json=as_json)
        bad = [one for one in results if one.status != "ok"]
        for one in bad:
            if shell and one.status == "failed" and one.failed_step and one.has_state:
                _shell(next(each for each in compiled if each.platform.name == one.platform), one, settings)
                break
    context.exit(max([*map(_status, bad), errors_view.USER_ERROR if problems else 0]))


def _build(
    compiled: Sequence[Compiled],
    options: BuildOptions,
    settings: Settings,
    session: Session,
    *,
    as_json: bool,
) -> list[BuildResult]:
    """Build platforms, showing them all along and what came of each."""
    from imgc import build as road
    from imgc.cli import display
    from imgc.engine.events import StepFailed, Stream

    failed: dict[str, StepFailed] = {}

    def remember(event: Event) -> None:
        if isinstance(event, StepFailed):
            failed[event.step] = event

    with display.shown(session, as_json=as_json) as reader:
        results = road.build_all(compiled, options, settings, Stream(reader, remember))
    for result in results:
        if result.status != "ok":
            results_view.failure(result, failed.get(result.failed_step), session)
        elif not as_json:
            for line in results_view.summary(result):
                click.echo(line)
    return results


def _build_twice(
    compiled: Sequence[Compiled],
    options: BuildOptions,
    settings: Settings,
    session: Session,
    *,
    as_json: bool,
) -> list[BuildResult]:
    """Build each platform, build it again, and say whether the two are alike."""
    from dataclasses import replace

    from imgc.cli import display
    from imgc.engine.events import Stream
    from imgc.reproduce import check_reproducible

    results = []
    for one in compiled:
        with display.shown(session, as_json=as_json) as reader:
            verdict = check_reproducible(one.platform.name, settings, options, Stream(reader))
        result, problem = verdict.second or verdict.first, verdict.problem
        if problem and result.status == "ok":
            # Both builds went well; what came of them is not the same.
            result = replace(result, status="failed", error=problem, log=None)
        results.append(result)
        if result.status != "ok":
            results_view.failure(result, None, session)
        elif not as_json:
            for line in results_view.summary(verdict.first):
                click.echo(line)
            click.echo(
                f"  {click.style('reproducible', fg='green')}: a second build is the same, byte for byte"
            )
    return results


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
