"""The layer store: results of steps on disk, each under its key, each there whole or not at all.

``docs/store.md`` has every file and field, the locks, and what a crash leaves.  In short::

    <cache>/
      layers/<key>/state.tar  an overlayfs upper directory, packed: what one step changed
                   meta.json  what the step left besides files, and the archive's digest; its time is the last use
                   durable    present once the layer is known to be on the device
      results/<key>/          files that a step made (outputs), with meta.json and durable likewise
      locks/<key>             held while the result of a key is made
      inuse/<name>            the keys of a running build, which nobody removes
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

import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgc.engine import store_locks, store_meta
from imgc.engine.host import sync_file_system
from imgc.errors import ImgcError

LAYERS, RESULTS = "layers", "results"

#: The time of a result's last use is brought up to date when it is older than this many seconds.
TOUCH_AFTER = 3600.0

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
            if not (cache / "CACHEDIR.TAG").exists():
                _write(cache / "CACHEDIR.TAG", _CACHE_TAG)
            if store_meta.format_of(cache) < store_meta.FORMAT:
                _write(cache / "format", f"{store_meta.FORMAT}\n".encode())
        except OSError as problem:
            raise store_locks.unusable(cache, problem) from problem
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
        """Whether a layer can be used on top of the layers below it, as these are now."""
        return self.is_trusted(self.layer(key))

    def has_result(self, key: str) -> bool:
        return self.is_trusted(self.result(key))

    def meta(self, directory: Path) -> dict[str, Any]:
        """What was recorded with a result; empty when there is none."""
        return store_meta.load(directory)

    def is_trusted(self, directory: Path) -> bool:
        """Whether what is in a directory of results was made whole, is as it was made, and has its foundation.

        This looks at sizes and times; :mod:`imgc.engine.store_verification` looks at every byte.
        """
        meta = self.meta(directory)
        if not store_meta.is_sound(meta) or not store_meta.is_unchanged(directory, meta):
            return False
        kept = meta.get("boot") == self._boot or (directory / "durable").exists()
        return kept and all(
            self.meta(self.layer(below)).get("sha256") == digest
            for below, digest in meta.get("below", {}).items()
        )

    # --- sharing with other builds ------------------------------------------------------------------------------

    def claim(self, key: str, *, waiting: Callable[[str], None] | None = None) -> store_locks.Claim:
        """The right to make the result of ``key``, after whoever has it; look whether it is there by then.

        ``waiting`` is called once, with words for the other imgc, before a wait.  Raises E307 on an interrupt.
        """
        return store_locks.claim(self.cache / "locks", key, waiting)

    def using(self, name: str, keys: Iterable[str]) -> AbstractContextManager[store_locks.Use]:
        """Keep everybody from removing the results of ``keys`` while a build called ``name`` goes on."""
        return store_locks.using(self.cache, name, keys)

    def layers_size(self, keys: Iterable[str]) -> int:
        """How many bytes the stored layers of ``keys`` have together."""
        total = 0
        for key in keys:
            with suppress(OSError):
                total += (self.layer(key) / "state.tar").stat().st_size
        return total

    def touch(self, keys: Iterable[str]) -> None:
        """Note that the results of ``keys`` were used now.  Costs two looks per key, once an hour a write as well."""
        now = time.time()
        for key in keys:
            for place in (self.layer(key), self.result(key)):
                with suppress(OSError):
                    if now - (place / "meta.json").stat().st_mtime > TOUCH_AFTER:
                        os.utime(place / "meta.json")

    def drop(self, directory: Path, trash: Path) -> None:
        """Take a result out of the store, into a scratch directory; one that is not there is fine."""
        with suppress(FileNotFoundError):
            os.rename(directory, trash / f"{directory.name}.{secrets.token_hex(4)}")

    # --- committing ---------------------------------------------------------------------------------------------

    def commit(
        self, kind: str, key: str, made: Path, meta: Mapping[str, Any], *, replace: bool = False
    ) -> None:
        """Give the directory ``made`` its final name.

        Of its files, the digests are recorded, unless ``meta["tree"]`` says its size: a tree of very many files.
        Another process's equal result, come first, is kept unless ``replace`` is given.
        """
        recorded = {**meta, "key": key, "time": time.time()}
        if kind == RESULTS and "size" not in meta.get("tree", {}):
            recorded["files"] = store_meta.of_tree(made, meta.get("file", ""))
        (made / "meta.json").write_text(store_meta.text(recorded, self._boot), encoding="utf-8")
        final = self.cache / kind / key
        while replace or not self.is_trusted(final):
            try:
                os.rename(made, final)
                return
            except OSError as problem:
                if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            # Only what is really in the way goes: another process may have come first, with a result that is good.
            if replace or not self.is_trusted(final):
                # Into this build's scratch space, and gone with it.
                self.drop(final, made.parent)

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
        """Remove (or count) things by kind: (kind, how many, bytes).  Running builds keep their scratch space.

        Raises E304 when a build runs that may be using what would go.
        """
        chosen = {"failed states": ["failed"]}
        if layers:
            chosen |= {"layers": [LAYERS], "outputs": [RESULTS], "logs": ["logs", "boot", "crashes"]}
        if downloads:
            chosen["downloads"] = ["downloads", "archives", "wheels", "git", "files", "caches"]
        if dry_run:
            found = [(what, self._everything(names)) for what, names in chosen.items()]
            sizes = [(what, len(paths), sum(map(disk_usage, paths))) for what, paths in found]
            return [*sizes, ("leftovers of dead builds", 0, 0)]
        dead = self.reap(remove)
        sizes = []
        with store_locks.removing(self.cache):
            if layers or downloads:
                self._demand_no_build()
            for what, names in chosen.items():
                paths = self._everything(names)
                sizes.append((what, len(paths), sum(map(disk_usage, paths))))
                if paths:
                    remove(paths)
        return [*sizes, ("leftovers of dead builds", dead, 0)]

    def _demand_no_build(self) -> None:
        """Raise E304 when a build runs."""
        running = {file.stem for file in (self.cache / "work").glob("*.lock")}
        running |= set(store_locks.keys_in_use(self.cache))
        if running:
            raise ImgcError(
                "E304",
                f"The cache is in use by {', '.join(sorted(running))}.",
                hint="Wait for that build; it works on what would be removed.",
            )

    def _everything(self, names: Iterable[str]) -> list[Path]:
        return [path for name in names for path in self._children(self.cache / name)]

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
        _write(self.cache / "times.json", json.dumps(merged, indent=0, sort_keys=True).encode())


def _write(path: Path, content: bytes) -> None:
    """Give a file its content, whole; another imgc or thread that does so at the same time is fine."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


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
