"""Platforms on the command line: what completes a PLATFORM, and which ones were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from imgc.cli.session import Session
from imgc.errors import ImgcError

if TYPE_CHECKING:
    from imgc.build import Settings


class Platform(click.types.StringParamType):
    """A platform's name, or the path of a spec file."""

    name = "platform"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        if "/" in incomplete or incomplete.startswith("."):
            return [CompletionItem(incomplete, type="file")]
        given = ctx.params.get(param.name or "") or ()
        names = [name for name in platform_names(ctx) if name not in given]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def platform_names(context: click.Context) -> list[str]:
    """The platforms that the options so far lead to; none when there are no specs, for completion stays silent."""
    from imgc import spec

    try:
        return [found.name for found in spec.find(context.ensure_object(Session).specs_dir())]
    except (ImgcError, OSError):
        return []


def chosen(platforms: Sequence[str], settings: Settings, *, everything: bool) -> list[str]:
    """The platforms that were asked for by name or with ``--all``, each once."""
    if bool(platforms) == everything:
        raise click.UsageError("Name platforms, or say --all.")
    if not everything:
        return list(dict.fromkeys(platforms))
    from imgc import spec

    return [one.name for one in spec.find(settings.specs_dir)]
