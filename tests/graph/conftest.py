"""Small element trees, and platforms that are compiled from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from imgc.errors import ImgcError, Place, Problems
from imgc.graph import Plan, compile_plan, keys, lower, steps_in_order
from imgc.graph.step import Step
from imgc.spec.model import Base, Disk, Initramfs, Output, Platform

#: What a test platform is when it does not say otherwise: no disk, so nothing is implied.
PLATFORM = Platform(
    name="small",
    description="",
    base=Base("none", "none", "1", "amd64", "default", None, False),
    elements=(),
    element_paths=(),
    environment=(),
    packages=(),
    initramfs=Initramfs("cloud", ()),
    disk=Disk(None, 0, "ext4", "root", "gpt", "bios", "", 5),
    outputs=(Output("tar", "tar", (("compression", "none"),)),),
    file="specs/small.yaml",
)

#: The same as a Debian of which disks are made.
DEBIAN = replace(
    PLATFORM,
    name="debian-bookworm",
    base=Base("minimal", "debian", "bookworm", "amd64", "default", None, False),
    elements=("simple-init", "growroot", "openssh-server"),
    disk=Disk(None, 256 << 20, "ext4", "cloudimg-rootfs", "gpt", "both", "", 5),
    outputs=(
        Output("qcow2", "qcow2", (("compression", "zstd"), ("compat", "1.1"))),
        Output("vhd", "vhd", (("variant", "dynamic"),)),
    ),
    file="specs/debian-bookworm.yaml",
)

Files = Mapping[str, "str | bytes | tuple[str | bytes, int]"]


class Elements:
    """A directory of elements."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def add(
        self, name: str, files: Files | None = None, *, deps: Sequence[str] = (), provides: Sequence[str] = ()
    ) -> Path:
        """An element.  A file is text (a script in a phase directory is made executable), or bytes, and a mode."""
        home = self.path / name
        home.mkdir(0o755)
        for kind, names in (("element-deps", deps), ("element-provides", provides)):
            if names:
                (home / kind).write_text("".join(f"{one}\n" for one in names))
        for dest, content in (files or {}).items():
            self.write(f"{name}/{dest}", content)
        return home

    def write(self, dest: str, content: str | bytes | tuple[str | bytes, int]) -> None:
        data, mode = content if isinstance(content, tuple) else (content, -1)
        data = data.encode() if isinstance(data, str) else data
        path = self.path / dest
        path.parent.mkdir(parents=True, exist_ok=True)
        for directory in path.relative_to(self.path).parents:
            # Their modes count for keys; those of a developer's umask are not what the golden keys have.
            os.chmod(self.path / directory, 0o755)
        path.write_bytes(data)
        os.chmod(path, mode if mode >= 0 else 0o755 if data.startswith(b"#!") else 0o644)


@pytest.fixture
def elements(tmp_path: Path) -> Elements:
    """A directory with one element, `system`, which provides an operating system."""
    made = Elements(tmp_path / "elements")
    made.add("system", provides=["operating-system"])
    return made


@pytest.fixture
def more(tmp_path: Path) -> Elements:
    """A second directory of elements."""
    return Elements(tmp_path / "more")


Compile = Callable[..., Plan]


@pytest.fixture
def compiled(elements: Elements, tmp_path: Path) -> Compile:
    """Compile a small platform of the named elements (and `system`), with changes to it as keywords."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()

    def compile_small(*names: str, mirrors: Mapping[str, str] | None = None, **changes: object) -> Plan:
        changes.setdefault("element_paths", (str(elements.path),))
        platform = replace(PLATFORM, elements=("system", *names), **changes)  # type: ignore[arg-type]
        return compile_plan(platform, mirrors=mirrors, elements_dir=shipped)

    return compile_small


@pytest.fixture(scope="session")
def debian() -> Plan:
    """A real platform: DIB's own elements, and those that imgc ships."""
    return compile_plan(DEBIAN, mirrors={"DIB_DISTRIBUTION_MIRROR": "http://mirror.example/debian"})


@pytest.fixture
def base_platform() -> Platform:
    return PLATFORM


@pytest.fixture(scope="session")
def debian_platform() -> Platform:
    return DEBIAN


@pytest.fixture
def steps_of() -> Callable[[Plan], dict[str, Step]]:
    """The steps of a plan by id, without the platform, in order."""
    return lambda plan: {step.id.partition("/")[2]: step for step in steps_in_order(lower(plan))}


@pytest.fixture
def keys_of() -> Callable[[Plan], dict[str, str]]:
    """The keys of a plan's steps by id, without the platform."""
    return lambda plan: {id.partition("/")[2]: key for id, key in keys(lower(plan)).items()}


@pytest.fixture
def problems_of() -> Callable[[Callable[[], object]], list[ImgcError]]:
    """Every problem that a call raises."""

    def problems(call: Callable[[], object]) -> list[ImgcError]:
        with pytest.raises(ImgcError) as caught:
            call()
        error = caught.value
        return error.problems if isinstance(error, Problems) else [error]

    return problems


@pytest.fixture
def place() -> Callable[[str], Place]:
    """A place for a name: a line in a made-up spec for each letter."""
    return lambda name: Place("spec.yaml", sum(map(ord, name)), 1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The count of the mutation test, passed or failed."""
    from .mutants import SCORE

    if SCORE.mutants:
        terminalreporter.write_line(str(SCORE))
