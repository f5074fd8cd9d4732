"""What the DIB driver does between phases, on small trees."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imgc.engine import driver

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A build's state; ``tree("etc/a", "text")`` writes a file of its rootfs and returns its path."""
    monkeypatch.setattr(driver, "BUILD", str(tmp_path))
    monkeypatch.setattr(driver, "ROOTFS", str(tmp_path / "mnt"))
    monkeypatch.setattr(driver, "HOOKS", str(tmp_path / "hooks"))
    (tmp_path / "mnt/etc").mkdir(parents=True)
    (tmp_path / "hooks").mkdir()

    def path(name: str, text: str | None = None) -> Path:
        file = tmp_path / "mnt" / name
        if text is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return file

    return path


def test_resolv_conf_is_kept_and_put_back(tree: Tree) -> None:
    tree("etc/resolv.conf", "the image's own\n")
    driver.resolv_conf({"resolv_conf": "nameserver 192.0.2.1\n"})
    assert tree("etc/resolv.conf").read_text() == "nameserver 192.0.2.1\n"
    assert tree("etc/resolv.conf.ORIG").read_text() == "the image's own\n"
    driver.finalise({})
    assert tree("etc/resolv.conf").read_text() == "the image's own\n"
    assert not tree("etc/resolv.conf.ORIG").exists()


def test_a_tree_without_resolv_conf_has_none_afterwards(tree: Tree) -> None:
    driver.resolv_conf({"resolv_conf": "nameserver 192.0.2.1\n"})
    driver.finalise({})
    assert os.listdir(tree("etc")) == []


def test_a_copy_of_the_hosts_resolv_conf_is_not_the_trees_own(tree: Tree) -> None:
    tree("etc/resolv.conf", "nameserver 192.0.2.1\n")
    driver.resolv_conf({"resolv_conf": "nameserver 192.0.2.1\n"})
    assert tree("etc/resolv.conf").exists()
    driver.finalise({})
    assert os.listdir(tree("etc")) == []


def test_a_link_to_nowhere_comes_back(tree: Tree) -> None:
    tree("etc/resolv.conf").symlink_to("/run/systemd/resolve/stub-resolv.conf")
    driver.resolv_conf({"resolv_conf": "nameserver 192.0.2.1\n"})
    assert not tree("etc/resolv.conf").is_symlink()
    driver.finalise({})
    assert os.readlink(tree("etc/resolv.conf")) == "/run/systemd/resolve/stub-resolv.conf"


def test_a_link_that_an_element_made_stays(tree: Tree) -> None:
    tree("etc/resolv.conf", "the image's own\n")
    driver.resolv_conf({"resolv_conf": "nameserver 192.0.2.1\n"})
    tree("etc/resolv.conf").unlink()
    tree("etc/resolv.conf").symlink_to("../run/other")
    driver.finalise({})
    assert os.readlink(tree("etc/resolv.conf")) == "../run/other"
    assert not tree("etc/resolv.conf.ORIG").exists()


def test_the_default_install_type(tree: Tree, tmp_path: Path) -> None:
    driver.install_type({"install-type": "package"})
    text = (tmp_path / "hooks/environment.d/11-dib-install-type.bash").read_text()
    assert text == 'export DIB_DEFAULT_INSTALLTYPE=${DIB_DEFAULT_INSTALLTYPE:-"package"}\n'


def test_no_trace_of_the_build(tree: Tree) -> None:
    tree("tmp/a/b", "x")
    tree("tmp/.hidden", "x")
    tree("tmp/link").symlink_to("/etc")
    tree("var/tmp/c", "x")
    tree("var/log/apt/history.log", "installed")
    os.link(tree("var/log/apt/history.log"), tree("var/log/other"))
    tree("var/log/link").symlink_to("/dev/null")
    os.mkfifo(tree("var/log/fifo"))
    tree("root/install.log", "x")
    tree("root/notes", "kept")
    for name in ("dev/node", "proc/file", "sys/file"):
        tree(name, "x")
    driver.finalise({})
    for name in ("tmp", "var/tmp", "dev", "proc", "sys"):
        assert os.listdir(tree(name)) == [], name
    assert tree("var/log/apt/history.log").read_text() == ""
    assert sorted(os.listdir(tree("var/log"))) == ["apt", "fifo", "link", "other"]
    assert os.listdir(tree("root")) == ["notes"]


ID = "0123456789abcdef0123456789abcdef\n"


def test_no_identity_of_a_machine(tree: Tree) -> None:
    tree("etc/machine-id", ID)
    tree("var/lib/dbus/machine-id", ID)
    tree("var/lib/systemd/random-seed", "x")
    driver.finalise({})
    assert tree("etc/machine-id").read_text() == ""
    assert os.listdir(tree("var/lib/dbus")) == [] and os.listdir(tree("var/lib/systemd")) == []


@pytest.mark.parametrize("text", ["", "uninitialized\n"])
def test_a_machine_id_that_is_none_stays(tree: Tree, text: str) -> None:
    tree("etc/machine-id", text)
    tree("var/lib/dbus").mkdir(parents=True)
    tree("var/lib/dbus/machine-id").symlink_to("/etc/machine-id")
    driver.finalise({})
    assert tree("etc/machine-id").read_text() == text
    assert os.readlink(tree("var/lib/dbus/machine-id")) == "/etc/machine-id"


def test_caches_that_are_never_the_same_are_gone_and_others_stay(tree: Tree) -> None:
    for name in driver.LEFTOVERS:
        tree(name[1:], "x")
    kept = ["var/cache/apt/archives/a.deb", "var/cache/debconf/config.dat-old", "var/lib/apt/lists/x"]
    for name in kept:
        tree(name, "x")
    driver.finalise({})
    assert not [name for name in driver.LEFTOVERS if tree(name[1:]).exists()]
    assert [name for name in kept if not tree(name).exists()] == []


def test_nothing_is_removed_through_a_link(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("machine-id", "random-seed"):
        (tmp_path / "elsewhere" / name).write_text(ID)
    tree("var/lib").mkdir(parents=True)
    for name in ("dbus", "systemd"):
        tree(f"var/lib/{name}").symlink_to(tmp_path / "elsewhere")
    tree("etc/machine-id").symlink_to(tmp_path / "elsewhere/machine-id")
    driver.finalise({})
    assert [path.read_text() for path in sorted((tmp_path / "elsewhere").iterdir())] == [ID, ID]


def test_a_tmp_that_is_a_link_is_not_followed(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("x")
    tree("var").mkdir()
    tree("var/tmp").symlink_to(tmp_path / "elsewhere")
    driver.finalise({})
    assert (tmp_path / "elsewhere/file").exists()


def test_fstab_of_a_tree_that_becomes_no_disk(tree: Tree) -> None:
    driver.fstab({})
    assert not tree("etc/fstab").exists()


def test_archives_are_named_by_https_again(tree: Tree) -> None:
    line = "deb http://example.org/debian bookworm main\n"
    other = "deb http://example.com/debian bookworm main\n"
    source = tree("etc/apt/sources.list", line + other)
    part = tree("etc/apt/sources.list.d/a.sources", "URIs: http://example.org/debian\n")
    settings = tree("etc/apt/apt.conf", line)
    driver.finalise({"https": "https://example.org/debian https://example.net/x"})
    assert source.read_text() == line.replace("http:", "https:") + other
    assert part.read_text() == "URIs: https://example.org/debian\n"
    assert settings.read_text() == line
