"""Every event as one line of JSON."""

from __future__ import annotations

from typing import TextIO

from imgc.engine.events import Event, as_json


class JsonLines:
    """Writes to ``out``, each line at once, for whoever follows the build."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, event: Event) -> None:
        self._out.write(f"{as_json(event)}\n")
        self._out.flush()

    def close(self) -> None:
        """Nothing is held back."""
