"""The layers of a running build, unpacked where steps can mount them; new ones are packed while later steps run.

In the store a layer is one archive.  A build works on unpacked layers: in memory, on a file system that only this
build's sandboxes see, as long as there is room, and in the scratch directory on disk otherwise.  Making tens of
thousands of small files is the bulk of what package managers do, and memory does it many times faster than disks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imgc.engine import sandbox
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


class Layers:
    """The unpacked layers of one build.  Keys name layers; use :func:`unpacked` to make one."""

    def __init__(self, sandbox: sandbox.Sandbox, store: Store, work: Work, memory: Path | None) -> None:
        self.sandbox = sandbox
        self._store = store
        self._work = work
        self._memory = memory
        self._disk = work.directory("layers")
        self._places: dict[str, Path] = {}
        self._meta: dict[str, Mapping[str, Any]] = {}
        self._packer = ThreadPoolExecutor(max_workers=1)
        self._packing: list[Future[None]] = []
        self._bringing = threading.Lock()

    def state(self, key: str) -> Path:
        """Where the layer ``key`` lies unpacked; it must have been made by this build, or brought."""
        return self._places[key] / "state"

    def meta(self, key: str) -> Mapping[str, Any]:
        """What was recorded with a layer, whether it is in the store yet or not."""
        return self._meta.get(key) or self._store.meta(self._store.layer(key))

    def new(self, key: str) -> tuple[str, str]:
        """Paths for a layer to be made: its upper directory and overlayfs's own.  The sandbox makes them."""
        place = self._room() / key
        self._places[key] = place
        return str(place / "state"), str(place / "overlay")

    def bring(self, keys: Sequence[str]) -> None:
        """Unpack layers of the store that are not unpacked yet."""
        with self._bringing:
            missing = [key for key in keys if key not in self._places]
            if not missing:
                return
            place, stored = self._room(), self._store.cache / LAYERS
            binds = [(str(place), "/imgc/work/layers", "rw"), (str(stored), "/imgc/work/store", "ro")]
            self._tar(_UNPACK, missing, binds, "unpack")
            self._places.update({key: place / key for key in missing})

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

    def keep(self, key: str, meta: Mapping[str, Any], *, replace: bool) -> None:
        """Record a layer that this build made, and commit it to the store while other steps run."""
        self._meta[key] = meta

        def commit() -> None:
            made = self._work.directory(f"packed/{key}")
            self.pack(key, made)
            self._store.commit(LAYERS, key, made, meta, replace=replace)

        self._packing.append(self._packer.submit(commit))

    def settle(self) -> None:
        """Wait until every layer that was kept is in the store; raises what kept one from getting there."""
        waiting, self._packing = self._packing, []
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
    with sandbox.holding(place, int(available * SHARE)) as inside:
        yield from _closing(Layers(inside, store, work, place))


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
