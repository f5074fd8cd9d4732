"""Shell completion: the script to load, and what completes a PLATFORM."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from imgc.cli.command import command
from imgc.cli.session import Session
from imgc.errors import ImgcError

SHELLS = ("bash", "zsh", "fish")


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


@command(
    examples=[
        ('eval "$(imgc completion bash)"', "In ~/.bashrc:"),
        ("imgc completion fish > imgc.fish", "For fish, once; then move it to ~/.config/fish/completions/:"),
    ],
)
@click.argument("shell", metavar="SHELL", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes commands, options and platforms in SHELL: bash, zsh or fish."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    root = context.find_root().command
    complete = kind(root, {}, "imgc", "_IMGC_COMPLETE")
    # ShellComplete.source itself starts a bash to ask for its version, which a build host may not even have.
    click.echo(complete.source_template % complete.source_vars())
