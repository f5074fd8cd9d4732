"""simple-init: what can be seen of it without an image.  tests/integration/test_simple_init.py runs it in one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from glob import glob
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import diskimage_builder.paths
import pytest

import imgc
from imgc.graph import Plan, compile_plan
from imgc.spec.load import load

ELEMENT = Path(imgc.__file__).parent / "elements/simple-init"
STOCK = Path(diskimage_builder.paths.get_path("elements"))
SPECS = ELEMENT.parents[2] / "specs"

OLD, NEW = (
    "auto lo\niface lo inet loopback\n\n",
    "auto lo\niface lo inet loopback\nsource interfaces.d/*.cfg\n",
)


# --- files that are replaced as a whole ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def launcher() -> Iterator[ModuleType]:
    """The program that runs glean at boot, as a module."""
    loader = SourceFileLoader("python_glean", str(ELEMENT / "glean/python-glean"))
    spec = importlib.util.spec_from_loader("python_glean", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        loader.exec_module(module)
    yield module


def test_a_reader_sees_the_old_file_until_the_new_one_is_complete(
    launcher: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "interfaces"
    path.write_text(OLD)
    with path.open() as reading:
        with launcher.whole_files(open)(str(path), "w") as file:
            file.write(NEW)
            file.flush()
            assert path.read_text() == OLD
        assert path.read_text() == NEW
        # Who had begun to read reads the old one to its end.
        assert reading.read() == OLD
    assert os.listdir(tmp_path) == ["interfaces"]


def test_a_file_that_cannot_be_completed_leaves_the_old_one(launcher: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "interfaces"
    path.write_text(OLD)
    with pytest.raises(OSError, match="no space"), launcher.whole_files(open)(str(path), "w") as file:
        file.write(NEW)
        raise OSError("no space")
    assert (os.listdir(tmp_path), path.read_text()) == (["interfaces"], OLD)


def test_mode_and_owner_stay(launcher: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text("old")
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 1234, 5678)
    before = path.stat()
    with launcher.whole_files(open)(str(path), "w") as file:
        file.write("new")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


def test_a_link_stays_and_what_it_leads_to_is_written(launcher: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    link = tmp_path / "resolv.conf"
    link.symlink_to("run/resolv.conf")
    with launcher.whole_files(open)(str(link), "w") as file:
        file.write(NEW)
    assert link.is_symlink() and (tmp_path / "run/resolv.conf").read_text() == NEW


def test_a_file_that_is_added_to_is_not_replaced(launcher: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n")
    before = path.stat().st_ino
    with launcher.whole_files(open)(str(path), "r+") as file:
        file.read()
        file.write("127.0.1.1 host\n")
    assert path.read_text() == "127.0.0.1 localhost\n127.0.1.1 host\n"
    assert path.stat().st_ino == before


def test_no_pattern_of_a_network_configuration_takes_in_an_unfinished_file(
    launcher: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "ens3.cfg"
    with launcher.whole_files(open)(str(path), "w") as file:
        file.write(NEW)
        assert len(os.listdir(tmp_path)) == 1
        # What `source` in interfaces(5) means by *: the shell's own.
        assert glob(f"{tmp_path}/*") == []
    assert os.listdir(tmp_path) == ["ens3.cfg"]


# --- where the wheel comes from -----------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A directory with a wheel that is called glean."""
    directory = tmp_path / "index"
    directory.mkdir()
    with zipfile.ZipFile(directory / "glean-9.9-py3-none-any.whl", "w") as wheel:
        wheel.writestr("glean/__init__.py", "")
        wheel.writestr("glean-9.9.dist-info/METADATA", "Metadata-Version: 2.1\nName: glean\nVersion: 9.9\n")
        wheel.writestr("glean-9.9.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("glean-9.9.dist-info/RECORD", "")
    return directory


def fetch(index: Path, root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the element's extra-data.d where pip has nothing but ``index``."""
    programs = root.parent / "bin"
    programs.mkdir()
    sudo = programs / "sudo"
    sudo.write_text('#!/bin/sh\nexec "$@"\n')
    sudo.chmod(0o755)
    (root / "tmp").mkdir(parents=True)
    return subprocess.run(
        [ELEMENT / "extra-data.d/50-simple-init-wheels"],
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(root.parent),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(index),
            "DIB_PYTHON_EXEC": sys.executable,
            "TMP_MOUNT_PATH": str(root),
            **variables,
        },
        capture_output=True,
        text=True,
    )


def test_the_stock_driver_gets_the_wheel_by_pip(index: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    done = fetch(index, root)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (root / "tmp/wheels/simple-init").iterdir()] == [
        "glean-9.9-py3-none-any.whl"
    ]


def test_the_build_ends_where_there_is_no_glean(tmp_path: Path) -> None:
    done = fetch(tmp_path / "nothing", tmp_path / "root")
    assert done.returncode != 0 and "glean" in done.stderr
    assert os.listdir(tmp_path / "root/tmp") == []


def test_with_wheels_of_imgc_nothing_is_fetched(index: Path, tmp_path: Path) -> None:
    done = fetch(index, tmp_path / "root", IMGC_WHEELS="/dev/imgc/wheels")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert os.listdir(tmp_path / "root/tmp") == []


def test_a_missing_wheel_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        [ELEMENT / "install.d/40-glean"],
        env={"PATH": os.environ["PATH"], "IMGC_WHEELS": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (
        1,
        f"simple-init: there is no wheel of glean in {tmp_path}/simple-init\n",
    )


# --- beside the stock element -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def debian() -> Plan:
    """The shipped Debian, compiled."""
    platform = load("debian-bookworm", specs_dir=SPECS, host_environment={})
    return compile_plan(platform, mirrors={"DIB_DISTRIBUTION_MIRROR": "http://mirror.example/debian"})


def test_nothing_is_built_from_repositories_or_in_virtual_environments(debian: Plan) -> None:
    names = {element.name for element in debian.elements}
    assert "simple-init" in names
    assert not names & {"source-repositories", "install-types", "ensure-venv"}


def test_its_hooks_come_in_the_order_of_the_stock_ones(debian: Plan) -> None:
    own = [
        (phase, hook.name)
        for phase in ("extra-data.d", "install.d", "post-install.d")
        for hook in debian.phase(phase)
        if hook.element == "simple-init"
    ]
    assert own == [
        ("extra-data.d", "50-simple-init-wheels"),
        ("install.d", "40-glean"),
        ("install.d", "50-simple-init"),
        ("install.d", "60-simple-init-remove-interfaces"),
        ("post-install.d", "80-simple-init"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "environment.d/50-disable-cloud-init",
        "install.d/60-simple-init-remove-interfaces",
        "post-install.d/80-simple-init",
    ],
)
def test_what_has_not_changed_is_the_stock_elements(name: str) -> None:
    own, stock = (
        # The linters want quotes where the stock hook has none, and no blanks at the ends of lines.
        [line.rstrip().replace('"', "") for line in (directory / name).read_text().splitlines()]
        for directory in (ELEMENT, STOCK / "simple-init")
    )
    assert own == stock


def test_its_map_of_packages_is_the_stock_one_without_what_is_not_needed() -> None:
    own, stock = (
        json.loads((directory / "pkg-map").read_text()) for directory in (ELEMENT, STOCK / "simple-init")
    )
    del stock["family"]["redhat"]["glean"], stock["family"]["gentoo"]["python-pip"]
    # NetworkManager gets keyfiles, which all its releases read: none needs the plugin for ifcfg files.  The stock
    # element's list of packages is applied beside this one's, so the name must have a place in the map.
    del stock["release"]["fedora"]
    stock["family"]["gentoo"]["python3"] = "dev-lang/python"
    assert own == stock


@pytest.mark.parametrize(
    ("manager", "wanted"),
    [
        ("0", {"network-scripts"}),
        ("1", {"NetworkManager"}),
    ],
)
def test_packages(tmp_path: Path, manager: str, wanted: set[str]) -> None:
    squash = STOCK / "package-installs/bin/package-installs-squash"
    out = tmp_path / "packages.json"
    subprocess.run(
        [sys.executable, squash, "--elements", "simple-init", "--path", str(ELEMENT.parent), str(out)],
        env={**os.environ, "ARCH": "amd64", "DIB_SIMPLE_INIT_NETWORKMANAGER": manager},
        check=True,
        capture_output=True,
    )
    found = json.loads(out.read_text())["install.d"]
    assert {name for name, _ in found["install"]} == {
        "python3",
        "dhcp-client",
        "net-tools",
        "ifupdown",
    } | wanted
    assert [name for name, _ in found["uninstall"]] == ["cloud-init"]


@pytest.mark.parametrize(
    ("distro", "release", "manager", "status", "answer"),
    [
        ("debian", "bookworm", "", 0, "0"),
        ("debian", "bookworm", "1", 0, "1"),
        ("centos", "9-stream", "", 0, "1"),
        ("rocky", "10", "", 0, "1"),
        ("centos", "7", "0", 0, "0"),
        ("almalinux", "7", "0", 0, "0"),
        ("almalinux", "8", "0", 1, ""),
        ("rocky", "10", "0", 1, ""),
        ("fedora", "41", "0", 1, ""),
    ],
)
def test_who_configures_the_network(
    distro: str, release: str, manager: str, status: int, answer: str
) -> None:
    file = ELEMENT / "environment.d/15-simple-init-networkmanager"
    script = 'set -eu; . "$1" >/dev/null; printf %s "$DIB_SIMPLE_INIT_NETWORKMANAGER"'
    given = {"DIB_SIMPLE_INIT_NETWORKMANAGER": manager} if manager else {}
    done = subprocess.run(
        ["bash", "-c", script, "bash", file],
        env={"PATH": os.environ["PATH"], "DISTRO_NAME": distro, "DIB_RELEASE": release, **given},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (status, answer), done.stderr
