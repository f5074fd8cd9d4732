"""The layers of a running build, unpacked where steps can mount them; new ones are packed while later steps run.

In the store a layer is one archive.  A build works on unpacked layers: in memory, on a file system that only this
build's sandboxes see, as long as there is room, and in the scratch directory on disk otherwise.  Making tens of
thousands of small files is the bulk of what package managers do, and memory does it many times faster than disks.

An archive is read as a whole when it is unpacked, so that is when its digest is checked.  One that is damaged is taken
out of the store, and :class:`LayerDamaged` asks the caller to look anew at what is stored and to make what is not.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imgc.engine import sandbox, store_meta
from imgc.engine.store import LAYERS, Store, Work
from imgc.errors import ImgcError

#: Layers go to memory when this much is available, and to disk once less than :data:`ENOUGH` is left of it.
WANTED = 6 * 2**30
ENOUGH = 3 * 2**30
#: A step that fails with less than this left has failed for want of memory.
FULL = 64 * 2**20
#: The share of the available memory that the layers of one build may take.
SHARE = 0.6

_PACK = (
    "tar --create --file=/imgc/work/packed/state.tar --directory=/imgc/work/layer/state --format=posix"
    " --numeric-owner --sparse --acls --xattrs '--xattrs-include=*' ."
)
_UNPACK = (
    "printf '%s\\n' \"$@\" | xargs -P 2 -I KEY sh -c 'mkdir -p /imgc/work/layers/KEY/state && exec tar --extract"
    " --file=/imgc/work/store/KEY/state.tar --directory=/imgc/work/layers/KEY/state --numeric-owner --same-owner"
    ' --same-permissions --acls --xattrs "--xattrs-include=*"\''
)
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


_REMOVE = 'cd /imgc/work/layers && rm -rf -- "$@"'


class LayerDamaged(ImgcError):
    """Layers (``keys``) that were stored are damaged or gone.  They are not stored any more: look anew, and go on."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(
            "E621",
            f"A layer in the cache was damaged, and has been dropped: {', '.join(key[:16] for key in keys)}.",
            hint="Run the same command again: it makes the layer anew.  `imgc cache verify` checks all of them.",
        )
        self.keys = tuple(keys)


class Layers:
    """The unpacked layers of one build.  Keys name layers; use :func:`unpacked` to make one."""

    def __init__(
        self,
        sandbox: sandbox.Sandbox,
        store: Store,
        work: Work,
        memory: Path | None,
        capacity: int | None = None,
    ) -> None:
        self.sandbox = sandbox
        #: Bytes of memory that layers may take; None when they lie on disk.
        self.capacity = capacity
        self._store = store
        self._work = work
        self._memory = memory
        self._disk = work.directory("layers")
        self._places: dict[str, Path] = {}
        self._meta: dict[str, Mapping[str, Any]] = {}
        #: The digests of the archives of the layers that lie here; what lies on one is of use only with that very one.
        self._digests: dict[str, str] = {}
        self._names: set[str] = set()
        #: What is whole: brought, or made to its end.
        self._there: set[str] = set()
        self._packer = ThreadPoolExecutor(max_workers=1)
        self._packing: dict[str, Future[None]] = {}
        self._bringing = threading.Lock()

    def state(self, key: str) -> Path:
        """Where the layer ``key`` lies unpacked; it must have been made by this build, or brought."""
        return self._places[key] / "state"

    def meta(self, key: str) -> Mapping[str, Any]:
        """What was recorded with a layer, whether it is in the store yet or not.  Raises :class:`LayerDamaged`."""
        if key not in self._meta:
            meta = self._store.meta(self._store.layer(key))
            if not store_meta.is_sound(meta):
                self._lose([key])
            self._meta[key] = meta
        return self._meta[key]

    def new(self, key: str) -> tuple[str, str]:
        """Paths for a layer to be made: its upper directory and overlayfs's own.  The sandbox makes them."""
        place = self._room() / self._name(key)
        self._places[key] = place
        self._digests.pop(key, None)
        self._there.discard(key)
        return str(place / "state"), str(place / "overlay")

    def _name(self, key: str) -> str:
        """A name for a directory that was not there before: a layer may be made again after it was unpacked."""
        name = key if key not in self._names else f"{key}.{len(self._names)}"
        self._names.add(name)
        return name

    def bring(self, keys: Sequence[str]) -> None:
        """Unpack layers of the store that are not unpacked yet, and check them.  Raises :class:`LayerDamaged`."""
        with self._bringing:
            missing = {key: self._name(key) for key in keys if key not in self._there}
            if not missing:
                return
            # Links, so that whoever replaces or removes a layer of the store takes nothing away from this build.
            incoming = self._work.directory("incoming")
            taken = {key: self._take(key, incoming / name) for key, name in missing.items()}
            if lost := [key for key, meta in taken.items() if not meta]:
                self._lose(lost)
            place, wanted = self._room(), {key: meta["sha256"] for key, meta in taken.items()}
            damaged = self._unpack(missing, wanted, incoming, place)
            for name in missing.values():
                (incoming / name / "state.tar").unlink()
            if damaged:
                self._tar(
                    _REMOVE, list(missing.values()), [(str(place), "/imgc/work/layers", "rw")], "discard"
                )
                self._lose(damaged)
            for key, name in missing.items():
                self._places[key] = place / name
                self._digests[key] = wanted[key]
                self._there.add(key)

    def _unpack(
        self, names: Mapping[str, str], wanted: Mapping[str, str], incoming: Path, place: Path
    ) -> list[str]:
        """Unpack the archives that lie in ``incoming``; the keys of those that do not have the digest ``wanted``."""
        binds = [(str(place), "/imgc/work/layers", "rw"), (str(incoming), "/imgc/work/store", "ro")]
        with ThreadPoolExecutor(max_workers=1) as beside:
            # Beside the unpacking: what one of the two has read, the other finds in memory.
            digests = {
                key: beside.submit(_digest, incoming / name / "state.tar") for key, name in names.items()
            }
            failure: ImgcError | None = None
            try:
                self._tar(_UNPACK, list(names.values()), binds, "unpack")
            except ImgcError as problem:
                failure = problem
            damaged = [key for key, digest in digests.items() if digest.result() != wanted[key]]
        if failure and (failure.code != "E304" or not damaged):
            raise failure
        return damaged

    def _take(self, key: str, into: Path) -> Mapping[str, Any]:
        """Link the archive of a layer into a directory; what is recorded with it, or nothing when it cannot be used."""
        into.mkdir(parents=True)
        stored, archive = self._store.layer(key), into / "state.tar"
        # A second time when another imgc has replaced the layer between the two looks.
        for _ in range(2):
            meta = self._store.meta(stored)
            try:
                _link(stored / "state.tar", archive)
            except FileNotFoundError:
                continue
            if store_meta.is_sound(meta) and store_meta.is_unchanged(into, meta):
                if self._meta.setdefault(key, meta) == meta:
                    return meta
                # It is another one than that whose mounts were asked for, and as good.
                del self._meta[key]
                raise LayerDamaged([key])
            archive.unlink()
        return {}

    def _lose(self, keys: Sequence[str]) -> None:
        """Take layers that cannot be used out of the store, and say so."""
        trash = self._work.directory("damaged")
        for key in keys:
            self._meta.pop(key, None)
            self._store.drop(self._store.layer(key), trash)
        raise LayerDamaged(keys)

    def unpack(self, archive: Path, name: str) -> Path:
        """Unpack an archive that is not in the store, and say where."""
        place = self._room()
        binds = [
            (str(place), "/imgc/work/layers", "rw"),
            (str(archive.parent), f"/imgc/work/store/{name}", "ro"),
        ]
        self._tar(_UNPACK, [name], binds, f"unpack-{name}")
        return place / name / "state"

    def pack(self, key: str, into: Path) -> None:
        """Write a layer as ``state.tar`` into the directory ``into``."""
        binds = [(str(self._places[key]), "/imgc/work/layer", "ro"), (str(into), "/imgc/work/packed", "rw")]
        self._tar(_PACK, [], binds, f"pack-{key[:16]}")

    def keep(
        self,
        key: str,
        meta: Mapping[str, Any],
        *,
        replace: bool,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """Record a layer that this build made, and commit it to the store while other steps run.

        ``meta["inputs"]`` are the keys of the layers that it lies on.  ``done`` is called, by another thread, once the
        layer is in the store, or will never be.
        """
        self._meta[key] = meta
        self._there.add(key)

        def commit() -> None:
            try:
                self._commit(key, meta, replace=replace)
            finally:
                done()

        packing = self._packer.submit(commit)
        # One that is given up before its turn comes.
        packing.add_done_callback(lambda ended: done() if ended.cancelled() else None)
        self._packing[key] = packing

    def _commit(self, key: str, meta: Mapping[str, Any], *, replace: bool) -> None:
        below = {one: self._digests.get(one, "") for one in meta.get("inputs", ()) if one in self._there}
        if not all(below.values()):
            # What it lies on did not get into the store, which settle() tells.
            return
        made = self._work.directory(f"packed/{self._places[key].name}")
        self.pack(key, made)
        facts = store_meta.of_file(made / "state.tar")
        self._digests[key] = facts["sha256"]
        self._store.commit(LAYERS, key, made, {**meta, **facts, "below": below}, replace=replace)

    def settle(self, keys: Iterable[str]) -> None:
        """Wait until those of ``keys`` that were kept are in the store; raises what kept one from getting there."""
        waiting = [self._packing[key] for key in keys if key in self._packing]
        problems = [problem for problem in (future.exception() for future in waiting) if problem]
        if problems:
            raise problems[0]

    def close(self) -> None:
        """End the packing; what is not in the store by then is lost."""
        self._packer.shutdown(wait=True, cancel_futures=True)

    def is_full(self, key: str) -> bool:
        """Whether the layer ``key`` lies in memory and has taken all of it that the build may have."""
        memory = self._work.path / "memory"
        return self._places[key].parent == memory and self._left(memory) < FULL

    def _room(self) -> Path:
        """The directory for further layers."""
        if self._memory and self._left(self._memory) < ENOUGH:
            self._memory = None
        return self._memory or self._disk

    def _left(self, memory: Path) -> int:
        """Bytes left in memory.  The directory is in another mount namespace, which this process sees from outside."""
        status = os.statvfs(f"/proc/{self.sandbox.holder}/root{memory}")
        return status.f_bavail * status.f_frsize

    def _tar(
        self, script: str, words: Sequence[str], binds: Sequence[tuple[str, str, str]], name: str
    ) -> None:
        lines: list[str] = []
        scratch = self._work.directory(f"tar/{name}")
        payload = sandbox.Payload(("sh", "-c", script, "layers", *words), _ENVIRONMENT)
        outcome = self.sandbox.run(payload, scratch, binds=binds, on_line=lines.append)
        if outcome.status:
            text = "\n".join(lines[-5:])
            if "No space left" in text:
                raise ImgcError(
                    "E902", "No room is left for layers.", hint="`imgc clean` makes room in the cache."
                )
            raise ImgcError("E304", "A layer could not be packed or unpacked.", detail=text)


@contextmanager
def unpacked(
    sandbox: sandbox.Sandbox, store: Store, work: Work, *, memory: bool | None = None
) -> Iterator[Layers]:
    """The layers of a build in ``work``, in memory or not; None decides by how much memory there is."""
    available = available_memory()
    if memory is None:
        memory = available >= WANTED and (sandbox.user_namespace is None or _memory_has_user_attributes())
    if not memory:
        yield from _closing(Layers(sandbox, store, work, None))
        return
    place = work.directory("memory")
    capacity = int(available * SHARE)
    with sandbox.holding(place, capacity) as inside:
        yield from _closing(Layers(inside, store, work, place, capacity))


def _link(archive: Path, link: Path) -> None:
    """Another name for an archive; a copy where files have but one."""
    try:
        os.link(archive, link)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(archive, link)


def _digest(archive: Path) -> str:
    """The sha256 of an archive; empty when it cannot be read."""
    try:
        return store_meta.sha256(archive)
    except OSError:
        return ""


def _closing(layers: Layers) -> Iterator[Layers]:
    try:
        yield layers
    finally:
        layers.close()


def available_memory() -> int:
    """Bytes of memory that programs could take now without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _memory_has_user_attributes() -> bool:
    """Whether tmpfs keeps the extended attributes that overlayfs needs in a user namespace (Linux 6.6)."""
    release = os.uname().release.split(".")
    return (int(release[0]), int(release[1])) >= (6, 6)
