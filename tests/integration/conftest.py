"""What tests of whole builds share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.debian import Debian
from tests.integration.project import Project
from tests.integration.rpm_world import RpmWorld, served
from tests.integration.ubuntu_world import UbuntuWorld, ubuntu_world


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


@pytest.fixture(scope="session")
def world(pytestconfig: pytest.Config) -> Iterator[UbuntuWorld]:
    """The archive, made once and kept beside what pytest keeps."""
    kept = os.environ.get("IMGC_TEST_CACHE")
    assert pytestconfig.cache
    with ubuntu_world(Path(kept) / "worlds" if kept else pytestconfig.cache.mkdir("worlds")) as made:
        yield made


@pytest.fixture(scope="session")
def rpm_world(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpmWorld]:
    """The repositories of RPM packages, made once and kept beside what pytest keeps."""
    kept = os.environ.get("IMGC_TEST_CACHE")
    assert pytestconfig.cache
    cache = Path(kept) / "worlds" if kept else pytestconfig.cache.mkdir("worlds")
    with served(cache, tmp_path_factory.mktemp("rpm-world") / "served") as made:
        yield made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory that a user other than the one who runs the tests can reach."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    return home
