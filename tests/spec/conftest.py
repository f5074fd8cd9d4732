"""A way to write spec files and load them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from imgc import spec
from imgc.errors import ImgcError, Problems

MINIMAL = "schema: 1\nname: {name}\nbase:\n  distro: debian\n  release: bookworm\n"


class Specs:
    """A directory of specs, which is the current directory too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def platform(self, more: str = "", name: str = "one") -> None:
        """Write a platform that has what every platform needs, and ``more``."""
        self.write(f"{name}.yaml", MINIMAL.format(name=name) + more)

    def load(self, name: str = "one", host: Mapping[str, str] | None = None) -> spec.Platform:
        return spec.load(name, specs_dir=self.directory, host_environment=host or {})

    def problems(self, *names: str, host: Mapping[str, str] | None = None) -> list[ImgcError]:
        """What is wrong, one by one; none when loading works."""
        try:
            spec.load_all(names or ["one"], specs_dir=self.directory, host_environment=host or {})
        except Problems as several:
            return several.problems
        except ImgcError as one:
            return [one]
        return []

    def found(self, *names: str, host: Mapping[str, str] | None = None) -> list[str]:
        """What is wrong as ``file:line:column CODE``."""
        return [f"{problem.place} {problem.code}" for problem in self.problems(*names, host=host)]


@pytest.fixture
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Specs:
    monkeypatch.chdir(tmp_path)
    return Specs(tmp_path)


@pytest.fixture
def checked(specs: Specs) -> Callable[[str], list[str]]:
    """What is wrong with a minimal platform and some more lines."""

    def check(more: str) -> list[str]:
        specs.platform(more)
        return specs.found()

    return check
