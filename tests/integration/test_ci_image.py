"""The whole CI image: shipped platforms with every cache, keys and networking; and jobs in it, without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.cached_project import UPSTREAM, CachedProject, Repositories, web
from tests.integration.cloud_guest import cloud_guest, mac
from tests.integration.debian import SPECS
from tests.integration.jobs import job
from tests.integration.project import Build
from tests.integration.ubuntu_world import UbuntuWorld

pytestmark = pytest.mark.integration

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f zuul@ci"

#: What no archive has, and what no reader of lists can read.
UNKNOWN, UNREADABLE = "no-such-package-anywhere", "jq [unclosed"

FALLBACK = "tree [platform:dpkg]\n"

#: As devstack's own, in little.
IMAGE_LIST = """\
#!/bin/bash
cat "$(dirname "$0")/urls"
"""

SPEC = """\
schema: 1
name: {name}
extends:
  - {specs}/{name}.yaml
  - {specs}/common/ci-users.yaml
element_paths: [{paths}]
elements: [{elements}]
environment: {{{environment}}}
outputs: !replace [{outputs}]
users:
  - {{name: zuul, sudo: true, keys: ["{key}"]}}
caches:
  git:
    projects: lists/projects.yaml
    base: {upstream}
    mirror: file://{mirror}
  bindep:
    fallback: lists/fallback.txt
    devstack: openstack/devstack
  files:
    list:
{files}
    devstack: openstack/devstack
"""


@dataclass
class CiImage(CachedProject):
    """A shipped platform and everything that makes it a CI image."""

    platform: str = ""
    world: UbuntuWorld | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.platform

    @property
    def cache(self) -> Path:
        kept = os.environ.get("IMGC_TEST_CACHE")
        return Path(kept) if kept else self.directory / "cache"

    def environ(self) -> dict[str, str]:
        return {**super().environ(), **(self.world.environment() if self.world else {})}

    def spec(self) -> str:
        lists = self.directory / "specs" / "lists"
        lists.mkdir(parents=True, exist_ok=True)
        projects = "".join(f"- project: {one}\n  description: it\n" for one in self.projects)
        (lists / "projects.yaml").write_text(projects)
        (lists / "fallback.txt").write_text(FALLBACK)
        own = [str(self.world.elements)] if self.world else []
        return SPEC.format(
            name=self.name,
            specs=SPECS,
            paths=", ".join(own),
            elements=", ".join(["install-distro-packages", *(["ubuntu-world"] if self.world else [])]),
            environment='IMGC_TARGET_PYTHON: "3.11"' if self.world else "",
            outputs=self.outputs,
            key=KEY,
            upstream=UPSTREAM,
            mirror=self.upstream.directory,
            files="\n".join(f"      - {item}" for item in self.files),
        )

    def fill(self, url: str) -> None:
        """Make the projects and say which files."""
        self.projects = [
            "org/unit",
            "org/plain",
            "org/broken",
            "openstack/devstack",
            "org/nowhere",
            "org/role",
        ]
        self.files = [f"{url}/get-pip.py", f"{url}/dead.img"]
        upstream = self.upstream
        upstream.commit("org/unit", {"bindep.txt": f"libyaml-dev [platform:dpkg]\n{UNKNOWN}\n"})
        upstream.commit("org/unit", {"bindep.txt": "jq\n"}, "stable/1")
        upstream.commit("org/plain", {"README": "declares nothing\n"})
        upstream.commit("org/role", {"bindep.txt": "libxml2-utils [test !platform:ubuntu]\n"})
        upstream.commit("org/broken", {"other-requirements.txt": f"hello\n{UNREADABLE}\n"})
        upstream.commit(
            "openstack/devstack",
            {
                "tools/image_list.sh": IMAGE_LIST,
                "tools/urls": f"{url}/cirros.img\n",
                "files/debs/general": "tree\n",
            },
        )


@pytest.fixture(scope="module")
def url(module_path: Path) -> Iterator[str]:
    www = module_path / "www"
    www.mkdir()
    (www / "get-pip.py").write_text("print('pip')\n")
    (www / "cirros.img").write_bytes(bytes(1 << 16))
    with web(www) as (url, _):
        yield url


Built = tuple[CiImage, Build, Path]


def built(platform: str, world: UbuntuWorld | None, url: str, outputs: str, directory: Path) -> Built:
    """The platform, how its build went, and its tree."""
    directory.mkdir()
    image = CiImage(directory, platform=platform, world=world)
    image.outputs = outputs
    image.fill(url)
    done = image.build("--refresh", seconds=900)
    assert done.status == 0, done.errors
    return image, done, image.unpacked()


@pytest.fixture(scope="module")
def trusty(world: UbuntuWorld, url: str, module_path: Path) -> Iterator[Built]:
    made = built(
        "ubuntu-trusty",
        world,
        url,
        "qcow2, {format: tar, compression: none}",
        module_path / "trusty",
    )
    yield made
    shutil.rmtree(made[0].directory)


@pytest.fixture(scope="module")
def bookworm(url: str, module_path: Path) -> Iterator[Built]:
    made = built(
        "debian-bookworm",
        None,
        url,
        "{format: tar, compression: none}",
        module_path / "bookworm",
    )
    yield made
    shutil.rmtree(made[0].directory)


@pytest.fixture(params=["trusty", "bookworm"])
def image(request: pytest.FixtureRequest) -> Built:
    found: Built = request.getfixturevalue(request.param)
    return found


def has(root: Path, package: str) -> bool:
    words = ["chroot", str(root), "dpkg-query", "--show", "--showformat=${Status}", package]
    return subprocess.run(words, capture_output=True, text=True).stdout == "install ok installed"


# --- what is in it -------------------------------------------------------------------------------------------------


def test_the_caches_are_there(image: Built) -> None:
    _, _, root = image
    assert (root / "opt/git/org/unit/bindep.txt").is_file()
    assert {path.name for path in (root / "opt/cache/files").iterdir()} == {"get-pip.py", "cirros.img"}
    debs = {path.name.partition("_")[0] for path in (root / "var/cache/apt/archives").glob("*.deb")}
    assert {"libyaml-dev", "jq", "hello", "tree"} <= debs
    assert list((root / "var/lib/apt/lists").glob("*Packages*"))
    assert not [name for name in ("libyaml-dev", "jq", "hello", "tree") if has(root, name)]


def test_who_asked_for_what(image: Built) -> None:
    project, _, _ = image
    told = json.loads((project.images / f"{project.name}.caches.json").read_text())
    asked = told["packages"]["packages"]
    assert asked["libyaml-dev"] == ["org/unit@master"]
    assert asked["jq"] == ["org/unit@stable/1"]
    assert "openstack/devstack@master" in " ".join(asked["tree"])
    shown = project.imgc("caches", project.name, "--package", "jq")
    assert shown.stdout == "jq: org/unit@stable/1\n"


def test_every_bad_entry_is_told_with_its_place(image: Built) -> None:
    project, done, _ = image
    told = "\n".join(event["text"] for event in done.of("Notice"))
    report = json.loads((project.images / f"{project.name}.caches.json").read_text())
    # A build that finds the package cache made has told of it before.
    told += "\n".join(report["findings"])
    assert "org/broken@master:other-requirements.txt:2:" in told and "E656" in told
    assert "lists/projects.yaml:9:" in told and "E653" in told and "org/nowhere" in told
    assert f"{project.name}.yaml:" in told and "E659" in told and "dead.img" in told
    assert "E657" in told and UNKNOWN in told and "org/unit@master" in told


def test_users_have_keys_and_nobody_has_secrets(image: Built) -> None:
    _, _, root = image
    keys = root / "home/zuul/.ssh/authorized_keys"
    assert keys.read_text().strip() == KEY
    assert keys.stat().st_mode & 0o777 == 0o600
    assert not list((root / "etc/ssh").glob("ssh_host_*"))
    shadow = dict(line.split(":")[:2] for line in (root / "etc/shadow").read_text().splitlines())
    assert not [name for name, password in shadow.items() if password and password[0] not in "!*"]


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_a_job_installs_what_its_project_declares(image: Built) -> None:
    _, _, root = image
    done = job(root, "org/unit", "--offline", branch="stable/1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert has(root, "jq") and not has(root, "libyaml-dev") and not has(root, "hello")


def test_a_job_of_a_project_that_declares_nothing(image: Built) -> None:
    _, _, root = image
    done = job(root, "org/plain", "--offline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert has(root, "tree")


def test_a_job_that_asks_for_what_nobody_has(image: Built) -> None:
    _, _, root = image
    done = job(root, "org/unit", "--offline")
    assert done.returncode in (1, 3)
    assert UNKNOWN in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_whose_list_cannot_be_read(image: Built) -> None:
    _, _, root = image
    done = job(root, "org/broken", "--offline")
    assert done.returncode == 2
    assert "other-requirements.txt" in done.stderr and "line 2 cannot be read" in done.stderr


def test_the_role_for_ansible(bookworm: Built, tmp_path: Path) -> None:
    """The role in an image without a network: what the project declares, once, and a list that cannot be read."""
    _, _, root = bookworm
    assert not has(root, "libxml2-utils")
    job(root, "org/role", "--list")
    (tmp_path / "inventory").write_text(
        f"{root} ansible_connection=tree ansible_python_interpreter=/usr/bin/python3\n"
    )

    def play(project: str) -> subprocess.CompletedProcess[str]:
        # A job's checkout.
        job(root, project, "--list")
        place = f"/root/job-{project.replace('/', '-')}-master"
        (tmp_path / "play.yaml").write_text(
            "- hosts: all\n  gather_facts: false\n  roles:\n    - role: install-distro-packages\n"
            f"      install_distro_packages_directory: {place}\n"
            "      install_distro_packages_offline: true\n"
        )
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "ansible",
                "playbook",
                "-i",
                str(tmp_path / "inventory"),
                str(tmp_path / "play.yaml"),
            ],
            env={
                **os.environ,
                "ANSIBLE_ROLES_PATH": str(SPECS.parent / "roles"),
                "ANSIBLE_CONNECTION_PLUGINS": str(Path(__file__).parent / "ansible/connection_plugins"),
                "ANSIBLE_HOME": str(tmp_path / "ansible"),
                "ANSIBLE_NOCOLOR": "1",
                "LC_ALL": "C.UTF-8",
            },
            capture_output=True,
            text=True,
            timeout=600,
        )

    first = play("org/role")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "changed=1" in first.stdout
    assert has(root, "libxml2-utils")
    again = play("org/role")
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout
    unreadable = play("org/broken")
    assert unreadable.returncode != 0
    assert "line 2 cannot be read" in unreadable.stdout


# --- it boots --------------------------------------------------------------------------------------------------------


def test_it_boots_and_its_trees_are_git_trees(trusty: Built, tmp_path: Path) -> None:
    project, _, _ = trusty
    data: dict[str, object] = {
        "links": [{"id": "nic", "type": "phy", "ethernet_mac_address": mac(1)}],
        "networks": [{"id": "net", "link": "nic", "type": "ipv4_dhcp"}],
        "services": [],
    }
    with cloud_guest(project.images / "ubuntu-trusty.qcow2", tmp_path, data, 1) as guest:
        as_zuul = "setpriv --reuid zuul --regid zuul --clear-groups env HOME=/home/zuul"
        log = guest.run(f"{as_zuul} git -C /opt/git/org/unit log --format=%s --all")
        assert log.split("\n")[0] == "a change"
        origin = guest.run("git -C /opt/git/org/unit remote get-url origin")
        assert origin.strip() == f"{UPSTREAM}/org/unit"
        done = guest.run(
            "cd /root; git clone --quiet --branch stable/1 /opt/git/org/unit job;"
            " unshare --net install-distro-packages --offline job; jq --version",
            300,
        )
        assert "jq-" in done


def test_pins_say_what_was_cached(trusty: Built) -> None:
    project, _, _ = trusty
    lock = (project.images / "ubuntu-trusty.lock").read_text()
    commit = Repositories.git(project.upstream.directory / "org/unit", "rev-parse", "master")
    assert f"org/unit: {UPSTREAM}/org/unit master={commit}" in lock.replace('"', "")
    assert project.build().ran == []
