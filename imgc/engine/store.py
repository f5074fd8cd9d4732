"""The layer store: results of steps on disk, each under its key, each there whole or not at all.

::

    <cache>/
      layers/<key>/state.tar  an overlayfs upper directory, packed: what one step changed
                   meta.json  what the step left besides files (mounts, discovered hooks, seconds)
                   durable    present once the layer is known to be on the device
      results/<key>/          files that a step made (outputs), with meta.json and durable likewise
      work/<name>/            scratch space of a running imgc; its lock is work/<name>.lock
      downloads/              DIB_IMAGE_CACHE: what hooks download; survives builds
      logs/<platform>/        complete logs
      times.json              how long steps took, for progress

A result is made in ``work/``, on the same file system, and committed by one rename.  Its data is *not* forced to
the device then: that would cost more than the step itself.  Instead each result remembers the boot it was made in;
:meth:`Store.make_durable` syncs the file system once at the end of a build and marks them.  A result of an earlier
boot without that mark may have been cut short by a power failure, and counts as absent.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgc.engine.host import sync_file_system
from imgc.errors import ImgcError

LAYERS, RESULTS = "layers", "results"

#: By this, backup programs know that a directory is not worth keeping (bford.info/cachedir).
_CACHE_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# imgc's cache; `imgc clean` empties it.\n"


@dataclass(frozen=True)
class Work:
    """A scratch directory that belongs to this process until it is given back."""

    path: Path
    lock: int

    def directory(self, name: str) -> Path:
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return path


class Store:
    """The results below one cache directory.  Several processes may use it at once."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        try:
            for name in (LAYERS, RESULTS, "work", "downloads", "logs"):
                (cache / name).mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                tag = os.open(cache / "CACHEDIR.TAG", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                os.write(
                    tag,
                    _CACHE_TAG,
                )
                os.close(tag)
        except OSError as problem:
            raise ImgcError(
                "E304",
                f"The cache directory {cache} cannot be used: {problem.strerror}.",
                hint="Choose another one with --cache or IMGC_CACHE.",
            ) from problem
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    # --- looking up ---------------------------------------------------------------------------------------------

    @property
    def downloads(self) -> Path:
        return self.cache / "downloads"

    def layer(self, key: str) -> Path:
        return self.cache / LAYERS / key

    def result(self, key: str) -> Path:
        return self.cache / RESULTS / key

    def has_layer(self, key: str) -> bool:
        return self._trusted(self.layer(key))

    def has_result(self, key: str) -> bool:
        return self._trusted(self.result(key))

    def meta(self, directory: Path) -> dict[str, Any]:
        """What was recorded with a result; empty when there is none."""
        try:
            loaded = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def _trusted(self, directory: Path) -> bool:
        meta = self.meta(directory)
        whole = bool(meta) and (meta.get("boot") == self._boot or (directory / "durable").exists())
        return whole and self._unchanged(directory, meta)

    @staticmethod
    def _unchanged(directory: Path, meta: Mapping[str, Any]) -> bool:
        """Whether an output is as it was made.  A published one is the same file, and a user may write to that."""
        if "file" not in meta:
            return True
        try:
            status = (directory / meta["file"]).stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (meta["size"], meta["mtime_ns"])

    # --- committing ---------------------------------------------------------------------------------------------

    def commit(
        self, kind: str, key: str, made: Path, meta: Mapping[str, Any], *, replace: bool = False
    ) -> None:
        """Give the directory ``made`` its final name.

        Another process's equal result, come first, is kept unless ``replace`` is given.
        """
        text = json.dumps({**meta, "key": key, "boot": self._boot, "time": time.time()}, indent=1)
        (made / "meta.json").write_text(text, encoding="utf-8")
        final = self.cache / kind / key
        if final.exists() and (replace or not self._trusted(final)):
            # Into this build's scratch space, and gone with it.
            os.rename(final, made.with_name(made.name + ".replaced"))
        try:
            os.rename(made, final)
        except OSError:
            if not self._trusted(final):
                raise

    def make_durable(self, keys: Iterable[str]) -> None:
        """Force results to the device and mark them, so that they are trusted after a crash of this machine."""
        directories = [place for key in keys for place in (self.layer(key), self.result(key))]
        fresh = [one for one in directories if one.exists() and not (one / "durable").exists()]
        if not fresh:
            return
        sync_file_system(self.cache)
        for directory in fresh:
            with suppress(OSError):
                (directory / "durable").touch()

    # --- scratch space ------------------------------------------------------------------------------------------

    @contextmanager
    def work(self, name: str, remove: Callable[[Sequence[Path]], None]) -> Iterator[Work]:
        """A scratch directory for one build, emptied by ``remove`` at the end; clears what dead builds left."""
        self.reap(remove)
        path, lock = self._lock_new(name)
        try:
            path.mkdir()
            yield Work(path, lock)
        finally:
            self._give_back(path, lock, remove)

    def _lock_new(self, name: str) -> tuple[Path, int]:
        """A name for a scratch directory that nobody has, and its lock."""
        while True:
            # The number of a process does not tell it from one in another container.
            path = self.cache / "work" / f"{name}-{os.getpid()}-{secrets.token_hex(4)}"
            lock = os.open(f"{path}.lock", os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o644)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return path, lock
            # Another imgc took it for a dead one's, between the two calls.
            os.close(lock)

    def reap(self, remove: Callable[[Sequence[Path]], None]) -> int:
        """Remove the scratch directories of processes that are gone, and say how many there were."""
        count = 0
        for file in sorted((self.cache / "work").glob("*.lock")):
            lock = _free_lock(file)
            if lock is not None:
                count += 1
                self._give_back(file.with_suffix(""), lock, remove)
        return count

    @staticmethod
    def _give_back(path: Path, lock: int, remove: Callable[[Sequence[Path]], None]) -> None:
        try:
            if path.exists():
                remove([path])
        finally:
            with suppress(FileNotFoundError):
                os.unlink(f"{path}.lock")
            os.close(lock)

    # --- cleaning -----------------------------------------------------------------------------------------------

    def clean(
        self, remove: Callable[[Sequence[Path]], None], *, layers: bool, downloads: bool, dry_run: bool
    ) -> list[tuple[str, int, int]]:
        """Remove (or count) things by kind: (kind, how many, bytes).  Running builds keep their scratch space."""
        chosen = {"failed states": ["failed"]}
        if layers:
            chosen |= {"layers": [LAYERS], "outputs": [RESULTS], "logs": ["logs", "boot", "crashes"]}
        if downloads:
            chosen["downloads"] = ["downloads"]
        if layers and not dry_run:
            self._demand_no_build(remove)
        found = []
        for what, names in chosen.items():
            paths = [path for name in names for path in self._children(self.cache / name)]
            size = sum(disk_usage(path) for path in paths)
            if not dry_run and paths:
                remove(paths)
            found.append((what, len(paths), size))
        dead = 0 if dry_run else self.reap(remove)
        return [*found, ("leftovers of dead builds", dead, 0)]

    def _demand_no_build(self, remove: Callable[[Sequence[Path]], None]) -> None:
        self.reap(remove)
        running = [file.stem for file in sorted((self.cache / "work").glob("*.lock"))]
        if running:
            raise ImgcError(
                "E304",
                f"The cache is in use by {', '.join(running)}.",
                hint="Wait for that build; it works on the layers that would be removed.",
            )

    @staticmethod
    def _children(directory: Path) -> list[Path]:
        return sorted(directory.iterdir()) if directory.is_dir() else []

    # --- times --------------------------------------------------------------------------------------------------

    def times(self) -> dict[str, float]:
        """Seconds that each step took when it last ran, by step id."""
        try:
            loaded = json.loads((self.cache / "times.json").read_text(encoding="utf-8"))
            return {str(name): float(seconds) for name, seconds in loaded.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def record_times(self, new: Mapping[str, float]) -> None:
        merged = {**self.times(), **{name: round(seconds, 2) for name, seconds in new.items()}}
        temporary = self.cache / f"times.json.{os.getpid()}"
        temporary.write_text(json.dumps(merged, indent=0, sort_keys=True), encoding="utf-8")
        os.replace(temporary, self.cache / "times.json")


def _free_lock(file: Path) -> int | None:
    """A lock whose owner is gone, now held by this process; None while it lives, or when another imgc was quicker."""
    try:
        lock = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def disk_usage(path: Path) -> int:
    """Bytes that a tree takes on disk, as far as this user may look."""
    total = path.lstat().st_blocks * 512
    if path.is_dir() and not path.is_symlink():
        for directory, names, files in os.walk(path):
            for name in (*names, *files):
                with suppress(OSError):
                    total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total
