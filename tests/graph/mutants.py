"""Copies of the shipped platforms that can be changed one byte or one setting at a time, and compiled again.

What *should* change is said elsewhere: by the reviewed tables in mutation_rules.py, which know nothing of reach.py.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import networkx
import pytest

from imgc import compiling
from imgc.errors import ImgcError
from imgc.graph import Plan, compile_plan, keys, lower
from imgc.graph.difference import Cause, Record, Recorded, why
from imgc.graph.keys import manifest
from imgc.graph.outside import sources_of
from imgc.graph.places import owners, place
from imgc.graph.step import PHASES, Fact, Step
from imgc.lock import Lock, Pin, Source
from imgc.spec import load

from .mutation_rules import EXTRA_ELEMENT

ROOT = Path(__file__).parents[2]
PLATFORMS = ("debian-bookworm", "debian-trixie")

#: Platforms without their settings about where packages come from, which would look at this host.
_START = """\
schema: 1
extends: original-{name}.yaml
base: {{mirror: "http://mirror.test/debian"}}
"""

EPOCH = 1_700_000_000


@dataclass(frozen=True)
class Built:
    """A compiled platform, without its name in the ids of its steps."""

    plan: Plan
    graph: networkx.DiGraph[str]
    keys: Mapping[str, str]

    @cached_property
    def steps(self) -> dict[str, Step]:
        return {short(id): step for id, step in self.graph.nodes(data="step")}

    @cached_property
    def key_of(self) -> dict[str, str]:
        return {short(id): key for id, key in self.keys.items()}

    @cached_property
    def facts(self) -> dict[str, tuple[Fact, ...]]:
        """What each step reads itself."""
        return {id: step.facts for id, step in self.steps.items()}

    @cached_property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        return {id: tuple(map(short, step.inputs)) for id, step in self.steps.items()}

    @cached_property
    def record(self) -> Record:
        """What would be remembered of a build of it."""
        steps = {
            id: Recorded(self.keys[id], step.element, tuple(manifest(step, self.keys)), step.inputs)
            for id, step in self.graph.nodes(data="step")
        }
        return Record(steps, owners(self.plan))

    def below(self, touched: set[str]) -> set[str]:
        """``touched`` and every step that stands on one of them."""
        prefix = f"{self.plan.platform.name}/"
        found = set(touched)
        for id in touched:
            found |= {short(one) for one in networkx.descendants(self.graph, prefix + id)}
        return found


def short(id: str) -> str:
    return id.partition("/")[2]


@dataclass
class Difference:
    """What a mutant did: which steps came and went, which have other keys, and which of these read something else."""

    came: set[str]
    went: set[str]
    changed: set[str]
    direct: set[str]

    @classmethod
    def between(cls, before: Built, after: Built) -> Difference:
        both = before.steps.keys() & after.steps.keys()
        return cls(
            set(after.steps) - both,
            set(before.steps) - both,
            {id for id in both if before.key_of[id] != after.key_of[id]},
            {id for id in both if before.facts[id] != after.facts[id]},
        )


@dataclass
class Score:
    """What a mutation test found, for its one line of summary."""

    mutants: int = 0
    wrong: list[str] = field(default_factory=list)
    causes: int = 0
    wrong_causes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        right = self.mutants - len(self.wrong)
        share = f"{100 * right / self.mutants:.4g}" if self.mutants else "0"
        named = self.causes - len(self.wrong_causes)
        return (
            f"mutation test: {self.mutants} mutants, {right} as expected ({share} %), "
            f"cause named right in {named} of {self.causes}"
        )

    def judge(self, what: str, before: Built, after: Built, expected: Difference) -> bool:
        """Count a mutant; whether exactly the expected steps have other keys, for exactly the expected reasons."""
        self.mutants += 1
        found = Difference.between(before, after)
        if found == expected:
            return True
        self.wrong.append(f"{what}: {_disagreement(found, expected)}")
        return False

    def judge_rejected(self, what: str, code: str, compile: Callable[[], object]) -> None:
        """Count a mutant that the compiler must refuse with ``code``."""
        self.mutants += 1
        try:
            compile()
            self.wrong.append(f"{what}: not refused")
        except ImgcError as error:
            if error.code != code:
                self.wrong.append(f"{what}: {error}")

    def judge_cause(self, what: str, found: Cause | None, right: bool) -> None:
        """Count the cause of a mutant."""
        self.causes += 1
        if not right:
            self.wrong_causes.append(f"{what}: {found.text if found else 'no cause'}")


def _disagreement(found: Difference, expected: Difference) -> str:
    said = []
    for name, real, wanted in (
        ("came", found.came, expected.came),
        ("went", found.went, expected.went),
        ("reading it", found.direct, expected.direct),
        ("changed", found.changed, expected.changed),
    ):
        for sign, steps in (("unexpected", real - wanted), ("missing", wanted - real)):
            if steps:
                shown = ", ".join(sorted(steps)[:8])
                said.append(f"{name}, {sign}: {shown}{' …' if len(steps) > 8 else ''}")
    return "; ".join(said)


def expected(
    before: Built,
    after: Built,
    direct: set[str],
    *,
    came: Set[str] = frozenset(),
    went: Set[str] = frozenset(),
) -> Difference:
    """What should differ when ``direct`` read something else and some steps came and went.

    A step also has another key when another step came or went right below it.
    """
    both = before.steps.keys() & after.steps.keys()
    moved = {id for id in both if before.inputs[id] != after.inputs[id]}
    changed = after.below((direct & both) | (came & after.steps.keys()) | moved)
    return Difference(set(came), set(went), changed & both, direct & both)


#: Of all mutants of this run; conftest.py prints it at the end.
SCORE = Score()


class Project:
    """Copies of all elements, of the stock driver's library, and of the specs, in a directory of their own."""

    def __init__(self, path: Path) -> None:
        from imgc.graph.plan import dib_directory

        self.shipped = path / "shipped"
        self.stock = path / "dib/elements"
        self.specs = path / "specs"
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "imgc/elements", self.shipped, symlinks=True, ignore=ignore)
        shutil.copytree(dib_directory() / "elements", self.stock, symlinks=True, ignore=ignore)
        shutil.copytree(dib_directory() / "lib", path / "dib/lib", symlinks=True, ignore=ignore)
        shutil.copytree(ROOT / "specs", self.specs)
        (self.specs / "more").mkdir()
        hook = self.shipped / EXTRA_ELEMENT / "install.d/77-mutant"
        hook.parent.mkdir(parents=True)
        hook.write_text("#!/bin/bash\n")
        hook.chmod(0o755)
        for name in PLATFORMS:
            original = (self.specs / f"{name}.yaml").read_text().replace(f"name: {name}\n", "")
            (self.specs / f"original-{name}.yaml").write_text(original)
            (self.specs / f"start-{name}.yaml").write_text(_START.format(name=name))
            self.write_spec(name)

    def write_spec(self, name: str, overlay: str = "", *, start: str = "") -> Path:
        """The spec of a platform: the shipped one, and what ``overlay`` changes of it."""
        head = {"schema": "1", "name": name, "extends": f"start-{start or name}.yaml"}
        lines = [f"{key}: {value}\n" for key, value in head.items() if not overlay.startswith(f"{key}:")]
        path = self.specs / f"{name}.yaml"
        path.write_text("".join(lines) + overlay + "\n")
        return path

    def compile(self, name: str, lock: Lock | None = None, host: Mapping[str, str] | None = None) -> Built:
        """Compile a platform as `imgc` does, with every source pinned to something made up."""
        platform = load(name, specs_dir=self.specs, host_environment=host or {})
        plan = compile_plan(
            platform, mirrors=compiling.mirror_environment(platform), elements_dir=self.shipped
        )
        sources = sources_of(plan)
        graph = lower(plan, None, lock or lock_of(plan, sources), sources)
        return Built(plan, graph, keys(graph))

    def files(self, plan: Plan) -> Iterator[tuple[str, str, bool, Path]]:
        """Every file of every directory that has the name of an element of ``plan``.

        The element, the path in it, whether the directory is one that another overrides, the path on disk.
        """
        for element in plan.elements:
            for index, directory in enumerate(plan.search_paths):
                yield from (
                    (element.name, str(path.relative_to(top)), index != element.search_path_index, path)
                    for top in [Path(directory) / element.name]
                    for path in sorted(top.rglob("*"))
                    if path.is_file()
                )


def lock_of(plan: Plan, sources: Sequence[Source]) -> Lock:
    """A lock in which every source of a plan has a pin."""
    pins = {one.id: Pin(one.kind, one.name, (("sha256", "1" * 64),)) for one in sources}
    return Lock(plan.platform.name, pins, EPOCH)


@contextmanager
def changed_bytes(path: Path, data: bytes) -> Iterator[None]:
    """The file with other bytes for a while."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


@contextmanager
def changed_mode(path: Path, mode: int) -> Iterator[None]:
    """The file with another mode for a while."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


@contextmanager
def project_in(path: Path) -> Iterator[Project]:
    """A project whose copy of diskimage-builder is the one that imgc sees."""
    project = Project(path)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("imgc.") and hasattr(module, "dib_directory"):
                patch.setattr(module, "dib_directory", lambda: project.stock.parent)
        yield project


def first_cause(before: Built, after: Built) -> Cause | None:
    """The first cause that `imgc why` names for a mutant."""
    return next(iter(why(after.graph, after.keys, before.record, owners(after.plan))), None)


def names_file(cause: Cause | None, after: Built, element: str, path: Path) -> bool:
    """Whether a cause names the element and leads to the very file."""
    return cause is not None and cause.element == element and place(after.plan, cause) == str(path)


def one_byte_more(path: Path) -> bytes:
    """The file with an empty line at its end, which every form of file can bear."""
    return path.read_bytes() + b"\n"


def in_a_comment(path: Path) -> bytes | None:
    """The file with one byte of its first whole-line comment changed; None when it has none."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines):
        if line.lstrip().startswith(b"# ") and line[-1:].isalpha() and b"shellcheck" not in line:
            lines[number] = line[:-1] + (b"x" if line[-1:] != b"x" else b"y")
            return b"\n".join(lines)
    return None


def hooks_in(directory: Path) -> set[str]:
    """The steps of the hooks that an element's directory brings."""
    found = (path for phase in PHASES for path in (directory / phase).glob("*"))
    return {
        str(path.relative_to(directory)) for path in found if path.is_file() and path.stat().st_mode & 0o111
    }
