"""What the last build of a platform was made of: the memory from which `imgc why` answers.

::

    <cache>/records/<platform>.json   every step with a result: its key, its manifest, its inputs
                    blobs/<sha256>    text files of the elements, for diffs
                    lock              held while one of the above is written

A record is replaced by one rename, so a reader sees the one before or the one after, whole.  It is only ever used to
explain: losing it costs an explanation, never a build.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgc.errors import ImgcError
from imgc.graph.difference import Cause, Record, Recorded, headline
from imgc.graph.keys import manifest
from imgc.graph.places import owners, source
from imgc.graph.step import Fact

if TYPE_CHECKING:
    import networkx

    from imgc.graph.plan import Plan

#: Of a form that this imgc reads.
_VERSION = 1

#: The largest file that is kept for diffs, in bytes.
MOST_BYTES = 1 << 20

#: What the names of files begin with that are being written.  The lock makes sure that there is one writer.
_TEMPORARY = ".new-"

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def record(
    cache: Path,
    plan: Plan,
    graph: networkx.DiGraph[str],
    keys: Mapping[str, str],
    done: Set[str],
) -> None:
    """Remember what ``plan``'s platform was made of.

    ``done`` has the ids of the steps that have results; what those stand on counts as done with them.  Of other steps
    the memory of an earlier build stays.  Nothing is written when nothing changed.  Raises E631.
    """
    path = _path(cache, plan.platform.name)
    try:
        old = last(cache, plan.platform.name)
        new = _merged(old or Record(), plan, graph, keys, done)
        if new == old:
            return
        text = _encoded(new)
        blobs = cache / "records" / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        with _locked(cache):
            _keep_blobs(blobs, plan, new)
            _replace(path, text.encode("utf-8", "surrogatepass"))
            _drop_blobs(cache, blobs)
    except OSError as problem:
        raise ImgcError(
            "E631",
            f"The record of this build cannot be written to {path}: {problem.strerror}.",
            hint="The build itself is not touched by it; `imgc why` will not know about this one.",
        ) from problem


def last(cache: Path, platform: str) -> Record | None:
    """The record of the last build of a platform; None when there is none that can be read."""
    try:
        return _decoded(json.loads(_path(cache, platform).read_bytes().decode("utf-8", "surrogatepass")))
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None


def content(cache: Path, value: str) -> bytes | None:
    """The bytes that a fact's value names by their digest; None when they are not kept."""
    found = _DIGEST.search(value)
    if not found:
        return None
    try:
        return (cache / "records" / "blobs" / found[1]).read_bytes()
    except OSError:
        return None


@dataclass(frozen=True)
class Explanation:
    """Why steps would run.

    ``recorded``: whether there was a build to compare with.  ``causes`` are what changed, each with the place where
    it can be edited; ``evicted`` the steps that are as they were, but whose results are gone; ``first`` the id of the
    first step that would run and whose result is kept.
    """

    recorded: bool
    causes: tuple[tuple[Cause, str], ...]
    evicted: tuple[str, ...]
    first: str

    @property
    def line(self) -> str:
        """The first cause in words; empty when no step would run."""
        first = self.first.partition("/")[2]
        if not self.first:
            return ""
        if not self.recorded:
            return f"{self.first.partition('/')[0]} was never built here: the cache has no record of it."
        if self.first in self.evicted:
            return f"Nothing changed before {first}, but its result is no longer in the cache."
        if self.causes:
            return f"{headline([cause for cause, _ in self.causes])}."
        return f"Nothing changed: the last build ended before {first}."


def explain(
    cache: Path,
    plan: Plan,
    graph: networkx.DiGraph[str],
    keys: Mapping[str, str],
    wanted: Sequence[str],
    step: str = "",
) -> Explanation:
    """Why the steps ``wanted`` (ids, in order) would run; with ``step``, why this one among them would."""
    from imgc.graph import difference, places
    from imgc.graph.step import Kind

    known = last(cache, plan.platform.name)
    before, files = known or Record(), owners(plan)
    # The raw disk is never kept: that it has to be made again says nothing.
    kept = [id for id in wanted if graph.nodes[id]["step"].kind is not Kind.ASSEMBLE]
    causes: list[Cause] = []
    if known and wanted and step:
        found = difference.cause(graph, keys, before, files, step)
        causes = [found] if found else []
    elif known and wanted:
        every = difference.why(graph, keys, before, files)
        causes = [one for one in every if one.step in wanted] or every
    return Explanation(
        recorded=known is not None,
        causes=tuple((one, places.place(plan, one)) for one in causes),
        evicted=tuple(id for id in kept if id in before.steps and before.steps[id].key == keys[id]),
        first=next(iter(kept), wanted[0] if wanted else ""),
    )


def _path(cache: Path, platform: str) -> Path:
    return cache / "records" / f"{platform}.json"


def _merged(
    old: Record, plan: Plan, graph: networkx.DiGraph[str], keys: Mapping[str, str], done: Set[str]
) -> Record:
    """What is known after a build that may not have come to its end."""
    import networkx

    made = {id for id in graph if id in done}
    for id in reversed(list(networkx.topological_sort(graph))):
        if made.intersection(graph.successors(id)):
            made.add(id)
    complete = len(made) == len(graph)
    kept = {} if complete else {id: one for id, one in old.steps.items() if id not in made}
    new = {}
    for id in graph:
        if id in made:
            step = graph.nodes[id]["step"]
            new[id] = Recorded(keys[id], step.element, tuple(manifest(step, keys)), step.inputs)
    files = owners(plan)
    unmade = tuple(id for id in graph if id not in made and id not in kept)
    return Record({**kept, **new}, files if complete else {**old.files, **files}, unmade)


# --- the file -------------------------------------------------------------------------------------------------------


def _encoded(record: Record) -> str:
    """Compact: every fact is written once, and steps refer to it by number."""
    numbers: dict[Fact, int] = {}
    steps = {
        id: [one.key, one.element, [numbers.setdefault(fact, len(numbers)) for fact in one.facts], one.inputs]
        for id, one in record.steps.items()
    }
    whole = {
        "version": _VERSION,
        "facts": list(numbers),
        "steps": steps,
        "files": dict(record.files),
        "unmade": record.unmade,
    }
    return json.dumps(whole, separators=(",", ":"), ensure_ascii=False)


def _decoded(loaded: Any) -> Record | None:
    """The record that was written; None when another imgc wrote it in another form."""
    if loaded["version"] != _VERSION:
        return None
    facts = [Fact(str(kind), str(name), str(value)) for kind, name, value in loaded["facts"]]
    steps = {
        str(id): Recorded(
            str(key), str(element), tuple(facts[number] for number in numbers), tuple(map(str, inputs))
        )
        for id, (key, element, numbers, inputs) in loaded["steps"].items()
    }
    files = {str(dest): str(element) for dest, element in loaded["files"].items()}
    return Record(steps, files, tuple(map(str, loaded["unmade"])))


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """No other imgc writes records or drops blobs meanwhile."""
    lock = os.open(cache / "records" / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


# --- blobs ----------------------------------------------------------------------------------------------------------


def _digests(text: str) -> set[str]:
    """The digests that a record mentions."""
    return set(_DIGEST.findall(text))


def _keep_blobs(blobs: Path, plan: Plan, record: Record) -> None:
    """Keep the bytes of the files that a record mentions, as far as they are text and not too large."""
    there = set(os.listdir(blobs))
    for kind, name, value in {fact for step in record.steps.values() for fact in step.facts}:
        found = _DIGEST.search(value) if kind in ("script", "file") else None
        if not found or found[1] in there:
            continue
        path = source(plan, kind, name, value)
        with suppress(FileNotFoundError, IsADirectoryError):
            data = Path(path).read_bytes()
            # It may have been edited since it was compiled.
            same = hashlib.sha256(data).hexdigest() == found[1]
            if same and len(data) <= MOST_BYTES and b"\0" not in data:
                _replace(blobs / found[1], data)
                there.add(found[1])


def _drop_blobs(cache: Path, blobs: Path) -> None:
    """Drop what no record mentions any more, and what a killed imgc left half written."""
    mentioned: set[str] = set()
    for path in (cache / "records").glob("*.json"):
        mentioned |= _digests(path.read_text(encoding="utf-8", errors="replace"))
    for name in os.listdir(blobs):
        if name not in mentioned:
            (blobs / name).unlink()
    for left in (cache / "records").glob(f"{_TEMPORARY}*"):
        left.unlink()
