from __future__ import annotations

from pathlib import Path

import pytest

from .readback import run
from .trees import add_boot, add_everything


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that could start, with files of every kind."""
    top = tmp_path / "tree"
    top.mkdir()
    add_boot(top)
    add_everything(top)
    return top


@pytest.fixture
def raw_disk(tmp_path: Path) -> Path:
    """A disk with an empty ext4 on partition 1."""
    raw = tmp_path / "small.raw"
    with open(raw, "wb") as file:
        file.truncate(24 * 1024 * 1024)
    run("sfdisk", "-q", str(raw), stdin="label: dos\nstart=2048\n")
    run("mke2fs", "-q", "-F", "-E", "offset=1048576", str(raw), "20M")
    return raw
