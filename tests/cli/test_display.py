"""The readers of the engine's events."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from rich.console import Console

from imgc.cli.display.jsonlines import JsonLines
from imgc.cli.display.live import LiveDisplay
from imgc.cli.display.plain import PlainLog
from imgc.cli.display.progress import Progress, short
from imgc.engine import events
from imgc.engine.events import Event

from . import script
from .script import PLATFORM, START


def fed(stream: Iterable[Event]) -> Progress:
    progress = Progress(PLATFORM)
    for event in stream:
        progress.feed(event)
    return progress


def until(stream: Iterable[Event], kind: type[Event], number: int = 1) -> list[Event]:
    """The events up to the ``number``-th of ``kind``."""
    kept: list[Event] = []
    for event in stream:
        kept.append(event)
        number -= isinstance(event, kind)
        if not number:
            return kept
    raise AssertionError(f"too few {kind.__name__}")


# --- progress


def test_progress_groups_steps_by_phase() -> None:
    progress = fed(script.good())
    rows = [(group.name, group.ran, group.cached, group.seconds) for group in progress.groups]
    assert rows == [
        ("root.d", 0, 1, 0),
        ("extra-data.d", 0, 1, 0),
        ("install.d", 1, 0, 12),
        ("image", 2, 0, 18),
    ]
    assert (progress.ran, progress.cached, progress.status) == (3, 2, "ok")
    assert progress.elapsed(START + 1000) == 30
    assert not progress.running


def test_what_the_driver_does_counts_with_the_phase_before() -> None:
    progress = Progress(PLATFORM)
    for step, kind in (("root.d/1", "hook"), ("resolv-conf", "driver"), ("boot", "boot")):
        progress.feed(events.StepStarted(PLATFORM, f"{PLATFORM}/{step}", kind, "k", 0))
        progress.feed(events.StepFinished(PLATFORM, f"{PLATFORM}/{step}", 1))
    assert [(group.name, group.ran) for group in progress.groups] == [("root.d", 2), ("boot", 1)]


def test_the_bar_follows_expected_time() -> None:
    progress = fed(until(script.good(), events.StepStarted, 2))
    assert progress.fraction(START + 12) == pytest.approx(10 / 20)
    assert progress.fraction(START + 16) == pytest.approx(14 / 20)
    assert progress.left(START + 16) == pytest.approx(6)
    assert progress.fraction(START + 500) == pytest.approx(18 / 20), "a slow step does not run ahead"
    assert fed(script.good()).fraction(START) == 1


def test_without_expected_time_the_bar_follows_the_number_of_steps() -> None:
    progress = fed([events.BuildStarted(PLATFORM, 4, 0, "log", time=START)])
    assert progress.fraction(START + 9) == 0
    for name in "abcd":
        progress.feed(
            events.StepStarted(PLATFORM, f"{PLATFORM}/install.d/{name}", "hook", "k", 10.0, time=START)
        )
        if name != "d":
            progress.feed(events.StepFinished(PLATFORM, f"{PLATFORM}/install.d/{name}", 1))
    assert progress.fraction(START + 5) == pytest.approx(3.5 / 4)
    assert progress.left(START) == 0
    progress.feed(events.StepFinished(PLATFORM, f"{PLATFORM}/install.d/d", 1))
    assert progress.fraction(START) == 0.99, "only the end of the build is the end"


def test_more_steps_than_announced_are_no_trouble() -> None:
    progress = fed([events.BuildStarted(PLATFORM, 1, 0, "log", time=START)])
    for name in "abc":
        progress.feed(events.StepStarted(PLATFORM, f"{PLATFORM}/install.d/{name}", "hook", "k", 0))
        progress.feed(events.StepFinished(PLATFORM, f"{PLATFORM}/install.d/{name}", 1))
    assert progress.fraction(START) == 0.99


def test_short() -> None:
    assert short("debian-bookworm/install.d/50-x") == "install.d/50-x"
    assert short("odd") == "odd"


# --- plain


def plain(stream: Iterable[Event], *, verbose: bool = False) -> list[str]:
    out = io.StringIO()
    log = PlainLog(out, verbose=verbose)
    for event in stream:
        log(event)
    log.close()
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in out.getvalue().splitlines()]


def test_the_plain_log_has_a_line_per_step() -> None:
    assert plain(script.good()) == [
        "start   debian-bookworm (5 steps, 2 cached), log /logs/1.log",
        "cached  debian-bookworm/root.d/08-bootstrap",
        "cached  debian-bookworm/extra-data.d/20-manifest",
        "done    debian-bookworm/install.d/01-packages 12.0 s",
        "done    debian-bookworm/disk 8.0 s",
        "done    debian-bookworm/qcow2 10.0 s",
        "output  images/x.qcow2",
    ]


def test_the_plain_log_says_what_failed() -> None:
    assert plain(script.bad())[-1] == "failed  debian-bookworm/install.d/10-broken 4.0 s"


def test_verbose_adds_what_hooks_print_without_their_colors() -> None:
    lines = plain(script.good(), verbose=True)
    assert "run     debian-bookworm/install.d/01-packages" in lines
    assert "        Unpacking libfoo" in lines


# --- JSON


def test_json_has_every_event_on_a_line() -> None:
    out = io.StringIO()
    reader = JsonLines(out)
    for event in script.good():
        reader(event)
    reader.close()
    parsed = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [one["event"] for one in parsed] == [type(event).__name__ for event in script.good()]
    assert parsed[0]["expected"] == 20.0
    assert parsed[-1]["status"] == "ok"


# --- live


def console(*, height: int = 40, width: int = 100, ascii_only: bool = False) -> Console:
    raw = io.BytesIO()
    file = io.TextIOWrapper(
        raw, encoding="ascii" if ascii_only else "utf-8", errors="strict", write_through=True
    )
    return Console(
        file=file, force_terminal=True, width=width, height=height, color_system=None, highlight=False
    )


def frame(stream: Iterable[Event], now: float, screen: Console | None = None) -> list[str]:
    """What the live display shows at the time ``now``."""
    screen = screen or console()
    display = LiveDisplay(screen, now=lambda: now)
    for event in stream:
        display(event)
    shown = drawn(display, screen)
    display.close()
    return shown


def drawn(display: LiveDisplay, screen: Console) -> list[str]:
    """What a display shows, on a screen as large as ``screen`` (whose own output has the display in it already)."""
    other = console(height=screen.height, width=screen.width)
    other.print(display)
    return [line.rstrip() for line in written(other).splitlines()]


def test_the_live_display_shows_what_runs() -> None:
    shown = frame(until(script.good(), events.Line), START + 4)
    assert shown[:4] == [
        "▸ debian-bookworm  2 of 5 steps, 2 cached  0:04",
        "  ✓ root.d to extra-data.d 2 steps, cached",
        "    ▸ install.d/01-packages  0:04 of about 0:10",
        "        Unpacking libfoo",
    ]
    assert "20 %  about 0:16 left" in shown[4]
    assert len(shown) == 5


def test_finished_phases_are_one_line_each() -> None:
    shown = frame(until(script.good(), events.StepStarted, 3), START + 21)
    assert "  ✓ install.d       1 step      12.0 s" in shown
    assert "  ▸ image           1 step       8.0 s" in shown


def test_a_small_terminal_keeps_what_matters() -> None:
    shown = frame(until(script.good(), events.StepStarted, 3), START + 21, console(height=6, width=50))
    assert shown[0].startswith("▸ debian-bookworm")
    assert not any("root.d" in line for line in shown)
    assert any("qcow2" in line for line in shown)
    assert len(shown) <= 5
    assert max(map(len, shown)) <= 50


def test_a_terminal_without_unicode_gets_ascii() -> None:
    screen = console(ascii_only=True)
    display = LiveDisplay(screen, now=lambda: START)
    for event in script.good():
        display(event)
    display.close()
    output = written(screen)
    assert "+ debian-bookworm" in output


def written(screen: Console) -> str:
    """Everything a console wrote, without control sequences."""
    file = screen.file
    assert isinstance(file, io.TextIOWrapper)
    raw = file.buffer
    assert isinstance(raw, io.BytesIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw.getvalue().decode())


@pytest.mark.parametrize(
    ("events_", "first", "last"),
    [
        (script.good, "✓ debian-bookworm  5 steps, 2 cached  0:30", "  ✓ image           2 steps     18.0 s"),
        (script.bad, "✗ debian-bookworm  0 of 5 steps  0:04", "  ✗ install.d       1 step       4.0 s"),
    ],
)
def test_the_end_stays_on_the_screen(events_: object, first: str, last: str) -> None:
    assert callable(events_)
    screen = console()
    display = LiveDisplay(screen, now=lambda: START)
    for event in events_():
        display(event)
    display.close()
    lines = written(screen).splitlines()
    assert lines[-1].rstrip() == last
    assert any(line.rstrip().endswith(first) for line in lines)


def test_two_builds_at_once_do_not_mix() -> None:
    screen = console()
    display = LiveDisplay(screen, now=lambda: START + 2)
    for event in until(script.good("other"), events.Line):
        display(event)
    for event in script.good():
        display(event)
    shown = drawn(display, screen)
    assert shown[0] == "▸ other  2 of 5 steps, 2 cached  0:02"
    assert not any(PLATFORM in line for line in shown)
    display.close()
    assert "▸ other  2 of 5 steps" in written(screen), "what was not finished stays as it was"


def test_an_escape_sequence_of_a_hook_never_reaches_the_terminal() -> None:
    step = f"{PLATFORM}/install.d/x"
    stream = [
        events.BuildStarted(PLATFORM, 1, 0, "log", time=START),
        events.StepStarted(PLATFORM, step, "hook", "k", 0, time=START),
        events.Line(PLATFORM, step, "\x1b]0;pwned\x07[red]markup[/red] \x1b[2Jx", time=START),
        events.Line(PLATFORM, step, "\x1b[0m", time=START),
    ]
    shown = frame(stream, START)
    assert "        [red]markup[/red] x" in shown
    assert len(shown) == 4


# --- which one, and for how long

_WRITER = """\
import sys
sys.path.insert(0, sys.argv[1])
from tests.cli import script
from imgc.cli import display
from imgc.cli.session import Session
with display.shown(Session(verbose={verbose}), as_json={as_json}) as reader:
    for _ in range(200):
        for event in script.good():
            reader(event)
print("after", file=sys.stderr)
"""


def writer(root: Path, *, as_json: bool = False, verbose: bool = False) -> list[str]:
    return [sys.executable, "-c", _WRITER.format(as_json=as_json, verbose=verbose), str(root)]


def test_a_reader_that_leaves_does_not_end_the_build(root: Path) -> None:
    """As in `imgc build --json x | head -n 1`: the events have nowhere to go, the build goes on."""
    for as_json in (True, False):
        with subprocess.Popen(
            writer(root, as_json=as_json), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout and child.stderr
            assert child.stdout.readline()
            child.stdout.close()
            assert child.stderr.read() == "after\n"
        assert child.returncode == 0


def test_a_pipe_gets_the_plain_log_and_a_terminal_the_live_display(root: Path) -> None:
    piped = subprocess.run(writer(root), capture_output=True, text=True)
    assert "\x1b" not in piped.stdout
    assert "done    debian-bookworm/disk" in piped.stdout
    assert "\x1b[" in on_terminal(writer(root), TERM="xterm")
    assert "\x1b[" not in on_terminal(writer(root), TERM="dumb")
    assert "\x1b[" not in on_terminal(writer(root, verbose=True), TERM="xterm")


def on_terminal(argv: list[str], **environment: str) -> str:
    """What a program writes to a terminal."""
    ours, theirs = os.openpty()
    child = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **environment}
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:
            break
        output += data
    os.close(ours)
    assert child.wait() == 0
    return output.decode()
