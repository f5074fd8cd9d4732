"""Building a platform a second time, under other circumstances, and finding the first difference.

:func:`check_reproducible` does it.  :mod:`~imgc.reproduce.compare` says what differs and which step wrote it, from the
trees that :mod:`~imgc.reproduce.tree` reads out of the layers; :mod:`~imgc.reproduce.image` says what lies where two
images of equal trees differ.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgc.build import BuildOptions, BuildResult, Compiled, Settings, build, compile_platform
from imgc.errors import ImgcError
from imgc.graph.step import Kind
from imgc.reproduce.compare import Built, Difference, compare
from imgc.reproduce.tree import Layer

if TYPE_CHECKING:
    from imgc.engine.events import Event, Stream
    from imgc.engine.store import Store

__all__ = ["Built", "Difference", "Verdict", "built", "check_reproducible", "compare"]

#: Directories of a cache with what came from outside.  The second build takes it from the first one's, and makes of
#: it what it needs, such as trees of mirrors.
_FROM_OUTSIDE = (
    *("downloads", "archives", "wheels", "git", "files", "pins"),
    *("caches/git/mirrors", "caches/git/lists", "caches/bindep", "caches/files"),
)

#: Far from UTC in both directions of the day.
_ZONE = "Pacific/Kiritimati"
_MASK = 0o077


@dataclass(frozen=True)
class Verdict:
    """How a check ended.  ``second`` is None when the first build failed; ``difference`` when there is none."""

    first: BuildResult
    second: BuildResult | None
    difference: Difference | None

    @property
    def problem(self) -> ImgcError | None:
        """What kept the platform from being built twice alike, if anything."""
        for result in (self.first, self.second):
            if result and result.status != "ok":
                return result.error
        return self.difference.problem() if self.difference else None


def check_reproducible(name: str, settings: Settings, options: BuildOptions, stream: Stream) -> Verdict:
    """Build a platform, build it again from nothing, and compare trees and outputs byte for byte.

    The first build is an ordinary one, so what is compared is what it publishes; with ``options.fresh`` it starts from
    nothing too.  The second one has a cache of its own, which is gone afterwards, and other circumstances: time zone,
    umask, paths, one processor, layers on disk where the first had them in memory.  Both use the same downloads.

    Problems of a build are in the verdict; E642 is raised when the results cannot be compared.
    """
    from imgc.engine.sandbox import Sandbox
    from imgc.engine.store import Store

    options = replace(options, boot=False, formats=())
    first = build(compile_platform(name, settings), options, settings, stream)
    if first.status != "ok":
        return Verdict(first, None, None)
    store = Store(settings.cache_dir)
    with store.work(f"again-{name}", Sandbox(store.downloads).remover(store)) as work:
        again = replace(settings, cache_dir=work.directory("cache"))
        _share(settings.cache_dir, again.cache_dir)
        other = replace(
            options,
            output_dir=work.path / "images",
            fresh=False,
            refresh=False,
            jobs=1,
            memory=_other_place(options),
        )
        with _unpublished(stream) as quiet, _other_circumstances():
            second = build(compile_platform(name, again), other, again, quiet)
        if second.status != "ok":
            return Verdict(first, second, None)
        pair = (
            built(compile_platform(name, settings), store),
            built(compile_platform(name, again), Store(again.cache_dir)),
        )
        return Verdict(first, second, compare(*pair))


def built(compiled: Compiled, store: Store) -> Built:
    """What a finished build left in its store; E642 when a part of it is not there any more."""
    from imgc.graph import steps_in_order

    chain, outputs, epoch = [], {}, None
    for step in steps_in_order(compiled.graph):
        key = compiled.keys[step.id]
        epoch = next((int(fact.value) for fact in step.facts if fact[:2] == ("pin", "epoch")), epoch)
        if step.changes_state and store.has_layer(key):
            chain.append(Layer(step.id, store.layer(key) / "state.tar"))
        elif step.kind is Kind.CONVERT and store.has_result(key):
            place = store.result(key)
            outputs[step.name] = (step.option("format"), place / store.meta(place)["file"])
        elif step.changes_state or step.kind is Kind.CONVERT:
            raise ImgcError(
                "E642",
                f"The result of {step.id} is no longer in the cache, so nothing can be compared with it.",
                hint="Build with `--fresh` to make all of it anew.",
            )
    return Built(compiled.platform.name, tuple(chain), outputs, epoch)


def _share(cache: Path, again: Path) -> None:
    """Let the cache ``again`` have what the other one got from outside."""
    for name in _FROM_OUTSIDE:
        if (cache / name).is_dir():
            place = again / name
            place.parent.mkdir(parents=True, exist_ok=True)
            # A relative link leads there inside the sandbox too, where the host's root is not the root.
            target = os.path.relpath(os.path.realpath(cache / name), os.path.realpath(place.parent))
            place.symlink_to(target, target_is_directory=True)


def _other_place(options: BuildOptions) -> bool | None:
    """Whether the second build's layers go to memory: where the first one's were not, if that is known to work."""
    from imgc.engine.layers import WANTED, available_memory

    if options.memory is False:
        return True if available_memory() >= WANTED else None
    return False


@contextmanager
def _other_circumstances() -> Iterator[None]:
    """Another time zone and umask for this process, and one processor for what this thread starts."""
    zone, processors = os.environ.get("TZ"), os.sched_getaffinity(0)
    mask = os.umask(_MASK)
    os.environ["TZ"] = _ZONE
    time.tzset()
    os.sched_setaffinity(0, {min(processors)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)
        os.umask(mask)
        if zone is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = zone
        time.tzset()


@contextmanager
def _unpublished(stream: Stream) -> Iterator[Stream]:
    """A stream that hands everything on but the outputs of a build, which nobody is going to see."""
    from imgc.engine import events

    def hand_on(event: Event) -> None:
        if not isinstance(event, events.ArtifactReady):
            stream.emit(event)

    yield events.Stream(hand_on)
