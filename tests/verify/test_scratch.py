"""The directory of one boot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imgc.verify import scratch


def test_gone_afterwards_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), scratch.directory(tmp_path / "work") as made:
        (made / "file").touch()
        raise RuntimeError
    assert list((tmp_path / "work").iterdir()) == []


def test_another_boot_leaves_a_living_one_alone(tmp_path: Path) -> None:
    with scratch.directory(tmp_path) as one, scratch.directory(tmp_path) as two:
        assert one != two
        assert one.is_dir()


def test_what_a_killed_boot_left_is_swept_by_the_next(tmp_path: Path) -> None:
    dies = "import os, sys, pathlib; from imgc.verify import scratch\n"
    dies += "with scratch.directory(pathlib.Path(sys.argv[1])) as made: (made / 'f').touch(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", dies, str(tmp_path)]).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    with scratch.directory(tmp_path) as made:
        assert list(tmp_path.iterdir()) == [made]
