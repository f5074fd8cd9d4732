"""Images that start from other people's: a cloud's disk image and a tarball, here made of the Debian of the tests."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from tests.integration.debian import SPECS, Debian
from tests.integration.project import Project

pytestmark = pytest.mark.integration

SPEC = """\
schema: 1
name: {name}
extends: {specs}/common/debian.yaml
base: {{kind: {kind}, release: bookworm, image: {image}}}
packages: [tree]
outputs: !replace [{outputs}]
"""


class Bases(Project):
    """Two platforms, each from what another build made."""

    name = "from-disk"

    def __init__(self, directory: Path, debian: Debian) -> None:
        super().__init__(directory)
        self.debian = debian

    @property
    def cache(self) -> Path:
        kept = os.environ.get("IMGC_TEST_CACHE")
        return Path(kept) if kept else self.directory / "cache"

    def spec(self) -> str:
        tar = SPEC.format(
            name="from-tar",
            specs=SPECS,
            kind="tree",
            image=self.debian.tar,
            outputs="{format: tar, compression: none}",
        )
        (self.directory / "specs/from-tar.yaml").write_text(tar)
        return SPEC.format(
            name=self.name,
            specs=SPECS,
            kind="cloud-image",
            image=self.debian.images / "debian-bookworm.qcow2",
            outputs="qcow2, {format: tar, compression: none}",
        )


@pytest.fixture(scope="module")
def bases(debian: Debian, module_path: Path) -> Bases:
    made = Bases(module_path, debian)
    done = made.imgc("build", "--all", "--refresh", "-o", str(made.images), seconds=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def tree_of(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {member.name.removeprefix("./"): member for member in archive}


@pytest.mark.parametrize("name", ["from-disk", "from-tar"])
def test_the_base_is_in_the_image_as_it_was(bases: Bases, name: str) -> None:
    before, after = bases.debian.tree(), tree_of(bases.images / f"{name}.tar")
    assert after["usr/bin/tree"].isreg() and "usr/bin/tree" not in before
    # What no package and no hook of this build has touched.
    same = ("usr/bin/sudo", "usr/bin/passwd", "etc/shadow", "var/mail", "usr/lib/glean/glean/cmd.py", "bin")
    for path in (path for path in same if path in before):
        one, other = before[path], after[path]
        assert (one.uid, one.gid, one.mode, one.type, one.size, one.linkname) == (
            other.uid,
            other.gid,
            other.mode,
            other.type,
            other.size,
            other.linkname,
        ), path


def test_a_second_build_runs_nothing(bases: Bases) -> None:
    done = bases.imgc("build", "--all", "--json", "-o", str(bases.images))
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event for event in events if event["event"] == "StepFinished"] == []


def test_an_image_of_another_distribution(bases: Bases, tmp_path: Path) -> None:
    specs = tmp_path / "specs"
    specs.mkdir()
    (specs / "wrong.yaml").write_text(
        "schema: 1\nname: wrong\nbase: {kind: tree, distro: ubuntu, release: noble, baseline: false, mirror: default,"
        f" image: {bases.debian.tar}}}\noutputs: [tar]\n"
    )
    bases.command()
    done = bases.imgc("--specs", str(specs), "build", "wrong", "-o", str(tmp_path))
    assert done.returncode == 1
    assert "The base is debian, but base.distro (DISTRO_NAME) says ubuntu." in done.stdout + done.stderr


@pytest.mark.slow
def test_it_boots_again(bases: Bases) -> None:
    done = bases.imgc("boot", str(bases.images / "from-disk.qcow2"), "--json", seconds=1500)
    failed = [check for report in json.loads(done.stdout) for check in report["checks"] if not check["ok"]]
    assert (done.returncode, failed) == (0, []), done.stderr
