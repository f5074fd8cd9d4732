"""What tests of whole builds share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project: the tiny system and nothing else."""
    return Project(tmp_path)
