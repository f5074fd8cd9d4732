"""The first difference between two builds of the same platform, and the step that made it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgc.errors import ImgcError
from imgc.reproduce import image
from imgc.reproduce.tree import Entry, Layer, content, read_tree

#: Lines of text to show of a difference, and further paths to name.
_LINES = 20
_FURTHER = 9
#: Text longer than this is shown as bytes: comparing line by line takes long.
_LONGEST_TEXT = 256 * 1024


@dataclass(frozen=True)
class Built:
    """What one build left: the layers of its chain, lowest first, and its outputs as (format, file) by suffix.

    ``epoch`` is the latest time that a file of the outputs may have, in seconds since 1970; None: any.
    """

    platform: str
    chain: tuple[Layer, ...]
    outputs: Mapping[str, tuple[str, Path]]
    epoch: int | None


@dataclass(frozen=True)
class Difference:
    """Where two builds first differ: a ``path`` of the tree, or one inside an output.

    ``step`` is the id of the step that wrote it last; ``what`` says in words what differs, and ``detail`` shows it.
    """

    platform: str
    path: str
    step: str
    what: str
    detail: str = ""

    def problem(self) -> ImgcError:
        """The difference as an error: E641 for the tree, E643 for an output made of equal trees."""
        if self.path.startswith(image.OUTPUT):
            return ImgcError(
                "E643",
                f"{self.path} differs between two builds of {self.platform} with equal trees: {self.what}.",
                hint="Were both made by the same versions of the host's tools?",
                detail=self.detail,
            )
        return ImgcError(
            "E641",
            f"{self.path} differs between two builds of {self.platform}: {self.what}."
            f"  It was written by {self.step}.",
            hint="docs/reproducible.md lists what makes steps differ, and what to do about it.",
            detail=self.detail,
        )


def compare(first: Built, second: Built) -> Difference | None:
    """The first difference between two builds, by path; None when tree and outputs are equal."""
    return _compare_trees(first, second) or _compare_outputs(first, second)


def _compare_trees(first: Built, second: Built) -> Difference | None:
    one, two = read_tree(first.chain), read_tree(second.chain)
    epoch = first.epoch
    paths = [
        path
        for path in sorted(one.keys() | two.keys())
        if path not in one or path not in two or any(_aspects(one[path], two[path], epoch))
    ]
    if not paths:
        return None
    path = paths[0]
    detail = []
    what = _what(one.get(path), two.get(path), epoch)
    if path in one and path in two and one[path].content != two[path].content:
        texts = [content(built.chain, tree[path].step, path) for built, tree in ((first, one), (second, two))]
        detail = list(_show(*texts))
    if len(paths) > 1:
        detail.append(f"{len(paths) - 1} more paths differ:")
        for other in paths[1 : 1 + _FURTHER]:
            step = _last(first.chain, one.get(other), two.get(other))
            detail.append(f"  {other} ({_what(one.get(other), two.get(other), epoch)}; {step})")
    step = _last(first.chain, one.get(path), two.get(path))
    return Difference(first.platform, path, step, what, "\n".join(detail))


def _compare_outputs(first: Built, second: Built) -> Difference | None:
    for suffix in sorted(first.outputs.keys() & second.outputs.keys()):
        (form, one), (_, two) = first.outputs[suffix], second.outputs[suffix]
        at = image.first_difference(one, two)
        if at is not None:
            what = image.describe(one, two, form, at)
            return Difference(first.platform, f"{image.OUTPUT}{first.platform}.{suffix}", "", what)
    return None


def _last(chain: Sequence[Layer], one: Entry | None, two: Entry | None) -> str:
    """The id of the later one of the steps that wrote a path in the two builds."""
    steps = [entry.step for entry in (one, two) if entry]
    return max(steps, key=[layer.step for layer in chain].index)


def _what(one: Entry | None, two: Entry | None, epoch: int | None) -> str:
    if one is None or two is None:
        return f"it is only in the {'second' if one is None else 'first'}"
    return "; ".join(_aspects(one, two, epoch))


def _aspects(one: Entry, two: Entry, epoch: int | None) -> Iterator[str]:
    """In what two entries of the same path differ, in words."""
    if one.kind != two.kind:
        yield f"{one.kind} and {two.kind}"
        return
    if one.content != two.content:
        yield f"content ({_sizes(one, two)})"
    if one.target != two.target:
        yield f"target {one.target} and {two.target}"
    if one.mode != two.mode and one.kind != "link":
        yield f"mode {one.mode:04o} and {two.mode:04o}"
    if one.owner != two.owner:
        yield f"owner {_owner(one)} and {_owner(two)}"
    if _time(one, epoch) != _time(two, epoch):
        yield f"time {one.time} and {two.time}"
    if one.attributes != two.attributes:
        yield f"attributes {_named(one)} and {_named(two)}"
    if one.names != two.names:
        yield f"names {', '.join(one.names) or 'no other'} and {', '.join(two.names) or 'no other'}"


def _sizes(one: Entry, two: Entry) -> str:
    if one.size == two.size:
        return f"{one.size} bytes in both"
    return f"{one.size} and {two.size} bytes"


def _owner(entry: Entry) -> str:
    return ":".join(map(str, entry.owner))


def _time(entry: Entry, epoch: int | None) -> str:
    """The time that a file has in an output."""
    if epoch is None or float(entry.time) <= epoch:
        return entry.time
    return str(epoch)


def _named(entry: Entry) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in entry.attributes) or "none"


def _show(one: bytes, two: bytes) -> Iterator[str]:
    """Two contents side by side: the lines that differ, or the first bytes that do."""
    texts = [_text(data) for data in (one, two)]
    if texts[0] is not None and texts[1] is not None:
        lines = list(
            difflib.unified_diff(
                texts[0].splitlines(), texts[1].splitlines(), "first", "second", n=1, lineterm=""
            )
        )
        yield from (line[:200] for line in lines[:_LINES])
        if len(lines) > _LINES:
            yield f"({len(lines) - _LINES} more lines)"
        return
    pairs = enumerate(zip(one, two, strict=False))
    at = next((place for place, (left, right) in pairs if left != right), min(len(one), len(two)))
    yield f"from byte {at}:"
    yield f"  first  {one[at : at + 16].hex(' ')}"
    yield f"  second {two[at : at + 16].hex(' ')}"


def _text(data: bytes) -> str | None:
    """Bytes as text, when they are text of a length that can be compared by line."""
    if len(data) > _LONGEST_TEXT or b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
