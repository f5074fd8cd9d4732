"""The cache that the stock source-repositories hook reads, laid out with what is pinned.

The hook keeps a repository or a file under a name that follows from its type and location, fetches it anew unless
DIB_OFFLINE is set, and takes it from there.  Each set of pins gets a cache of its own, so that platforms with other
pins, and what earlier builds fetched, are not in the way.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from imgc.lock import Pin, Source
from imgc.sources.cache_lock import locked

#: The file that the hook locks, and what it writes beside repositories while it runs.
_LOCK = "repositories_flock"
_WRITTEN = re.compile(rf"{_LOCK}|dib-manifest-git-.*")


def cache_name(source: Source) -> str:
    """What the hook calls its copy of a repository or a file."""
    # The line that it digests ends with a newline.
    text = f"{source.get('type')}_{source.location}\n"
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return f"{variable_name(source)}_{digest}"


def variable_name(source: Source) -> str:
    """How the hook writes the name of a repository in variables and files."""
    return re.sub("[^A-Za-z0-9]", "_", source.get("repository") or source.name)


def lay_out(copies: Sequence[tuple[Source, Pin, Path]], cache: Path, downloads_as: str) -> dict[str, str]:
    """Lay out a cache of these pinned repositories (below ``cache/downloads``) and files.

    ``downloads_as`` is the path by which hooks see ``cache/downloads``.  Returns the variables that make the hook use
    it; none when there is nothing to lay out.
    """
    if not copies:
        return {}
    entries = {cache_name(source): path for source, _, path in copies}
    told = sorted((cache_name(source), source.name, pin.value) for source, pin, _ in copies)
    name = hashlib.sha256(repr(told).encode()).hexdigest()[:32]
    directory = cache / "downloads" / "pinned" / name
    with locked(directory):
        _fill(directory / "source-repositories", entries)
    moved = {
        f"DIB_REPOLOCATION_{variable_name(source)}": source.location
        for source, _, _ in copies
        if source.get("relocated")
    }
    # For all branches at once, the hook looks at this before it fetches, and does not set it.
    there = {"HAS_REF": "yes"} if any(source.get("ref") == "*" for source, _, _ in copies) else {}
    return {"DIB_IMAGE_CACHE": f"{downloads_as}/pinned/{name}", "DIB_OFFLINE": "1", **there, **moved}


def _fill(directory: Path, entries: Mapping[str, Path]) -> None:
    """Make ``directory`` hold these entries, and nothing that a hook fetched there by itself."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # A hook of another build with the same pins is at it, so all is there.
            if all((directory / name).exists() for name in entries):
                return
            fcntl.flock(file, fcntl.LOCK_EX)
        for path in directory.iterdir():
            if path.name not in entries and not _WRITTEN.fullmatch(path.name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for name, target in entries.items():
            _put(directory / name, target)


def _put(path: Path, target: Path) -> None:
    """A link to a repository; the bytes of a file, with the mode that the hook's own downloads have."""
    new = path.with_name(f".new.{path.name}")
    new.unlink(missing_ok=True)
    if target.is_dir():
        new.symlink_to(os.path.relpath(target, path.parent))
    else:
        shutil.copyfile(target, new)
        new.chmod(0o600)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    new.rename(path)
