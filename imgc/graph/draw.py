"""Drawings of a graph: graphviz's dot, mermaid, JSON, and SVG where graphviz is installed.

Every drawing shows the steps by phase, which of them have results already, and the beginning of each key.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any

from imgc.graph.lower import steps_in_order
from imgc.graph.step import Step
from imgc.process import need, run

if TYPE_CHECKING:
    import networkx

#: Digits of a key that a drawing shows.
SHORT = 10

_CACHED, _TO_RUN = "#d9ead3", "#fff2cc"


def dot(graph: networkx.DiGraph[str], keys: Mapping[str, str], cached: Set[str]) -> str:
    """The graph in graphviz's language; a cluster for each phase of each platform, results that exist in green."""
    lines = [
        "digraph imgc {",
        "  rankdir=LR;",
        '  node [shape=box, style="rounded,filled", fontname="sans-serif"];',
    ]
    for number, (title, steps) in enumerate(_groups(graph)):
        indent = "  "
        if title:
            lines += [f"  subgraph cluster_{number} {{", f"    label={_quoted(title)};"]
            indent = "    "
        for step in steps:
            label = "\n".join(_label(graph, step, keys))
            color = _CACHED if step.id in cached else _TO_RUN
            lines.append(f'{indent}{_quoted(step.id)} [label={_quoted(label)}, fillcolor="{color}"];')
        if title:
            lines.append("  }")
    lines += [f"  {_quoted(before)} -> {_quoted(after)};" for before, after in _edges(graph)]
    return "\n".join([*lines, "}"]) + "\n"


def mermaid(graph: networkx.DiGraph[str], keys: Mapping[str, str], cached: Set[str]) -> str:
    """The graph as a mermaid flowchart, to paste into Markdown."""
    names = {step.id: f"s{number}" for number, step in enumerate(steps_in_order(graph))}
    lines = ["flowchart LR"]
    for number, (title, steps) in enumerate(_groups(graph)):
        if title:
            lines.append(f"  subgraph g{number} [{_escaped(title)}]")
        for step in steps:
            state = "cached" if step.id in cached else "run"
            label = "<br/>".join(_escaped_text(line) for line in _label(graph, step, keys))
            lines.append(f'    {names[step.id]}["{label}"]:::{state}')
        if title:
            lines.append("  end")
    lines += [f"  {names[before]} --> {names[after]}" for before, after in _edges(graph)]
    lines += [f"  classDef cached fill:{_CACHED}", f"  classDef run fill:{_TO_RUN}"]
    return "\n".join(lines) + "\n"


def as_json(graph: networkx.DiGraph[str], keys: Mapping[str, str], cached: Set[str]) -> str:
    """The graph as JSON: every step with its key, inputs and facts, in an order in which they can run."""
    steps = [
        {**_plain(step, keys, cached), "platforms": _platforms(graph, step)} for step in steps_in_order(graph)
    ]
    return json.dumps({"steps": steps}, indent=2, ensure_ascii=False) + "\n"


def svg(graph: networkx.DiGraph[str], keys: Mapping[str, str], cached: Set[str]) -> str:
    """The graph drawn by graphviz; E302 when it is not installed."""
    need("dot", package="graphviz")
    return run(["dot", "-Tsvg"], stdin=dot(graph, keys, cached)).output


def _groups(graph: networkx.DiGraph[str]) -> Iterator[tuple[str, list[Step]]]:
    """Steps that follow each other in one phase of the same platforms; no title where there is no phase."""
    grouped = itertools.groupby(
        steps_in_order(graph), key=lambda step: (", ".join(_platforms(graph, step)), step.phase)
    )
    for (platforms, phase), steps in grouped:
        yield f"{platforms}: {phase}" if phase else "", list(steps)


def _platforms(graph: networkx.DiGraph[str], step: Step) -> list[str]:
    """The platforms that need a step: its own, and in the graph of a fleet all that share it."""
    shared: list[str] = graph.nodes[step.id].get("platforms", [step.platform])
    return shared


def _edges(graph: networkx.DiGraph[str]) -> Iterator[tuple[str, str]]:
    return ((input, step.id) for step in steps_in_order(graph) for input in step.inputs)


def _label(graph: networkx.DiGraph[str], step: Step, keys: Mapping[str, str]) -> list[str]:
    platforms = len(_platforms(graph, step))
    shared = f"shared by {platforms} platforms" if platforms > 1 else ""
    return [line for line in (step.name, step.element, keys[step.id][:SHORT], shared) if line]


def _plain(step: Step, keys: Mapping[str, str], cached: Set[str]) -> dict[str, Any]:
    return {
        "id": step.id,
        "kind": str(step.kind),
        "platform": step.platform,
        "phase": step.phase,
        "name": step.name,
        "element": step.element,
        "in_chroot": step.target,
        "inputs": list(step.inputs),
        "key": keys[step.id],
        "cached": step.id in cached,
        "facts": [fact._asdict() for fact in step.facts],
    }


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _escaped(text: str) -> str:
    return f'"{_escaped_text(text)}"'


def _escaped_text(text: str) -> str:
    for character, entity in (("&", "&amp;"), ('"', "&quot;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, entity)
    return text
