"""What ``extends`` does with two trees: maps merge deep, lists append, anything else is replaced.

:func:`merge` is associative, so the files of a chain can be folded in order.  For that to hold with ``!replace``
(and with values of different kinds, where the later one wins), a result remembers that it replaces.
"""

from __future__ import annotations

from dataclasses import replace

from imgc.spec.nodes import Entry, Mapping, Node, Scalar, Sequence


def merge(parent: Node, child: Node) -> Node:
    """``child`` laid over ``parent``.  Every value in the result keeps the place where it was written."""
    if isinstance(child, Scalar) or child.replace:
        return child
    if isinstance(child, Sequence) and isinstance(parent, Sequence):
        return replace(child, items=parent.items + child.items, replace=parent.replace)
    if isinstance(child, Mapping) and isinstance(parent, Mapping):
        return replace(child, entries=_entries(parent, child), replace=parent.replace)
    return replace(child, replace=True)


def _entries(parent: Mapping, child: Mapping) -> tuple[Entry, ...]:
    """The parent's keys in the parent's order, each overlaid by the child's, then the child's new keys."""
    theirs = {entry.key: entry for entry in parent.entries}
    ours = {entry.key: entry for entry in child.entries}
    merged = []
    for key, entry in theirs.items():
        over = ours.get(key)
        merged.append(replace(over, value=merge(entry.value, over.value)) if over else entry)
    return (*merged, *(entry for key, entry in ours.items() if key not in theirs))
