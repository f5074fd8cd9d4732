"""cache-bindep: what its hook downloads, with a real apt in a world of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import imgc

from .apt_world import AptWorld
from .old_python import too_new

ELEMENTS = Path(imgc.__file__).parent / "elements"
FILL = ELEMENTS / "cache-bindep/package-cache/fill-package-cache"
MANAGERS = ELEMENTS / "install-distro-packages/distro-packages"


@pytest.fixture
def world(tmp_path: Path) -> AptWorld:
    world = AptWorld(tmp_path)
    world.package("alpha", Depends="beta")
    world.package("beta")
    world.package("left", Conflicts="right")
    world.package("right")
    # A set alone is resolved in another way than the union: `two` provides what `one` is for, and comes along.
    world.package("needs", Depends="one | two")
    world.package("one")
    world.package("two", Provides="virtual")
    world.package("broken", Depends="nowhere")
    return world


def fill(world: AptWorld, *sets: str) -> list[str]:
    """What the hook's program prints for these sets, each asked for by one project."""
    lists = world.root.parent / "lists"
    shutil.rmtree(lists, ignore_errors=True)
    lists.mkdir()
    packages = sorted({package for one in sets for package in one.split(" ")})
    who = {
        package: [f"org/p{number}@master" for number, one in enumerate(sets) if package in one.split()]
        for package in packages
    }
    (lists / "packages").write_text("".join(f"{package}\n" for package in packages))
    (lists / "sets").write_text("".join(f"{one}\n" for one in sets))
    (lists / "asked-by").write_text("".join(f"{one}\t{','.join(by)}\n" for one, by in who.items()))
    (lists / "sets-by").write_text("".join(f"{one}\torg/p{n}@master\n" for n, one in enumerate(sets)))
    start = f"import runpy, sys; sys.path.insert(0, {str(MANAGERS)!r}); sys.argv[:] = {[str(FILL), str(lists)]!r}; "
    start += f"runpy.run_path({str(FILL)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-Bc", start], env=world.environment, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout.splitlines()


def offline(world: AptWorld, *packages: str) -> int:
    """The status of apt-get as it installs packages from the cache alone."""
    shutil.move(world.archive, f"{world.archive}.away")
    argv = ["apt-get", "--assume-yes", "--no-download", "install", *packages]
    done = subprocess.run(argv, env=world.environment, capture_output=True)
    shutil.move(f"{world.archive}.away", world.archive)
    return done.returncode


def test_packages_are_downloaded_with_what_they_need_and_not_installed(world: AptWorld) -> None:
    assert fill(world, "alpha", "two") == ["2 packages for jobs, in 2 sets"]
    assert world.cached == ["alpha", "beta", "two"]
    assert not world.installed
    assert offline(world, "alpha") == 0
    assert world.installed == ["alpha", "beta"]


def test_an_unknown_package_is_told_with_who_asks_and_breaks_nothing(world: AptWorld) -> None:
    said = fill(world, "alpha nosuch", "nosuch")
    assert said[0] == (
        "imgc: warning: E657: package nosuch of org/p0@master, org/p1@master is in no archive here"
    )
    assert world.cached == ["alpha", "beta"]
    assert offline(world, "alpha") == 0


def test_what_cannot_be_installed_together_is_there_nevertheless(world: AptWorld) -> None:
    said = fill(world, "alpha", "left", "right", "left right")
    assert world.cached == ["alpha", "beta", "left", "right"]
    warnings = [line for line in said if "warning" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("imgc: warning: E657: org/p3@master cannot install left right together: ")


def test_a_package_that_can_never_be_installed_does_not_keep_others_out(world: AptWorld) -> None:
    said = fill(world, "alpha broken", "two")
    assert [line for line in said if "package broken of org/p0@master cannot be had" in line]
    assert world.cached == ["alpha", "beta", "two"]


def test_each_set_can_be_installed_by_itself(world: AptWorld) -> None:
    """With the union, `two` fulfils `needs`; the job that installs `needs` alone gets `one`."""
    fill(world, "needs", "two")
    assert offline(world, "needs") == 0
    assert "needs" in world.installed


def test_a_name_that_is_only_provided_is_known(world: AptWorld) -> None:
    assert not [line for line in fill(world, "virtual") if "warning" in line]
    assert world.cached == ["two"]


def test_without_the_archive_there_is_a_warning_and_no_failure(world: AptWorld) -> None:
    shutil.rmtree(world.archive)
    said = fill(world, "alpha")
    assert said[0].startswith("imgc: warning: E657: the package archives cannot be reached: ")
    assert said[1] == "imgc: warning: E657: there is no index of an archive: no package is in the cache"


def test_with_an_old_index_and_no_archive_what_is_lacking_is_told_by_set(world: AptWorld) -> None:
    fill(world, "two")
    shutil.rmtree(world.archive)
    said = fill(world, "alpha", "two")
    assert any(line.startswith("imgc: warning: E657: org/p0@master cannot install alpha") for line in said)
    assert not any("org/p1@" in line for line in said)


def test_nothing_is_left_that_has_times_in_it(world: AptWorld) -> None:
    fill(world, "alpha")
    cache = world.root / "var/cache/apt"
    assert [path.name for path in cache.iterdir()] == ["archives"]
    assert not list(world.root.glob("var/*/apt/*/lock"))


@pytest.mark.parametrize(
    "script", [FILL, MANAGERS / "install-distro-packages", MANAGERS / "package_managers.py"]
)
def test_scripts_of_images_are_python_3_4(script: Path) -> None:
    assert not too_new(script.read_text(encoding="utf-8"))


def test_hooks_fall_where_nothing_cleans_up_after_them() -> None:
    """The caches of package managers are emptied by finalise.d/99-clean-up-cache, apt's indexes by cleanup.d's."""
    for phase in ("finalise.d", "cleanup.d"):
        (name,) = os.listdir(ELEMENTS / "cache-bindep" / phase)
        assert name > "99-clean-up-cache"
