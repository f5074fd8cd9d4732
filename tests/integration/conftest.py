"""What tests of whole builds share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.debian import Debian
from tests.integration.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project: the tiny system and nothing else."""
    return Project(tmp_path)


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Debian:
    """The Debian platform, built once for all tests that look at it."""
    debian = Debian(tmp_path_factory.mktemp("debian"))
    debian.say("first")
    done = debian.build(seconds=900)
    assert done.status == 0, done.errors
    return debian
