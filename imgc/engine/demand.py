"""What has to run: computed backwards from what was asked for, over what the store already has.

A step is *wanted* when its own result is missing and something that is asked for needs it.  The raw disk is such a
step: it is made only when an output has to be made from it, and is gone with the build.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from imgc.engine.store import Store
from imgc.graph.step import Kind, Step

if TYPE_CHECKING:
    import networkx as nx


def stored_steps(graph: nx.DiGraph[str], keys: Mapping[str, str], store: Store) -> set[str]:
    """Ids of the steps whose results are there and can be used.

    A layer is of use only on top of all the layers below it; an output stands by itself.
    """
    from networkx import topological_sort

    usable: set[str] = set()
    for step_id in topological_sort(graph):
        step: Step = graph.nodes[step_id]["step"]
        if step.changes_state:
            below = all(one in usable for one in step.inputs)
            if below and store.has_layer(keys[step_id]):
                usable.add(step_id)
        elif step.kind is Kind.ASSEMBLE or not store.has_result(keys[step_id]):
            continue
        elif step.kind is Kind.CONVERT or _still_true(graph, step, usable):
            usable.add(step_id)
    return usable


def _still_true(graph: nx.DiGraph[str], step: Step, usable: set[str]) -> bool:
    """Whether what a check or a boot found out is about outputs that are still there, not about ones to be made."""
    outputs = [one for one in step.inputs if graph.nodes[one]["step"].kind is Kind.CONVERT]
    return all(one in usable for one in outputs)


def wanted_steps(graph: nx.DiGraph[str], stored: set[str], goals: Iterable[str]) -> list[str]:
    """Ids of the steps that must run for ``goals``, in an order in which they may."""
    from networkx import topological_sort

    wanted: set[str] = set()
    waiting = list(goals)
    while waiting:
        step_id = waiting.pop()
        if step_id in wanted or step_id in stored:
            continue
        wanted.add(step_id)
        waiting.extend(graph.nodes[step_id]["step"].inputs)
    return [step_id for step_id in topological_sort(graph) if step_id in wanted]


def longest_paths(
    graph: nx.DiGraph[str], wanted: Iterable[str], seconds: Mapping[str, float]
) -> dict[str, float]:
    """For each step of ``wanted``, how long it and the longest path of wanted steps after it take, in seconds.

    ``seconds`` is how long steps took when they last ran; one that never did counts as one second.
    """
    paths: dict[str, float] = {}
    for step_id in reversed(list(wanted)):
        after = (paths.get(one, 0.0) for one in graph.successors(step_id))
        paths[step_id] = seconds.get(step_id, 1.0) + max(after, default=0.0)
    return paths
