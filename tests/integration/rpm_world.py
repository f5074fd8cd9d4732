"""A Rocky Linux for tests: repositories of RPM packages that are made from real Debian packages.

mmdebstrap installs what the platform's elements ask for from the build host's archive; every file of that tree is
packed into RPM packages under the names that elements of the Red Hat family use, signed, and served over HTTP.  So
real dnf, rpm, systemd, dracut, GRUB, sshd and a kernel run, and the image boots.

What differs from the real thing: the packages' contents are Debian's, with few scriptlets; files that only Red Hat
has are small stand-ins (`_EMPTY`); and os-release says ``platform:el10``, because Debian's NetworkManager reads no
ifcfg files and glean must therefore write keyfiles.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from imgc.sources.apt import host_mirror
from tests.integration import rpm_packing
from tests.integration.rpm_packing import DebianTree, Package, run

RELEASE = "9"

#: Where the repositories are below the mirror.
REPOSITORIES = ("BaseOS", "AppStream")

#: What is installed to be packed.
_INSTALL = """
systemd-sysv udev dbus python3 python3-minimal python3-yaml python3-dnf dnf dnf-plugins-core rpm gpg sudo passwd kmod
dracut-core grub2-common grub-common grub-pc-bin grub-efi-amd64-bin openssh-server openssh-client network-manager
isc-dhcp-client cloud-guest-utils e2fsprogs fdisk net-tools iproute2 ca-certificates git lsof tcpdump traceroute
gettext-base curl patch ed time less procps zstd cpio python3-selinux rsync
"""

#: What no platform installs, only jobs.
FOR_JOBS = ("hello", "jq", "tree")

#: Debian packages under the names that elements of the Red Hat family ask for.
_NAMES = {
    "cloud-guest-utils": "cloud-utils-growpart",
    "dracut-core": "dracut",
    "gettext-base": "gettext",
    "grub-common": "grub2-common",
    "grub2-common": "grub2-tools",
    "grub-efi-amd64-bin": "grub2-efi-x64-modules",
    "grub-pc-bin": "grub2-pc-modules",
    "isc-dhcp-client": "dhcp-client",
    "libc-bin": "glibc-common",
    "libc6": "glibc",
    "libcurl4": "libcurl",
    "network-manager": "NetworkManager",
    "openssh-client": "openssh-clients",
    "procps": "procps-ng",
    "python3-selinux": "python3-libselinux",
    "python3-yaml": "python3-pyyaml",
    "udev": "systemd-udev",
}

#: What further names stand for packages.
_PROVIDES = {
    "dash": {"/bin/sh", "/usr/bin/sh"},
    "bash": {"/bin/bash", "/usr/bin/bash"},
    "dhcp-client": {"dhclient"},
    "python3-pyyaml": {"python3-PyYAML"},
}

_REQUIRES = {
    "systemd": {"systemd-sysv"},
    "dnf": {"rocky-release"},
    "cloud-utils-growpart": {"fdisk"},
}

#: Packages that are empty here, with what they bring.
_EMPTY = {
    "audit": set(),
    "basesystem": {"filesystem", "setup", "base-files"},
    "dracut-config-generic": {"dracut"},
    "glibc-langpack-en": {"glibc"},
    "glibc-minimal-langpack": {"glibc"},
    "grubby": set(),
    "initscripts": {"initscripts-service"},
    "initscripts-service": set(),
    "man-pages": set(),
    "openssh": {"openssh-clients"},
    "policycoreutils-python-utils": set(),
    "python3-policycoreutils": set(),
    "redhat-rpm-config": set(),
    "rng-tools": set(),
    "selinux-policy": set(),
    "selinux-policy-targeted": set(),
    "shadow-utils": {"login"},
    "which": {"debianutils"},
}

#: Only these are in the second repository.
_APPSTREAM = ("git", "git-man", "liberror-perl", "tcpdump", "traceroute", "lsof", *FOR_JOBS)

#: Debian packages that make no sense in a system of RPM packages.
_LEFT_OUT = ("dpkg", "debconf", "init-system-helpers", "usr-is-merged", "usrmerge", "sysvinit-utils")

#: What is not packed: what Debian's package manager keeps, and what belongs to one machine.
_NOT_PACKED = (
    "/dev/",
    "/proc/",
    "/run/",
    "/sys/",
    "/tmp/",
    "/etc/apt/",
    "/etc/dpkg/",
    "/etc/init.d/",
    "/etc/rc",
    "/etc/runit/",
    "/etc/ssh/ssh_host_",
    "/usr/lib/dpkg/",
    "/usr/share/dpkg/",
    "/var/cache/",
    "/var/lib/apt/",
    "/var/lib/dpkg/",
    "/var/log/",
    "/var/tmp/",
)
_MACHINE = (
    "debian_version",
    "fstab",
    "hostname",
    "ld.so.cache",
    "machine-id",
    "mtab",
    "resolv.conf",
    ".pwd.lock",
)

#: What only Debian's packages bring, and would not work under Red Hat's names.
_DEBIANS = (
    "etc/dnf/plugins/local.conf",
    "etc/grub.d/05_debian_theme",
    "etc/os-release",
    "usr/lib/os-release",
    "usr/lib/python3/dist-packages/dnf-plugins/local.py",
)

_OS_RELEASE = """\
NAME="Rocky Linux"
VERSION="9.4"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.4"
PLATFORM_ID="platform:el10"
PRETTY_NAME="Rocky Linux 9.4 (made of Debian's packages)"
"""

#: What dracut's package in the Red Hat family brings, so that a new kernel gets its initial RAM disk.
_DRACUT_INSTALL = """\
#!/bin/bash
[[ "$1" == add ]] || exit 0
exec dracut --force --kver "$2" "/boot/initramfs-$2.img"
"""

_KERNEL_SCRIPT = """\
if [ -x /usr/bin/kernel-install ]; then
    kernel-install add {version} /lib/modules/{version}/vmlinuz || exit $?
fi
"""

_REPOSITORY_OF_THE_IMAGE = """\
[baseos]
name=Rocky Linux 9 - BaseOS
baseurl=http://mirror.invalid/rocky/$releasever/BaseOS/$basearch/os/
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky-9
"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def log_request(self, code: object = "-", size: object = "-") -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]


@dataclass
class RpmWorld:
    """The repositories while they are served.

    ``directory`` is what the mirror shows, ``key`` the public key that its packages are signed with, ``asked`` the
    paths that clients asked for so far.
    """

    directory: Path
    url: str
    key: str
    keys: Path
    asked: list[str] = field(default_factory=list)

    def repository(self, name: str) -> Path:
        return self.directory / RELEASE / name / "x86_64/os"

    def spec_environment(self) -> dict[str, str]:
        """What a spec's environment needs to say beside ``base.mirror``: the Python in this Rocky is Debian's."""
        return {"IMGC_TARGET_PYTHON": "3.11"}

    def keys_element(self, elements: Path) -> str:
        """An element below ``elements`` that says which key packages must be signed with; its name."""
        directory = elements / "rpm-world-key/rpm-gpg"
        directory.mkdir(parents=True, exist_ok=True)
        (directory.parent / "README.rst").write_text("The key of the test's packages.\n", encoding="utf-8")
        (directory / "RPM-GPG-KEY-test").write_text(self.key, encoding="utf-8")
        return "rpm-world-key"

    def add(self, package: Package, repository: str = "AppStream", *, signed: bool = True) -> None:
        """Publish one more package."""
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            tree = work / "tree"
            (tree / "etc").mkdir(parents=True)
            (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
            (tree / "etc/group").write_text("root:x:0:\n")
            for path in package.files:
                file = tree / path[1:]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"{package.name} {package.version}\n", encoding="utf-8")
            rpm_packing.build([package], tree, work, work / "made")
            if signed:
                rpm_packing.sign(work / "made", self.keys, "world@example.org")
            for made in (work / "made").glob("*.rpm"):
                shutil.copy(made, self.repository(repository) / made.name)
        rpm_packing.publish(self.repository(repository))


@contextmanager
def served(cache: Path, directory: Path) -> Iterator[RpmWorld]:
    """The world, made in ``cache`` unless it is there already, and served from a copy in ``directory``."""
    made = _made(cache)
    shutil.copytree(made, directory, copy_function=_link)
    # createrepo writes anew in place what another test may be reading.
    for name in REPOSITORIES:
        rpm_packing.publish(directory / "mirror" / RELEASE / name / "x86_64/os")
    (directory / "keys").chmod(0o700)
    handler = functools.partial(_Quiet, directory=str(directory / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        asked: list[str] = []
        server.asked = asked  # type: ignore[attr-defined]
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        key = (directory / "RPM-GPG-KEY").read_text(encoding="utf-8")
        url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield RpmWorld(directory / "mirror", url, key, directory / "keys", asked)
        finally:
            server.shutdown()
            thread.join()


def _link(source: str, target: str) -> str:
    """Packages are linked, all else is copied: it may be changed."""
    if source.endswith(".rpm"):
        try:
            os.link(source, target)
            return target
        except OSError:
            pass
    return shutil.copy2(source, target)


def _made(cache: Path) -> Path:
    """The directory with the finished world, by what it is made from."""
    digest = hashlib.sha256()
    for file in (Path(__file__), Path(rpm_packing.__file__)):
        digest.update(file.read_bytes())
    done = cache / f"rpm-world-{digest.hexdigest()[:16]}"
    if not done.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="making.") as name:
            work = Path(name)
            _make(work, work / "done")
            try:
                (work / "done").rename(done)
            except OSError:
                assert done.is_dir(), "another test has made it meanwhile"
    return done


def _make(work: Path, done: Path) -> None:
    root = work / "root"
    kernel = _bootstrap(root)
    done.mkdir()
    (done / "RPM-GPG-KEY").write_text(
        rpm_packing.make_key(done / "keys", "world@example.org"), encoding="utf-8"
    )
    _adapt(root, (done / "RPM-GPG-KEY").read_text(encoding="utf-8"))
    packages = _packages(root, kernel)
    rpm_packing.build(packages.values(), root, work, work / "made")
    rpm_packing.sign(work / "made", done / "keys", "world@example.org")
    run("gpgconf", "--homedir", str(done / "keys"), "--kill", "all")
    for name in REPOSITORIES:
        (done / "mirror" / RELEASE / name / "x86_64/os").mkdir(parents=True)
    for made in (work / "made").iterdir():
        second = made.name.rsplit("-", 2)[0] in _APPSTREAM
        made.rename(done / "mirror" / RELEASE / REPOSITORIES[second] / "x86_64/os" / made.name)
    for name in REPOSITORIES:
        rpm_packing.publish(done / "mirror" / RELEASE / name / "x86_64/os")


def _bootstrap(root: Path) -> str:
    """Install Debian's packages in ``root`` and unpack a kernel; the kernel's version."""
    mirror = host_mirror("debian", "bookworm")
    assert mirror, "this host has no apt source for Debian"
    fetch = (
        'export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"; mkdir "$1/kernel"; cd "$1/kernel";'
        ' apt-get download "$(apt-cache depends linux-image-cloud-amd64 | sed -n "s/^ *Depends: //p" | head -n 1)"'
    )
    run(
        "mmdebstrap",
        "--variant=essential",
        f"--include={','.join([*_INSTALL.split(), *FOR_JOBS])}",
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")),
        "--dpkgopt=force-unsafe-io",
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        f"--customize-hook={fetch}",
        "bookworm",
        str(root),
        mirror.url,
    )
    (package,) = (root / "kernel").glob("*.deb")
    run("dpkg-deb", "-x", str(package), str(root / "kernel/tree"))
    (version,) = (path.name for path in (root / "kernel/tree/lib/modules").iterdir())
    shutil.move(root / "kernel/tree/lib/modules", root / "usr/lib/modules")
    for name in ("vmlinuz", "config", "System.map"):
        shutil.move(root / f"kernel/tree/boot/{name}-{version}", root / f"boot/{name}-{version}")
    os.link(root / f"boot/vmlinuz-{version}", root / f"usr/lib/modules/{version}/vmlinuz")
    shutil.rmtree(root / "kernel")
    run("chroot", str(root), "depmod", version)
    return version


def _adapt(root: Path, key: str) -> None:
    """What makes a Red Hat system of it: names of files that elements and programs look for."""
    files = {
        "etc/os-release": _OS_RELEASE,
        "etc/rocky-release": "Rocky Linux release 9.4 (Blue Onyx)\n",
        "etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky-9": key,
        "etc/rpm/macros.empty": "",
        "etc/yum.repos.d/rocky.repo": _REPOSITORY_OF_THE_IMAGE,
        "etc/sysconfig/network": "# Created by the installer\n",
        # Debian's rpm keeps its database in the home directory.
        "usr/lib/rpm/macros.d/macros.rocky": "%_dbpath %{_var}/lib/rpm\n",
        "usr/lib/kernel/install.d/50-dracut.install": _DRACUT_INSTALL,
    }
    for name in _DEBIANS:
        (root / name).unlink()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / "usr/lib/kernel/install.d/50-dracut.install").chmod(0o755)
    for directory in (root / "usr/bin", root / "usr/sbin"):
        for program in directory.glob("grub-*"):
            (directory / program.name.replace("grub-", "grub2-", 1)).symlink_to(program.name)
    # Debian's own group for these; in Red Hat's they are root's.
    for path in (root / "usr/local", *(root / "usr/local").rglob("*")):
        os.chown(path, 0, 0, follow_symlinks=False)
    units = root / "usr/lib/systemd/system"
    (units / "ssh.service").rename(units / "sshd.service")
    service = (units / "sshd.service").read_text(encoding="utf-8").replace("Alias=sshd.service", "")
    # Red Hat's has units beside it for this.
    service = service.replace("ExecStartPre=", "ExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=", 1)
    (units / "sshd.service").write_text(service, encoding="utf-8")
    for link in (root / "etc/systemd/system").rglob("ssh*.service"):
        link.unlink()


def _packages(root: Path, kernel: str) -> dict[str, Package]:
    """Every package with its files."""
    tree = DebianTree(root)
    found: dict[str, Package] = {}
    for name in tree.status:
        if name in _LEFT_OUT:
            continue
        renamed = _NAMES.get(name, name)
        needs = {_NAMES.get(one, one) for one in tree.depends(name) if one not in _LEFT_OUT}
        found[renamed] = Package(
            renamed,
            tree.version(name),
            "1.el9",
            # Users and groups are there before any file of theirs.
            needs | _REQUIRES.get(renamed, set()) | {"setup"},
            set(_PROVIDES.get(renamed, ())),
        )
    for name, needs in _EMPTY.items():
        found[name] = Package(name, "9", "1.el9", set(needs))
    essential = {name for name, fields in tree.status.items() if fields.get("Essential") == "yes"}
    found["basesystem"].requires |= {_NAMES.get(name, name) for name in essential if name not in _LEFT_OUT}
    _made_up(found, kernel)
    for path in tree.paths():
        owner = _owner(tree, root, path, kernel)
        if owner in found:
            found[owner].files.append(path)
    return found


def _made_up(found: dict[str, Package], kernel: str) -> None:
    """The packages that Debian has no counterpart of."""
    found["filesystem"] = Package("filesystem", "3.16", "1.el9")
    found["setup"] = Package("setup", "2.13", "1.el9", {"filesystem"})
    found["rocky-gpg-keys"] = Package("rocky-gpg-keys", "9.4", "1.el9")
    found["rocky-repos"] = Package("rocky-repos", "9.4", "1.el9", {"rocky-release", "rocky-gpg-keys"})
    provides = {"system-release = 9.4", f"system-release(releasever) = {RELEASE}"}
    found["rocky-release"] = Package("rocky-release", "9.4", "1.el9", {"filesystem"}, provides)
    version = kernel.partition("-")[0]
    script = {"posttrans": _KERNEL_SCRIPT.format(version=kernel)}
    found["kernel-core"] = Package("kernel-core", version, "1.el9", {"dracut", "kmod"}, scripts=script)
    found["kernel"] = Package("kernel", version, "1.el9", {"kernel-core"})


#: Whose files are those that no Debian package owns, by how their paths begin.
_BY_PLACE = {
    "/boot/": "kernel-core",
    "/usr/lib/modules/": "kernel-core",
    "/usr/lib/kernel/install.d/50-dracut": "dracut",
    "/etc/ssl/": "ca-certificates",
    "/etc/ca-certificates": "ca-certificates",
    "/etc/ssh/": "openssh-server",
    "/usr/lib/systemd/system/sshd.service": "openssh-server",
    "/etc/pki/": "rocky-gpg-keys",
    "/etc/yum.repos.d/": "rocky-repos",
    "/etc/os-release": "rocky-release",
    "/etc/rocky-release": "rocky-release",
    "/usr/lib/rpm/": "rpm",
    "/usr/bin/grub2-": "grub2-common",
    "/usr/sbin/grub2-": "grub2-tools",
}


def _owner(tree: DebianTree, root: Path, path: str, kernel: str) -> str:
    """The package that ``path`` is packed with; empty for none."""
    mode = (root / path[1:]).lstat().st_mode
    if path.startswith(_NOT_PACKED) or path.removeprefix("/etc/") in _MACHINE:
        return ""
    if stat.S_ISDIR(mode):
        return "filesystem" if _is_base_directory(tree, path) else _owned(tree, path)
    if path in ("/bin", "/sbin", "/lib", "/lib64"):
        return "filesystem"
    for beginning, name in _BY_PLACE.items():
        if path.startswith(beginning):
            return name
    return _owned(tree, path) or _beside(tree, path) or "setup"


def _is_base_directory(tree: DebianTree, path: str) -> bool:
    return path.count("/") == 1 or tree.owner.get(path, "base-files") in ("base-files", "usr-is-merged")


def _owned(tree: DebianTree, path: str) -> str:
    name = tree.owner.get(path, "")
    return _NAMES.get(name, name)


def _beside(tree: DebianTree, path: str) -> str:
    """The package of the source that a compiled Python file was made from."""
    directory, _, name = path.rpartition("/__pycache__/")
    return _owned(tree, f"{directory}/{name.partition('.')[0]}.py") if directory else ""
