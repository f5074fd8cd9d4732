"""`imgc cache`: what the cache holds, how to keep it small, whether it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgc.cli.command import Group, command
from imgc.cli.session import Session, pass_session
from imgc.cli.sizes import Size
from imgc.cli.text import many, printable, size

if TYPE_CHECKING:
    from imgc.engine.store import Store
    from imgc.engine.store_census import Item

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(
    cls=Group,
    environment=False,
    examples=[
        ("imgc cache show", "What is in there, and when was it used?"),
        ("imgc cache gc --size 30G", "Make it smaller:"),
        ("imgc cache verify", "Is all of it as it was made?"),
    ],
)
def cache() -> None:
    """Look after the cache of results.

    Builds keep it below a size by themselves: IMGC_CACHE_SIZE, or a fifth of its file system but at least 10 GiB. What
    was used least recently goes first, and nothing that a running build uses. `imgc clean` empties it.
    """


@command(examples=[("imgc cache show --json | jq .bytes", "How many bytes does it take?")])
@_JSON
@pass_session
def show(session: Session, as_json: bool) -> None:
    """Show what the cache holds, and when it was used.

    Sizes are what the file system holds for them; an output that is published as well is counted here, too.
    """
    from imgc.engine import store_census, store_eviction, store_locks

    store = _store(session)
    items = store_census.items(store)
    limit = store_eviction.limit_of(store.cache, os.environ)
    groups = {label: [one for one in items if one.kind == kind] for kind, label in store_census.KINDS.items()}
    platforms = {name: [one for one in items if one.platform == name] for name in _platforms(items)}
    report = {
        "cache": str(store.cache),
        "bytes": sum(one.size for one in items),
        "limit": limit,
        "unusable": _summary([one for one in items if not one.usable]),
        "kinds": [{"kind": label, **_summary(members)} for label, members in groups.items()],
        "platforms": [{"platform": name, **_summary(members)} for name, members in platforms.items()],
        "beside": store_census.kept_beside(store),
        "builds": sorted(store_locks.keys_in_use(store.cache, reap=False)),
    }
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    for line in _shown(report):
        click.echo(line)


def _summary(items: Sequence[Item]) -> dict[str, Any]:
    """``count``, ``bytes``, and the ``oldest`` and ``newest`` last use in seconds since 1970 (None for no items)."""
    used = [one.used for one in items]
    return {
        "count": len(items),
        "bytes": sum(one.size for one in items),
        "oldest": min(used, default=None),
        "newest": max(used, default=None),
    }


def _platforms(items: Iterable[Item]) -> list[str]:
    return sorted({one.platform for one in items if one.platform})


def _shown(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    kinds = [(one["kind"], one) for one in report["kinds"] if one["count"]]
    platforms = [(one["platform"], one) for one in report["platforms"]]
    width = max((len(name) for name, _ in (*kinds, *platforms)), default=0)
    lines = [f"{report['cache']}: {size(report['bytes'])} of at most {size(report['limit'])}"]
    for title, rows in (("", kinds), ("of these, for a platform:", platforms)):
        if rows and title:
            lines.append(title)
        for name, one in rows:
            lines.append(
                f"  {printable(name):<{width}}  {one['count']:>6}  {size(one['bytes']):>10}"
                f"  used {_day(one['oldest'])} to {_day(one['newest'])}"
            )
    if report["unusable"]["count"]:
        lines.append(
            f"{report['unusable']['count']} of no use any more, {size(report['unusable']['bytes'])}:"
            " `imgc cache gc` removes them"
        )
    if report["beside"]:
        rest = ", ".join(f"{name} {size(count)}" for name, count in report["beside"].items())
        lines.append(f"beside that, and not counted: {rest}")
    if report["builds"]:
        lines.append(f"in use by {', '.join(report['builds'])}")
    return lines


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


@command(
    examples=[
        ("imgc cache gc --dry-run", "What would go?"),
        ("imgc cache gc --size 30G", "Keep at most 30 GiB:"),
    ],
)
@click.option(
    "--size", "limit", type=Size(), metavar="SIZE", help="The bytes to keep. Default: IMGC_CACHE_SIZE."
)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@_JSON
@pass_session
def gc(session: Session, limit: int | None, dry_run: bool, as_json: bool) -> None:
    """Remove what was used least recently until the cache has its size.

    Always goes what no build can use any more, failed states after a week, and logs after a month. What running
    builds use stays, and so does what hooks have downloaded (`imgc clean --downloads`).
    """
    from imgc.engine import store_census, store_eviction

    store = _store(session)
    if limit is None:
        limit = store_eviction.limit_of(store.cache, os.environ)
    done = store_eviction.gc(store, _remover(store), limit, dry_run=dry_run)
    counts = {
        label: [one for one in done.removed if one.kind == kind] for kind, label in store_census.KINDS.items()
    }
    if as_json:
        removed = [
            {"kind": label, **_summary(members), "paths": [str(one.path) for one in members]}
            for label, members in counts.items()
        ]
        report = {"dry_run": dry_run, "removed": removed, "bytes": done.left, "limit": done.limit}
        click.echo(json.dumps(report, indent=2))
        return
    for label, members in counts.items():
        if members:
            verb, amount = "would remove" if dry_run else "removed", sum(one.size for one in members)
            click.echo(f"{verb} {len(members)} {label}, {size(amount)}")
    click.echo(f"{size(done.left)} {'would be' if dry_run else 'are'} left, of at most {size(done.limit)}.")
    if done.left > done.limit and done.builds:
        click.echo(f"The rest is in use by {', '.join(done.builds)}.", err=True)


@command(examples=[("imgc cache verify --json | jq -r '.damaged[].path'", "Only what was damaged:")])
@_JSON
@pass_session
@click.pass_context
def verify(context: click.Context, session: Session, as_json: bool) -> None:
    """Read everything in the cache and compare it with its digests.

    What is damaged is dropped, so that the next build makes it anew; then the exit status is 1. Builds check as well:
    sizes and times always, every byte of a layer when they unpack it.
    """
    import sys

    from imgc.cli import signals
    from imgc.engine import store_verification

    store = _store(session)
    shown = session.for_people(sys.stderr) and not as_json

    def tell(number: int, total: int) -> None:
        if shown:
            click.echo(f"\r{number} of {total}", nl=number == total, err=True)

    with signals.latched():
        done = store_verification.verify(store, _remover(store), tell)
    if as_json:
        damaged = [{"path": str(one.path), "why": one.why} for one in done.damaged]
        click.echo(json.dumps({"count": done.count, "bytes": done.bytes, "damaged": damaged}, indent=2))
    else:
        for one in done.damaged:
            click.echo(f"damaged, and dropped: {one.path}: {printable(one.why)}", err=True)
        click.echo(f"{many(done.count, 'thing')} read, {size(done.bytes)}; {len(done.damaged)} damaged.")
    context.exit(1 if done.damaged else 0)


def _store(session: Session) -> Store:
    from imgc.engine.store import Store

    return Store(session.cache_dir())


def _remover(store: Store) -> Callable[[Sequence[Path]], None]:
    """What removes trees of the cache, also those with files of subordinate ids."""
    from imgc.engine.sandbox import Sandbox

    return Sandbox(store.downloads).remover(store)


for one in (show, gc, verify):
    cache.add_command(one)
