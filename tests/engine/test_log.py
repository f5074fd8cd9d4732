"""The complete log, and the wire form of events."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from imgc.engine import events
from imgc.engine.log import KEPT, Log, text
from imgc.errors import ImgcError

#: One of every kind, with a time that reads as 2023-11-14 22:13:20.5 UTC.
ONE_OF_EACH = [
    events.BuildStarted("p", 9, 3, "/l", time=1_700_000_000.5),
    events.StepCached("p", "p/a", "k", time=1_700_000_000.5),
    events.StepStarted("p", "p/b", "hook", "k", 0.0, time=1_700_000_000.5),
    events.Line("p", "p/b", "\x1b[1mtext\ud800", time=1_700_000_000.5),
    events.StepFinished("p", "p/b", 1.234, time=1_700_000_000.5),
    events.StepFailed("p", "p/c", 2, "It broke.", "", "tail", time=1_700_000_000.5),
    events.Notice("p", "By the way.", time=1_700_000_000.5),
    events.ArtifactReady("p", "/i", "raw", 5, "s", "m", time=1_700_000_000.5),
    events.BuildFinished("p", "ok", 6, 3, 7, "/l", time=1_700_000_000.5),
]


def test_every_event_is_a_line(tmp_path: Path) -> None:
    with Log(tmp_path / "logs", "p") as log:
        stream = events.Stream(log)
        for event in ONE_OF_EACH:
            stream.emit(event)
        # Readable while the build still runs.
        lines = log.path.read_text().splitlines()
    assert len(lines) == len(ONE_OF_EACH)
    assert all(line.startswith("2023-11-14 22:13:20.500 | ") for line in lines)
    assert [line.split(" | ", 1)[1] for line in lines] == [
        "build p: 9 steps, 3 cached",
        "p/a cached, key k",
        "p/b started, key k",
        "p/b | \x1b[1mtext?",
        "p/b finished in 1.23 s",
        "p/c FAILED after 2.00 s: It broke.",
        "note: By the way.",
        "/i ready: 5 bytes, sha256 s",
        "build p ok: 6 steps ran, 3 cached",
    ]


def test_every_kind_of_event_has_a_text() -> None:
    kinds = set(events.Event.__subclasses__())
    assert kinds == {type(event) for event in ONE_OF_EACH}
    assert all(not text(event).startswith(type(event).__name__) for event in ONE_OF_EACH)


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_json_has_every_field(event: events.Event) -> None:
    line = events.as_json(event)
    assert "\n" not in line
    assert json.loads(line) == {"event": type(event).__name__, **dataclasses.asdict(event)}


def test_a_log_is_about_one_platform(tmp_path: Path) -> None:
    with Log(tmp_path, "other") as log:
        for event in ONE_OF_EACH:
            log(event)
        assert log.path.read_text() == ""


def test_old_logs_go(tmp_path: Path) -> None:
    for number in range(KEPT + 20):
        (tmp_path / f"2020-01-01T00-00-{number:02}.log").touch()
    with Log(tmp_path, "p") as log:
        left = sorted(path.name for path in tmp_path.iterdir())
        assert len(left) == KEPT
        assert log.path.name == left[-1]
        assert left[0] == "2020-01-01T00-00-21.log"


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(ImgcError) as raised:
        Log(tmp_path / "logs" / "p", "p")
    assert raised.value.code == "E304"


def test_readers_come_and_go() -> None:
    first: list[events.Event] = []
    second: list[events.Event] = []
    stream = events.Stream(first.append)
    stream.emit(ONE_OF_EACH[0])
    stream.add(second.append)
    stream.emit(ONE_OF_EACH[1])
    stream.remove(first.append)
    stream.emit(ONE_OF_EACH[2])
    assert (first, second) == (ONE_OF_EACH[:2], ONE_OF_EACH[1:3])


def test_lines_from_several_threads_do_not_mix(tmp_path: Path) -> None:
    with Log(tmp_path, "p") as log:
        stream = events.Stream(log)

        def emit(name: str) -> None:
            for _ in range(200):
                stream.emit(events.Line("p", name, name * 100))

        threads = [threading.Thread(target=emit, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = [line.split(" | ") for line in log.path.read_text().splitlines()]
    assert len(lines) == 800
    assert all(line == name * 100 for _, name, line in lines)


def test_names_sort_by_time(tmp_path: Path) -> None:
    paths = []
    for _ in range(3):
        with Log(tmp_path, "p") as log:
            paths.append(log.path)
    assert paths == sorted(set(paths))
    assert all(str(os.getpid()) in path.name for path in paths)
    assert subprocess.run(["ls", *paths], capture_output=True).returncode == 0
