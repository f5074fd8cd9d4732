"""An archive of Ubuntu on loopback, made of real Debian packages.

What makes it Ubuntu: the suites (the release, -updates, -security, -backports, as Origin Ubuntu), an own base-files,
the names of Ubuntu's packages where Debian has others, and how a release comes to /usr.  All else is Debian 12, so
systems from it run and boot; their Python is 3.11, and systemd starts them.

Made once: the archive is kept in a directory that outlives the session, and made again when this file, or what it
is made from, has changed.
"""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.sources.apt_world import Signer, signer


class Release(NamedTuple):
    """``merged`` is whether the archive has usr-is-merged, and packages that ask for it."""

    number: str
    title: str
    base_files: str
    merged: bool


RELEASES = {
    "trusty": Release("14.04", "14.04.6 LTS, Trusty Tahr", "7.2ubuntu5", False),
    "jammy": Release("22.04", "22.04.5 LTS (Jammy Jellyfish)", "12ubuntu4", False),
    "noble": Release("24.04", "24.04.1 LTS (Noble Numbat)", "13ubuntu10", True),
}

#: Suites beside the release itself, as ubuntu-minimal names them.
BESIDE = ("updates", "security", "backports")

COMPONENTS = ("main", "universe")

#: Ubuntu's names: what is installed by each, in Debian's.
RENAMED = {
    # In every bootstrap, like upstart in the real one: a name that no package of Debian asks to be removed.
    "init": ("systemd-sysv", "udev"),
    "linux-image-virtual": ("linux-image-cloud-amd64",),
    "linux-image-generic": ("linux-image-cloud-amd64",),
    # Debian's brings tools for disk images, and with them QEMU's.
    "cloud-utils": ("cloud-guest-utils",),
}

#: What the elements of the shipped platforms install, beside what is renamed.
PACKAGES = (
    *("adduser", "apt", "busybox", "ca-certificates", "dbus", "e2fsprogs", "gdisk", "gpgv", "ifupdown"),
    *("initramfs-tools", "isc-dhcp-client", "kmod", "locales", "lsb-release", "net-tools", "netbase"),
    *("openssh-client", "openssh-server", "python3", "rsync", "sudo", "tzdata", "zstd", "git"),
    *("grub-common", "grub2-common", "grub-pc-bin", "grub-efi-amd64-bin"),
)

#: In universe, and in no platform: what jobs ask for.
UNIVERSE = ("hello", "jq", "libyaml-dev", "tree")

#: Packages that each release has a form of its own of.
_OWN = ("base-files", "e2fsprogs", "init-system-helpers", "usr-is-merged", "usrmerge")

#: What trusty's e2fsprogs knows of ext4, in its words.
_OLD_MKE2FS = """\
[defaults]
	base_features = sparse_super,filetype,resize_inode,dir_index,ext_attr
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
	blocksize = 4096
	inode_size = 256
	inode_ratio = 16384

[fs_types]
	ext4 = {
		features = has_journal,extent,huge_file,flex_bg,uninit_bg,dir_nlink,extra_isize
		auto_64-bit_support = 1
		inode_size = 256
	}
"""


@dataclass(frozen=True)
class UbuntuWorld:
    """The archive, served at ``url``; ``keys`` is a directory with the key that signs it."""

    root: Path
    url: str

    @property
    def keyring(self) -> Path:
        return self.keys / "ubuntu-world.gpg"

    @property
    def elements(self) -> Path:
        """A directory for element_paths.  Builds see it wherever it lies, and so the keys in it."""
        return self.root / "elements"

    @property
    def keys(self) -> Path:
        return self.elements / "ubuntu-world/keys"

    def versions(self, suite: str) -> dict[str, str]:
        """The version of each package of a suite, all components."""
        found: dict[str, str] = {}
        for index in sorted((self.root / "archive/dists" / suite).glob("*/binary-amd64/Packages")):
            text = index.read_text(encoding="utf-8")
            found.update(re.findall(r"(?ms)^Package: (\S+)$.*?^Version: (\S+)$", text))
        return found

    def environment(self) -> dict[str, str]:
        """For the process that runs imgc: where shipped specs of Ubuntu find the archive and its keys."""
        return {"IMGC_UBUNTU_MIRROR": self.url, "IMGC_UBUNTU_KEYS": str(self.keys)}

    def spec(self) -> str:
        """Lines for a platform's spec that extends a shipped one: what differs from the real Ubuntu."""
        return (
            f"element_paths: [{self.elements}]\n"
            "elements: [ubuntu-world]\n"
            'environment: {IMGC_TARGET_PYTHON: "3.11"}\n'
        )


@contextmanager
def ubuntu_world(kept: Path) -> Iterator[UbuntuWorld]:
    """The archive for as long as the block lasts; it is made in ``kept``, or found there."""
    root = kept / f"ubuntu-world-{_recipe()}"
    if not root.is_dir():
        kept.mkdir(parents=True, exist_ok=True)
        # A name that only a whole world has: whoever is interrupted leaves the other one, and packages to go on with.
        new = kept / f".{root.name}.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        _make(new, kept / "debian")
        new.rename(root)
    handler = partial(_Quiet, directory=str(root / "archive"))
    with _server(root / "port", handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield UbuntuWorld(root, f"http://127.0.0.1:{server.server_address[1]}/ubuntu")
        finally:
            server.shutdown()
            thread.join()


# --- serving -----------------------------------------------------------------------------------------------------


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the archive below /ubuntu, and says nothing."""

    protocol_version = "HTTP/1.1"

    def translate_path(self, path: str) -> str:
        return super().translate_path(path.removeprefix("/ubuntu"))

    def log_message(self, format: str, *args: object) -> None:
        pass


def _server(port: Path, handler: partial[_Quiet]) -> http.server.ThreadingHTTPServer:
    """A server on the same port as last time where that is free: the mirror's URL is in the image."""
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", int(port.read_text())), handler)
    except (OSError, ValueError):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        port.write_text(str(server.server_address[1]))
        return server


# --- making ------------------------------------------------------------------------------------------------------


def _recipe() -> str:
    """What the world is made by, in a few characters."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def _make(root: Path, debian: Path) -> None:
    """``archive/`` and ``elements/`` in ``root``; Debian's packages stay in ``debian`` for the next time."""
    apt = _Apt(debian)
    apt.run("update")
    universe = apt.closure(UNIVERSE)
    # With usr-is-merged, apt has no reason to choose usrmerge.
    renamed = (name for names in RENAMED.values() for name in names)
    wanted = apt.closure([*PACKAGES, "usr-is-merged", *apt.required(), *renamed])
    apt.download({**universe, **wanted})
    archive = root / "archive"
    for component in COMPONENTS:
        (archive / "pool" / component).mkdir(parents=True)
    for name, file in {**universe, **wanted}.items():
        if name not in _OWN:
            os.link(apt.archives / file, archive / "pool" / ("main" if name in wanted else "universe") / file)
    for name, depends in RENAMED.items():
        _meta(archive / "pool/main", name, depends)
    # Once for all releases, which have them in common.
    common = {one: _run("apt-ftparchive", "packages", f"pool/{one}", cwd=archive) for one in COMPONENTS}
    own = {name: apt.archives / file for name, file in wanted.items() if name in _OWN}
    with signer() as key:
        for name, release in RELEASES.items():
            _own_packages(archive / "pool" / name, archive / "pool" / f"{name}-updates", release, name, own)
            _publish(archive, name, "", key, common)
            for beside in BESIDE:
                _publish(archive, name, f"-{beside}", key, {})
        _element(root / "elements/ubuntu-world", key.keyring)


def _publish(archive: Path, release: str, beside: str, key: Signer, common: Mapping[str, str]) -> None:
    """The indexes of a suite: ``common`` for each component, and in main what is in the suite's own pool."""
    suite = f"{release}{beside}"
    directory = archive / "dists" / suite
    for component in COMPONENTS:
        index = directory / component / "binary-amd64"
        index.mkdir(parents=True)
        text = common.get(component, "")
        if component == "main" and (archive / "pool" / suite).is_dir():
            text += _run("apt-ftparchive", "packages", f"pool/{suite}", cwd=archive)
        (index / "Packages").write_text(text, encoding="utf-8")
        _run("gzip", "-9nk", str(index / "Packages"))
    fields = {
        "Origin": "Ubuntu",
        "Label": "Ubuntu",
        "Suite": suite,
        "Codename": release,
        "Version": RELEASES[release].number,
        "Architectures": "amd64",
        "Components": " ".join(COMPONENTS),
    }
    if beside == "-backports":
        fields |= {"NotAutomatic": "yes", "ButAutomaticUpgrades": "yes"}
    options = [f"-oAPT::FTPArchive::Release::{name}={value}" for name, value in fields.items()]
    text = _run("apt-ftparchive", *options, "release", ".", cwd=directory)
    (directory / "Release").write_text(text, encoding="utf-8")
    key.run("--output", str(directory / "InRelease"), "--clear-sign", str(directory / "Release"))


def _element(element: Path, keyring: Path) -> None:
    """The one thing that an image must be told: that systemd starts it.  The keys lie beside it."""
    (element / "keys").mkdir(parents=True)
    shutil.copy(keyring, element / "keys/ubuntu-world.gpg")
    (element / "keys/ubuntu-world.gpg").chmod(0o644)
    (element / "environment.d").mkdir()
    file = element / "environment.d/20-ubuntu-world.bash"
    file.write_text(
        "# ubuntu-common says upstart; the packages are those of a system with systemd.\n"
        "export DIB_INIT_SYSTEM=systemd\n",
        encoding="utf-8",
    )
    (element / "README.rst").write_text("ubuntu-world\n============\nWhat tests need.\n", encoding="utf-8")


# --- packages ----------------------------------------------------------------------------------------------------


class _Apt:
    """The host's own apt sources, with a state of our own that has nothing installed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.archives = home / "archives"
        for directory in (home / "lists/partial", self.archives / "partial", home / "nothing/partial"):
            directory.mkdir(parents=True, exist_ok=True)
        (home / "status").write_text("")
        self.options = {
            "Dir::State": str(home),
            "Dir::State::lists": str(home / "lists"),
            "Dir::State::status": str(home / "status"),
            "Dir::Cache": str(home),
            "Dir::Cache::archives": str(self.archives),
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "",
            "APT::Get::List-Cleanup": "no",
            "APT::Install-Recommends": "no",
            "Acquire::Languages": "none",
            "Debug::NoLocking": "yes",
        }

    def run(self, *arguments: str, program: str = "apt-get") -> str:
        options = [f"-o{name}={value}" for name, value in self.options.items()]
        return _run(program, "-qq", *options, *arguments)

    def required(self) -> list[str]:
        """The packages that every bootstrap has."""
        stanzas = self.run("dumpavail", program="apt-cache").split("\n\n")
        fields = (
            dict(re.findall(r"^(Package|Essential|Priority): (\S+)$", one, re.MULTILINE)) for one in stanzas
        )
        return sorted(
            {
                one["Package"]
                for one in fields
                if "Package" in one and (one.get("Essential") == "yes" or one.get("Priority") == "required")
            }
        )

    def closure(self, names: Sequence[str]) -> dict[str, str]:
        """The packages that it takes to install ``names``: name and file."""
        # apt leaves out what it has already: let it look where nothing is.
        nothing = f"-oDir::Cache::archives={self.home / 'nothing'}"
        lines = self.run(nothing, "--yes", "--print-uris", "install", *names).splitlines()
        files = [line.split()[1] for line in lines if line.startswith("'")]
        return {file.partition("_")[0]: file for file in files}

    def download(self, files: Mapping[str, str]) -> None:
        """Have all of ``files`` in ``archives``, complete; apt verifies what it fetches and what is there."""
        self.run("--yes", "--download-only", "install", *files)


def _meta(pool: Path, name: str, depends: Sequence[str]) -> None:
    """A package that holds nothing and has others installed."""
    tree = pool.parent / f".{name}"
    (tree / "DEBIAN").mkdir(parents=True)
    priority = "required" if name == "init" else "optional"
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1:14.04\nArchitecture: amd64\nPriority: {priority}\nSection: misc\n"
        f"Depends: {', '.join(depends)}\nMaintainer: Nobody <nobody@example.org>\nDescription: {name} of a test\n"
    )
    _pack(tree, pool / f"{name}_14.04_amd64.deb")


def _own_packages(
    pool: Path, updates: Path, release: Release, codename: str, own: Mapping[str, Path]
) -> None:
    """What the release has a form of its own of; a newer base-files is in its updates."""
    pool.mkdir()
    updates.mkdir()
    _base_files(own["base-files"], pool, release, codename, release.base_files)
    _base_files(own["base-files"], updates, release, codename, f"{release.base_files}.6")
    if codename == "trusty":
        with _edited(own["e2fsprogs"], pool / own["e2fsprogs"].name) as tree:
            (tree / "etc/mke2fs.conf").write_text(_OLD_MKE2FS)
    else:
        os.link(own["e2fsprogs"], pool / own["e2fsprogs"].name)
    if release.merged:
        for name in ("init-system-helpers", "usr-is-merged"):
            os.link(own[name], pool / own[name].name)
    else:
        _without_merge(own["init-system-helpers"], pool)


@contextmanager
def _edited(package: Path, made: Path) -> Iterator[Path]:
    """A package as a tree, which becomes the package ``made`` when the block ends."""
    tree = made.parent / ".tree"
    _run("dpkg-deb", "--raw-extract", str(package), str(tree))
    # They are of the files that it had.
    (tree / "DEBIAN/md5sums").unlink(missing_ok=True)
    yield tree
    _pack(tree, made)


def _base_files(package: Path, pool: Path, release: Release, codename: str, version: str) -> None:
    """Debian's base-files as Ubuntu's."""
    pretty = f"Ubuntu {release.title.replace(',', ' ').split(' ')[0]} LTS"
    with _edited(package, pool / f"base-files_{version}_amd64.deb") as tree:
        control = tree / "DEBIAN/control"
        control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text()))
        (tree / "usr/lib/os-release").write_text(
            f'NAME="Ubuntu"\nVERSION="{release.title}"\nID=ubuntu\nID_LIKE=debian\nPRETTY_NAME="{pretty}"\n'
            f'VERSION_ID="{release.number}"\nVERSION_CODENAME={codename}\n'
        )
        (tree / "etc/lsb-release").write_text(
            f"DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE={release.number}\nDISTRIB_CODENAME={codename}\n"
            f'DISTRIB_DESCRIPTION="{pretty}"\n'
        )
        for name in ("issue", "issue.net"):
            (tree / "etc" / name).write_text(f"{pretty}\n")
        with (tree / "DEBIAN/conffiles").open("a") as conffiles:
            conffiles.write("/etc/lsb-release\n")


def _without_merge(package: Path, pool: Path) -> None:
    """init-system-helpers as it was before it asked for a merged /usr."""
    with _edited(package, pool / package.name) as tree:
        control = tree / "DEBIAN/control"
        text, found = re.subn(r"(?m)^Depends: usrmerge \| usr-is-merged\n", "", control.read_text())
        assert found, "init-system-helpers depends on something else by now"
        control.write_text(text)


def _pack(tree: Path, file: Path) -> None:
    (tree / "DEBIAN").chmod(0o755)
    _run("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(file))
    shutil.rmtree(tree)


def _run(*command: str, cwd: Path | None = None) -> str:
    """What a program says; its errors with the exception."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(command[:3])} …: {done.stderr[-2000:]}"
    return done.stdout
