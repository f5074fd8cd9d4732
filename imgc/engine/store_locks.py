"""Who works on what in a store: claims on keys, uses of results, and the lock that holds removal off.

All three are ``flock`` locks, so the kernel frees them when their holder dies, however it dies.

* A :class:`Claim` is held on a key while its step is made: of two builds that want it, one makes it and one waits.
* A :class:`Use` lists the keys of a running build; what it lists is not removed.
* ``gc.lock`` is shared by those who look something up and want it to stay, and held alone by those who remove.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import select
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from imgc import process
from imgc.errors import ImgcError

#: Seconds between two looks at a lock that somebody else holds.
PAUSE = 0.1


def unusable(cache: Path, problem: OSError) -> ImgcError:
    """The error for a cache in which this user, or nobody, can write."""
    return ImgcError(
        "E304",
        f"The cache directory {cache} cannot be used: {problem.strerror}.",
        hint="Choose another one with --cache or IMGC_CACHE.",
    )


class Claim:
    """The right of this thread to make the result of one key.  A context manager; any thread may release it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._releasing = threading.Lock()

    def release(self) -> None:
        """Let others have the key.  Once is enough; more often does nothing."""
        with self._releasing:
            if self._descriptor < 0:
                return
            # Before the lock is free: whoever waits for this file sees that it has lost its name, and opens anew.
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def claim(directory: Path, key: str, waiting: Callable[[str], None] | None = None) -> Claim:
    """Claim ``key``, after whoever has it; raises E307 when the wait is interrupted.

    ``waiting`` is called once, with words for the other one (``process 123``), before a wait.
    """
    directory.mkdir(exist_ok=True)
    path, told = directory / key, False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while not _try(descriptor, fcntl.LOCK_EX):
                if not told and waiting:
                    waiting(_holder(path))
                told = True
                _pause()
            if _is_named(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()}\n".encode(), 0)
                return Claim(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        # Its holder has released and removed it between the two calls.
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip() or "another imgc"
    except OSError:
        return "another imgc"


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one that has the name ``path``."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


@dataclass(frozen=True)
class Use:
    """The keys that a running build may read, known to every imgc with this cache."""

    cache: Path
    path: Path
    descriptor: int

    def add(self, keys: Iterable[str]) -> None:
        """List further keys.  Whoever looks afterwards whether they are stored can rely on what it sees."""
        with steady(self.cache):
            os.write(self.descriptor, "".join(f"{key}\n" for key in sorted(keys)).encode())


@contextmanager
def using(cache: Path, name: str, keys: Iterable[str]) -> Iterator[Use]:
    """List the keys of a build as in use for as long as this context lasts.  ``name`` is what others call it."""
    directory = cache / "inuse"
    with steady(cache):
        directory.mkdir(exist_ok=True)
        path = directory / f"{name}-{os.getpid()}-{secrets.token_hex(4)}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        use = Use(cache, path, descriptor)
        use.add(keys)
        yield use
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def steady(cache: Path) -> Iterator[None]:
    """While this lasts, nothing is removed from the store.  Many may have it at once.  Raises E307 on an interrupt."""
    descriptor = _gc_lock(cache)
    try:
        while not _try(descriptor, fcntl.LOCK_SH):
            _pause()
        yield
    finally:
        os.close(descriptor)


@contextmanager
def removing(cache: Path, *, wait: bool = True) -> Iterator[bool]:
    """The right to remove, alone; yields whether it was got: without ``wait`` it may not be.

    Must not be asked for by a thread that holds :func:`steady`.  Raises E307 on an interrupt.
    """
    descriptor = _gc_lock(cache)
    try:
        got = _try(descriptor, fcntl.LOCK_EX)
        while wait and not got:
            _pause()
            got = _try(descriptor, fcntl.LOCK_EX)
        yield got
    finally:
        os.close(descriptor)


def keys_in_use(cache: Path, *, reap: bool = True) -> dict[str, frozenset[str]]:
    """The keys that running builds have listed, by the name of their use; removes the lists of dead ones (``reap``).

    Only the holder of :func:`removing` may reap, and only to them the answer stays true.
    """
    found = {}
    directory = cache / "inuse"
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        # None is added while removal goes on, and one that ends now loses its name first.
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _try(descriptor, fcntl.LOCK_SH):
                    if reap:
                        path.unlink(missing_ok=True)
                else:
                    found[path.name] = frozenset(path.read_text(encoding="ascii").split())
            finally:
                os.close(descriptor)
    return found


def remove_if_free(path: Path) -> None:
    """Remove the file of a claim that nobody holds."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if _try(descriptor, fcntl.LOCK_EX) and _is_named(descriptor, path):
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _gc_lock(cache: Path) -> int:
    """The open file of the lock on removal, which everybody takes first.  Raises E304."""
    try:
        return os.open(cache / "gc.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise unusable(cache, problem) from problem


def _try(descriptor: int, operation: int) -> bool:
    """Take a lock if it can be had at once."""
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pause() -> None:
    """Wait a little; raises E307 on an interrupt."""
    select.select([process.INTERRUPT], [], [], PAUSE)
    process.INTERRUPT.check()
