"""What a plan takes from outside: package archives, repositories and files of source-repositories, Python wheels.

Pure: it reads element files and the plan.  :func:`sources_of` names the sources, :func:`pin_facts` says which pins
enter the key of which hook; what comes later in the chain is covered by its inputs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from imgc.errors import Collector, ImgcError, Place
from imgc.graph.archives import archives_of
from imgc.graph.caches import OFFERS, SIDES, reads_offer, sources_of_caches
from imgc.graph.elements import Element, shown
from imgc.graph.implied import plain_environment
from imgc.graph.plan import Plan
from imgc.graph.step import Fact
from imgc.graph.tree import Hook, TreeFile
from imgc.lock import Pins, Source
from imgc.spec.model import Platform

#: The file in which an element names the Python packages that it wants as wheels, one requirement a line.
WHEELS_FILE = "python-wheels"

#: The variable that tells hooks the directory in which each element with wheels has a directory of its name.
WHEELS_VARIABLE = "IMGC_WHEELS"

#: Where a hook names that directory without reading what is in it: comments, and tests whether it is told.
_NO_READING = re.compile(rf"(?m)^\s*#.*$|-[nz]\s+\"?\$\{{?{WHEELS_VARIABLE}(?::?-)?\}}?\"?(?=\s|\])")

#: The setting (in a spec's environment) that says which Python an image has, where the table does not know it.
PYTHON_VARIABLE = "IMGC_TARGET_PYTHON"

#: The Python 3 of each release of each distribution: the one by which hooks and glean run.
_PYTHONS = {
    "debian": "stretch 3.5 buster 3.7 bullseye 3.9 bookworm 3.11 trixie 3.13",
    "ubuntu": "trusty 3.4 xenial 3.5 bionic 3.6 focal 3.8 jammy 3.10 noble 3.12",
    "centos": "7 3.6 8 3.6 8-stream 3.6 9 3.9 9-stream 3.9 10 3.12 10-stream 3.12",
    "rocky": "8 3.6 9 3.9 10 3.12",
    "almalinux": "8 3.6 9 3.9 10 3.12",
    "fedora": (
        "24 3.5 25 3.5 26 3.6 27 3.6 28 3.6 29 3.7 30 3.7 31 3.7 32 3.8 33 3.9 34 3.9 35 3.10 36 3.10 37 3.11"
        " 38 3.11 39 3.12 40 3.12 41 3.13 42 3.13 43 3.14"
    ),
}

#: Programs that start a system from packages: hooks of root.d that mention one read the package archives.
_STARTS_SYSTEM = re.compile(r"\b(debootstrap|mmdebstrap|apt-get|dnf|yum)\b")

#: A line of a source-repository file, as the stock hook takes it apart: name, type, destination, location, ref.
_REPOSITORY = re.compile("([^ ]+) (git|tar|file|package) ?(/[^ ]+)? ?([^ ]+)? ?([^ ]*)")

#: What the stock hook cuts off a location before it puts DIB_GITREPOBASE there.
_SERVER = re.compile(r"[^:]+://[^/]+/(?:~[^/]+)?(.*)")

_DEFAULT_REFS = {"git": "master", "tar": "*"}

_REQUIREMENT = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:\[[A-Za-z0-9._, -]+\])?"
    r"(?:(?:===|[=<>!~]=|[<>])[A-Za-z0-9.*+!_-]+(?:,(?:===|[=<>!~]=|[<>])[A-Za-z0-9.*+!_-]+)*)?(?:;.+)?"
)


class _Line(NamedTuple):
    """A line of an element's file and where it is."""

    text: str
    place: Place


def sources_of(plan: Plan) -> tuple[Source, ...]:
    """Everything the plan takes from outside, in the order of lock files.

    Raises E616 for lines that cannot be read and E617 where the image's Python is not known, all in one run.
    """
    problems = Collector()
    found = [*archives_of(plan), *_repositories(plan, problems)]
    for element in plan.elements:
        found.extend(_wheels(plan.platform, element, problems))
    found.extend(sources_of_caches(plan, problems))
    problems.check()
    return tuple(found)


def warnings_of(plan: Plan) -> tuple[str, ...]:
    """What the plan takes from outside and nothing can pin: lines that only a shell can evaluate."""
    if not _reads_any_repository(plan):
        return ()
    environment = _environment(plan)
    return tuple(
        f"{line.place}: only the hook itself can evaluate this line, so what it names is not pinned."
        for file in _repository_files(plan)
        for line in _lines(file)
        if _echoed(line.text, environment) is None
    )


def pin_facts(
    plan: Plan, hook: Hook, pins: Pins, sources: Sequence[Source] | None = None
) -> tuple[Fact, ...]:
    """The pins that enter the key of ``hook``: those of the sources that it is the first to read.

    ``sources`` are those of the plan, for callers that have them already.
    """
    facts = []
    for source in sources_of(plan) if sources is None else sources:
        if reads(plan, hook, source):
            pin = pins.get(source.id)
            facts.append(Fact("pin", f"{source.kind} {source.name}", pin.value if pin else "none"))
    return tuple(facts)


def reads(plan: Plan, hook: Hook, source: Source) -> bool:
    """Whether ``hook`` reads ``source`` itself, not only what earlier hooks made of it."""
    if source.kind in ("apt", "yum"):
        return hook.phase == "root.d" and hook in _first_readers(plan)
    if source.kind == "wheels":
        return reads_wheels(hook)
    if source.kind in OFFERS:
        return reads_offer(hook, source)
    if source.kind in SIDES:
        return False
    return reads_repositories(hook)


def reads_repositories(hook: Hook) -> bool:
    """Whether ``hook`` fetches what source-repository files name (the stock hook, or one that takes its place)."""
    if hook.phase != "extra-data.d":
        return False
    return hook.name.endswith("source-repositories") or "source-repository-*" in _text(hook.path)


def reads_wheels(hook: Hook) -> bool:
    """Whether ``hook`` may read wheels: below one directory are those of all elements.

    To ask whether there are any, and to say so in a comment, is not to read them.
    """
    return WHEELS_VARIABLE in _NO_READING.sub("", _text(hook.path))


def _first_readers(plan: Plan) -> tuple[Hook, ...]:
    """The hooks that start the system from packages; where none says so, the first hook of all."""
    hooks = plan.phase("root.d")
    return tuple(hook for hook in hooks if _STARTS_SYSTEM.search(_text(hook.path))) or hooks[:1]


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


# --- source-repository files --------------------------------------------------------------------------------------


def _repositories(plan: Plan, problems: Collector) -> Iterator[Source]:
    """The sources of the plan's source-repository files, read as the stock hook reads them."""
    if not _reads_any_repository(plan):
        return
    environment = _environment(plan)
    if environment.get("NO_SOURCE_REPOSITORIES"):
        return
    taken: dict[tuple[str, str], Source] = {}
    for file in _repository_files(plan):
        for line in _lines(file):
            echoed = _echoed(line.text, environment)
            if not echoed or echoed.startswith("#"):
                continue
            fields = _REPOSITORY.fullmatch(echoed)
            if fields is None:
                hint = "A line is: name, type (git, tar or file), destination, location, and for git a ref."
                said = f"source-repositories cannot read this line of element `{file.element}`."
                problems.add(ImgcError("E616", said, hint=hint, place=line.place))
                continue
            source = _repository(*fields.groups(), environment=environment, place=line.place)
            if source:
                yield from _new(source, taken)


def _reads_any_repository(plan: Plan) -> bool:
    return any(reads_repositories(hook) for hook in plan.phase("extra-data.d"))


def _repository_files(plan: Plan) -> list[TreeFile]:
    prefix = "source-repository-"
    files = (file for file in plan.tree if "/" not in file.dest and file.dest.startswith(prefix))
    return [file for file in files if file.kind == "file" and not file.dest.endswith("~")]


def _environment(plan: Plan) -> dict[str, str]:
    """What the hook's environment is foreseen to be."""
    values = (*plan.environment, ("DIB_DEFAULT_INSTALLTYPE", plan.install_type))
    return plain_environment(values, plan.environment_files)


def _repository(
    name: str,
    type: str,
    destination: str | None,
    location: str | None,
    ref: str | None,
    *,
    environment: Mapping[str, str],
    place: Place,
) -> Source | None:
    """The source of one line; None when it is installed otherwise.  The variables are those of the stock hook."""
    variable = re.sub("[^A-Za-z0-9]", "_", name)
    ref = ref or _DEFAULT_REFS.get(type, "")
    type = environment.get(f"DIB_REPOTYPE_{variable}") or type
    override = environment.get(f"DIB_REPOLOCATION_{variable}")
    location = override or location or ""
    ref = environment.get(f"DIB_REPOREF_{variable}") or ref
    install = environment.get(f"DIB_INSTALLTYPE_{variable}") or environment["DIB_DEFAULT_INSTALLTYPE"]
    if install != "source" or type not in ("git", "tar", "file"):
        return None
    detail = {"repository": name, "type": type}
    base = environment.get("DIB_GITREPOBASE")
    if type == "git":
        detail["ref"] = ref
        if base and not override:
            location = _SERVER.sub(lambda server: base + server[1], location)
            detail["relocated"] = "yes"
    return Source("git" if type == "git" else "file", name, location, tuple(sorted(detail.items())), place)


def _new(source: Source, taken: dict[tuple[str, str], Source]) -> Iterator[Source]:
    """``source`` unless the same was named before; under a longer name when another has its name."""
    for name in (
        source.name,
        f"{source.name} {source.get('ref')}".strip(),
        f"{source.name} {source.location}",
    ):
        candidate = Source(source.kind, name, source.location, source.detail, source.place)
        before = taken.setdefault(candidate.id, candidate)
        if before == candidate:
            if before is candidate:
                yield candidate
            return


def _lines(file: TreeFile) -> Iterator[_Line]:
    """The lines of a file that are not empty."""
    for text, number in _joined(_text(file.source)):
        yield _Line(text, Place(shown(file.source), number, 1))


def _joined(text: str) -> Iterator[tuple[str, int]]:
    """Lines as the shell's ``read`` gives them, with their numbers: a backslash at the end joins two, others vanish."""
    whole, first = "", 0
    for number, line in enumerate([*text.split("\n"), ""], 1):
        first = first or number
        whole += line
        if len(line) - len(line.rstrip("\\")) & 1:
            whole = whole[:-1]
            continue
        if whole.strip():
            yield re.sub(r"\\(.)", r"\1", whole.strip()), first
        whole, first = "", 0


@dataclass
class _Shell:
    """Evaluates one simple command line: quotes, comments and plain variables, and nothing else of a shell."""

    environment: Mapping[str, str]

    _TOKEN = re.compile(
        r"(?P<space>\s+)|(?P<comment>(?:(?<=\s)|^)#.*)|'(?P<single>[^']*)'|\"(?P<double>(?:[^\"\\`]|\\.)*)\""
        r"|(?P<variable>\$\w+|\$\{\w+(?::?-[\w./:@-]*)?\})|(?P<plain>[^\s'\"$\\`;&|()<>{}]+)"
    )
    _VARIABLE = re.compile(r"\$(?P<bare>\w+)|\$\{(?P<name>\w+)(?::?-(?P<default>[\w./:@-]*))?\}")

    def echo(self, text: str) -> str | None:
        """What ``eval echo`` prints; None where that takes a shell."""
        if re.search(r"(?:^|\s)~", text):
            return None
        found, position = "", 0
        while position < len(text):
            token = self._TOKEN.match(text, position)
            if token is None:
                return None
            position = token.end()
            value = self._value(token)
            if value is None:
                return None
            found += value
        return " ".join(found.split())

    def _value(self, token: re.Match[str]) -> str | None:
        if token["double"] is not None:
            return self._expanded(token["double"])
        if token["variable"]:
            return self._expanded(token["variable"])
        if token["space"]:
            return " "
        return "" if token["comment"] else token["single"] or token["plain"] or ""

    def _expanded(self, text: str) -> str | None:
        """``text`` with its variables; None when one is not known or it holds anything else that a shell expands."""
        missing = False

        def value(found: re.Match[str]) -> str:
            nonlocal missing
            known = self.environment.get(found["bare"] or found["name"]) or found["default"]
            missing = missing or known is None
            return known or ""

        rest = self._VARIABLE.sub("", text)
        expanded = self._VARIABLE.sub(value, text)
        return None if missing or "$" in rest or "\\" in rest else expanded


def _echoed(text: str, environment: Mapping[str, str]) -> str | None:
    return _Shell(environment).echo(text)


# --- python-wheels files ------------------------------------------------------------------------------------------


def _wheels(platform: Platform, element: Element, problems: Collector) -> Iterator[Source]:
    """The source of an element's wheels, when it wants any."""
    path = os.path.join(element.path, WHEELS_FILE)
    if not os.path.isfile(path):
        return
    requirements = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        name, semicolon, marker = line.split("#")[0].partition(";")
        requirement = re.sub(r"\s*([=<>!~,\[\]]+)\s*", r"\1", name.strip()) + (
            f"; {marker.strip()}" if semicolon else ""
        )
        if not requirement:
            continue
        if not _REQUIREMENT.fullmatch(requirement):
            said = f"`{line.strip()}` is not a requirement that {WHEELS_FILE} of `{element.name}` may have."
            hint = "One package a line, with versions if need be: `glean>=1.24`. No options, no URLs."
            problems.add(ImgcError("E616", said, hint=hint, place=Place(shown(path), number, 1)))
        requirements.append(requirement)
    if not requirements:
        return
    python = target_python(platform)
    if not python:
        base = platform.base
        said = f"Element `{element.name}` wants wheels, but the Python of {base.distro} {base.release} is not known."
        hint = f"Set {PYTHON_VARIABLE} in the spec's environment, as in 3.11."
        problems.add(ImgcError("E617", said, hint=hint, place=Place(shown(path))))
        return
    detail = (("python", python), ("requirements", "\n".join(requirements)))
    yield Source("wheels", element.name, "", detail, Place(shown(path)))


def target_python(platform: Platform) -> str:
    """The version of the image's system Python (``3.11``); empty when it is not known, or was set wrongly."""
    given = dict(platform.environment).get(PYTHON_VARIABLE)
    if given is not None:
        return given if re.fullmatch(r"[23]\.[0-9]{1,2}", given) else ""
    words = _PYTHONS.get(platform.base.distro, "").split()
    return dict(zip(words[::2], words[1::2], strict=True)).get(platform.base.release, "")
