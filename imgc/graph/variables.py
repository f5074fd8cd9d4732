"""Which variables of the build a hook can read.

Variables of elements (``DIB_…``, ``IMGC_…`` and a few more) are read by elements only, so one counts for a hook that
mentions it: in its own text, in that of a file that it reaches, or by way of environment.d, which makes variables
out of others.  Every other variable counts for every hook, because any program may read it (``LANG``, a proxy).

A text that reads variables without naming them (``env``, ``${!name}``, ``eval``, ``os.environ`` as a whole) reads all
of them, unless the beginning of the name is told, or a person has read the script (:data:`REVIEWED`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from imgc.graph.assignments import Statement, statements
from imgc.graph.tree import TreeFile, digest_of

#: Names that programs know nothing of.
_OF_ELEMENTS = re.compile(
    r"(?:DIB|IMGC)_\w*|IMAGE_NAME|FS_TYPE|SKIP_BASE|ELEMENTS_PATH|IMAGE_ELEMENT(?:_YAML)?|_LIB"
)

#: Variables that every build has, whatever its spec says, so environment.d never lacks them.
_ALWAYS = frozenset(
    {
        "ARCH",
        "DIB_ARGS",
        "DIB_BOOT_LABEL",
        "DIB_CHECKSUM",
        "DIB_DEBUG_TRACE",
        "DIB_ENV",
        "DIB_IMAGE_CACHE",
        "DIB_LOCKFILES",
        "DIB_MIN_TMPFS",
        "DIB_MOUNTPOINTS",
        "DIB_NO_TMPFS",
        "DIB_OFFLINE",
        "DIB_PYTHON_EXEC",
        "DIB_RELEASE",
        "DIB_ROOT_FSTYPE",
        "DIB_ROOT_LABEL",
        "ELEMENTS_PATH",
        "FS_TYPE",
        "HOME",
        "IMAGE_ELEMENT",
        "IMAGE_ELEMENT_YAML",
        "IMAGE_NAME",
        "IMAGE_TYPE",
        "LC_ALL",
        "PATH",
        "TMP_BUILD_DIR",
        "TMP_HOOKS_PATH",
        "TMP_IMAGE_DIR",
        "TMP_MOUNT_PATH",
        "_LIB",
    }
)


@dataclass(frozen=True)
class Review:
    """What a person who read a script found: which names it may put together, and what it does with hooks.

    ``prefixes`` begin all names that it reads without naming them whole; names that it takes from the files it
    reaches count in any case.  ``lists_only`` says that it looks at the names of hooks, never into them.
    """

    prefixes: tuple[str, ...] = ()
    lists_only: bool = False


_INSTALL_TYPES = "DIB_INSTALLTYPE_"

#: Scripts of diskimage-builder 3.43.0 by the digest of their bytes.  Another version of one is not in here and
#: counts as reading everything, until it has been read too.
REVIEWED: Mapping[str, Review] = {
    # install-types/extra-data.d/99-enable-install-types: `env | grep ^DIB_INSTALLTYPE_`; links hooks by name.
    "sha256:1ff3e2c91b5882de1ac522c8070d8df2c1cd0f93a57c481b0fa840a03ddda40f": Review(
        (_INSTALL_TYPES,), lists_only=True
    ),
    # source-repositories/extra-data.d/98-source-repositories: evals the lines of the lists, which name variables.
    "sha256:ea7177c1efe2879a59f325bb217fcb4b93c95f90ed2f848de56371f2a7e1bf4e": Review(
        (_INSTALL_TYPES, "DIB_REPOTYPE_", "DIB_REPOLOCATION_", "DIB_REPOREF_", "REPOREF_DEFAULT_")
    ),
    # package-installs/bin/package-installs-squash: the names after `when:` in elements' package-installs files.
    "sha256:3120f1fca530a232a8e0581ad2c4edec20fbfa1c223591d3702344aeaf59998f": Review((_INSTALL_TYPES,)),
    # pypi/pre-install.d/04-configure-pypi-mirror: all names that begin alike.
    "sha256:ac5ec6d93dcc2321929d8929021350271aeea56c5cadf26ad8bba3dd0f136ead": Review(
        ("PYPI_MIRROR_URL", "DIB_PYPI_MIRROR_URL")
    ),
}


@dataclass(frozen=True)
class Readings:
    """The variables that a text can read: whole names, beginnings of names, or all of them."""

    names: frozenset[str] = frozenset()
    prefixes: frozenset[str] = frozenset()
    everything: bool = False


#: Expansions that look indirect and are not: options sorted by getopt, the driver's list of elements, the keys of
#: an array.
_NOT_INDIRECT = re.compile(
    r"\beval set -- \"?\$\{?\w+\}?\"?|\beval declare -A \w+=\(\$\(get_image_element_array\)\)"
    r"|\$\{!\w+\[[@*]\]\}"
)
_END = r"\s*(?:$|[|;&)>`])"
_INDIRECT = re.compile(
    r"\beval\b"
    r"|\bcompgen\b|\benvsubst\b|/environ\b"
    r"|\bprintenv\b(?!\s+[A-Za-z_])"
    rf"|(?:^|[\s(`/])env(?:\s+(?:-\S+|\w+=\S*))*{_END}"
    rf"|(?:^|[;&|({{`])\s*(?:set|export|declare|typeset|readonly){_END}"
    rf"|\b(?:export|readonly)\s+-\w*p{_END}|\b(?:declare|typeset)\s+-\w*[px]\w*{_END}"
    r"|\b(?:declare|typeset|local)\s+-\w*n\w*\s+\w+=[\"']?\$"
    r"|\\\$\{?\$|%ENV\b|\bENV\{\s*\$|\bENVIRON\[\s*[^\"']|\bin ENVIRON\b|\bENV\[\s*[^\"']",
    re.MULTILINE,
)
#: A lookup in Python that names what it looks up.
_PYTHON_LITERAL = re.compile(
    r"\benviron(?:\.get|\.pop|\.setdefault)?\s*[\[(]\s*(['\"])\w+\1\s*[\]),]"
    r"|\bgetenv\(\s*(['\"])\w+\2\s*[),]|(['\"])\w+\3\s+(?:not\s+)?in\s+os\.environ\b"
)
_PYTHON = re.compile(r"\b(?:environb?|getenvb?|expandvars)\b")
_BY_PREFIX = re.compile(r"\$\{!(\w+)[*@]\}|\\\$\{?(\w+)\$")
_BY_NAME = re.compile(r"\$\{!(\w+)")
_NAME = re.compile(r"[A-Za-z_]\w*")


@lru_cache(maxsize=4096)
def readings(data: bytes) -> Readings:
    """What a text can read.  Data that is no text names what is in it."""
    text = data.decode("utf-8", "replace")
    names = frozenset(_NAME.findall(text))
    prefixes = {name for name in names if name.endswith("_") and len(name) > 1}
    review = REVIEWED.get(digest_of(data))
    if review:
        return Readings(names, frozenset({*prefixes, *review.prefixes}))
    code = "\n".join(
        line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")
    )
    code = _PYTHON_LITERAL.sub("", _NOT_INDIRECT.sub("", code))
    if b"\0" in data or _INDIRECT.search(code) or _PYTHON.search(code):
        return Readings(names, frozenset(prefixes), b"\0" not in data)
    prefixes.update(prefix for pair in _BY_PREFIX.findall(code) for prefix in pair if prefix)
    computed = _BY_NAME.findall(_BY_PREFIX.sub("", code))
    beginnings = [_beginnings(code, name) for name in computed]
    told = {beginning for found in beginnings for beginning in found}
    return Readings(names, frozenset(prefixes | told), not all(beginnings))


def _beginnings(code: str, name: str) -> list[str]:
    """How the names begin that ``name`` is set to in a text; none when one of them is not told there."""
    if name.isdigit() or re.search(
        rf"\b(?:for|read|printf|mapfile|readarray|getopts)\b[^\n;]*\b{name}\b", code
    ):
        return []
    values = re.findall(rf"(?<![\w$]){name}=(\S*)", code)
    beginnings = [match[0] if (match := _NAME.match(value.lstrip("\"'"))) else "" for value in values]
    return beginnings if all(beginnings) else []


def review_of(data: bytes) -> Review | None:
    """What is known of a script from reading it."""
    return REVIEWED.get(digest_of(data))


class Variables:
    """The variables of one plan and what environment.d makes of them."""

    def __init__(self, environment: Iterable[tuple[str, str]], files: Iterable[TreeFile]) -> None:
        self.values = dict(environment)
        self._by_name: dict[str, list[Statement]] = {}
        self._indirect: list[Statement] = []
        self.effects: list[Statement] = []
        self._sort(files)

    def _sort(self, files: Iterable[TreeFile]) -> None:
        """Split the statements of environment.d: by what they assign, and those that concern every hook."""
        sure = set(_ALWAYS)
        found: list[Statement] = []
        for file in files:
            with open(file.source, "rb") as opened:
                found += statements(opened.read())
        exported = {name for statement in found for name in statement.exported}
        for statement in found:
            seen = {name for name in statement.assigned if name in exported or name in self.values}
            if statement.effect or statement.required - sure or any(map(self._anyones, seen)):
                self.effects.append(statement)
            sure |= statement.sure
            for name in statement.assigned:
                self._by_name.setdefault(name, []).append(statement)

    def _anyones(self, name: str) -> bool:
        return not _OF_ELEMENTS.fullmatch(name)

    def assigning(self, names: Iterable[str]) -> list[Statement]:
        """The statements of environment.d that give one of ``names`` a value."""
        return [statement for name in names for statement in self._by_name.get(name, ())]

    def for_all(self) -> frozenset[str]:
        """Names of the spec's variables that every program may read."""
        return frozenset(filter(self._anyones, self.values))

    def counted(self, names: Iterable[str], prefixes: Iterable[str], everything: bool) -> frozenset[str]:
        """The spec's variables among those that are read."""
        beginnings = tuple(prefixes)
        read = set(names)
        # The stock driver's DIB_ENV holds them all.
        whole = everything or "DIB_ENV" in read
        return self.for_all() | {
            name
            for name in self.values
            if everything
            or name in read
            or (whole and name.startswith("DIB_"))
            or (beginnings and name.startswith(beginnings))
        }
