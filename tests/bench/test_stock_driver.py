"""The stock driver's side of the bench: the same platform in its words, and nothing of it left on the machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import stock_driver
from imgc import spec
from imgc.spec.model import Platform

PLATFORM = """\
schema: 1
name: small
base:
  distro: debian
  release: bookworm
  mirror: http://mirror.example/debian
  security_mirror: http://mirror.example/debian-security
  baseline: false
elements: [growroot]
packages: [less, tree]
environment:
  SOME_SETTING: some value
disk:
  partitioning: mbr
  boot: bios
  size: 3 GiB
outputs: [qcow2, vhd]
"""


def platform(directory: Path, text: str = PLATFORM) -> Platform:
    (directory / "small.yaml").write_text(text)
    return spec.load("small", specs_dir=directory, host_environment={})


def test_the_same_platform_for_the_stock_driver(tmp_path: Path) -> None:
    command = stock_driver.stock_command(platform(tmp_path))
    line = " ".join(command.argv)
    options, _, elements = line.partition(" debian-minimal ")
    assert options == (
        "disk-image-create -o image -a amd64 -t qcow2 --root-label cloudimg-rootfs -n -p less,tree"
    )
    assert elements == "vm block-device-mbr bootloader growroot"
    assert command.formats == ("qcow2",)
    assert any("vhd" in note for note in command.notes)


def test_its_environment(tmp_path: Path) -> None:
    environment = stock_driver.stock_command(platform(tmp_path)).environment
    wanted = {
        "DIB_DEBIAN_SECURITY_MIRROR": "http://mirror.example/debian-security",
        "DIB_DISTRIBUTION_MIRROR": "http://mirror.example/debian",
        "DIB_IMAGE_SIZE": "3",
        "DIB_RELEASE": "bookworm",
        "SOME_SETTING": "some value",
    }
    assert wanted.items() <= environment.items()
    assert not [name for name in environment if name.startswith("IMGC_")]


def test_the_base_element_is_the_drivers_to_add(tmp_path: Path) -> None:
    command = stock_driver.stock_command(
        platform(tmp_path, PLATFORM.replace("baseline: false", "baseline: true"))
    )
    assert "-n" not in command.argv and "base" not in command.argv


def test_elements_of_the_platforms_own_paths_come_along(tmp_path: Path) -> None:
    (tmp_path / "elements/greeting").mkdir(parents=True)
    text = PLATFORM.replace("[growroot]", "[growroot, greeting]") + "element_paths: [elements]\n"
    command = stock_driver.stock_command(platform(tmp_path, text))
    assert "greeting" in command.argv
    assert command.environment["ELEMENTS_PATH"] == str(tmp_path / "elements")


def test_the_bundle_that_the_host_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "bundle.crt"
    bundle.write_text("certificates")
    for name in stock_driver.CERTIFICATE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert stock_driver.certificate_bundle() is None
    monkeypatch.setenv("PIP_CERT", str(bundle))
    assert stock_driver.certificate_bundle() == bundle


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A loop device over a small disk with two partitions.  Detached afterwards, whatever happened."""
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["sfdisk", "-q", str(disk)], input="label: dos\n,2M\n,2M\n", text=True, check=True)
    made = subprocess.run(["losetup", "-f", "--show", str(disk)], capture_output=True, text=True, check=True)
    yield made.stdout.strip()
    stock_driver.detach_loops(tmp_path)


def stand_in(name: str, *arguments: str) -> None:
    subprocess.run([stock_driver.STAND_INS / name, *arguments], check=True)


@pytest.mark.slow  # it needs root and loop devices, which nothing else here does
def test_kpartx_stand_in(loop: str, tmp_path: Path) -> None:
    name = Path(loop).name
    mapped = [Path(f"/dev/mapper/{name}p1"), Path(f"/dev/mapper/{name}p2")]
    stand_in("kpartx", "-uvs", loop)
    stand_in("kpartx", "-av", loop)
    assert [path.resolve() for path in mapped] == [Path(f"{loop}p1"), Path(f"{loop}p2")]
    assert all(path.is_block_device() for path in mapped)

    stand_in("dmsetup", "--noudevsync", "mknodes")
    stand_in("dmsetup", "remove", f"{name}p2")
    assert mapped[0].exists() and not mapped[1].is_symlink()

    stand_in("kpartx", "-d", loop)
    stand_in("kpartx", "-d", loop)
    assert not any(path.is_symlink() for path in mapped)
    assert not Path(f"/sys/class/block/{name}p1").exists()


@pytest.mark.slow  # as above
def test_nothing_is_left_of_a_build(loop: str, tmp_path: Path) -> None:
    stand_in("kpartx", "-av", loop)
    stock_driver.detach_loops(tmp_path)
    attached = subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in attached
    assert not Path(f"{loop}p1").exists()


@pytest.mark.slow  # it needs root, to write to /dev
def test_certificates_are_lent_and_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "bundle.crt"
    bundle.write_text("certificates")
    monkeypatch.setenv(stock_driver.CERTIFICATE_VARIABLES[0], str(bundle))
    stale = Path(f"/dev/{stock_driver.CERTIFICATES}999999999")
    stale.write_text("of a killed bench")
    command = stock_driver.StockCommand(("true",), {"NAME": "value"}, ("qcow2",))
    with stock_driver.Sandbox(tmp_path / "work") as sandbox:
        environment = sandbox.environment(command)
        lent = Path(environment["PIP_CERT"])
        assert lent.read_text() == "certificates" and lent.parent == Path("/dev")
        assert environment["NAME"] == "value" and "TMPDIR" not in environment
        assert not stale.exists()
    assert not lent.exists()


def test_sudo_stand_in_passes_the_environment(tmp_path: Path) -> None:
    program = [
        stock_driver.STAND_INS / "sudo",
        "-E",
        "-H",
        "NAME=value",
        "sh",
        "-c",
        'echo "$NAME $KEPT $USER"',
    ]
    done = subprocess.run(
        program, env={**os.environ, "KEPT": "kept"}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "value kept root\n"
