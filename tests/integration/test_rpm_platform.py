"""A platform of RPM packages, from an empty tree to an image that boots: real dnf, inside and outside the chroot.

The repositories are the test's own (:mod:`tests.integration.rpm_world`).
"""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from tests.integration.debian import SPECS
from tests.integration.project import Project
from tests.integration.rpm_packing import Package
from tests.integration.rpm_world import RpmWorld, served

pytestmark = pytest.mark.integration

SPEC = """\
schema: 1
name: rocky-9
extends: {common}
element_paths: [elements]
elements: [{names}]
environment: {{IMGC_TARGET_PYTHON: "3.11"}}
packages: [{packages}]
outputs: !replace [{{format: tar, compression: none}}, {{format: qcow2}}]
"""


@dataclass
class Rocky(Project):
    """The shipped platform, pointed at the test's mirror as a user would point it at one."""

    name: ClassVar[str] = "rocky-9"
    packages: list[str] = field(default_factory=list)
    shared: Path | None = None

    @property
    def cache(self) -> Path:
        return self.shared or self.directory / "cache"

    def spec(self) -> str:
        return SPEC.format(
            common=SPECS / "rocky-9.yaml", names=", ".join(self.elements), packages=", ".join(self.packages)
        )


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpmWorld]:
    """The repositories; made once where IMGC_TEST_CACHE says what is to be kept."""
    kept = os.environ.get("IMGC_TEST_CACHE")
    cache = Path(f"{kept}-worlds") if kept else tmp_path_factory.mktemp("worlds")
    with served(cache, tmp_path_factory.mktemp("rocky") / "served") as world:
        yield world


@pytest.fixture(scope="session")
def rocky(world: RpmWorld, tmp_path_factory: pytest.TempPathFactory) -> Rocky:
    """The platform, built once for all tests that look at it."""
    rocky = Rocky(tmp_path_factory.mktemp("rocky-9"), host={"IMGC_ROCKY_MIRROR": world.url})
    rocky.elements[world.keys_element(rocky.directory / "specs/elements")] = None
    world.add(Package("moving", "1", "1", files=["/usr/share/moving"]))
    world.add(Package("forged", "1", "1", files=["/usr/share/forged"]), signed=False)
    rocky.packages.append("moving")
    done = rocky.build(seconds=900)
    assert done.status == 0, done.errors
    return rocky


def rpm(rocky: Rocky, *words: str) -> list[str]:
    """What the build host's rpm reads in the image's database."""
    with tarfile.open(rocky.tar) as archive:
        members = [one for one in archive if one.name.startswith("./var/lib/rpm/")]
        archive.extractall(rocky.directory / "database", members, filter="data")
    where = rocky.directory / "database/var/lib/rpm"
    done = subprocess.run(["rpm", "--dbpath", str(where), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_it_boots(rocky: Rocky) -> None:
    done = rocky.imgc("boot", str(rocky.images / "rocky-9.qcow2"), "--accelerator", "tcg", seconds=560)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_packages_are_those_of_the_distribution(rocky: Rocky) -> None:
    names = set(rpm(rocky, "-qa", "--qf", "%{NAME}\\n"))
    assert {"rocky-release", "basesystem", "dnf", "kernel-core", "openssh-server", "NetworkManager"} <= names
    assert "dpkg" not in names


def test_every_package_was_checked_with_the_key(rocky: Rocky) -> None:
    signatures = rpm(rocky, "-qa", "--qf", "%{NAME} %{RSAHEADER:pgpsig}\\n")
    unsigned = {line.split()[0] for line in signatures if line.endswith("(none)")}
    assert unsigned == {"gpg-pubkey"}


def test_the_image_has_its_distributions_repositories(rocky: Rocky) -> None:
    files = [path for path in rocky.tree() if path.startswith("etc/yum.repos.d/")]
    assert files == ["etc/yum.repos.d/rocky.repo"]
    assert "mirror.invalid" in rocky.text(files[0])


def test_nothing_of_the_build_is_left(rocky: Rocky, world: RpmWorld) -> None:
    tree = rocky.tree()
    assert not [path for path in tree if path.startswith(("imgc", "tmp/"))]
    assert [path for path in tree if path.startswith("etc/ssh/ssh_host_")] == []
    with rocky.tar.open("rb") as file:
        data = file.read()
    assert world.url.encode() not in data


def test_there_is_one_initial_ram_disk_for_the_kernel(rocky: Rocky) -> None:
    tree = rocky.tree()
    (kernel,) = (path for path in tree if path.startswith("boot/vmlinuz-"))
    (initramfs,) = (path for path in tree if path.startswith("boot/initramfs-"))
    assert initramfs == f"boot/initramfs-{kernel.removeprefix('boot/vmlinuz-')}.img"
    assert f"/{initramfs}" in rocky.text("boot/grub2/grub.cfg")
    assert "etc/kernel/install.d/50-dracut.install" not in tree


def test_packages_that_moved_come_when_they_are_asked_for(rocky: Rocky, world: RpmWorld) -> None:
    assert rocky.build().ran == []
    before = len(world.asked)
    world.add(Package("moving", "2", "1", files=["/usr/share/moving"]))
    assert rocky.build().ran == []
    assert len(world.asked) == before, "a build with pins asks nobody"

    again = rocky.build("--refresh", "--format", "tar")
    assert again.status == 0, again.errors
    assert again.ran[0] == "root.d/08-yum-chroot"
    assert rpm(rocky, "-q", "moving") == ["moving-2-1.x86_64"]


def test_a_build_from_the_cache_alone(rocky: Rocky, world: RpmWorld) -> None:
    before = len(world.asked)
    again = rocky.build("--offline", "--fresh", "--format", "tar")
    assert again.status == 0, again.errors
    assert len(world.asked) == before


def test_a_package_with_no_signature_is_refused(rocky: Rocky, world: RpmWorld, tmp_path: Path) -> None:
    other = Rocky(tmp_path, host=rocky.host, packages=["forged"], shared=rocky.cache)
    other.elements[world.keys_element(tmp_path / "specs/elements")] = None
    refused = other.build()
    assert refused.status == 1
    assert refused.ran == [], "all but the packages of the spec is there already"
    assert "forged" in refused.errors and "not signed" in refused.errors


def test_a_mirror_must_be_given(tmp_path: Path) -> None:
    refused = Rocky(tmp_path).build()
    assert refused.status == 1
    assert "set base.mirror" in refused.errors
