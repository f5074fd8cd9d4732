"""A platform of RPM packages, from an empty tree to an image that boots: real dnf, inside and outside the chroot.

The repositories are the test's own (:mod:`tests.integration.rpm_world`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from imgc.verify import package_policy
from tests.integration.cached_project import UPSTREAM, Repositories
from tests.integration.debian import SPECS
from tests.integration.jobs import in_chroot, job
from tests.integration.project import Build, Project
from tests.integration.rpm_packing import Package
from tests.integration.rpm_world import FOR_JOBS, RpmWorld

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
caches:
  git:
    projects: {lists}/projects.txt
    base: {upstream}
    mirror: file://{mirror}
  bindep:
    fallback: {lists}/fallback.txt
"""

UNKNOWN = "no-such-package-anywhere"

#: What projects declare, by branch.
DECLARED = {
    "master": f"hello [platform:rpm]\nlibyaml-dev [platform:dpkg]\n{UNKNOWN} [platform:rocky]\n",
    "stable/1": "jq [platform:rpm test]\n",
    # Known to the repository, asked for by nobody when the image was built.
    "later": "forged\n",
}


@dataclass
class Rocky(Project):
    """The shipped platform, pointed at the test's mirror as a user would point it at one."""

    name: ClassVar[str] = "rocky-9"
    packages: list[str] = field(default_factory=list)
    shared: Path | None = None

    @property
    def place(self) -> Path:
        """What several of them may have in common."""
        return self.shared or self.directory

    @property
    def cache(self) -> Path:
        return self.place / "cache"

    def spec(self) -> str:
        return SPEC.format(
            common=SPECS / "rocky-9.yaml",
            names=", ".join([*self.elements, "install-distro-packages"]),
            packages=", ".join(self.packages),
            lists=self.place,
            upstream=UPSTREAM,
            mirror=self.place / "upstream",
        )


@pytest.fixture(scope="module")
def rocky(rpm_world: RpmWorld, module_path: Path) -> Rocky:
    """The platform with its caches, before it is built."""
    rocky = Rocky(module_path, host={"IMGC_ROCKY_MIRROR": rpm_world.url})
    rocky.elements[rpm_world.keys_element(rocky.directory / "specs/elements")] = None
    rpm_world.add(Package("moving", "1", "1", files=["/usr/share/moving"]))
    rpm_world.add(Package("forged", "1", "1", files=["/usr/share/forged"]), signed=False)
    rocky.packages.append("moving")
    (rocky.place / "projects.txt").write_text("org/unit\norg/plain\n")
    (rocky.place / "fallback.txt").write_text("tree [platform:rpm]\n")
    upstream = Repositories(rocky.place / "upstream")
    for branch in ("master", "stable/1"):
        upstream.commit("org/unit", {"bindep.txt": DECLARED[branch]}, branch)
    upstream.commit("org/plain", {"README": "declares nothing\n"})
    return rocky


@pytest.fixture(scope="module")
def built(rocky: Rocky) -> Build:
    """The one build that all tests look at."""
    done = rocky.build(seconds=900)
    assert done.status == 0, done.errors
    return done


@pytest.fixture(scope="module")
def root(rocky: Rocky, built: Build, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image's tree, in which jobs may install packages; as old as an image can be."""
    root = tmp_path_factory.mktemp("tree")
    subprocess.run(["tar", "-C", str(root), "-xpf", str(rocky.tar)], check=True)
    for path in (root / "var/cache/dnf").rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    yield root
    shutil.rmtree(root)


def installed(root: Path) -> set[str]:
    return set(in_chroot(root, "rpm -qa --qf '%{NAME}\n'").stdout.split())


def rpm(rocky: Rocky, *words: str) -> list[str]:
    """What the build host's rpm reads in the image's database."""
    with tarfile.open(rocky.tar) as archive:
        members = [one for one in archive if one.name.startswith("./var/lib/rpm/")]
        archive.extractall(rocky.directory / "database", members, filter="data")
    where = rocky.directory / "database/var/lib/rpm"
    done = subprocess.run(["rpm", "--dbpath", str(where), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_it_boots(rocky: Rocky, built: Build) -> None:
    done = rocky.imgc("boot", str(rocky.images / "rocky-9.qcow2"), "--accelerator", "tcg", seconds=560)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_packages_are_those_of_the_distribution(rocky: Rocky, built: Build) -> None:
    names = set(rpm(rocky, "-qa", "--qf", "%{NAME}\\n"))
    assert {"rocky-release", "basesystem", "dnf", "kernel-core", "openssh-server", "NetworkManager"} <= names
    assert "dpkg" not in names


def test_every_package_was_checked_with_the_key(rocky: Rocky, built: Build) -> None:
    signatures = rpm(rocky, "-qa", "--qf", "%{NAME} %{RSAHEADER:pgpsig}\\n")
    unsigned = {line.split()[0] for line in signatures if line.endswith("(none)")}
    assert unsigned == {"gpg-pubkey"}


def test_the_image_has_its_distributions_repositories(rocky: Rocky, built: Build) -> None:
    files = [path for path in rocky.tree() if path.startswith("etc/yum.repos.d/")]
    assert files == ["etc/yum.repos.d/rocky.repo"]
    assert "mirror.invalid" in rocky.text(files[0])


def test_nothing_of_the_build_is_left(rocky: Rocky, built: Build, rpm_world: RpmWorld) -> None:
    tree = rocky.tree()
    assert not [path for path in tree if path.startswith(("imgc", "tmp/"))]
    assert [path for path in tree if path.startswith("etc/ssh/ssh_host_")] == []
    with rocky.tar.open("rb") as file:
        data = file.read()
    assert rpm_world.url.encode() not in data


def test_dnf_has_the_settings_that_it_came_with(root: Path) -> None:
    done = in_chroot(root, "rpm -Vf --nomtime /etc/dnf/dnf.conf || true; grep -c . /etc/dnf/dnf.conf")
    assert done.returncode == 0, done.stderr
    assert "dnf.conf" not in done.stdout


def test_there_is_one_initial_ram_disk_for_the_kernel(rocky: Rocky, built: Build) -> None:
    tree = rocky.tree()
    (kernel,) = (path for path in tree if path.startswith("boot/vmlinuz-"))
    (initramfs,) = (path for path in tree if path.startswith("boot/initramfs-"))
    assert initramfs == f"boot/initramfs-{kernel.removeprefix('boot/vmlinuz-')}.img"
    assert f"/{initramfs}" in rocky.text("boot/grub2/grub.cfg")
    assert "etc/kernel/install.d/50-dracut.install" not in tree


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_what_jobs_may_ask_for_is_there_and_not_installed(root: Path) -> None:
    rpms = {path.name.rsplit("-", 2)[0] for path in (root / "var/cache/dnf").rglob("*.rpm")}
    assert {*FOR_JOBS, "libjq1", "libonig5"} <= rpms
    assert not rpms & installed(root)


def test_who_asks_for_what_no_repository_has(rocky: Rocky, built: Build) -> None:
    told = "\n".join(event["text"] for event in built.of("Notice"))
    assert f"package {UNKNOWN} of org/unit@master is in no archive here" in told
    assert "libyaml-dev" not in told
    shown = rocky.imgc("caches", "rocky-9", "--package", "jq")
    assert shown.stdout == "jq: org/unit@stable/1\n"


def test_a_job_installs_what_its_project_declares_and_nothing_else(root: Path) -> None:
    before = installed(root)
    done = job(root, "org/unit", "--offline", branch="stable/1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert installed(root) - before == {"jq", "libjq1", "libonig5"}
    assert in_chroot(root, "echo '[7]' | jq .[0]").stdout == "7\n"


def test_a_job_of_a_project_that_declares_nothing(root: Path) -> None:
    done = job(root, "org/plain", "--offline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tree" in installed(root)


def test_a_job_that_asks_for_what_nobody_has(root: Path) -> None:
    done = job(root, "org/unit", "--offline")
    assert done.returncode == 1
    assert f"no archive has: {UNKNOWN}" in done.stderr
    assert "hello" not in installed(root)


def test_a_job_that_asks_for_what_is_not_in_the_cache(root: Path) -> None:
    (root / "root/later").mkdir()
    (root / "root/later/bindep.txt").write_text(DECLARED["later"])
    done = in_chroot(root, "install-distro-packages --offline /root/later")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "forged" in done.stderr and "forged" not in installed(root)


#: Whether the cache lacks something of each set, as dnf's library and as dnf itself say it.
LACKING = """\
import sys
sys.path.insert(0, "/usr/lib/install-distro-packages")
import package_managers
manager = package_managers.package_manager()
sets = [("hello",), ("hello", "forged"), ("moving",), ("nowhere",)]
print(manager._ask_library(sets))
print(manager.lacking(sets) == [package_managers.lacks(manager, names) for names in sets])
"""


def test_many_sets_are_looked_for_at_once(root: Path) -> None:
    (root / "root/lacking.py").write_text(LACKING)
    done = in_chroot(root, "python3 -BI /root/lacking.py")
    assert done.stdout.splitlines() == ["['there', 'lacking', 'there', 'lacking']", "True"], done.stderr


def test_the_policy_reads_what_the_image_has(root: Path, tmp_path: Path) -> None:
    words = ["sh", "-c", package_policy.EXTRACT, "sh", str(root), str(tmp_path)]
    subprocess.run(words, check=True)
    found = package_policy.read(tmp_path)
    assert {one.name for one in found} == installed(root) - {"gpg-pubkey"}
    # A job has installed it by now.
    told = package_policy.judge(found, {"jq": ["org/unit@stable/1"], "bash": ["org/x@master"]}, set())
    assert [problem.message for problem in told] == [
        "Package jq is installed, and only jobs ask for it: org/unit@stable/1."
    ]


# --- later builds ----------------------------------------------------------------------------------------------------


def test_packages_that_moved_come_when_they_are_asked_for(
    rocky: Rocky, built: Build, rpm_world: RpmWorld
) -> None:
    assert rocky.build().ran == []
    before = len(rpm_world.asked)
    rpm_world.add(Package("moving", "2", "1", files=["/usr/share/moving"]))
    assert rocky.build().ran == []
    assert len(rpm_world.asked) == before, "a build with pins asks nobody"

    again = rocky.build("--refresh", "--format", "tar")
    assert again.status == 0, again.errors
    assert again.ran[0] == "root.d/08-yum-chroot"
    assert rpm(rocky, "-q", "moving") == ["moving-2-1.x86_64"]


def test_a_build_from_the_cache_alone(rocky: Rocky, built: Build, rpm_world: RpmWorld) -> None:
    before = len(rpm_world.asked)
    again = rocky.build("--offline", "--fresh", "--format", "tar")
    assert again.status == 0, again.errors
    assert len(rpm_world.asked) == before


def test_a_package_with_no_signature_is_refused(
    rocky: Rocky, built: Build, rpm_world: RpmWorld, tmp_path: Path
) -> None:
    other = Rocky(tmp_path, host=rocky.host, packages=["forged"], shared=rocky.place)
    other.elements[rpm_world.keys_element(tmp_path / "specs/elements")] = None
    refused = other.build()
    assert refused.status == 1
    assert refused.ran == [], "all but the packages of the spec is there already"
    assert "forged" in refused.errors and "not signed" in refused.errors


def test_a_mirror_must_be_given(rocky: Rocky, tmp_path: Path) -> None:
    refused = Rocky(tmp_path, shared=rocky.place).build()
    assert refused.status == 1
    assert "set base.mirror" in refused.errors
