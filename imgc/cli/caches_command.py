"""``imgc caches``: what jobs find in an image, and who asked for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from imgc.cli.command import command
from imgc.cli.platforms import Platform
from imgc.cli.session import Session, pass_session
from imgc.cli.text import many, printable


@command(
    examples=[
        ("imgc caches debian-bookworm", "What is cached, and what did not go as asked?"),
        ("imgc caches debian-bookworm --package libffi-dev", "Which projects asked for this package?"),
        (
            "imgc caches debian-bookworm --project org/one",
            "Which branches are there, and what do they ask for?",
        ),
    ],
)
@click.argument("platform", metavar="PLATFORM", type=Platform())
@click.option("--package", metavar="NAME", help="Who asked for this package.")
@click.option(
    "--project", metavar="NAME", help="What is there of this project, and which packages it asked for."
)
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@pass_session
def caches(session: Session, platform: str, package: str | None, project: str | None, as_json: bool) -> None:
    """Show what is in the caches of an image: git trees, packages, files.

    It tells of the pins that the next build would use, without the network: those of the lock, or of the last build.
    Every build writes the same beside the image, as NAME.caches.json.
    """
    from imgc.cache_report import cache_report
    from imgc.compiling import compile_platform
    from imgc.engine.store import Store

    settings = session.settings()
    one = compile_platform(platform, settings)
    told = cache_report(platform, one.sources, one.lock.pins, one.graph, one.keys, Store(settings.cache_dir))
    if as_json:
        click.echo(json.dumps(told or {}, indent=2, ensure_ascii=False))
        return
    if told is None:
        click.echo(
            f"{platform} has no caches, or none that are pinned: `imgc build` and `imgc lock` pin them."
        )
        return
    if package or project:
        lines = [
            *(_of_package(told, package) if package else ()),
            *(_of_project(told, project) if project else ()),
        ]
    else:
        lines = list(_overview(platform, told))
    for line in lines:
        click.echo(line)


def _overview(platform: str, told: Mapping[str, Any]) -> Iterator[str]:
    yield click.style(platform, bold=True)
    if "git" in told:
        there = [one for one in told["git"] if one["heads"]]
        heads = sum(len(one["heads"]) for one in there)
        yield f"  {many(len(there), 'git tree')}, {many(heads, 'branch', 'branches')}"
    if told.get("packages"):
        yield f"  {many(len(_asked_by(told)), 'package')} that projects declare"
    if "files" in told:
        yield f"  {many(len(told['files']), 'file')}"
        yield from (f"    {one['name']}  {printable(one['url'])}" for one in told["files"])
    for finding in told["findings"]:
        yield f"  {click.style('warning', fg='yellow')}: {printable(finding)}"


def _of_package(told: Mapping[str, Any], package: str) -> Iterator[str]:
    asking = _asked_by(told).get(package, [])
    yield f"{package}: {', '.join(asking) if asking else 'nobody asked for it'}"


def _of_project(told: Mapping[str, Any], project: str) -> Iterator[str]:
    found = next((one for one in told.get("git", ()) if one["project"] == project), None)
    if found is None:
        yield f"{project}: not among the projects"
        return
    yield f"{click.style(project, bold=True)}  {found['origin']}"
    for branch, commit in found["heads"].items():
        asked = [
            package for package, asking in sorted(_asked_by(told).items()) if f"{project}@{branch}" in asking
        ]
        yield f"  {branch}  {commit}{'  ' + ' '.join(asked) if asked else ''}"


def _asked_by(told: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """Who asked for each package."""
    found: Mapping[str, Sequence[str]] = told.get("packages", {}).get("packages", {})
    return found
