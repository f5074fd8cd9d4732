"""A project in a directory of its own: a platform made of a tiny system and of elements that a test writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

ELEMENTS = Path(__file__).parent / "elements"

#: What a hook prints when it has come to where a test wants to act.
HERE = "the-test-may-act-now"

SPEC = """\
schema: 1
name: tiny
description: A tiny system for tests.
base: {{kind: minimal, distro: tiny, release: one, mirror: default, baseline: false}}
element_paths: [elements, {elements}]
elements: [{names}]
environment: {{{environment}}}
outputs: [{outputs}]
"""

Event = dict[str, Any]


@dataclass
class Build:
    """How a run of ``imgc build --json`` ended: its status, its events, what it said on stderr."""

    status: int
    events: list[Event]
    errors: str

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def ran(self) -> list[str]:
        """The steps that ran to their end, without the platform's name."""
        return [event["step"].partition("/")[2] for event in self.of("StepFinished")]

    @property
    def lines(self) -> list[str]:
        return [event["text"] for event in self.of("Line")]

    @property
    def log(self) -> Path:
        return Path(self.of("BuildFinished")[-1]["log"])


@dataclass
class Project:
    """Where everything of one test is; ``prefix`` is put before every command (another user, say)."""

    name: ClassVar[str] = "tiny"

    directory: Path
    elements: dict[str, None] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    outputs: str = "{format: tar, compression: none}"
    prefix: tuple[str, ...] = ()
    host: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def images(self) -> Path:
        return self.directory / "images"

    @property
    def tar(self) -> Path:
        return self.images / f"{self.name}.tar"

    def write(self, path: str, text: str, mode: int = 0o755) -> Path:
        """A file of an element, ``<element>/<path>``; the element is part of the platform from then on."""
        file = self.directory / "specs" / "elements" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)
        self.elements[path.partition("/")[0]] = None
        return file

    def hook(self, path: str, body: str) -> Path:
        """A hook ``<element>/<phase>/<name>`` in bash."""
        return self.write(path, f"#!/bin/bash\nset -eu\n{body}\n")

    def spec(self) -> str:
        """The text of the platform's file."""
        pairs = ", ".join(f"{name}: {json.dumps(value)}" for name, value in self.environment.items())
        return SPEC.format(
            elements=ELEMENTS, names=", ".join(self.elements), environment=pairs, outputs=self.outputs
        )

    def command(self, *arguments: str) -> list[str]:
        """What to run for ``imgc ARGUMENTS``; the spec is written as it is to be by now."""
        specs = self.directory / "specs"
        (specs / "elements").mkdir(parents=True, exist_ok=True)
        (specs / f"{self.name}.yaml").write_text(self.spec(), encoding="utf-8")
        imgc = [sys.executable, "-m", "imgc", "--specs", str(specs), "--cache", str(self.cache)]
        return [*self.prefix, *imgc, *arguments]

    def environ(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ELEMENTS.parents[2]), **self.host}

    def imgc(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Any command, to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def build(self, *options: str, seconds: float = 120) -> Build:
        """Build to the end."""
        return self.start(*options).end(seconds)

    def start(self, *options: str) -> Running:
        """Begin to build."""
        return Running(self, ["build", self.name, "--json", "-o", str(self.images), *options])

    def tree(self) -> dict[str, tarfile.TarInfo]:
        """What the published archive holds, by path."""
        with tarfile.open(self.tar) as archive:
            return {member.name.removeprefix("./"): member for member in archive}

    def text(self, path: str) -> str:
        """A file of the published archive."""
        with tarfile.open(self.tar) as archive:
            file = archive.extractfile(f"./{path}")
            assert file is not None
            return file.read().decode()


class Running:
    """A build that has been started; its events are read as they come."""

    def __init__(self, project: Project, arguments: Sequence[str]) -> None:
        self.events: list[Event] = []
        self._seen = threading.Condition()
        self.child = subprocess.Popen(
            project.command(*arguments),
            cwd=project.directory,
            env=project.environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=one) for one in (self._read_events, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read_events(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            with self._seen:
                self.events.append(json.loads(line))
                self._seen.notify_all()
        with self._seen:
            self.events.append({"event": "End"})
            self._seen.notify_all()

    def _read_errors(self) -> None:
        assert self.child.stderr is not None
        self._errors.extend(self.child.stderr)

    def wait_for(self, wanted: Callable[[Event], bool], seconds: float = 60) -> None:
        """Until an event comes that is ``wanted``."""

        def there() -> bool:
            return any(wanted(event) or event["event"] == "End" for event in self.events)

        with self._seen:
            assert self._seen.wait_for(there, seconds), f"nothing happened: {self.events[-3:]}"
            assert any(wanted(event) for event in self.events), f"it ended too soon: {self.events[-5:]}"

    def wait_for_hook(self) -> None:
        """Until a hook prints that the test may act."""
        self.wait_for(lambda event: event["event"] == "Line" and event["text"] == HERE)

    def send(self, number: signal.Signals) -> None:
        """A signal to imgc alone, not to what it started."""
        self.child.send_signal(number)

    def end(self, seconds: float = 120) -> Build:
        """How it ended; it is killed when it does not."""
        try:
            self.child.wait(seconds)
        finally:
            self.child.kill()
            for reader in self._readers:
                reader.join()
            for pipe in (self.child.stdout, self.child.stderr):
                assert pipe is not None
                pipe.close()
        events = [event for event in self.events if event["event"] != "End"]
        return Build(self.child.returncode, events, "".join(self._errors))


def leftovers(directory: Path, signs: Sequence[str] = ("cmdline", "environ", "mountinfo")) -> list[str]:
    """Processes, mounts and loop devices that have to do with ``directory``, processes by these files of /proc."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        for name in signs:
            try:
                text = (process / name).read_bytes()
            except OSError:
                continue
            if os.fsencode(directory) in text:
                found.append(f"process {process.name}: {name}")
    found += [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(directory) in line
    ]
    loops = subprocess.run(["losetup", "--all"], capture_output=True, text=True, check=True).stdout
    return found + [line for line in loops.splitlines() if str(directory) in line]


def owners_and_modes(tree: Mapping[str, tarfile.TarInfo]) -> dict[str, tuple[int, int, int, bytes, int, str]]:
    """What must be equal in two archives of the same system."""
    return {
        path: (one.uid, one.gid, one.mode, one.type, one.size, one.linkname) for path, one in tree.items()
    }
