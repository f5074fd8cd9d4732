"""Shell completion: the script to load."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from imgc.cli.command import command

SHELLS = ("bash", "zsh", "fish")


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
