"""A world of apt that is a directory: an archive of small packages, and a system to install them in, without root.

apt and dpkg are real.  They are told of the directory by APT_CONFIG and DPKG_ADMINDIR, which scripts inherit.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

_CONFIGURATION = """\
Dir "{root}";
Dir::Bin::methods "/usr/lib/apt/methods";
Dir::Bin::dpkg "/usr/bin/dpkg";
Dir::State::status "{root}/var/lib/dpkg/status";
Acquire::Languages "none";
APT::Architecture "amd64"; APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "";
APT::Install-Recommends "0";
DPkg::Options {{ "--root={root}"; "--force-not-root"; "--force-script-chrootless"; "--log=/dev/null"; }};
"""


class AptWorld:
    """``environment`` is what a process needs to live in it."""

    def __init__(self, base: Path) -> None:
        self.root, self.archive = base / "root", base / "archive"
        for name in (
            "etc/apt/apt.conf.d",
            "etc/apt/preferences.d",
            "etc/apt/sources.list.d",
            "var/log/apt",
            "var/lib/apt/lists/partial",
            "var/cache/apt/archives/partial",
            "var/lib/dpkg/updates",
        ):
            (self.root / name).mkdir(parents=True)
        (self.root / "var/lib/dpkg/info").mkdir()
        (self.root / "var/lib/dpkg/status").touch()
        self.archive.mkdir()
        self._index: list[str] = []
        configuration = base / "apt.conf"
        configuration.write_text(_CONFIGURATION.format(root=self.root))
        source = f"deb [trusted=yes] copy:{self.archive} ./\n"
        (self.root / "etc/apt/sources.list").write_text(source)
        self.environment = {
            "APT_CONFIG": str(configuration),
            "DPKG_ADMINDIR": str(self.root / "var/lib/dpkg"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "HOME": str(base),
        }

    def package(self, name: str, version: str = "1", **fields: str) -> None:
        """Put a package into the archive: ``Depends``, ``Conflicts``, ``Provides`` as its control file has them."""
        tree = self.archive.parent / "trees" / name
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "opt").mkdir()
        (tree / "opt" / name).write_text(f"{name} {version}\n")
        told = {
            "Package": name,
            "Version": version,
            "Architecture": "all",
            "Maintainer": "nobody <nobody@localhost>",
            "Description": name,
            **fields,
        }
        control = "".join(f"{field}: {value}\n" for field, value in told.items())
        (tree / "DEBIAN/control").write_text(control)
        file = self.archive / f"{name}_{version}_all.deb"
        built = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(file)]
        subprocess.run(built, check=True, capture_output=True)
        data = file.read_bytes()
        where = f"Filename: ./{file.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        self._index.append(control + where)
        (self.archive / "Packages").write_text("\n".join(self._index))

    @property
    def cached(self) -> list[str]:
        """The packages in apt's cache, by name."""
        files = (self.root / "var/cache/apt/archives").glob("*.deb")
        return sorted(file.name.partition("_")[0] for file in files)

    @property
    def installed(self) -> list[str]:
        """The packages that are installed, by name."""
        return sorted(path.name for path in (self.root / "opt").glob("*"))
