"""`imgc lock`: pin what builds take from outside, and say what has moved since."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from imgc.cli.command import command
from imgc.cli.platforms import Platform, chosen
from imgc.cli.session import Session, pass_session
from imgc.cli.text import many, printable

if TYPE_CHECKING:
    from imgc.lock import Move, Pin
    from imgc.locking import Result

#: Characters shown of a digest or commit.
_DIGITS = 12

#: Pins of many things by their names, and how many of these are named in one line.
_OF_MANY = ("git-cache", "file-cache")
_NAMES = 8


@command(
    examples=[
        ("imgc lock debian-bookworm", "Pin what a platform takes from outside, as it is now:"),
        ("imgc lock --all --diff", "What has moved since, without writing anything?"),
        ("imgc lock --all --check", "In CI: does every platform have a lock that fits its spec?"),
    ],
)
@click.argument("platforms", metavar="[PLATFORM]...", nargs=-1, type=Platform())
@click.option("--all", "everything", is_flag=True, help="All platforms that there are specs for.")
@click.option(
    "--check", is_flag=True, help="Only say whether the locks are there and fit; without the network."
)
@click.option("--diff", is_flag=True, help="Only say what has moved since, and which packages are newer.")
@click.option(
    "--offline", is_flag=True, help="Look nothing up: keep the pins of the lock, or of the last build."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_session
def lock(
    session: Session,
    platforms: tuple[str, ...],
    everything: bool,
    check: bool,
    diff: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Pin what the builds of each PLATFORM take from outside.

    That is the state of package archives, the commits of git repositories, the digests of files and Python wheels.
    It goes to PLATFORM.lock beside the spec. As long as that is there, builds take just this, wherever and whenever
    they run. Without it, each build cache keeps pins of its own.
    """
    from imgc import locking

    if check + diff + offline > 1:
        raise click.UsageError("Give one of --check, --diff and --offline.")
    settings = session.settings()
    jobs = locking.jobs_of(chosen(platforms, settings, everything=everything), settings)
    for job in jobs:
        for warning in job.warnings:
            _warn(job.name, warning)
    if check:
        results = locking.check(jobs)
    else:
        tell = partial(click.echo, err=True) if session.verbose else _nothing
        results = locking.pin(jobs, settings, tell, _warn, diff=diff, offline=offline)
    if as_json:
        click.echo(json.dumps([_as_json(one) for one in results], indent=2, ensure_ascii=False))
        return
    for one in results:
        for line in _checked(one) if check else _told(one, written=not diff):
            click.echo(line)


def _warn(platform: str, text: str) -> None:
    click.echo(f"{click.style('warning', fg='yellow')}: {platform}: {printable(text)}", err=True)


def _nothing(line: str) -> None:
    """Tell nobody."""


# --- showing ------------------------------------------------------------------------------------------------------


def _checked(one: Result) -> Iterator[str]:
    yield f"{click.style(one.job.name, bold=True)}  {click.style('ok', fg='green')}  {many(len(one.lock.pins), 'pin')}"


def _told(one: Result, *, written: bool) -> Iterator[str]:
    """What has moved, and where the lock is."""
    moved = f"{len(one.moves)} moved" if one.moves else "none moved"
    where = f" -> {one.job.path}" if written else ""
    yield f"{click.style(one.job.name, bold=True)}: {many(len(one.lock.pins), 'pin')}, {moved}{where}"
    width = max((len(f"{move.kind} {move.name}") for move in one.moves), default=0)
    for move in one.moves:
        yield f"  {f'{move.kind} {move.name}':<{width}}  {printable(_change(move))}"
    if one.newer:
        yield f"  {many(len(one.newer), 'package')} newer than installed"
        width = max(len(package.name) for package in one.newer)
        for package in one.newer:
            yield f"    {package.name:<{width}}  {package.installed} -> {package.offered}"


def _change(move: Move) -> str:
    """What a source was and what it is, as short as people can still tell them apart."""
    if move.kind in _OF_MANY:
        return _change_of_many(move)
    if move.before is None:
        return f"new: {_short(move.after)}"
    if move.after is None:
        return f"gone, was {_short(move.before)}"
    return f"{_short(move.before)} -> {_short(move.after)}"


def _change_of_many(move: Move) -> str:
    """Which projects or files of a cache have moved."""
    before, after = (dict(pin.identity) if pin else {} for pin in (move.before, move.after))
    moved = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    some = ", ".join(moved[:_NAMES]) + (" …" if len(moved) > _NAMES else "")
    return f"{len(moved)} of {len({*before, *after})} moved: {some}"


def _short(pin: Pin | None) -> str:
    if pin is None:
        return "nothing"
    if pin.kind == "wheels":
        return ", ".join("-".join(name.split("-")[:2]) for name, _ in pin.identity)
    date = f" ({pin.note('date')})" if pin.note("date") else ""
    return f"{pin.identity[0][1].removeprefix('sha256:')[:_DIGITS]}{date}"


def _as_json(one: Result) -> dict[str, Any]:
    return {
        "platform": one.job.name,
        "lock": str(one.job.path),
        "epoch": one.lock.epoch,
        "pins": [_pin_as_json(pin) for pin in one.lock.pins.values()],
        "moves": [
            {
                "kind": move.kind,
                "name": move.name,
                "before": move.before and dict(move.before.identity),
                "after": move.after and dict(move.after.identity),
            }
            for move in one.moves
        ],
        "newer": [package._asdict() for package in one.newer],
    }


def _pin_as_json(pin: Pin) -> dict[str, Any]:
    return {"kind": pin.kind, "name": pin.name, "identity": dict(pin.identity), "notes": dict(pin.notes)}
