"""Content keys: the sha256 of a canonical manifest of everything that can change a step's result.

:func:`write_manifest` says what belongs into the manifest, once.  Given a :class:`HashWriter` it makes the key, given
a :class:`TextWriter` the explanation of it, so the two cannot differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from imgc.graph.step import Fact, Step

if TYPE_CHECKING:
    import networkx


class Writer(Protocol):
    """Takes the facts of a manifest in order."""

    def write(self, fact: Fact) -> None: ...


class HashWriter:
    """Makes the key.  Every field is preceded by its length, so no two manifests are written alike."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def write(self, fact: Fact) -> None:
        for field in fact:
            data = field.encode("utf-8", "surrogatepass")
            self._hash.update(b"%d:" % len(data))
            self._hash.update(data)

    def key(self) -> str:
        return self._hash.hexdigest()


class TextWriter:
    """Makes the explanation: a line for each fact, multi-line values indented below their name."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, fact: Fact) -> None:
        first, *more = fact.value.split("\n")
        self.lines.append(f"{fact.kind} {fact.name} = {first}")
        self.lines.extend(f"    {line}" for line in more)

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


class _ListWriter:
    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def write(self, fact: Fact) -> None:
        self.facts.append(fact)


def write_manifest(step: Step, input_keys: Mapping[str, str], writer: Writer) -> None:
    """Write everything that can change the result of ``step``.

    ``input_keys`` has the key of each of its inputs.  The platform's name is not in it: equal work has equal keys.
    """
    writer.write(Fact("step", str(step.kind), "/".join(part for part in (step.phase, step.name) if part)))
    for number, input in enumerate(step.inputs):
        writer.write(Fact("input", str(number), input_keys[input]))
    for fact in step.facts:
        writer.write(fact)


def manifest(step: Step, input_keys: Mapping[str, str]) -> list[Fact]:
    """The manifest of ``step`` as a list, to compare with another."""
    writer = _ListWriter()
    write_manifest(step, input_keys, writer)
    return writer.facts


def explanation(step: Step, input_keys: Mapping[str, str]) -> str:
    """The manifest of ``step`` as text."""
    writer = TextWriter()
    write_manifest(step, input_keys, writer)
    return writer.text()


def key_of(step: Step, input_keys: Mapping[str, str]) -> str:
    """The key of ``step``: 64 hexadecimal digits."""
    writer = HashWriter()
    write_manifest(step, input_keys, writer)
    return writer.key()


def keys(graph: networkx.DiGraph[str]) -> dict[str, str]:
    """The key of every step of a graph, by id, in topological order."""
    from imgc.graph.lower import steps_in_order

    found: dict[str, str] = {}
    for step in steps_in_order(graph):
        found[step.id] = key_of(step, found)
    return found
