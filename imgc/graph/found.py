"""The hooks that are really there once extra-data.d has run, kept in a form that outlives a change to an element.

Hooks of extra-data.d write into the hooks tree: install-types links scripts into install.d, other elements write
scripts of their own.  What they did is found once and stored with the result of the last of them.  Elements may
change before it is read again, so :func:`settle` says it relative to the plan: which hooks came from which files of
the tree, which were written, which are gone.  The hooks that elements ship in a phase directory are not mentioned at
all; a plan always knows them better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from imgc.graph.plan import Plan
from imgc.graph.step import PHASES
from imgc.graph.tree import Hook, Tree, hook_at, run_order

#: By phase: name, where from, mode.  Where from is ``tree:<path in the hooks tree>``, ``sha256:…`` for bytes that a
#: hook wrote, or ``gone`` for a hook of an element that is no longer there.
Discovered = Mapping[str, tuple[tuple[str, str, int], ...]]

_TREE = "tree:"
_GONE = "gone"

#: Phases whose hooks are known before a build; extra-data.d may add to all others.
FIXED = ("root.d", "extra-data.d")


def settle(plan: Plan, found: Mapping[str, Iterable[Sequence[str | int]]]) -> Discovered:
    """What extra-data.d did to the hooks of ``plan``.

    ``found`` has the name, the ``sha256:…`` and the mode of every executable in ``hooks/<phase>``, by phase.
    """
    settled: dict[str, tuple[tuple[str, str, int], ...]] = {}
    for phase in PHASES:
        if phase in FIXED:
            continue
        there = {str(name): (str(digest), int(mode)) for name, digest, mode in found.get(phase, ())}
        shipped = {hook.name for hook in plan.hooks[phase]}
        entries = [(name, _GONE, 0) for name in shipped - set(there)]
        for name in set(there) - shipped:
            digest, mode = there[name]
            dest = _origin(plan, phase, name, digest)
            entries.append((name, f"{_TREE}{dest}" if dest else digest, mode))
        if entries:
            settled[phase] = tuple(sorted(entries))
    return settled


def hooks_now(plan: Plan, phase: str, discovered: Discovered | None) -> Sequence[Hook]:
    """The hooks of a phase in run order: those that are foreseen, or with what extra-data.d did."""
    if discovered is None or phase in FIXED:
        return plan.phase(phase)
    hooks = {hook.name: hook for hook in plan.hooks[phase]}
    for name, origin, mode in discovered.get(phase, ()):
        if origin == _GONE:
            hooks.pop(name, None)
        elif name not in hooks:
            hook = _from(plan, phase, name, origin, mode)
            if hook:
                hooks[name] = hook
    return sorted(hooks.values(), key=lambda hook: run_order(hook.name))


def _from(plan: Plan, phase: str, name: str, origin: str, mode: int) -> Hook | None:
    """The hook as the elements have it today; None when its file is no longer there."""
    if origin.startswith(_TREE):
        return hook_at(Tree(dict(plan.entries)), phase, name, origin.removeprefix(_TREE))
    return Hook(phase, name, "", "", origin, mode, f"{phase}/{name}")


def _origin(plan: Plan, phase: str, name: str, digest: str) -> str:
    """The file of the hooks tree that a hook with these bytes is from; the likeliest when several have them."""
    foreseen = {hook.dest for hook in plan.predicted if (hook.phase, hook.name) == (phase, name)}
    same = [file.dest for file in plan.tree if file.digest == digest]
    same.sort(key=lambda dest: (dest not in foreseen, not dest.endswith(f"/{name}"), dest))
    return same[0] if same else ""
