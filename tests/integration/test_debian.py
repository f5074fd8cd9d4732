"""The whole road on the real archive: Debian 12 from its packages to images that boot.

``IMGC_TEST_CACHE`` names a cache to use and to keep; without it, a first build takes some minutes.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from imgc.engine import host
from tests.integration.debian import AUTHORITY, SPECS, Debian
from tests.integration.project import leftovers

pytestmark = pytest.mark.integration


def qemu_img(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["qemu-img", *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def tree(debian: Debian) -> dict[str, tarfile.TarInfo]:
    return debian.tree()


def packages(debian: Debian) -> set[str]:
    """The packages that are installed in the image."""
    status = debian.text("var/lib/dpkg/status").split("\n\n")
    return {
        one.split("\n", 1)[0].removeprefix("Package: ")
        for one in status
        if "Status: install ok installed" in one
    }


# --- the outputs -------------------------------------------------------------------------------------------------


def test_the_outputs_are_sound_and_equal(debian: Debian) -> None:
    qcow2, vhd = debian.images / "debian-bookworm.qcow2", debian.images / "debian-bookworm.vhd"
    checked = qemu_img("check", str(qcow2))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # 63: QEMU knows of no check for this format.
    assert qemu_img("check", "-f", "vpc", str(vhd)).returncode in (0, 63)
    compared = qemu_img("compare", "-f", "qcow2", "-F", "vpc", str(qcow2), str(vhd))
    assert compared.returncode == 0, compared.stdout + compared.stderr
    for file in (qcow2, vhd, debian.tar):
        for program in ("sha256sum", "md5sum"):
            made = subprocess.run([program, file.name], cwd=debian.images, capture_output=True, text=True)
            assert Path(f"{file}.{program.removesuffix('sum')}").read_text() == made.stdout


def test_a_second_build_runs_nothing(debian: Debian) -> None:
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in debian.images.iterdir()}
    again = debian.build()
    assert (again.status, again.ran) == (0, [])
    assert {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in debian.images.iterdir()
    } == before


# --- the tree ----------------------------------------------------------------------------------------------------


def test_nothing_of_the_build_host(debian: Debian) -> None:
    secrets = [
        str(debian.directory),
        str(debian.cache),
        f"{SPECS.parent}/",
        AUTHORITY,
        "/dev/imgc",
        "/imgc/",
    ]
    secrets += [value for name, value in host.proxies().items() if name.lower() != "no_proxy"]
    secrets += [line for line in host.resolv_conf().splitlines() if line.startswith(("nameserver", "search"))]
    found = []
    with debian.tar.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as archive:
        for secret in secrets:
            place = archive.find(secret.encode())
            if place >= 0:
                found.append((secret, archive[max(0, place - 100) : place + 100]))
    assert found == []


def test_what_must_be_made_at_the_first_boot_is_not_there(
    debian: Debian, tree: dict[str, tarfile.TarInfo]
) -> None:
    assert "etc/machine-id" not in tree or debian.text("etc/machine-id").strip() in ("", "uninitialized")
    assert [path for path in tree if path.startswith("etc/ssh/ssh_host_")] == []
    assert [path for path in tree if path.startswith("var/lib/systemd/random-seed")] == []


def test_no_scaffolding_is_left(debian: Debian, tree: dict[str, tarfile.TarInfo]) -> None:
    assert "usr/sbin/policy-rc.d" not in tree
    for directory in ("tmp", "var/tmp", "dev", "proc", "sys", "run"):
        inside = [path for path in tree if path.startswith(f"{directory}/")]
        assert inside == [] or directory == "run", inside
    assert "etc/resolv.conf" not in tree, "mmdebstrap takes the build host's along"
    diversions = debian.text("var/lib/dpkg/diversions").splitlines()
    assert ":" not in diversions[2::3], "diversions that no package has made"
    assert tree["tmp"].mode == 0o1777
    logs = [one for path, one in tree.items() if path.startswith("var/log/") and one.isreg()]
    assert [one.name for one in logs if one.size] == []
    assert [path for path in tree if path.endswith(".ORIG")] == []


def test_no_cloud_init(debian: Debian, tree: dict[str, tarfile.TarInfo]) -> None:
    assert "cloud-init" not in packages(debian)
    assert [path for path in tree if path.startswith(("etc/cloud/", "usr/lib/cloud-init"))] == []
    assert {"openssh-server", "grub-pc-bin"} <= packages(debian)


def test_one_initramfs_for_each_kernel(tree: dict[str, tarfile.TarInfo]) -> None:
    kernels = {path.removeprefix("boot/vmlinuz-") for path in tree if path.startswith("boot/vmlinuz-")}
    initramfs = {
        path.removeprefix("boot/initrd.img-") for path in tree if path.startswith("boot/initrd.img-")
    }
    assert kernels and kernels == initramfs


# --- it boots ----------------------------------------------------------------------------------------------------


def boot(debian: Debian, file: str, firmware: str) -> None:
    done = debian.imgc("boot", str(debian.images / file), "--firmware", firmware, "--json", seconds=1500)
    reports = json.loads(done.stdout)
    failed = [check for report in reports for check in report["checks"] if not check["ok"]]
    assert (done.returncode, failed) == (0, []), done.stderr


def test_it_boots(debian: Debian) -> None:
    boot(debian, "debian-bookworm.qcow2", "bios")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["debian-bookworm.qcow2", "debian-bookworm.vhd"])
def test_it_boots_with_efi(debian: Debian, file: str) -> None:
    boot(debian, file, "efi")


# --- an edit, with accidents -------------------------------------------------------------------------------------


def test_an_edit_of_the_last_element_survives_accidents(debian: Debian) -> None:
    """Killed while the disk is made, ended while an output is; then only what follows the edit has run."""
    before = Path(f"{debian.tar}.sha256").read_bytes()
    text = f"second {time.time_ns()}"
    debian.say(text)
    ran = []
    for kind, number, status in (("assemble", signal.SIGKILL, -9), ("convert", signal.SIGTERM, 143)):
        running = debian.start()
        running.wait_for(lambda event, kind=kind: event["event"] == "StepStarted" and event["kind"] == kind)
        running.send(number)
        ended = running.end(seconds=30)
        assert ended.status == status, ended.errors
        # IMGC_TEST_CACHE is in the environment of whoever runs this test.
        until = time.monotonic() + 3
        while (left := leftovers(debian.cache, ("cmdline", "mountinfo"))) and time.monotonic() < until:
            time.sleep(0.05)
        assert left == []
        assert Path(f"{debian.tar}.sha256").read_bytes() == before, "the old outputs are untouched"
        ran += ended.ran
    done = debian.build()
    assert done.status == 0, done.errors
    ran += done.ran
    assert set(ran) - {step for step in ran if step.startswith("cleanup.d/")} == {
        *(
            "finalise.d/99-zzz-last",
            "finalise",
            "disk",
            "side-outputs",
            "qcow2",
            "vhd",
            "tar",
            "raw",
            "check",
        ),
    }
    assert debian.text("etc/last") == f"{text}\n"
    assert os.listdir(debian.cache / "work") == []
    assert debian.build().ran == []
