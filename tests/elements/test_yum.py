"""yum: settings during the build and after it, and the repositories with which a package cache was filled."""

from __future__ import annotations

import subprocess
from pathlib import Path

import diskimage_builder
import pytest

import imgc

ELEMENTS = Path(imgc.__file__).parent / "elements"
YUM = ELEMENTS / "yum"
MANAGERS = ELEMENTS / "install-distro-packages/distro-packages"

#: As CentOS 7 has it.
YUM_CONF = """\
[main]
cachedir=/var/cache/yum/$basearch/$releasever
keepcache=0
debuglevel=2
logfile=/var/log/yum.log
exactarch=1
obsoletes=1
gpgcheck=1
plugins=1
installonly_limit=5
"""

DNF_CONF = "[main]\ngpgcheck=True\ninstallonly_limit=3\nbest=True\nskip_if_unavailable=False\n"


def in_namespace(script: str, tmp_path: Path, **environment: str) -> str:
    """What a script prints that sees empty directories, except for what is in ``tmp_path``, where the system's are."""
    places = ("etc", "usr/share", "var/cache", "var/lib")
    for place in places:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
    mounts = "".join(f'mount --bind "{tmp_path}/{place}" /{place} && ' for place in places)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", f"{mounts}{script}"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("yum", "name", "text"), [("yum", "yum.conf", YUM_CONF), ("dnf", "dnf/dnf.conf", DNF_CONF)]
)
def test_settings_hold_for_the_build_alone(yum: str, name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "etc" / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
    in_namespace(f"{YUM}/pre-install.d/00-01-yum-keepcache", tmp_path, YUM=yum)
    settings = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    assert [line for line in settings if "cache" in line] == ["cachedir=/tmp/yum", "keepcache=1"]
    in_namespace(f"{YUM}/post-install.d/99-reset-yum-conf", tmp_path, YUM=yum)
    assert file.read_text() == text


def test_settings_are_made_where_there_are_none(tmp_path: Path) -> None:
    in_namespace(f"{YUM}/pre-install.d/00-01-yum-keepcache", tmp_path, YUM="dnf")
    assert "cachedir=/tmp/yum" in (tmp_path / "etc/dnf/dnf.conf").read_text()
    in_namespace(f"{YUM}/post-install.d/99-reset-yum-conf", tmp_path, YUM="dnf")
    assert (tmp_path / "etc/dnf/dnf.conf").read_text() == "[main]\n"


def test_names_of_later_releases_are_translated_for_centos_7(tmp_path: Path) -> None:
    """With the program that package-installs translates with."""
    hook = ELEMENTS / "yum-minimal/pre-install.d/02-centos-7-names"
    program = Path(diskimage_builder.__file__).parent / "elements/pkg-map/bin/pkg-map"
    names = "lsof python3-libselinux policycoreutils-python-utils"
    ask = f"{hook}; python3 {program} --missing-ok --element redhat-common {names}"
    said = in_namespace(ask, tmp_path, DISTRO_NAME="centos", DIB_RELEASE="7")
    assert said.split() == ["lsof", "libselinux-python3", "policycoreutils-python"]


def test_names_are_left_alone_elsewhere(tmp_path: Path) -> None:
    hook = ELEMENTS / "yum-minimal/pre-install.d/02-centos-7-names"
    in_namespace(str(hook), tmp_path, DISTRO_NAME="centos", DIB_RELEASE="9-stream")
    assert not list((tmp_path / "usr/share").iterdir())


#: The build's repository: the URL with variables in it is not what is in the name of its cache.
OF_THE_BUILD = """\
[baseos]
name=Base
baseurl=http://mirror.test/$releasever/os/
username=somebody
gpgcheck=1
"""

#: What the older dnf and dnf 5 have in the name of `http://cache-bindep.invalid/baseos`.
NOWHERE = "baseos-fba4681e490061e2"


@pytest.mark.parametrize(
    ("kind", "cache", "moved"),
    [
        ("Dnf", "dnf/baseos-0123456789abcdef", f"dnf/{NOWHERE}"),
        ("Dnf5", "libdnf5/baseos-0123456789abcdef", f"libdnf5/{NOWHERE}"),
        ("Yum", "yum/x86_64/7/baseos", "yum/x86_64/7/baseos"),
    ],
)
def test_the_image_does_not_learn_where_it_was_built_from(
    kind: str, cache: str, moved: str, tmp_path: Path
) -> None:
    repositories = tmp_path / "etc/yum.repos.d"
    repositories.mkdir(parents=True)
    (repositories / "dib-mirror-rocky.repo").write_text(OF_THE_BUILD)
    (repositories / "extra.repo").write_text("[extra]\nname=Extra\nmirrorlist=http://mirrors.test/\n")
    (repositories / "rocky.repo.USING_MIRROR").write_text("[baseos]\n")
    for name in (cache, "dnf/extra-0123456789abcdef", "dnf/baseos-other-0123456789abcdef"):
        (tmp_path / "var/cache" / name).mkdir(parents=True)
        (tmp_path / "var/cache" / name / "repomd.xml").touch()
    script = (
        f"import sys; sys.path.insert(0, '{MANAGERS}'); import package_managers as p; p.{kind}('x').keep()"
    )
    in_namespace(f'python3 -BIc "{script}"', tmp_path)
    kept = tmp_path / "var/lib/cache-bindep/repos.d"
    assert (kept / "dib-mirror-rocky.repo").read_text().split() == [
        "[baseos]",
        "name=Base",
        "gpgcheck=1",
        "baseurl=http://cache-bindep.invalid/baseos",
    ]
    assert (kept / "extra.repo").read_text() == (repositories / "extra.repo").read_text()
    assert len(list(kept.iterdir())) == 2
    found = {str(path.parent.relative_to(tmp_path / "var/cache")) for path in tmp_path.rglob("repomd.xml")}
    assert found == {moved, "dnf/extra-0123456789abcdef", "dnf/baseos-other-0123456789abcdef"}
