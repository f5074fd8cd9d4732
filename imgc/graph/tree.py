"""The hooks tree: every included element's directories laid over each other, as the stock driver lays them.

Each first-level directory of an element (except tests) is merged into ``hooks/<directory>``, each first-level file
is copied flat into ``hooks/``.  Two elements that bring the same file are a problem that the stock driver partly
reports and partly decides by chance; here it is always found and names both.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from imgc.errors import Collector, ImgcError, Place
from imgc.graph.elements import Element, shown
from imgc.graph.modes import Modes
from imgc.graph.step import PHASES

ENVIRONMENT = "environment.d"

#: First-level directories that are not part of the protocol.
_SKIPPED = ("tests", "__pycache__", ".git")

#: Flat files that every element may have.  Their copies in the hooks tree overwrite each other; each has a reader
#: that takes it from the element's own directory, or none.
_PER_ELEMENT = re.compile(
    r"README.*|LICENSE.*|.*\.(rst|md)|\..*|__init__\.py|element-(deps|provides)|pkg-map|svc-map"
    r"|package-installs\.(yaml|json)|python-wheels|block-device-.*\.yaml"
)
_HOOK_NAME = re.compile(r"[0-9A-Za-z_-]+")
_ENVIRONMENT_NAME = re.compile(r"[0-9A-Za-z_.-]+")
_LEADING_NUMBER = re.compile(r"-?[0-9]+")


@dataclass(frozen=True)
class TreeFile:
    """One entry of the hooks tree.

    ``dest`` is relative to ``hooks/``, ``source`` the file on this host.  ``mode`` is what it has in the hooks
    tree, which may be another than on this host (see :mod:`imgc.graph.modes`).  ``kind`` is ``file``, ``link`` (then
    ``target`` is what it holds) or ``directory``; ``digest`` is ``sha256:…`` of a file's bytes, else empty.
    """

    dest: str
    source: str
    element: str
    kind: str
    digest: str
    mode: int
    target: str = ""

    @property
    def value(self) -> str:
        """Mode and content, as a fact says them."""
        if self.kind == "link":
            return f"link to {self.target}"
        return f"{self.mode:04o} {self.digest or self.kind}"


@dataclass(frozen=True)
class Hook:
    """One script that dib-run-parts runs.  ``dest`` is where its bytes are, relative to ``hooks/``."""

    phase: str
    name: str
    element: str
    path: str
    digest: str
    mode: int
    dest: str


@dataclass
class Tree:
    """The entries by ``dest``, and what is worth a warning."""

    entries: dict[str, TreeFile] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def file(self, dest: str) -> TreeFile | None:
        """The regular file at ``dest``, through links within the tree; None when there is none."""
        for _ in range(40):
            entry = self.entries.get(dest)
            if entry is None or entry.kind == "directory":
                return None
            if entry.kind == "file":
                return entry
            dest = os.path.normpath(os.path.join(os.path.dirname(dest), entry.target))
        return None


def run_order(name: str) -> tuple[int, bytes]:
    """The key by which ``LANG=C sort -n`` orders a hook's bare name: its leading number, then its bytes."""
    number = _LEADING_NUMBER.match(name)
    return int(number.group()) if number else 0, os.fsencode(name)


def runs_by_name(name: str) -> bool:
    """Whether dib-run-parts takes a hook of that name at all."""
    return _HOOK_NAME.fullmatch(name) is not None


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def build_tree(elements: Sequence[Element], problems: Collector, place_of: Callable[[str], Place]) -> Tree:
    """Lay all elements' files over each other, in the order of ``elements``.

    ``place_of`` says where the spec brings an element in.  Adds E205, E206 and E207 to ``problems``.
    """
    tree = Tree()
    layer = _Layer(tree, problems, place_of)
    for element in elements:
        layer.modes = Modes(stat.S_IMODE(os.stat(element.path).st_mode))
        for name in sorted(os.listdir(element.path)):
            path = os.path.join(element.path, name)
            if os.path.isdir(path):
                if name not in _SKIPPED:
                    layer.directory(name, path, element.name)
            elif os.path.isfile(path) and not name.endswith(".pyc"):
                layer.add(name, path, element.name)
    return tree


@dataclass
class _Layer:
    tree: Tree
    problems: Collector
    place_of: Callable[[str], Place]
    modes: Modes = field(default_factory=lambda: Modes(0o755))

    def directory(self, dest: str, path: str, element: str) -> None:
        """A first-level directory: its hidden entries are left out, as the stock driver leaves them out."""
        # Several elements share it, so the mode that one of them gives it means nothing.
        self._put(TreeFile(dest, path, element, "directory", "", 0o755))
        for name in sorted(os.listdir(path)):
            inner = os.path.join(path, name)
            if name.startswith("."):
                self.tree.warnings.append(
                    f"{shown(inner)} of element `{element}` is hidden, so it is left out."
                )
            elif name != "__pycache__":
                self.add(f"{dest}/{name}", inner, element)

    def add(self, dest: str, path: str, element: str) -> None:
        """A file, a link, or a directory with everything in it."""
        status = os.lstat(path)
        mode = self.modes.canonical(stat.S_IMODE(status.st_mode))
        if stat.S_ISLNK(status.st_mode):
            self._put(TreeFile(dest, path, element, "link", "", 0o777, os.readlink(path)))
        elif stat.S_ISDIR(status.st_mode):
            # Directories beside hooks are in no key of their own.
            mode = 0o755 if dest.partition("/")[0] in PHASES else mode
            self._put(TreeFile(dest, path, element, "directory", "", mode))
            for name in sorted(os.listdir(path)):
                if name != "__pycache__":
                    self.add(f"{dest}/{name}", os.path.join(path, name), element)
        elif stat.S_ISREG(status.st_mode):
            try:
                with open(path, "rb") as file:
                    self._put(TreeFile(dest, path, element, "file", digest_of(file.read()), mode))
            except OSError as error:
                what = f"{shown(path)} of element `{element}` cannot be read: {error.strerror}."
                self._problem("E209", what, element)
        else:
            what = f"{shown(path)} of element `{element}` is neither a file nor a directory."
            self._problem("E207", what, element)

    def _put(self, new: TreeFile) -> None:
        old = self.tree.entries.get(new.dest)
        if old is None:
            self.tree.entries[new.dest] = new
        elif old.kind != "directory" or new.kind != "directory":
            self._twice(old, new)

    def _twice(self, old: TreeFile, new: TreeFile) -> None:
        depth = new.dest.count("/")
        if depth == 0 and old.kind != "directory" and new.kind != "directory":
            if old.value != new.value and not _PER_ELEMENT.fullmatch(new.dest):
                self.tree.warnings.append(
                    f"`{new.dest}` of element `{new.element}` overwrites that of element `{old.element}`"
                    f" ({shown(new.source)} over {shown(old.source)})."
                )
            self.tree.entries[new.dest] = new
            return
        if depth > 1 and old.value == new.value:
            return
        top = new.dest.split("/")[0]
        hook = depth == 1 and (top in PHASES or top == ENVIRONMENT)
        self._problem(
            "E205" if hook else "E206",
            f"Elements `{old.element}` and `{new.element}` both bring {new.dest}"
            f" ({shown(old.source)} and {shown(new.source)}).",
            old.element,
            new.element,
            hint="Rename one of them, or override the whole element in an earlier search path.",
        )

    def _problem(self, code: str, message: str, *elements: str, hint: str = "") -> None:
        place = max(self.place_of(element) for element in elements)
        self.problems.add(ImgcError(code, message, hint=hint, place=place))


def hooks_of(tree: Tree, phase: str) -> Iterator[Hook]:
    """The hooks of one phase in the order in which dib-run-parts runs them."""
    names = [dest[len(phase) + 1 :] for dest in tree.entries if dest.startswith(f"{phase}/")]
    for name in sorted((name for name in names if "/" not in name and runs_by_name(name)), key=run_order):
        hook = hook_at(tree, phase, name, f"{phase}/{name}")
        if hook:
            yield hook


def hook_at(tree: Tree, phase: str, name: str, dest: str) -> Hook | None:
    """The hook whose bytes are at ``dest`` of the tree; None when that is not an executable file."""
    file = tree.file(dest)
    if file is None or not file.mode & 0o111:
        return None
    return Hook(phase, name, tree.entries[dest].element, file.source, file.digest, file.mode, file.dest)


def environment_files(tree: Tree) -> tuple[TreeFile, ...]:
    """What is sourced before every phase, in that order: bytewise by name, whatever the numbers in front."""
    found = []
    for dest in tree.entries:
        top, _, name = dest.partition("/")
        if top == ENVIRONMENT and _ENVIRONMENT_NAME.fullmatch(name) and tree.file(dest):
            found.append(dest)
    return tuple(tree.entries[dest] for dest in sorted(found, key=os.fsencode))


def check_not_run(
    tree: Tree, problems: Collector, place_of: Callable[[str], Place], stock: Callable[[str], bool]
) -> None:
    """Find files in phase directories that look like hooks and are not run.

    A script whose name begins with a digit was clearly meant to run: E207, unless its element is one of DIB's own
    (``stock``).  Whatever else is executable is worth a warning.  A file that a sibling names is its helper.
    """
    for dest, entry in sorted(tree.entries.items()):
        phase, _, name = dest.partition("/")
        if phase not in PHASES or not name or "/" in name or entry.kind == "directory":
            continue
        reason = _why_not_run(tree, dest, name)
        file = tree.file(dest)
        if not reason or (file and not _looks_like_hook(file, name)) or _named_by_sibling(tree, entry):
            continue
        message = f"{dest} of element `{entry.element}` is never run: {reason}"
        if (file is None or name[0].isdigit()) and not stock(entry.element):
            hint = "Hooks are executable files whose names have only letters, digits, `-` and `_`."
            problems.add(ImgcError("E207", f"{message}.", hint=hint, place=place_of(entry.element)))
        else:
            tree.warnings.append(f"{message} ({shown(entry.source)}).")


def _why_not_run(tree: Tree, dest: str, name: str) -> str:
    file = tree.file(dest)
    if file is None:
        return "it is a link to nothing in the hooks tree"
    if not file.mode & 0o111:
        return "it is not executable"
    if not runs_by_name(name):
        return "its name has a character that hooks cannot have"
    return ""


def _looks_like_hook(file: TreeFile, name: str) -> bool:
    if file.mode & 0o111:
        return True
    with open(file.source, "rb") as opened:
        return name[0].isdigit() and opened.read(2) == b"#!"


def _named_by_sibling(tree: Tree, entry: TreeFile) -> bool:
    """Whether another file of the same element and phase mentions it by name."""
    directory, name = os.path.split(entry.dest)
    for other in tree.entries.values():
        beside = other.kind == "file" and os.path.dirname(other.dest) == directory
        if beside and other is not entry and other.element == entry.element:
            with open(other.source, "rb") as opened:
                if os.fsencode(name) in opened.read():
                    return True
    return False


def predicted_install_types(tree: Tree, environment: Mapping[str, str]) -> tuple[list[Hook], list[str]]:
    """The hooks that install-types will link into install.d, and the names that it will overwrite there.

    A directory ``install.d/<prefix>-<type>-install`` is linked when ``<type>`` is the install type of ``<prefix>``:
    ``DIB_INSTALLTYPE_<prefix>`` of ``environment``, else ``DIB_DEFAULT_INSTALLTYPE``.
    """
    marker = "DIB_INSTALLTYPE_"
    types = {
        name.removeprefix(marker).replace("_", "-"): kind
        for name, kind in environment.items()
        if name.startswith(marker)
    }
    default = environment.get("DIB_DEFAULT_INSTALLTYPE", "source")
    linked: dict[str, Hook] = {}
    overwritten: list[str] = []
    for dest in sorted(tree.entries):
        directory, _, name = dest.removeprefix("install.d/").partition("/")
        if not dest.startswith("install.d/") or not name or "/" in name or not directory.endswith("-install"):
            continue
        prefix = directory.removesuffix("-install")
        wanted = any(directory == f"{one}-{kind}-install" for one, kind in types.items())
        of_default = prefix.endswith(f"-{default}") and prefix.removesuffix(f"-{default}") not in types
        if not wanted and not of_default:
            continue
        if name in linked or f"install.d/{name}" in tree.entries:
            overwritten.append(dest)
        hook = hook_at(tree, "install.d", name, dest)
        if hook and runs_by_name(name):
            linked[name] = hook
    return sorted(linked.values(), key=lambda hook: run_order(hook.name)), overwritten
