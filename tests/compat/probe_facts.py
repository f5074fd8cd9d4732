"""Reads what the probe found out back from the archive of its tree, as facts that two builds can be compared by.

A fact is a name, such as ``install.d/env/HOME``, and a text.  Paths of one build (its directories, the element
search path …) are replaced by words like ``{build}``, the same for both drivers.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import signal
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import yaml
from probe_run import Built

from imgc.graph.step import PHASES

RECORDS = "var/lib/probe"

#: Written by every shell for itself: not a word of the driver's.
_SHELLS_OWN = ("_", "SHLVL", "PWD", "OLDPWD")

#: Files at the top of the hooks tree that several elements have.  Whose copy stays is up to the order of the elements,
#: which is another one for every run of the stock driver.
_OF_SEVERAL = ("README.rst", "element-deps", "element-provides", "package-installs.yaml", "pkg-map")

#: Kernel file systems; any other mount is a bind of something of the host, one of its devices perhaps.
_KERNEL = ("devpts", "proc", "sysfs", "tmpfs")

#: Files of git that hold the time, the place or the inodes of a clone.
_GIT_OWN = re.compile(r".*/\.git/(index|logs/.*|FETCH_HEAD|ORIG_HEAD|config)")


def facts_of(built: Built) -> dict[str, str]:
    """Every fact of one build."""
    with tarfile.open(built.archive, errors="surrogateescape") as archive:
        tree = Tree(archive)
        paths = Paths(tree, built.paths)
        facts = {f"{phase}/order": " ".join(names) for phase, names in built.order.items()}
        for phase in PHASES:
            facts.update({f"{phase}/{name}": value for name, value in phase_facts(tree, paths, phase)})
        facts.update({f"packages/{name}": value for name, value in package_facts(tree, paths)})
        facts.update({f"sudo/{name}": value for name, value in sudo_facts(tree, paths)})
        facts.update({f"outputs/{name}": value for name, value in output_facts(tree, paths)})
        facts.update({f"tree/{name}": value for name, value in tree_facts(tree, paths)})
    facts.update({f"delivered/{path.name}": "present" for path in built.archive.parent.iterdir()})
    return facts


class Tree:
    """The members of an archive by path, without ``./``."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self.members = {str(PurePosixPath(member.name)): member for member in archive}

    def data(self, path: str) -> bytes:
        file = self._archive.extractfile(self.members[path])
        assert file is not None, path
        return file.read()

    def text(self, path: str) -> str:
        return self.data(path).decode("utf-8", "surrogateescape")

    def below(self, directory: str) -> list[str]:
        return [path for path in self.members if path.startswith(f"{directory}/")]


class Paths:
    """The paths of one build and the words that stand for them."""

    def __init__(self, tree: Tree, known: Mapping[str, str]) -> None:
        environment = environment_in(tree.data(f"{RECORDS}/root.d/environ"))
        words = {
            environment["TMP_BUILD_DIR"]: "{build}",
            environment["TMP_IMAGE_DIR"]: "{images}",
            environment["DIB_IMAGE_CACHE"]: "{cache}",
            environment["DIB_LOCKFILES"]: "{locks}",
            environment["DIB_PYTHON_EXEC"]: "{python}",
            environment["HOME"]: "{home}",
            str(PurePosixPath(environment["_LIB"]).parent): "{dib}",
            **known,
        }
        search = environment["ELEMENTS_PATH"].split(":")
        words |= {search[0]: "{elements}", search[-1]: "{dib}/elements"}
        words |= dict.fromkeys(search[1:-1], "{imgc}")
        self._words = {path: words[path] for path in sorted(words, key=len, reverse=True)}

    def without(self, text: str) -> str:
        for path, word in self._words.items():
            text = re.sub(rf"{re.escape(path)}(?![\w.-])", word, text)
        return text


# --- what a hook saw ------------------------------------------------------------------------------------------------


def phase_facts(tree: Tree, paths: Paths, phase: str) -> Iterator[tuple[str, str]]:
    """What the hooks of one phase wrote down."""
    record = f"{RECORDS}/{phase}"
    environment = environment_in(tree.data(f"{record}/environ"))
    yield from environment_facts(environment, paths)
    for name, value in table(tree.text(f"{record}/words")):
        yield f"process/{name}", paths.without(value)
    for name, value in status_facts(tree.text(f"{record}/status")):
        yield f"process/{name}", value
    for name, value in table(tree.text(f"{record}/paths")):
        yield f"path/{name}", value
    target = "" if PHASES[phase] else environment["TMP_MOUNT_PATH"]
    for name, value in mounts_in(tree.text(f"{record}/mountinfo"), target):
        yield f"mount/{name}", value
    for name in tree.text(f"{record}/dev").split():
        yield f"dev/{name}", "present"
    yield from hooks_facts(tree, record)
    if f"{record}/facts" in tree.members:
        for name, value in table(tree.text(f"{record}/facts")):
            yield f"found/{name}", paths.without(value)
    if f"{record}/sourced-again" in tree.members:
        same = tree.text(f"{record}/sourced-again") == environment["PROBE_SOURCED"]
        yield "sourced", "once" if same else "for each hook"
    if f"{record}/element-array" in tree.members:
        for name, value in table(tree.text(f"{record}/element-array")):
            yield f"element-array/{name}", paths.without(value)


def environment_in(data: bytes) -> dict[str, str]:
    """The variables of /proc/<pid>/environ."""
    entries = data.decode("utf-8", "surrogateescape").split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def environment_facts(environment: Mapping[str, str], paths: Paths) -> Iterator[tuple[str, str]]:
    """One fact for each variable; those that hold several things, one for each of those."""
    for name, value in environment.items():
        if name in _SHELLS_OWN or name == "PROBE_SOURCED":
            continue
        if name.startswith("BASH_FUNC_"):
            yield f"function/{name.removeprefix('BASH_FUNC_').removesuffix('%%')}", "exported"
        elif name == "DIB_ENV":
            for inner, text in declared(value):
                yield f"env/DIB_ENV/{inner}", paths.without(text)
        elif name == "IMAGE_ELEMENT":
            yield "env/IMAGE_ELEMENT", " ".join(sorted(value.split()))
            yield "env/IMAGE_ELEMENT/order", value
        elif name == "IMAGE_ELEMENT_YAML":
            for element, path in yaml.safe_load(value).items():
                yield f"env/IMAGE_ELEMENT_YAML/{element}", paths.without(path)
        else:
            yield f"env/{name}", paths.without(value)


def declared(text: str) -> Iterator[tuple[str, str]]:
    """The variables that lines of ``declare -x NAME="value"`` declare."""
    for word in shlex.split(text):
        if "=" in word:
            name, value = word.split("=", 1)
            yield name, value


def status_facts(text: str) -> Iterator[tuple[str, str]]:
    """What /proc/<pid>/status says about how a process was started.

    The signals are those that no shell or CI service ignores for its own reasons.
    """
    fields = dict(table(text.replace(":\t", "\t")))
    ignored, blocked = int(fields["SigIgn"], 16), int(fields["SigBlk"], 16)
    for number in (signal.SIGPIPE, signal.SIGTERM):
        yield f"ignores/{number.name}", "yes" if ignored >> (number - 1) & 1 else "no"
    yield "blocks-signals", "yes" if blocked else "no"
    yield "may-gain-privileges", "no" if int(fields["NoNewPrivs"]) else "yes"
    missing = own_capabilities() & ~int(fields["CapEff"], 16)
    yield "capabilities-missing", " ".join(str(bit) for bit in range(64) if missing >> bit & 1)


def own_capabilities() -> int:
    """The effective capabilities of this process, as bits."""
    fields = dict(table(Path("/proc/self/status").read_text(encoding="ascii").replace(":\t", "\t")))
    return int(fields["CapEff"], 16)


def table(text: str) -> Iterator[tuple[str, str]]:
    """Lines of a name, a tab and a value; a line without a tab goes on with the value."""
    name, value = "", ""
    for line in text.splitlines():
        if "\t" in line:
            if name:
                yield name, value
            name, _, value = line.partition("\t")
        else:
            value += f"\n{line}"
    if name:
        yield name, value


def mounts_in(text: str, target: str) -> Iterator[tuple[str, str]]:
    """What is mounted below ``target``, by its path there: the kind of file system, and whether it is read-only.

    What the host has mounted below /sys is its own affair, and so is what its /dev is.
    """
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        point, options = before.split(" ")[4:6]
        kind = after.split(" ")[0]
        if not point.startswith(f"{target}/") or point == "/" or "/sys/" in point.removeprefix(target):
            continue
        path = point.removeprefix(target)
        device = path.startswith("/dev") and path not in ("/dev/pts", "/dev/shm")
        shown = kind if kind in _KERNEL and not device else "bind"
        yield path, f"{shown} {options.split(',')[0]}"


def hooks_facts(tree: Tree, record: str) -> Iterator[tuple[str, str]]:
    """Each entry of the hooks tree: kind, mode, owner, link target, digest."""
    digests = {}
    for line in tree.text(f"{record}/digests").splitlines():
        digest, _, path = line.partition("  ")
        digests[path.removeprefix("./")] = digest[:16]
    for line in tree.text(f"{record}/hooks").splitlines():
        path, kind, mode, owner, link = line.split("\t")
        digest = "of one of them" if path in _OF_SEVERAL else digests.get(path, "")
        yield f"hooks/{path}", " ".join(filter(None, (kind, mode, owner, link, digest)))


# --- what else there is ---------------------------------------------------------------------------------------------


def package_facts(tree: Tree, paths: Paths) -> Iterator[tuple[str, str]]:
    """What install-packages was asked for, and what it saw when it was asked for the platform's own packages."""
    asked = [" ".join(sorted(line.split())) for line in tree.text(f"{RECORDS}/packages").splitlines()]
    yield "asked", "\n".join(asked)
    yield from environment_facts(environment_in(tree.data(f"{RECORDS}/packages.d/environ")), paths)
    for name, value in mounts_in(tree.text(f"{RECORDS}/packages.d/mountinfo"), ""):
        yield f"mount/{name}", value


def sudo_facts(tree: Tree, paths: Paths) -> Iterator[tuple[str, str]]:
    """What a program started by sudo gets to see."""
    for name, of in (("sudo", "plain"), ("sudo-E", "kept")):
        environment = environment_in(tree.data(f"{RECORDS}/root.d/{name}"))
        yield from ((f"{of}/{inner}", value) for inner, value in environment_facts(environment, paths))


def output_facts(tree: Tree, paths: Paths) -> Iterator[tuple[str, str]]:
    """The side outputs: what hooks left in the directory in which they ran."""
    for path in tree.below(f"{RECORDS}/outputs"):
        name = path.removeprefix(f"{RECORDS}/outputs/")
        yield from (
            file_facts(tree, paths, path, name, "") if tree.members[path].isreg() else ((name, "directory"),)
        )


def tree_facts(tree: Tree, paths: Paths) -> Iterator[tuple[str, str]]:
    """Each path of the tree but the records: type, mode, owner, link target, attributes, content."""
    names = hard_links(tree.members.values())
    for path, member in tree.members.items():
        if path.startswith(f"{RECORDS}/"):
            continue
        kind = {tarfile.LNKTYPE: b"0"}.get(member.type, member.type).decode()
        words = [kind, f"{member.mode:o}", f"{member.uid}:{member.gid}"]
        if member.issym():
            words.append(member.linkname)
        if member.ischr() or member.isblk():
            words.append(f"{member.devmajor}:{member.devminor}")
        words += [
            f"{name.removeprefix('SCHILY.xattr.')}={value!r}"
            for name, value in sorted(member.pax_headers.items())
            if name.startswith("SCHILY.xattr.")
        ]
        if path in names:
            words.append(f"as {' '.join(names[path])}")
        if member.isreg() or member.islnk():
            yield from file_facts(tree, paths, path, path, " ".join(words))
        else:
            yield path, " ".join(words)


def hard_links(members: Iterable[tarfile.TarInfo]) -> dict[str, list[str]]:
    """For each path that is one of several names of a file, all of the names."""
    groups: dict[str, list[str]] = {}
    for member in members:
        if member.islnk():
            first = str(PurePosixPath(member.linkname))
            groups.setdefault(first, [first]).append(str(PurePosixPath(member.name)))
    return {name: sorted(names) for names in groups.values() for name in names}


def file_facts(tree: Tree, paths: Paths, path: str, name: str, words: str) -> Iterator[tuple[str, str]]:
    """What a file is (``words``) and what is in it, by text where that is the driver's, by digest else."""
    data = tree.data(path)
    last = PurePosixPath(path).name
    if last == "dib_environment":
        yield name, words
        for variable, value in declared(data.decode()):
            yield f"{name}/{variable}", paths.without(value)
        return
    if _GIT_OWN.fullmatch(f"/{path}"):
        content = "of git"
    elif last == "dib-element-manifest":
        content = " ".join(sorted(data.decode().split()))
    elif last.startswith(("dib_", "dib-manifest-")) or last == "fstab":
        content = paths.without(data.decode())
    else:
        content = f"{len(data)} bytes {hashlib.sha256(data).hexdigest()[:16]}"
    yield name, f"{words} {content}".strip()
