"""What has to run: which results are of use, and what a goal needs."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
import pytest

from imgc.engine.demand import stored_steps, wanted_steps
from imgc.engine.store import LAYERS, RESULTS, Store
from imgc.graph.step import Kind, Step

ALL = ["a", "b", "c", "disk", "one", "two", "tar", "check"]


def small_graph() -> nx.DiGraph[str]:
    """Three layers, a disk, two outputs of it, one of the tree, and their check."""
    kinds = {
        "a": (Kind.HOOK, ()),
        "b": (Kind.DRIVER, ("a",)),
        "c": (Kind.PACKAGES, ("b",)),
        "disk": (Kind.ASSEMBLE, ("c",)),
        "one": (Kind.CONVERT, ("disk",)),
        "two": (Kind.CONVERT, ("disk",)),
        "tar": (Kind.CONVERT, ("c",)),
        "check": (Kind.CHECK, ("disk", "one", "two", "tar")),
    }
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name, (kind, inputs) in kinds.items():
        graph.add_node(name, step=Step(name, kind, "p", "", name, "", False, inputs, ()))
        graph.add_edges_from((above, name) for above in inputs)
    return graph


GRAPH = small_graph()
KEYS = {name: f"key-of-{name}" for name in GRAPH}


def fill(store: Store, names: list[str]) -> set[str]:
    """Commit a result for each of ``names``; what of it can be used."""
    for name in names:
        made = store.cache / "work" / name
        made.mkdir()
        kind = LAYERS if GRAPH.nodes[name]["step"].changes_state else RESULTS
        store.commit(kind, KEYS[name], made, {})
    return stored_steps(GRAPH, KEYS, store)


@pytest.mark.parametrize(
    ("there", "usable"),
    [
        ([], set()),
        (["a"], {"a"}),
        (["b"], set()),  # of no use without what is below
        (["a", "c"], {"a"}),
        (["a", "b", "c"], {"a", "b", "c"}),
        (["one", "two"], {"one", "two"}),  # outputs stand by themselves
        (["disk"], set()),  # never kept
        (["one", "two", "tar", "check"], {"one", "two", "tar", "check"}),
        (["one", "tar", "check"], {"one", "tar"}),  # what was checked is no longer there
    ],
)
def test_which_results_are_of_use(store: Store, there: list[str], usable: set[str]) -> None:
    assert fill(store, there) == usable


@pytest.mark.parametrize(
    ("stored", "goals", "wanted"),
    [
        (set(), ["check"], ALL),
        (set(), ["tar"], ["a", "b", "c", "tar"]),
        ({"a", "b"}, ["tar"], ["c", "tar"]),
        ({"a", "b", "c"}, ["one"], ["disk", "one"]),  # the disk only when something is made of it
        ({"one", "two", "tar"}, ["one", "tar"], []),  # not even the layers, when the outputs are there
        ({"one", "two", "tar", "check"}, ["one", "two", "tar", "check"], []),
        ({"a", "b", "c", "one", "two", "tar"}, ["check"], ["disk", "check"]),
        ({"a", "one"}, ["one", "two"], ["b", "c", "disk", "two"]),
        (set(), [], []),
    ],
)
def test_what_a_goal_needs(stored: set[str], goals: list[str], wanted: list[str]) -> None:
    found = wanted_steps(GRAPH, stored, goals)
    assert sorted(found) == sorted(wanted)
    assert all(
        found.index(above) < found.index(name)
        for name in found
        for above in GRAPH.predecessors(name)
        if above in found
    )


def test_results_of_another_boot_are_of_no_use(store: Store, tmp_path: Path) -> None:
    fill(store, ["a", "b"])
    store.make_durable([KEYS["a"]])
    for meta in tmp_path.glob("cache/*/*/meta.json"):
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "boot": "an earlier one"}))
    assert stored_steps(GRAPH, KEYS, Store(store.cache)) == {"a"}
