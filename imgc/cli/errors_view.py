"""How an error looks, and the status with which it ends a run.

At a terminal: ``error[E105]: message``, the place with its source, a hint.  Elsewhere one line per problem that
other programs can read, ``file:line:column: E105: message``, its hint indented below it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

import imgc
from imgc.cli.session import Session
from imgc.cli.text import printable
from imgc.errors import ImgcError, Place, Problems

#: The statuses with which ``imgc`` ends; 128 plus its number for a signal.
OK, USER_ERROR, USAGE, DEFECT = 0, 1, 2, 3

#: Lines of the source shown before and after the one that is wrong.
_AROUND = 2

#: Characters of a source line shown.
_WIDEST = 160


def end(error: BaseException, session: Session, arguments: Sequence[str]) -> int:
    """Tell the user about ``error`` on stderr.  Returns the status to exit with; raises what click handles better."""
    if isinstance(error, KeyboardInterrupt):
        click.echo("\nInterrupted.", err=True)
        return 128 + signal.SIGINT
    if isinstance(error, ImgcError):
        show(error, session)
        return status_of(error)
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        raise error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        full = ImgcError("E902", f"{error.strerror}{where}.", hint="`imgc clean` makes room in the cache.")
        show(full, session)
        return USER_ERROR
    show(_report(error, session, arguments), session)
    return DEFECT


def status_of(error: ImgcError) -> int:
    """1, or 128 plus the signal's number when the error says that a signal ended the run."""
    if error.code == "E307":
        from imgc.process import INTERRUPT

        return 128 + (INTERRUPT.signal or signal.SIGINT)
    return USER_ERROR


def show(error: ImgcError, session: Session) -> None:
    """Print every problem of ``error`` on stderr."""
    problems = error.problems if isinstance(error, Problems) else [error]
    for_people = session.for_people(sys.stderr)
    for number, problem in enumerate(problems):
        if for_people and number:
            click.echo(err=True)
        for line in pretty(problem) if for_people else plain(problem):
            click.echo(line, err=True)
    if len(problems) > 1:
        click.echo(f"\n{len(problems)} problems" if for_people else f"{len(problems)} problems", err=True)


def plain(problem: ImgcError) -> Iterator[str]:
    """One line for programs, then what helps people, indented."""
    yield printable(" ".join(str(problem).splitlines()))
    for line in problem.detail.splitlines():
        yield f"    {printable(line)}".rstrip()
    if problem.hint:
        yield f"    hint: {problem.hint}"


def pretty(problem: ImgcError) -> Iterator[str]:
    """The form for a terminal, with an excerpt of the file."""
    head = click.style(f"error[{problem.code}]", fg="red", bold=True)
    yield f"{head}: {click.style(printable(' '.join(problem.message.splitlines())), bold=True)}"
    if problem.place:
        yield f"  {click.style('-->', fg='blue')} {printable(str(problem.place))}"
        yield from excerpt(problem.place)
    for line in problem.detail.splitlines():
        yield f"  {click.style('|', fg='blue')} {printable(line)}".rstrip()
    if problem.hint:
        yield f"{click.style('hint', fg='cyan', bold=True)}: {problem.hint}"


def excerpt(place: Place) -> Iterator[str]:
    """The lines around ``place`` with a caret below its column; nothing when the file has no such line."""
    if not place.line:
        return
    try:
        lines = Path(place.file).read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    if place.line > len(lines):
        return
    first, last = max(place.line - _AROUND, 1), min(place.line + _AROUND, len(lines))
    width = len(str(last))
    # Of a very long line, the part around the column.
    left = max(place.column - _WIDEST // 2, 0)
    for number in range(first, last + 1):
        source = lines[number - 1]
        bar = click.style(f" {number:>{width}} |", fg="blue")
        yield f"{bar} {printable(source[left : left + _WIDEST])}".rstrip()
        if number == place.line:
            before = " " * len(printable(source[left : max(place.column - 1, 0)]))
            yield f"{click.style(f' {chr(32) * width} |', fg='blue')} {before}{click.style('^', fg='red', bold=True)}"


def _report(error: BaseException, session: Session, arguments: Sequence[str]) -> ImgcError:
    """Write the crash report.  Returns the error that tells where it is."""
    import tempfile
    import traceback

    text = crash_report(error, arguments)
    what = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    for directory in (session.cache_dir() / "crashes", Path(tempfile.gettempdir())):
        path = directory / f"imgc-crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError:
            continue
        return ImgcError(
            "E901", f"A defect in imgc: {what}", hint=f"Please report it with the text of {path}."
        )
    return ImgcError(
        "E901", f"A defect in imgc: {what}", hint="Please report it with this text.", detail=text
    )


def crash_report(error: BaseException, arguments: Sequence[str]) -> str:
    """Markdown to paste into an issue: versions, the command, the traceback.  Nothing of the environment."""
    import platform
    import shlex
    import traceback
    from importlib import metadata

    lines = ["### imgc crashed", ""]
    lines += [f"* imgc {imgc.__version__}, Python {platform.python_version()}, {platform.platform()}"]
    for name in ("diskimage-builder", "networkx", "click", "rich", "PyYAML", "Jinja2"):
        try:
            lines.append(f"* {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"* {name} is not installed")
    command = " ".join(shlex.quote(word) for word in ["imgc", *arguments])
    trace = "".join(traceback.format_exception(error)).rstrip()
    return "\n".join([*lines, f"* command: `{command}`", "", "```", trace, "```", ""])
