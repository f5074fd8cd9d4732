"""The elements that imgc ships in place of the stock ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import diskimage_builder.paths
import pytest

import imgc

ELEMENTS = Path(imgc.__file__).parent / "elements"
STOCK = Path(diskimage_builder.paths.get_path("elements"))


def environment(*elements: str, **given: str) -> dict[str, str]:
    """What the environment.d of some elements makes of an environment, as the driver reads them."""
    files = sorted(
        (path for name in elements for path in (ELEMENTS / name / "environment.d").glob("*")),
        key=lambda path: path.name.encode(),
    )
    script = 'set -eu -o pipefail; for file; do . "$file" >&2; done; env -0'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *map(str, files)],
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ValueError(done.stderr)
    return dict(item.split("=", 1) for item in done.stdout.split("\0") if item)


@pytest.mark.parametrize(
    ("device", "arch", "boot", "partitioning"),
    [
        ("mbr", "amd64", "bios", "mbr"),
        ("gpt", "amd64", "bios", "gpt"),
        ("efi", "amd64", "both", "gpt"),
        ("efi", "arm64", "efi", "gpt"),
    ],
)
def test_what_follows_from_the_block_device(device: str, arch: str, boot: str, partitioning: str) -> None:
    found = environment(f"block-device-{device}", "bootloader", ARCH=arch)
    assert found["DIB_BLOCK_DEVICE"] == device
    assert (found["IMGC_BOOT"], found["IMGC_PARTITIONING"]) == (boot, partitioning)
    told = environment(
        f"block-device-{device}", "bootloader", ARCH=arch, IMGC_BOOT="efi", IMGC_PARTITIONING="mbr"
    )
    assert (told["IMGC_BOOT"], told["IMGC_PARTITIONING"]) == ("efi", "mbr")


def test_a_machine_that_cannot_be_started_that_way() -> None:
    for device, arch in (("mbr", "arm64"), ("gpt", "arm64"), ("efi", "ppc64el")):
        with pytest.raises(ValueError, match=arch):
            environment(f"block-device-{device}", ARCH=arch)


def test_the_stock_variables_have_their_stock_values() -> None:
    stock = STOCK / "bootloader/environment.d/10-bootloader-default-cmdline"
    script = f"set -eu -o pipefail; . {stock}; env -0"
    for given in ({}, {"DIB_BOOTLOADER_VIRTUAL_TERMINAL": ""}, {"DIB_BOOTLOADER_SERIAL_CONSOLE": "hvc0"}):
        done = subprocess.run(
            ["bash", "-c", script], env={"PATH": os.environ["PATH"], **given}, capture_output=True, text=True
        )
        wanted = dict(item.split("=", 1) for item in done.stdout.split("\0") if item.startswith("DIB_"))
        found = environment("bootloader", ARCH="amd64", **given)
        # Packages come with all others here, so there is nothing to skip.
        wanted.pop("DIB_SKIP_GRUB_PACKAGE_INSTALL")
        assert wanted and {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("boot", "arch", "filesystem", "wanted"),
    [
        ("bios", "amd64", "ext4", {"grub-pc-bin"}),
        ("efi", "amd64", "ext4", {"grub-efi-amd64-bin"}),
        ("both", "amd64", "btrfs", {"grub-pc-bin", "grub-efi-amd64-bin", "btrfs-progs"}),
        ("efi", "arm64", "ext4", {"grub-efi-arm64-bin"}),
    ],
)
def test_packages(tmp_path: Path, boot: str, arch: str, filesystem: str, wanted: set[str]) -> None:
    squash = STOCK / "package-installs/bin/package-installs-squash"
    out = tmp_path / "packages.json"
    subprocess.run(
        [sys.executable, squash, "--elements", "bootloader", "--path", str(ELEMENTS), str(out)],
        env={**os.environ, "ARCH": arch, "IMGC_BOOT": boot, "DIB_ROOT_FSTYPE": filesystem},
        check=True,
        capture_output=True,
    )
    found = {name for name, _ in json.loads(out.read_text())["install.d"]["install"]}
    assert found == {"grub-common", "grub2-common"} | wanted


@pytest.mark.parametrize(
    ("arguments", "status", "answer"),
    [
        (["--target=device", "/"], 0, "LABEL=cloud"),
        (["--target=device", "/boot"], 0, "LABEL=cloud"),
        (["--device", "LABEL=cloud", "--target=fs"], 0, "ext2"),
        (["-t", "fs", "/boot/grub"], 0, "ext2"),
        (["--device", "LABEL=cloud", "--target=partmap"], 0, "gpt"),
        (["--device", "LABEL=cloud", "--target=abstraction"], 0, ""),
        (["--device", "LABEL=cloud", "--target=fs_uuid"], 1, ""),
        (["--device", "LABEL=cloud", "--target=partuuid"], 1, ""),
    ],
)
def test_the_stand_in_for_grub_probe(arguments: list[str], status: int, answer: str) -> None:
    given = {"DIB_ROOT_LABEL": "cloud", "DIB_ROOT_FSTYPE": "ext4", "IMGC_PARTITIONING": "gpt"}
    done = subprocess.run(
        [ELEMENTS / "bootloader/grub/grub-probe", *arguments],
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (status, answer)


def test_update_initramfs_does_nothing_until_the_end(tmp_path: Path) -> None:
    """The real dpkg-divert on a small tree; `chroot` is told apart from it by what it does: --root."""
    if not shutil.which("dpkg-divert"):
        raise AssertionError("the tests need dpkg")
    root, programs = tmp_path / "root", tmp_path / "bin"
    for name in ("usr/sbin", "var/lib/dpkg"):
        (root / name).mkdir(parents=True)
    (root / "var/lib/dpkg/diversions").touch()
    real = root / "usr/sbin/update-initramfs"
    real.write_text("#!/bin/sh\necho real\n")
    programs.mkdir()
    for name, text in (
        ("sudo", 'exec "$@"'),
        (
            "chroot",
            'root=$1; shift 2; exec dpkg-divert --admindir "$root/var/lib/dpkg" --instdir "$root" "$@"',
        ),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "TARGET_ROOT": str(root)}
    hook = ELEMENTS / "imgc-initramfs/root.d/10-imgc-initramfs-defer"
    subprocess.run([hook], env=env, check=True, capture_output=True)
    said = subprocess.run([real, "-u"], capture_output=True, text=True, check=True).stdout
    assert said == "update-initramfs -u: put off to the end of the build\n"
    assert (root / "usr/sbin/update-initramfs.imgc").read_text() == "#!/bin/sh\necho real\n"
    assert (root / "var/lib/dpkg/diversions").read_text().splitlines() == [
        "/usr/sbin/update-initramfs",
        "/usr/sbin/update-initramfs.imgc",
        ":",
    ]


def test_the_modules_of_clouds_are_names() -> None:
    text = (ELEMENTS / "imgc-initramfs/initramfs-tools/cloud-modules").read_text()
    words = [word for line in text.splitlines() for word in line.split("#")[0].split()]
    assert len(words) == len(set(words)) and {
        "virtio_blk",
        "xen_blkfront",
        "nvme",
        "hv_storvsc",
        "ahci",
    } <= set(words)
    assert all(word.replace("_", "").isalnum() for word in words)
