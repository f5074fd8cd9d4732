"""Why steps would run: the first things that differ between a graph and the record of the last build.

Pure: compares manifests (:func:`imgc.graph.keys.manifest`), which are exactly what keys are made of, so a key that
differs always has a cause here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

from imgc.graph.keys import manifest
from imgc.graph.lower import steps_in_order
from imgc.graph.step import Fact, Kind, Step

if TYPE_CHECKING:
    import networkx

#: Facts of a manifest that say which step it is and what it stands on, not what it reads.
_STRUCTURE = ("step", "input")

#: Variables and options whose values are lists: what matters is what came and went.
_LISTS = {
    "IMAGE_ELEMENT": "elements",
    "packages": "packages of the spec",
}

#: What the value of a fact begins with that is a list of hooks.
_LISTING = "hooks "

#: The longest value that is shown whole, in characters.
_SHOWN = 60

_DIGEST = re.compile(r"[0-9a-f]{40,}")


@dataclass(frozen=True)
class Recorded:
    """A step as it was when its result was made: its key, who brought it, its whole manifest, its inputs' ids."""

    key: str
    element: str
    facts: tuple[Fact, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """What is known of the last build of a platform.

    ``steps`` are those that have had a result, by id; ``unmade`` the ids of those that never had one, because no build
    came so far.  ``files`` is the element that each file of the hooks tree was from.
    """

    steps: Mapping[str, Recorded] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    unmade: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cause:
    """One difference.

    ``step`` is the id of the first step that it touches.  ``kind`` is that of a fact, or ``new``, ``gone`` or
    ``order`` for steps that came, went or moved; ``name`` is the fact's name, or the id of that step.  ``element`` is
    whose file it is, if it is one.  ``before`` and ``after`` are the fact's values (of a step that is gone, its
    script's); None where it was not, or is not, there.  ``text`` says it in words.  ``derived``: a step reads
    something else than before because of another change, which is the better answer when there is one.
    """

    step: str
    kind: str
    name: str
    element: str
    before: str | None
    after: str | None
    text: str
    derived: bool = False


def why(
    graph: networkx.DiGraph[str], keys: Mapping[str, str], last: Record, files: Mapping[str, str]
) -> list[Cause]:
    """Every cause for which a step has another key than in ``last``, once, in the order of the graph.

    Derived ones come last.  ``files`` is the element of each file of the hooks tree now (:func:`owners`).
    """
    comparison = _Comparison(graph, keys, last, files)
    found: dict[tuple[str, ...], Cause] = {}
    for step in steps_in_order(graph):
        for cause in comparison.of(step):
            found.setdefault((cause.kind, cause.name, str(cause.before), str(cause.after)), cause)
    return sorted(found.values(), key=_is_derived)


def cause(
    graph: networkx.DiGraph[str],
    keys: Mapping[str, str],
    last: Record,
    files: Mapping[str, str],
    step_id: str,
) -> Cause | None:
    """The first cause for which one step has another key than in ``last``; None when it has the same, or had none yet.

    It is found at the earliest step, among this one and all that it stands on, that differs by itself.
    """
    import networkx

    recorded = last.steps.get(step_id)
    if recorded is not None and recorded.key == keys[step_id]:
        return None
    comparison = _Comparison(graph, keys, last, files)
    below = networkx.ancestors(graph, step_id) | {step_id}
    causes = [one for step in steps_in_order(graph) if step.id in below for one in comparison.of(step)]
    return min(causes, key=_is_derived, default=None)


def _is_derived(cause: Cause) -> bool:
    return cause.derived


def headline(causes: list[Cause]) -> str:
    """The first cause in words and how many more there are; empty when there is none."""
    if not causes:
        return ""
    more = len(causes) - 1
    return causes[0].text + (f" (and {more} more {'change' if more == 1 else 'changes'})" if more else "")


@dataclass(frozen=True)
class _Comparison:
    graph: networkx.DiGraph[str]
    keys: Mapping[str, str]
    last: Record
    files: Mapping[str, str]

    def of(self, step: Step) -> Iterator[Cause]:
        """What differs at this very step, whatever the steps below it."""
        before = self.last.steps.get(step.id)
        if before is None:
            # A boot is new when it was not asked for before, which is no change.
            if step.id in self.last.unmade or step.kind is Kind.BOOT:
                return
            yield Cause(step.id, "new", step.id, step.element, None, None, f"{_step_words(step)} is new")
        elif before.key != self.keys[step.id]:
            yield from self._inputs(step, before)
            yield from self._facts(step, before)

    def _inputs(self, step: Step, before: Recorded) -> Iterator[Cause]:
        """Steps that went from below this one, or stand in another order.  One that came is a cause of its own."""
        if before.inputs == step.inputs:
            return
        gone = [one for one in before.inputs if one not in self.graph]
        for one in gone:
            was = self.last.steps.get(one)
            element = was.element if was else ""
            script = next((fact.value for fact in was.facts if fact.kind == "script"), None) if was else None
            words = f"step {_short(one)}{_of(element)} is gone"
            yield Cause(step.id, "gone", one, element, script, None, words)
        come = [one for one in step.inputs if one not in self.last.steps and one not in self.last.unmade]
        if not gone and not come:
            old, new = (
                ", ".join(map(_short, inputs)) or "nothing" for inputs in (before.inputs, step.inputs)
            )
            words = f"{_short(step.id)} runs after {new} now, before after {old}"
            yield Cause(step.id, "order", step.id, step.element, old, new, words)

    def _facts(self, step: Step, before: Recorded) -> Iterator[Cause]:
        """Facts that differ, in the order of the manifest; then those that came or went."""
        now = manifest(step, self.keys)
        if _what(now) != _what(before.facts):
            old, new = _what(before.facts), _what(now)
            words = f"{_short(step.id)} is another kind of step: {old} -> {new}"
            yield Cause(step.id, "step", step.id, step.element, old, new, words)
        old_values, new_values = _by_name(before.facts), _by_name(now)
        found = [
            (Fact(kind, name, ""), old, new)
            for kind, name in dict.fromkeys((*new_values, *old_values))
            for old, new in zip_longest(old_values.get((kind, name), ()), new_values.get((kind, name), ()))
            if old != new
        ]
        # A script that changed may read other things than before: those follow from it.
        found.sort(key=lambda one: one[1] is None or one[2] is None)
        for fact, old, new in found:
            yield self._fact(step, fact, old, new)

    def _fact(self, step: Step, fact: Fact, before: str | None, after: str | None) -> Cause:
        kind, name, _ = fact
        element = step.element if kind == "script" else self._owner(name) if kind == "file" else ""
        words = {
            "script": self._bytes_words,
            "file": self._bytes_words,
            "env": self._variable_words,
            "option": _option_words,
            "tool": _tool_words,
            "pin": _pin_words,
            "protocol": _protocol_words,
        }.get(kind, _other_words)
        text = words(step, fact, element, before, after)
        listing = kind == "file" and (before or after or "").startswith(_LISTING)
        derived = listing or ((before is None or after is None) and self._was_and_is(kind, name))
        return Cause(step.id, kind, name, element, before, after, text, derived)

    def _was_and_is(self, kind: str, name: str) -> bool:
        """Whether a file or a variable was there before and is there now, whoever reads it."""
        if kind == "file":
            return name in self.files and name in self.last.files
        return kind in ("env", "tool") and self._known_before(kind, name) and self._known_now(kind, name)

    def _known_before(self, kind: str, name: str) -> bool:
        return any(fact[:2] == (kind, name) for one in self.last.steps.values() for fact in one.facts)

    def _known_now(self, kind: str, name: str) -> bool:
        steps = (self.graph.nodes[one]["step"] for one in self.graph)
        return any(fact[:2] == (kind, name) for one in steps for fact in one.facts)

    def _owner(self, name: str) -> str:
        """The element that a file of a fact is from, by what facts call it."""
        if name in self.files or name in self.last.files:
            return self.files.get(name) or self.last.files[name]
        top, _, rest = name.partition("/")
        return rest.partition("/")[0].removesuffix(" (overridden)") if top == "elements" else ""

    def _bytes_words(
        self, step: Step, fact: Fact, element: str, before: str | None, after: str | None
    ) -> str:
        """Of a script or a file."""
        if (before or after or "").startswith(_LISTING):
            old, new = ((value or "").removeprefix(_LISTING) for value in (before, after))
            return f"hooks in {fact.name} changed: {_came_and_went(old, new)}"
        what = f"{fact.kind} {_in_element(fact.name)}{_of(element)}"
        if before is None or after is None:
            there, verb = (self.last.files, "reads") if before is None else (self.files, "no longer reads")
            known = {*self.files, *self.last.files}
            if fact.name in known and fact.name not in there:
                return f"{what} is new" if before is None else f"{what} is gone"
            return f"{_short(step.id)} {'now ' if before is None else ''}{verb} {what}"
        old_mode, _, old_bytes = before.partition(" ")
        new_mode, _, new_bytes = after.partition(" ")
        if old_bytes == new_bytes:
            return f"mode of {what} changed: {old_mode} -> {new_mode}"
        return f"{what} changed"

    def _variable_words(
        self, step: Step, fact: Fact, element: str, before: str | None, after: str | None
    ) -> str:
        name = fact.name
        if before is not None and after is not None:
            if name == "IMAGE_ELEMENT_YAML":
                return _places_words(before, after)
            if name in _LISTS:
                return f"{_LISTS[name]}: {_came_and_went(before, after)}"
            old, new = _pair(before, after)
            return f"variable {name}: {old!r} -> {new!r}"
        if before is None:
            if self._known_before("env", name):
                return f"{_short(step.id)} now reads variable {name}"
            return f"variable {name} is set now: {_clipped(after or '')!r}"
        if self._known_now("env", name):
            return f"{_short(step.id)} no longer reads variable {name}"
        return f"variable {name} is no longer set, was {_clipped(before)!r}"


def elements_moved(before: str, after: str) -> list[str]:
    """The elements that are taken from another directory of the search path, by two values of IMAGE_ELEMENT_YAML.

    Empty when elements came or went.
    """
    old, new = (dict(word.partition("=")[::2] for word in value.split()) for value in (before, after))
    return [name for name in new if new[name] != old.get(name)] if old.keys() == new.keys() else []


def _places_words(before: str, after: str) -> str:
    """Of the elements and the numbers of their directories in the search path."""
    moved = elements_moved(before, after)
    if moved:
        return f"elements taken from another directory: {_clipped(', '.join(moved))}"
    old, new = (" ".join(word.partition("=")[0] for word in value.split()) for value in (before, after))
    return f"elements: {_came_and_went(old, new)}"


def _option_words(step: Step, fact: Fact, element: str, before: str | None, after: str | None) -> str:
    if fact.name in _LISTS:
        return f"{_LISTS[fact.name]}: {_came_and_went(before or '', after or '')}"
    old, new = (
        one or "empty" for one in _pair(*("none" if value is None else value for value in (before, after)))
    )
    return f"option {fact.name} of {_short(step.id)}: {old} -> {new}"


def _tool_words(step: Step, fact: Fact, element: str, before: str | None, after: str | None) -> str:
    if before is None:
        return f"{_short(step.id)} now uses tool {fact.name}"
    if after is None:
        return f"{_short(step.id)} no longer uses tool {fact.name}"
    if "absent" in (before, after):
        return f"tool {fact.name} {'was installed' if before == 'absent' else 'is no longer installed'}"
    known = "sha256:" not in before + after
    return f"tool {fact.name} changed" + (f": {before} -> {after}" if known else "")


def _pin_words(step: Step, fact: Fact, element: str, before: str | None, after: str | None) -> str:
    if before is None:
        return f"pin {fact.name} is new: {_clipped(after or '')}"
    if after is None:
        return f"pin {fact.name} is gone, was {_clipped(before)}"
    old, new = _pair(before, after)
    return f"pin {fact.name} moved: {old} -> {new}"


def _protocol_words(step: Step, fact: Fact, element: str, before: str | None, after: str | None) -> str:
    return f"protocol of {fact.name} changed: {before} -> {after}"


def _other_words(step: Step, fact: Fact, element: str, before: str | None, after: str | None) -> str:
    return f"{fact.kind} {fact.name}: {_clipped(before or 'none')} -> {_clipped(after or 'none')}"


# --- small helpers --------------------------------------------------------------------------------------------------


def _by_name(facts: tuple[Fact, ...] | list[Fact]) -> dict[tuple[str, str], list[str]]:
    """The values of what a step reads, by kind and name, in order."""
    found: dict[tuple[str, str], list[str]] = {}
    for fact in facts:
        if fact.kind not in _STRUCTURE:
            found.setdefault((fact.kind, fact.name), []).append(fact.value)
    return found


def _what(facts: tuple[Fact, ...] | list[Fact]) -> str:
    """Kind and name of a step, as its manifest says them."""
    return next((f"{fact.name} {fact.value}" for fact in facts if fact.kind == "step"), "")


def _short(step_id: str) -> str:
    """A step as a user of one platform calls it."""
    return step_id.partition("/")[2] or step_id


def _step_words(step: Step) -> str:
    noun = "hook" if step.kind is Kind.HOOK else "step"
    return f"{noun} {_short(step.id)}{_of(step.element)}"


def _of(element: str) -> str:
    return f" of element {element}" if element else ""


def _in_element(name: str) -> str:
    """The path of a file within its element, where the fact's name leads with the element."""
    top, _, rest = name.partition("/")
    return rest.partition("/")[2] if top == "elements" else name


def _came_and_went(before: str, after: str) -> str:
    """The difference of two lists of words: ``+new -old``; their order when they have the same words."""
    old, new = before.split(), after.split()
    words = [f"+{one}" for one in new if one not in old] + [f"-{one}" for one in old if one not in new]
    return _clipped(" ".join(words)) or "another order"


def _pair(before: str, after: str) -> tuple[str, str]:
    """Two values of which each shows where they part, however long they are."""
    old, new = _on_one_line(before), _on_one_line(after)
    equal = next(
        (at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
    )
    start = max(equal - _SHOWN // 3, 0)
    if start == 0 or max(len(old), len(new)) <= _SHOWN:
        return _clipped(old), _clipped(new)
    return _clipped(f"…{old[start:]}"), _clipped(f"…{new[start:]}")


def _on_one_line(value: str) -> str:
    """A value without line breaks; of digests the beginning."""
    return _DIGEST.sub(lambda digest: f"{digest[0][:12]}…", value.replace("\n", " "))


def _clipped(value: str) -> str:
    """A value on one line of bearable length."""
    value = _on_one_line(value)
    return value if len(value) <= _SHOWN else f"{value[: _SHOWN - 1]}…"
