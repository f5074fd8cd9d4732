"""`imgc boot`: the proof that an image comes up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgc.cli import errors_view, results_view
from imgc.cli.command import command
from imgc.cli.session import Session, pass_session
from imgc.cli.text import printable
from imgc.errors import Problems

if TYPE_CHECKING:
    from imgc.verify.boot import BootReport


@command(
    examples=[
        ("imgc boot images/debian-bookworm.qcow2", "Does it come up?"),
        ("imgc boot images/debian-bookworm.qcow2 --firmware both", "With BIOS, then with UEFI:"),
        ("imgc boot images/debian-bookworm.qcow2 --keep", "Look around in it over SSH:"),
    ],
)
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--firmware",
    type=click.Choice(["auto", "bios", "efi", "both"]),
    default="auto",
    show_default=True,
    help="What the guest starts with. `both` boots twice.",
)
@click.option(
    "--memory", type=click.IntRange(min=64), metavar="MIB", help="Memory of the guest. Default: 1024."
)
@click.option("--cpus", type=click.IntRange(min=1), metavar="N", help="Processors of the guest. Default: 2.")
@click.option(
    "--architecture", type=click.Choice(["auto", "amd64", "arm64"]), help="Default: that of this host."
)
@click.option(
    "--accelerator", type=click.Choice(["auto", "kvm", "tcg"]), help="Default: KVM where it works, else TCG."
)
@click.option(
    "--disk-size",
    metavar="GIB",
    type=click.IntRange(min=1),
    callback=lambda _context, _option, value: value and value * 2**30,
    help="Size of the guest's disk. Default: 2 GiB, or a quarter, more than the image's.",
)
@click.option(
    "--timeout", type=click.FloatRange(min=1), metavar="SECONDS", help="How long the guest may take."
)
@click.option("--hostname", metavar="NAME", help="The hostname on the config drive. Default: imgc-boot.")
@click.option(
    "--address",
    metavar="IPV4",
    help="The static address on the config drive, with its prefix length. Default: 10.0.2.77/24.",
)
@click.option("--keep", is_flag=True, help="Leave the guest running and print how to log in; Ctrl-C ends it.")
@click.option(
    "--work",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the serial log and the other files of the boot are kept. Default: boot/ in the cache.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@pass_session
@click.pass_context
def boot(
    context: click.Context,
    session: Session,
    /,
    image: Path,
    firmware: str,
    work: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Boot IMAGE in QEMU and report what came up.

    The guest gets a config drive with an SSH key, a hostname and static networking, and a disk larger than the
    image; imgc logs in over SSH and checks that all of it took effect. The image itself is not changed. With -v the
    guest's serial console is shown.
    """
    from imgc.cli import signals

    firmwares = ("bios", "efi") if firmware == "both" else (firmware,)
    with signals.latched():
        where = work or session.cache_dir() / "boot" / image.stem
        reports = []
        for one in firmwares:
            reports.append(_boot(image, where, {"firmware": one, **given}, session))
            if not as_json:
                for line in results_view.boot_report(reports[-1]):
                    click.echo(line)
    if as_json:
        click.echo(json.dumps([report.as_dict() for report in reports], indent=2, ensure_ascii=False))
    problems = [problem for problem in (report.problem() for report in reports) if problem]
    if problems:
        errors_view.show(Problems(problems) if len(problems) > 1 else problems[0], session)
    context.exit(0 if all(report.ok for report in reports) else errors_view.USER_ERROR)


def _boot(image: Path, work: Path, given: Mapping[str, Any], session: Session) -> BootReport:
    """Boot once. Of the options only those that were given are passed on: the others' defaults are not ours."""
    from imgc.verify.boot import BootOptions
    from imgc.verify.boot import boot as boot_image

    chosen = {name: value for name, value in given.items() if value is not None}
    options = BootOptions(**chosen, cache=session.cache_dir())
    return boot_image(
        image, work=work, options=options, on_line=_console if session.verbose else None, on_ready=_log_in
    )


def _log_in(ssh: str) -> None:
    """How to log in to a guest that is kept."""
    click.echo(f"The guest is kept until it powers off or you press Ctrl-C. To log in:\n  {ssh}", err=True)


def _console(line: str) -> None:
    """A line of the guest's serial console, for who asked to see it."""
    click.echo(printable(line), err=True)
