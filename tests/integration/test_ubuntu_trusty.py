"""Ubuntu from a local archive (ubuntu_world.py): trusty to a disk that boots, later releases to a tree."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from imgc.disk.check import root_partition
from tests.integration.debian import SPECS
from tests.integration.project import Build, Project
from tests.integration.ubuntu_world import BESIDE, RELEASES, UbuntuWorld

pytestmark = pytest.mark.integration

SPEC = """\
schema: 1
name: {name}
extends: {shipped}
{world}outputs: !replace [{outputs}]
"""


@dataclass
class Ubuntu(Project):
    """A shipped platform of Ubuntu, from the world's archive."""

    name: ClassVar[str] = "ubuntu-trusty"

    world: UbuntuWorld | None = None

    @property
    def cache(self) -> Path:
        kept = os.environ.get("IMGC_TEST_CACHE")
        return Path(kept) if kept else self.directory / "cache"

    def environ(self) -> dict[str, str]:
        assert self.world
        return {**super().environ(), **self.world.environment()}

    def spec(self) -> str:
        assert self.world
        shipped = SPECS / f"{self.name}.yaml"
        return SPEC.format(name=self.name, shipped=shipped, world=self.world.spec(), outputs=self.outputs)

    def installed(self) -> dict[str, str]:
        """The packages in the image, with their versions."""
        status = self.text("var/lib/dpkg/status").split("\n\n")
        fields = [dict(re.findall(r"^(Package|Version|Status): (.*)$", one, re.MULTILINE)) for one in status]
        return {
            one["Package"]: one["Version"] for one in fields if one.get("Status") == "install ok installed"
        }


class Jammy(Ubuntu):
    name = "ubuntu-jammy"


class Noble(Ubuntu):
    name = "ubuntu-noble"


@pytest.fixture(scope="module")
def trusty(world: UbuntuWorld, module_path: Path) -> tuple[Ubuntu, Build]:
    """The platform, built once, and how that went."""
    platform = Ubuntu(module_path, world=world)
    platform.outputs = "qcow2, {format: tar, compression: none}"
    # The pins of a world that was made anew are not those of the one before.
    done = platform.build("--refresh", seconds=900)
    assert done.status == 0, done.errors
    return platform, done


@pytest.fixture(scope="module")
def tree(trusty: tuple[Ubuntu, Build]) -> dict[str, tarfile.TarInfo]:
    return trusty[0].tree()


def test_it_is_ubuntu(trusty: tuple[Ubuntu, Build], world: UbuntuWorld) -> None:
    platform, _ = trusty
    assert "VERSION_CODENAME=trusty" in platform.text("usr/lib/os-release").splitlines()
    assert "DISTRIB_CODENAME=trusty" in platform.text("etc/lsb-release").splitlines()
    suites = ["trusty", *(f"trusty-{suite}" for suite in BESIDE)]
    lines = platform.text("etc/apt/sources.list").split("\n")
    assert [line for line in lines if line] == [f"deb {world.url} {suite} main universe" for suite in suites]


def test_one_transaction(trusty: tuple[Ubuntu, Build], world: UbuntuWorld) -> None:
    """What is newer in an update is installed from there at once; nothing is upgraded afterwards."""
    platform, build = trusty
    newer = world.versions("trusty-updates")["base-files"]
    assert newer != world.versions("trusty")["base-files"]
    assert platform.installed()["base-files"] == newer
    unpacked = [line for line in build.lines if re.search(r"Preparing to unpack .*/base-files_", line)]
    assert unpacked and all("over" not in line for line in build.lines if "Unpacking base-files" in line)
    assert not [line for line in unpacked if newer not in line]
    upgrades = [line for line in build.lines if re.search(r"\d+ upgraded, ", line)]
    assert upgrades and all(line.lstrip("> ").startswith("0 upgraded, ") for line in upgrades)


def test_everything_is_from_the_archive_and_pinned(trusty: tuple[Ubuntu, Build], world: UbuntuWorld) -> None:
    platform, build = trusty
    offered = {name: {version} for name, version in world.versions("trusty").items()}
    for name, version in world.versions("trusty-updates").items():
        offered[name].add(version)
    strangers = {
        name: version
        for name, version in platform.installed().items()
        if version not in offered.get(name, ())
    }
    assert strangers == {}
    # What was read past the pins is told with its URL.
    assert [event for event in build.of("Notice") if "http://" in event["text"]] == []


def test_what_is_in_it(trusty: tuple[Ubuntu, Build], tree: dict[str, tarfile.TarInfo]) -> None:
    installed = trusty[0].installed()
    assert {"linux-image-virtual", "grub-pc-bin", "openssh-server", "ifupdown", "gdisk"} <= set(installed)
    assert not {"cloud-init", "hello", "usrmerge", "python3-pip"} & set(installed)
    kernels = {path.removeprefix("boot/vmlinuz-") for path in tree if path.startswith("boot/vmlinuz-")}
    initramfs = {
        path.removeprefix("boot/initrd.img-") for path in tree if path.startswith("boot/initrd.img-")
    }
    assert kernels and kernels == initramfs


def test_usr_is_not_merged(tree: dict[str, tarfile.TarInfo]) -> None:
    assert [name for name in ("bin", "lib", "lib64", "sbin") if not tree[name].isdir()] == []
    assert tree["bin/bash"].isreg() and "usr/bin/bash" not in tree


def test_it_trusts_the_keys_that_it_was_given(
    tree: dict[str, tarfile.TarInfo], trusty: tuple[Ubuntu, Build], world: UbuntuWorld
) -> None:
    with tarfile.open(trusty[0].tar) as archive:
        file = archive.extractfile("./etc/apt/trusted.gpg.d/ubuntu-world.gpg")
        assert file and file.read() == world.keyring.read_bytes()
    assert tree["etc/apt/trusted.gpg.d/ubuntu-world.gpg"].mode & 0o777 == 0o644


def test_a_second_build_runs_nothing(trusty: tuple[Ubuntu, Build]) -> None:
    again = trusty[0].build()
    assert (again.status, again.ran) == (0, [])


def test_it_boots(trusty: tuple[Ubuntu, Build]) -> None:
    platform, _ = trusty
    done = platform.imgc("boot", str(platform.images / "ubuntu-trusty.qcow2"), "--json", seconds=1500)
    failed = [check for report in json.loads(done.stdout) for check in report["checks"] if not check["ok"]]
    assert (done.returncode, failed) == (0, []), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("platform", [Jammy, Noble])
def test_later_releases_have_a_merged_usr(world: UbuntuWorld, tmp_path: Path, platform: type[Ubuntu]) -> None:
    """Whether the archive has usr-is-merged (noble) or has not (jammy)."""
    built = platform(tmp_path, world=world)
    done = built.build("--refresh", seconds=900)
    assert done.status == 0, done.errors
    tree = built.tree()
    links = {name: tree[name].linkname for name in ("bin", "lib", "lib64", "sbin")}
    assert links == {name: f"usr/{name}" for name in links}
    release = RELEASES[platform.name.removeprefix("ubuntu-")]
    assert ("usr-is-merged" in built.installed()) == release.merged
    assert "usrmerge" not in built.installed()
    assert built.installed()["base-files"] == f"{release.base_files}.6"


def test_its_programs_can_read_its_file_system(trusty: tuple[Ubuntu, Build], tmp_path: Path) -> None:
    """e2fsprogs of that time (its settings, here) would neither check nor grow what newer ones make."""
    raw = tmp_path / "disk.raw"
    qcow2 = trusty[0].images / "ubuntu-trusty.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(qcow2), str(raw)], check=True)
    offset, _ = root_partition(str(raw))
    features = ["debugfs", "-R", "features", f"{raw}?offset={offset}"]
    said = subprocess.run(features, capture_output=True, text=True, check=True).stdout.split()
    assert "extent" in said
    assert not {"metadata_csum", "64bit"} & set(said)
