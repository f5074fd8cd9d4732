"""The hooks tree on disk: the bottom layer of every build's state, made anew from the elements."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgc.graph.plan import Plan


def materialise(plan: Plan, base: Path, dib_lib: Path) -> None:
    """Fill ``base`` with the empty directories of a fresh state and the hooks tree of ``plan``.

    The stock driver leaves dib-run-parts in the hooks tree, and some elements look for it there.
    """
    for name in ("mnt", "hooks", "out", "built", "block-device"):
        (base / name).mkdir(parents=True)
        # The umask of whoever builds has no part in an image.
        (base / name).chmod(0o755)
    hooks = base / "hooks"
    for file in plan.tree:
        target = hooks / file.dest
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.kind == "link":
            os.symlink(file.target, target)
        elif file.kind == "directory":
            target.mkdir(exist_ok=True)
            target.chmod(file.mode)
        else:
            shutil.copyfile(file.source, target)
            target.chmod(file.mode)
    shutil.copyfile(dib_lib / "dib-run-parts", hooks / "dib-run-parts")
    (hooks / "dib-run-parts").chmod(0o755)
