"""What the common options say, and what follows when they say nothing."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from imgc.errors import ImgcError

if TYPE_CHECKING:
    from imgc.build import Settings


@dataclass
class Session:
    """One run of ``imgc``.  None means that an option was not given."""

    specs: Path | None = None
    cache: Path | None = None
    color: bool | None = None
    verbose: bool = False

    def specs_dir(self) -> Path:
        """The directory of specs: the option's, else the nearest ``specs/`` from here upward; E117 without one."""
        if self.specs is not None:
            # Unlike Path's, this is False where one may not look.
            if not os.path.isdir(self.specs):
                raise ImgcError(
                    "E117", f"{self.specs} is not a directory.", hint="Give --specs a directory of specs."
                )
            return self.specs
        here = Path.cwd()
        for directory in (here, *here.parents):
            if os.path.isdir(directory / "specs"):
                return directory / "specs"
        raise ImgcError(
            "E117",
            f"There is no specs/ directory in {here} or above it.",
            hint="Change to a directory that has one, or name it with --specs or IMGC_SPECS.",
        )

    def cache_dir(self) -> Path:
        """The cache: the option's, else ``$XDG_CACHE_HOME/imgc``, else ``~/.cache/imgc``."""
        if self.cache is not None:
            return self.cache.absolute()
        base = os.environ.get("XDG_CACHE_HOME", "")
        # The XDG specification says that a relative path is to be ignored.
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "imgc"

    def settings(self) -> Settings:
        from imgc.build import Settings

        return Settings(
            specs_dir=self.specs_dir(), cache_dir=self.cache_dir(), host_environment=dict(os.environ)
        )

    def cache_settings(self) -> Settings:
        """For what concerns the cache alone, and works where there are no specs."""
        from imgc.build import Settings

        return Settings(specs_dir=Path.cwd(), cache_dir=self.cache_dir(), host_environment={})

    def colors(self) -> bool | None:
        """True and False as asked for (``NO_COLOR`` asks as well), None to let the stream decide."""
        if self.color is None and os.environ.get("NO_COLOR"):
            return False
        return self.color

    def for_people(self, stream: TextIO) -> bool:
        """Whether what goes to ``stream`` is read by a person at a terminal, or is to look as if it were."""
        return bool(self.color) or is_terminal(stream)


def is_terminal(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that understands control sequences."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def at_terminal() -> bool:
    """Whether there is a person to talk to: both ends of the conversation are terminals."""
    return sys.stdin.isatty() and sys.stdout.isatty()


pass_session = click.make_pass_decorator(Session, ensure=True)
