"""What is installed is what is in the repository: elements are data, and a lost exec bit is a hook that never runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def committed() -> list[str]:
    """The names of all files of the repository that git has or would take."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel and a source distribution, built from a copy of the repository (building writes beside the sources)."""
    copy = tmp_path_factory.mktemp("copy")
    out = tmp_path_factory.mktemp("out")
    for name in committed():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    program = (
        "import sys; from setuptools import build_meta as build; out = sys.argv[1]; "
        "build.build_sdist(out); build.build_wheel(out)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(out)], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_wheel_holds_the_package_with_its_modes(packages: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(packages[0]) as wheel:
        inside = {info.filename: info for info in wheel.infolist() if info.filename.startswith("imgc/")}
        wanted = {name for name in committed() if name.startswith("imgc/")}
        assert set(inside) == wanted
        for name, info in inside.items():
            assert bool((info.external_attr >> 16) & 0o100) == os.access(ROOT / name, os.X_OK), name
            assert wheel.read(info) == (ROOT / name).read_bytes(), name


def test_source_distribution_holds_the_repository(packages: tuple[Path, Path]) -> None:
    with tarfile.open(packages[1]) as archive:
        inside = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    assert {name for name in committed() if name != ".gitignore"} <= inside


def test_script_runs() -> None:
    """The console script of the installed package starts this very package."""
    script = shutil.which("imgc", path=Path(sys.executable).parent)
    assert script, "not installed: pip install --editable ."
    done = subprocess.run([script, "--version"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0 and "imgc" in done.stdout, done.stderr
