"""What tests of the engine share: a sandbox to run scripts in, a small tree to enter, a store."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imgc.engine.sandbox import Outcome, Payload, Sandbox, State, Target
from imgc.engine.store import Store

TINY = Path(__file__).resolve().parents[1] / "integration/elements/tiny-minimal/root.d/10-tiny"

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Room:
    """A sandbox, and scratch directories for each run in it."""

    directory: Path
    readable: tuple[str, ...] = ()
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    lines: list[str] = field(default_factory=list)

    @property
    def sandbox(self) -> Sandbox:
        return Sandbox(self.directory / "downloads", search_paths=self.readable)

    def scratch(self) -> Path:
        path = self.directory / f"work {next(self.numbers)}"
        path.mkdir(parents=True)
        return path

    def sh(
        self,
        script: str,
        *,
        state: State | None = None,
        target: Target | None = None,
        chroot: str = "",
        env: Mapping[str, str] | None = None,
        ignore_syncs: bool = True,
        binds: Sequence[tuple[str, str, str]] = (),
    ) -> Outcome:
        """Run a script of bash; what it prints is in :attr:`lines` afterwards."""
        self.lines = []
        environment = {"PATH": PATH, **(env or {})}
        payload = Payload(("/bin/bash", "-c", script), environment, chroot=chroot, ignore_syncs=ignore_syncs)
        return self.sandbox.run(
            payload, self.scratch(), state=state, target=target, binds=binds, on_line=self.lines.append
        )

    def layer(self, name: str) -> tuple[Path, Path]:
        """Two new directories: for an overlay's changes, and for its own use."""
        upper, work = self.directory / name / "state", self.directory / name / "overlay"
        upper.mkdir(parents=True)
        work.mkdir()
        return upper, work


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path / "room")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lowest layer of a build: a tiny system in ``mnt/``, an empty hooks tree, ``out/``."""
    base = tmp_path_factory.mktemp("base")
    for name in ("mnt", "hooks", "out", "built"):
        (base / name).mkdir()
    subprocess.run(["bash", str(TINY)], env={"PATH": PATH, "TARGET_ROOT": str(base / "mnt")}, check=True)
    return base
