"""Wraps an installed Debian tree as RPM packages: the same files, owners and dependencies under other names.

Maintainer scripts are not taken over; what they left in the tree is packed with the package it belongs to.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: Directories that are links in a tree with a merged /usr; dpkg knows some of their files by the old paths.
_MERGED = ("/bin/", "/sbin/", "/lib/", "/lib64/")

_HEADER = """\
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
%global _build_id_links none
%global _unpackaged_files_terminate_build 0
%global _binary_payload w1.zstdio
Name: world
Version: 1
Release: 1
Summary: What the packages of the test's distribution are made from
License: none
AutoReqProv: no
%description
None.
%install
cp -al {tree}/. %{{buildroot}}/
"""


@dataclass
class Package:
    """One RPM package to be: ``files`` are paths in the tree, ``scripts`` sections such as ``post`` by name."""

    name: str
    version: str = "1"
    release: str = "1"
    requires: set[str] = field(default_factory=set)
    provides: set[str] = field(default_factory=set)
    files: list[str] = field(default_factory=list)
    scripts: dict[str, str] = field(default_factory=dict)

    def section(self, tree: Path, lists: Path) -> str:
        """Its part of a spec file; the list of its files is written below ``lists``."""
        listed = lists / f"{self.name}.files"
        listed.write_text("".join(f"{_entry(tree, path)}\n" for path in sorted(self.files)), encoding="utf-8")
        lines = [f"%package -n {self.name}", f"Version: {self.version}", f"Release: {self.release}"]
        lines += [f"Summary: {self.name}", "AutoReqProv: no"]
        lines += [f"Requires: {name}" for name in sorted(self.requires)]
        lines += [f"Provides: {name}" for name in sorted(self.provides)]
        lines += [f"%description -n {self.name}", "A package of the test's distribution."]
        for name, body in self.scripts.items():
            lines += [f"%{name} -n {self.name} -p /bin/sh", body.rstrip()]
        # rpmbuild takes no empty list.
        return "\n".join([*lines, f"%files -n {self.name}{f' -f {listed}' if self.files else ''}", ""])


class DebianTree:
    """A tree that dpkg installed: which package has which file, and what depends on what."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.status = {one["Package"]: one for one in _paragraphs(root / "var/lib/dpkg/status")}
        self.virtual: dict[str, str] = {}
        self.owner: dict[str, str] = {}
        for name, fields in self.status.items():
            for provided in re.split(r",\s*", fields.get("Provides", "")):
                self.virtual.setdefault(provided.partition(" ")[0], name)
            for path in self._list(name):
                self.owner.setdefault(path, name)

    def _list(self, name: str) -> Iterator[str]:
        for file in (self.root / "var/lib/dpkg/info").glob(f"{name}*.list"):
            if file.name in (f"{name}.list", f"{name}:amd64.list"):
                yield from map(_canonical, file.read_text(encoding="utf-8").splitlines())

    def depends(self, name: str) -> set[str]:
        """The packages that ``name`` needs; of alternatives the first that is there."""
        found = set()
        status = self.status[name]
        for group in re.split(r",\s*", f"{status.get('Depends', '')}, {status.get('Pre-Depends', '')}"):
            for one in group.split("|"):
                wanted = re.split(r"[\s:(]", one.strip())[0]
                wanted = wanted if wanted in self.status else self.virtual.get(wanted, "")
                if wanted:
                    found.add(wanted)
                    break
        return found

    def version(self, name: str) -> str:
        """The upstream version, in characters that RPM takes."""
        upstream = self.status[name]["Version"].partition(":")[2] or self.status[name]["Version"]
        return re.sub(r"[^A-Za-z0-9.~+]", "_", upstream.rpartition("-")[0] or upstream)

    def paths(self) -> Iterator[str]:
        """Every file, link and directory."""
        for directory, directories, files in os.walk(self.root):
            for name in (*directories, *files):
                yield os.path.join(directory, name)[len(str(self.root)) :]


def _canonical(path: str) -> str:
    return f"/usr{path}" if path.startswith(_MERGED) else path


def _paragraphs(file: Path) -> Iterator[dict[str, str]]:
    for text in file.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in text.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
        if fields.get("Status", "").startswith("install ok installed"):
            yield fields


def _entry(tree: Path, path: str) -> str:
    """The line of a file list that keeps the path's owner and mode."""
    found = (tree / path[1:]).lstat()
    mode = "-" if stat.S_ISLNK(found.st_mode) else f"{stat.S_IMODE(found.st_mode):04o}"
    kind = "%dir " if stat.S_ISDIR(found.st_mode) else ""
    if stat.S_ISREG(found.st_mode) and path.startswith("/etc/"):
        kind = "%config(noreplace) "
    quoted = re.sub(r"([\[*?])", r"[\1]", path)
    return f'%attr({mode},{_name(tree, "passwd", found.st_uid)},{_name(tree, "group", found.st_gid)}) {kind}"{quoted}"'


_names: dict[tuple[Path, str], dict[int, str]] = {}


def _name(tree: Path, file: str, number: int) -> str:
    """The name of a user or group in the tree itself, not on this host."""
    if (tree, file) not in _names:
        lines = (line.split(":") for line in (tree / "etc" / file).read_text(encoding="utf-8").splitlines())
        _names[tree, file] = {int(fields[2]): fields[0] for fields in lines}
    return _names[tree, file][number]


def build(packages: Iterable[Package], tree: Path, work: Path, into: Path) -> None:
    """Make the packages with one rpmbuild; they end up in ``into``."""
    lists = work / "lists"
    lists.mkdir(parents=True, exist_ok=True)
    into.mkdir(parents=True, exist_ok=True)
    spec = work / "world.spec"
    sections = [package.section(tree, lists) for package in packages]
    spec.write_text(_HEADER.format(tree=tree) + "\n".join(sections), encoding="utf-8")
    # In --define, one percent sign would be the main package's.
    name = "-".join(f"%%{{{part}}}" for part in ("NAME", "VERSION", "RELEASE")) + ".%%{ARCH}.rpm"
    macros = {"_topdir": str(work / "top"), "_rpmdir": str(into), "_rpmfilename": name}
    run("rpmbuild", "-bb", "--quiet", "--target", "x86_64", *_defines(macros), str(spec), cwd=work)


def sign(directory: Path, home: Path, name: str) -> None:
    """Sign every package of ``directory`` with the key ``name`` of the GnuPG directory ``home``."""
    macros = {"_gpg_name": name, "__gpg": "/usr/bin/gpg", "_gpg_path": str(home)}
    files = sorted(str(path) for path in directory.glob("*.rpm"))
    run("rpmsign", *_defines(macros), "--addsign", *files, environment={"GNUPGHOME": str(home)})


def make_key(home: Path, name: str) -> str:
    """A new key without a passphrase in ``home``; its public half, armoured."""
    home.mkdir(mode=0o700, parents=True)
    gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet")
    run(*gpg, "--passphrase", "", "--quick-gen-key", name, "rsa2048", "sign", "never")
    return run(*gpg, "--armor", "--export", name)


def publish(directory: Path) -> None:
    """Make the repository's indexes from the packages in it."""
    run("createrepo_c", "--quiet", "--general-compress-type=gz", str(directory))


def _defines(macros: Mapping[str, str]) -> list[str]:
    return [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]


def run(*argv: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run a program to its end; what it printed."""
    env = {**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})}
    done = subprocess.run(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv[0]}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
    return done.stdout
