"""Users of an image: the same ones made by ci-users and by Puppet, in two Debian images that are built as one graph."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tests.integration.debian import Debian
from tests.integration.project import Build, owners_and_modes

pytestmark = pytest.mark.integration

#: Keys that nobody has the private half of: their 32 bytes are the numbers from 0 on, and from 1 on.
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g"

#: With what YAML, JSON, Hiera and the shell could trip over.
ODD = f'restrict,command="echo %{{facts}} \\"$HOME\\"" {KEY} Jürgen\'s key'

SPEC = """\
schema: 1
name: {name}
base: {{kind: minimal, distro: debian, release: bookworm, baseline: false}}
element_paths: [elements]
elements: [runtime-ssh-host-keys{elements}]
environment: {{{environment}}}
outputs: [{{format: tar, compression: none}}]
users:
  - name: zuul
    uid: 1777
    groups: [docker, sudo]
    sudo: true
    home: /opt/zuul
    shell: {shell}
    keys:
      - {key} zuul@one
      - >-
        {odd}
  - {{name: plain, keys: []}}
  - {{name: root, keys: [{key} root@one]}}
"""

#: What a project brings for Puppet, beside the users.
OWN_MANIFEST = "include own\n"
OWN_MODULE = """\
class own {
  file { '/etc/own':
    content => "${facts['networking']['hostname']} ${facts['clientcert']} ${ci_users::groups}\\n",
  }
}
"""


@dataclass
class Users(Debian):
    """A Debian with users.  ``added`` are further elements, ``shell`` is the shell of one of them."""

    name: ClassVar[str] = "native"
    added: str = ""
    shell: str = "/bin/bash"

    def spec(self) -> str:
        return self._spec("native", self.added)

    def _spec(self, name: str, added: str, environment: str = "") -> str:
        return SPEC.format(
            name=name, elements=added, environment=environment, key=KEY, odd=ODD, shell=self.shell
        )

    def by_puppet(self, environment: str = "") -> None:
        """Write the other platform: its users are made by Puppet, which has an own manifest to apply as well."""
        self.write("own/README.rst", "Manifests of a project.\n", 0o644)
        self.write("own/puppet/manifests/own.pp", OWN_MANIFEST, 0o644)
        self.write("own/puppet/modules/own/manifests/init.pp", OWN_MODULE, 0o644)
        file = self.directory / "specs/puppet.yaml"
        file.write_text(self._spec("puppet", ", puppet-keys, own", environment), encoding="utf-8")

    def make(self, *names: str) -> subprocess.CompletedProcess[str]:
        return self.imgc("build", *names, "-o", str(self.images), seconds=900)


class Image:
    """What an archive holds."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with tarfile.open(file) as archive:
            self.tree = {member.name.removeprefix("./"): member for member in archive}

    def text(self, path: str) -> str:
        with tarfile.open(self.file) as archive:
            file = archive.extractfile(f"./{path}")
            assert file is not None
            return file.read().decode()

    def lines(self, path: str) -> list[str]:
        return self.text(path).splitlines()

    def mode(self, path: str) -> tuple[str, int, int]:
        member = self.tree[path]
        return f"{member.mode:04o}", member.uid, member.gid


@pytest.fixture(scope="module")
def users(module_path: Path) -> Users:
    """Both platforms, built once."""
    users = Users(module_path)
    users.by_puppet()
    done = users.make("native", "puppet")
    assert done.returncode == 0, done.stdout + done.stderr
    return users


@pytest.fixture(scope="module")
def native(users: Users) -> Image:
    return Image(users.images / "native.tar")


@pytest.fixture(scope="module")
def puppet(users: Users) -> Image:
    return Image(users.images / "puppet.tar")


@pytest.fixture(scope="module")
def unpacked(users: Users, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image that Puppet worked on, to change into."""
    assert os.geteuid() == 0, "these tests change into an image: run them as root, as CI does"
    directory = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["tar", "-C", directory, "-xf", users.images / "puppet.tar"], check=True)
    yield directory
    subprocess.run(["rm", "-rf", "--one-file-system", directory], check=True)


def inside(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the image, without a network."""
    return subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "chroot", root, *argv],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


# --- what is in both images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["native", "puppet"])
def test_accounts_keys_and_sudo(way: str, request: pytest.FixtureRequest) -> None:
    image: Image = request.getfixturevalue(way)
    assert image.lines("etc/passwd")[-2:] == [
        "zuul:x:1777:1777::/opt/zuul:/bin/bash",
        "plain:x:1778:1778::/home/plain:/bin/bash",
    ]
    shadow = {line.split(":")[0]: line.split(":")[1] for line in image.lines("etc/shadow")}
    assert (shadow["zuul"], shadow["plain"]) == ("*", "*")
    groups = {line.split(":")[0]: line.split(":")[2:] for line in image.lines("etc/group")}
    assert groups["docker"][1] == groups["sudo"][1] == "zuul" and groups["zuul"] == ["1777", ""]
    assert 100 <= int(groups["docker"][0]) < 1000

    assert image.lines("opt/zuul/.ssh/authorized_keys") == [f"{KEY} zuul@one", ODD]
    assert image.lines("root/.ssh/authorized_keys") == [f"{KEY} root@one"]
    assert image.mode("opt/zuul/.ssh/authorized_keys") == ("0600", 1777, 1777)
    assert image.mode("opt/zuul/.ssh") == ("0700", 1777, 1777)
    assert image.mode("root/.ssh/authorized_keys") == ("0600", 0, 0)
    assert image.mode("opt/zuul") == ("0755", 1777, 1777)
    assert "opt/zuul/.bashrc" in image.tree and "home/plain/.ssh" not in image.tree

    assert image.text("etc/sudoers.d/90-ci-zuul").endswith("zuul ALL=(ALL:ALL) NOPASSWD: ALL\n")
    assert image.mode("etc/sudoers.d/90-ci-zuul") == ("0440", 0, 0)
    assert [path for path in image.tree if path.startswith("etc/sudoers.d/90-ci-")] == [
        "etc/sudoers.d/90-ci-zuul"
    ]


def test_the_two_ways_lead_to_the_same_image(native: Image, puppet: Image) -> None:
    """But for what tells of the platform, what the other manifest makes, and copies of what was before."""
    one, two = owners_and_modes(native.tree), owners_and_modes(puppet.tree)
    with tarfile.open(native.file) as first, tarfile.open(puppet.file) as second:
        differ = {
            path
            for path in one.keys() | two.keys()
            if one.get(path) != two.get(path)
            or (_counts(path, native) and _bytes(first, path) != _bytes(second, path))
        }
    told = {path for path in differ if path.startswith("etc/dib-manifests/") or path == "etc/own"}
    copies = {path for path in differ if path.endswith(("-", "-old"))}
    # The names of the element's packages, and an empty list of overrides.
    left = {"usr/share/pkg-map/puppet-keys", "var/lib/dpkg/statoverride"}
    assert differ - told - copies <= left
    assert puppet.text("var/lib/dpkg/statoverride") == ""


def _counts(path: str, image: Image) -> bool:
    """Whether content is compared: that of packages comes from the same layers, and is most of an image."""
    return image.tree[path].isfile() and not path.startswith(("boot/", "usr/lib/", "usr/share/"))


def _bytes(archive: tarfile.TarFile, path: str) -> bytes:
    file = archive.extractfile(f"./{path}")
    assert file is not None
    return file.read()


# --- what is left of Puppet ---------------------------------------------------------------------------------------


def test_puppet_applied_the_manifest_of_the_project_and_knows_nothing_of_the_host(puppet: Image) -> None:
    assert puppet.text("etc/own") == "localhost ci-image [docker, sudo]\n"


def test_nothing_of_puppet_is_left(puppet: Image) -> None:
    named = [path for path in puppet.tree if "puppet" in path or "facter" in path or "/ruby" in path]
    assert sorted(named) == ["etc/dib-manifests/dib-manifest-dpkg-puppet", "usr/share/pkg-map/puppet-keys"]
    for database in ("passwd", "shadow", "group", "gshadow"):
        assert "puppet" not in puppet.text(f"etc/{database}")
    assert "\nPackage: puppet" not in puppet.text("var/lib/dpkg/status")
    assert "\nPackage: ruby" not in puppet.text("var/lib/dpkg/status")


def test_the_image_that_puppet_leaves_works(unpacked: Path) -> None:
    # dpkg runs no more while something of its own names an account that is gone.
    done = inside(unpacked, "dpkg", "--configure", "-a")
    assert (done.returncode, done.stderr) == (0, "")
    done = inside(unpacked, "su", "zuul", "-c", "sudo -n id -u")
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    done = inside(unpacked, "su", "plain", "-c", "sudo -n id -u")
    assert done.returncode != 0
    keys = unpacked / "opt/zuul/.ssh/authorized_keys"
    listed = subprocess.run(["ssh-keygen", "-l", "-f", keys], capture_output=True, text=True)
    assert listed.stdout.count("(ED25519)") == 2, listed.stderr


# --- a build again ------------------------------------------------------------------------------------------------


@pytest.fixture
def edited(users: Users) -> Iterator[Users]:
    """The project, to edit; afterwards it is as it was, but for what the cache has learnt."""
    yield users
    users.added, users.shell, users.environment = "", Users.shell, {}
    users.by_puppet()


def failed(build: Build, step: str) -> str:
    """What a build printed that failed at ``step``."""
    assert build.status == 1, build.errors
    assert step in build.errors
    return "\n".join(build.lines) + build.errors


def test_a_private_key_in_the_image_fails_the_build(edited: Users) -> None:
    edited.hook("leak/finalise.d/98-leak", "ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_deploy")
    edited.added = ", leak"
    said = failed(edited.build(seconds=600), "cleanup.d/95-no-secrets")
    assert "no-secrets: /root/.ssh/id_deploy: a private key" in said


def test_a_user_with_a_shell_that_the_image_lacks_fails_the_build(edited: Users) -> None:
    edited.shell = "/bin/zsh"
    build = edited.build(seconds=600)
    said = failed(build, "post-install.d/60-ci-users")
    assert "ci-users: DIB_CI_USERS: the shell of zuul, /bin/zsh, is not in the image" in said
    # A changed user installs no package again.
    assert not any(step.startswith(("install.d/", "root.d/")) for step in build.ran)


def test_a_manifest_that_fails_fails_the_build(edited: Users) -> None:
    edited.write(
        "own/puppet/modules/own/manifests/init.pp", "class own { file { '/no/such/place': } }\n", 0o644
    )
    edited.write(
        "own/puppet/modules/own/manifests/init.pp", OWN_MODULE.replace("/etc/own", "/no/such/own"), 0o644
    )
    done = edited.make("puppet")
    assert done.returncode == 1
    assert "puppet-keys: puppet apply failed with status" in done.stdout + done.stderr


def test_a_manifest_that_no_element_brings_is_named(edited: Users) -> None:
    edited.by_puppet("DIB_PUPPET_MANIFEST: manifests/nothing.pp")
    done = edited.make("puppet")
    assert done.returncode == 1
    assert "no element brings puppet/manifests/nothing.pp" in done.stdout + done.stderr
