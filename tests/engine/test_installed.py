"""Which packages a tree has, from copies of the databases that package managers keep."""

from __future__ import annotations

import subprocess
from pathlib import Path

from imgc.engine.installed import EXTRACT, read

STATUS = """\
Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1:1.2.13.dfsg-1

Package: zlib1g
Status: install ok installed
Architecture: i386
Version: 1:1.2.13.dfsg-1

Package: gone
Status: deinstall ok config-files
Version: 2.0
Conffiles:
 /etc/gone: not a field

Package: adduser
Status: hold ok installed
Version: 3.134
Description: add and remove users: all of them
 Version: 9 is not the version
"""


def extract(tree: Path, into: Path) -> dict[str, str]:
    into.mkdir()
    subprocess.run(["sh", "-c", EXTRACT, "sh", str(tree), str(into)], check=True)
    found = read(into)
    assert list(into.iterdir()) == []
    return found


def test_what_dpkg_has_installed(tmp_path: Path) -> None:
    database = tmp_path / "tree/var/lib/dpkg"
    database.mkdir(parents=True)
    (database / "status").write_text(STATUS)
    found = extract(tmp_path / "tree", tmp_path / "out")
    assert found == {"adduser": "3.134", "zlib1g": "1:1.2.13.dfsg-1", "zlib1g:i386": "1:1.2.13.dfsg-1"}
    assert list(found) == sorted(found)


def test_what_rpm_lists(tmp_path: Path) -> None:
    (tmp_path / "rpm-list").write_text(
        "kernel-core 6.1-2.x86_64\nbash 5.2.15-3.fc38.x86_64\ngpg-pubkey 1-2.(none)\nkernel-core 6.1-1.x86_64\n"
    )
    assert read(tmp_path) == {"bash": "5.2.15-3.fc38.x86_64", "kernel-core": "6.1-1.x86_64 6.1-2.x86_64"}


def test_a_tree_without_a_package_manager_has_none(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    assert extract(tmp_path / "tree", tmp_path / "out") == {}
