"""The policy of CI images: what the package cache holds is not installed, unless the base needs it.

Only so does one image serve all jobs: what a job finds installed is what its project declares.  Pure: it judges what
has been read from an image (:func:`of_dpkg`, :func:`of_rpm`), with what elements and the spec ask for.

    installed = of_dpkg(status)                    # the text of /var/lib/dpkg/status
    installed = of_rpm(listed)                     # what RPM_QUERY prints
    problems = judge(installed, asked_by, wanted)  # E658 each

``asked_by`` has who asks for each package of the cache (:func:`imgc.caches.bindep_cache.asked_by`), ``wanted`` the
names that elements and the spec install, after their maps (:func:`mentioned` finds them in hooks, too).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgc.errors import ImgcError

#: The argument of `rpm -qa --queryformat`: a line for each package, and for each thing it needs, provides or holds.
#: The last is there because packages require files by their paths.
RPM_QUERY = (
    r"N\t%{NAME}\n[R\t%{=NAME}\t%{REQUIRENAME}\n][P\t%{=NAME}\t%{PROVIDENAME}\n][F\t%{=NAME}\t%{FILENAMES}\n]"
)

#: The same for an rpm that knows recommendations; older ones (CentOS 7) refuse it.
RPM_QUERY_WEAK = RPM_QUERY + r"[R\t%{=NAME}\t%{RECOMMENDNAME}\n]"

#: Shell: copies what :func:`read` needs out of the tree ``$1`` into the directory ``$2``.
EXTRACT = (
    'if [ -e "$1/var/lib/dpkg/status" ]; then cp "$1/var/lib/dpkg/status" "$2/dpkg-policy";'
    ' elif [ -x "$1/usr/bin/rpm" ]; then'
    f' chroot "$1" rpm -qa --queryformat \'{RPM_QUERY_WEAK}\' > "$2/rpm-policy" 2> /dev/null'
    f' || chroot "$1" rpm -qa --queryformat \'{RPM_QUERY}\' > "$2/rpm-policy"; fi'
)

#: What is no name in `(foo >= 2 if bar)`.
_OPERATORS = frozenset({"if", "unless", "or", "and", "with", "without", "else"})

#: What Debian's policy calls the base, beside what is essential.
_BASE_PRIORITIES = ("required", "important")

#: What rpm systems are bootstrapped from.  There are no priorities: these are what nothing works without.
_RPM_BASE = re.compile(
    r"basesystem|filesystem|setup|bash|coreutils|glibc.*|rpm|dnf5?|yum|curl|libcurl|systemd|systemd-udev|passwd|findutils"
    r"|sudo|util-linux.*|dnf-plugins-core|.*-(release|repos|gpg-keys)(-.*)?"
)

#: So many of those who ask for a package are named.
_NAMED = 5


@dataclass(frozen=True)
class Installed:
    """A package of an image.

    ``provides`` are the names under which others may need it, its own among them.  ``needs`` are what it depends on
    and recommends: alternatives, any of which will do.  ``base`` says that it belongs to every system of its kind.
    """

    name: str
    provides: frozenset[str]
    needs: tuple[tuple[str, ...], ...] = ()
    base: bool = False


def judge(
    installed: Iterable[Installed], asked_by: Mapping[str, Sequence[str]], wanted: Collection[str]
) -> list[ImgcError]:
    """E658 for each package that is installed only because the cache has it, by name.

    A package may be there when it belongs to the base, when ``wanted`` names it (or what it provides), or when one
    that may be there needs it.
    """
    packages = list(installed)
    allowed = _needed(packages, wanted)
    problems = []
    for name in sorted({one.name for one in packages} & set(asked_by)):
        if name not in allowed:
            who = ", ".join(asked_by[name][:_NAMED])
            further = len(asked_by[name]) - _NAMED
            others = f" and {further} others" if further > 0 else ""
            said = f"Package {name} is installed, and only jobs ask for it: {who}{others}."
            hint = "What the image itself needs, an element or `packages` has to name."
            problems.append(ImgcError("E658", said, hint=hint))
    return problems


def mentioned(names: Collection[str], texts: Iterable[str]) -> set[str]:
    """Those of ``names`` that are words of shell scripts or package lists, comments aside.

    For hooks that install packages themselves, and what maps make of names: an image has a package for a reason when
    an element speaks of it.
    """
    found: set[str] = set()
    for text in texts:
        words = re.split(r"[^A-Za-z0-9.+_-]+", re.sub(r"(?m)(^|\s)#.*$", "", text))
        found.update(word.strip("-.") for word in words)
        found.update(words)
    return found & set(names)


def read(directory: Path) -> list[Installed]:
    """The installed packages of a tree, from what :data:`EXTRACT` left in ``directory``; that is removed."""
    found = []
    for name, parse in (("dpkg-policy", of_dpkg), ("rpm-policy", of_rpm)):
        file = directory / name
        if file.exists():
            found += parse(file.read_text(encoding="utf-8", errors="replace"))
            file.unlink()
    return found


def of_dpkg(status: str) -> list[Installed]:
    """The installed packages of a dpkg status file."""
    found = []
    for paragraph in status.split("\n\n"):
        fields = _fields(paragraph)
        if not fields.get("Status", "").endswith(" installed") or "Package" not in fields:
            continue
        name = fields["Package"]
        needs: list[tuple[str, ...]] = []
        for field in ("Pre-Depends", "Depends", "Recommends"):
            groups = fields.get(field, "").split(",")
            needs += [tuple(_bare(one) for one in group.split("|")) for group in groups if group.strip()]
        provides = {_bare(one) for one in fields.get("Provides", "").split(",") if one.strip()}
        essential = "yes" in (fields.get("Essential"), fields.get("Important"), fields.get("Protected"))
        base = essential or fields.get("Priority") in _BASE_PRIORITIES
        found.append(Installed(name, frozenset(provides | {name}), tuple(needs), base))
    return found


def of_rpm(listed: str) -> list[Installed]:
    """The installed packages of what :data:`RPM_QUERY` prints."""
    names: list[str] = []
    needs: dict[str, set[str]] = defaultdict(set)
    provides: dict[str, set[str]] = defaultdict(set)
    for line in listed.splitlines():
        kind, _, rest = line.partition("\t")
        name, _, value = rest.partition("\t")
        if kind == "N":
            names.append(name)
        elif kind == "R":
            needs[name].add(value)
        elif kind in ("P", "F"):
            provides[name].add(value)
    required = {name for values in needs.values() for value in values for name in _alternatives(value)}
    return [
        Installed(
            name,
            # Of the many files, those that nobody requires say nothing.
            frozenset((provides[name] & required) | {name}),
            tuple(_alternatives(value) for value in sorted(needs[name])),
            bool(_RPM_BASE.fullmatch(name)),
        )
        # Keys are no packages.
        for name in dict.fromkeys(names)
        if name != "gpg-pubkey"
    ]


def _alternatives(need: str) -> tuple[str, ...]:
    """The names in a requirement of rpm; of a boolean one, all that may be meant."""
    if not need.startswith("("):
        return (need,)
    words = re.split(r"\s+", need)
    bare = (
        re.sub(r"^\(+|(?<!\()\)+$", "", word) if "(" not in word[1:] else word.lstrip("(") for word in words
    )
    return tuple(word for word in bare if word and word not in _OPERATORS and word[0] not in "<>=")


def _needed(packages: Sequence[Installed], wanted: Collection[str]) -> set[str]:
    """The names of all packages that may be installed."""
    providers: dict[str, list[Installed]] = defaultdict(list)
    for one in packages:
        for name in one.provides:
            providers[name].append(one)
    asked = set(wanted)
    waiting = [one for one in packages if one.base or one.provides & asked]
    needed = {one.name for one in waiting}
    while waiting:
        for alternatives in waiting.pop().needs:
            for one in (one for name in alternatives for one in providers.get(name, ())):
                if one.name not in needed:
                    needed.add(one.name)
                    waiting.append(one)
    return needed


def _fields(paragraph: str) -> dict[str, str]:
    """The fields of a paragraph; what goes on over several lines is joined."""
    fields: dict[str, str] = {}
    last = ""
    for line in paragraph.splitlines():
        if line[:1] in (" ", "\t"):
            fields[last] = f"{fields.get(last, '')} {line.strip()}"
        elif ":" in line:
            last, _, value = line.partition(":")
            fields[last] = value.strip()
    return fields


def _bare(relation: str) -> str:
    """The name in ``libc6:any (>= 2.34) [amd64]``."""
    return re.split(r"[\s:(\[<]", relation.strip(), maxsplit=1)[0]
