"""Runs a script that nobody here has read: in a sandbox, without a network, with nothing but its own directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from imgc.engine import sandbox
from imgc.engine.store import Store

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": sandbox.HOME}


def runner(cache: Path) -> Callable[[Path, Sequence[str], Callable[[str], None]], int]:
    """What runs a script: given its directory (it may write there), its words and a reader of its lines; its status."""

    def run(directory: Path, argv: Sequence[str], on_line: Callable[[str], None]) -> int:
        store = Store(cache)
        inside = sandbox.Sandbox(store.downloads)
        payload = sandbox.Payload(("unshare", "--net", "--", *argv), _ENVIRONMENT, cwd=sandbox.WORK)
        with store.work("script", inside.remover(store)) as work:
            scratch = work.directory("script")
            binds = [(str(directory), sandbox.WORK, "rw")]
            return inside.run(payload, scratch, binds=binds, on_line=on_line).status

    return run
