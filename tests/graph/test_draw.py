"""Drawings of a graph."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree

import pytest

from imgc.errors import ImgcError
from imgc.graph import PROTOCOL, draw, keys, lower, steps_in_order


@pytest.fixture(scope="module")
def drawn(debian):
    """The arguments of every drawing: a graph, its keys, and the first five steps as cached."""
    graph = lower(debian)
    found = keys(graph)
    cached = {step.id for step in steps_in_order(graph)[:5]}
    return graph, found, cached


def test_dot_is_what_graphviz_reads(drawn):
    graph, found, cached = drawn
    plain = subprocess.run(
        ["dot", "-Tplain"], input=draw.dot(graph, found, cached), capture_output=True, text=True, check=True
    ).stdout
    nodes = [line.split()[1].strip('"') for line in plain.splitlines() if line.startswith("node ")]
    assert sorted(nodes) == sorted(graph)
    assert sum(line.startswith("edge ") for line in plain.splitlines()) == graph.number_of_edges()


def test_dot_has_a_cluster_for_each_phase_and_a_color_for_what_is_cached(drawn):
    text = draw.dot(*drawn)
    for phase in ("root.d", "install.d", "finalise.d", "cleanup.d"):
        assert f'label="debian-bookworm: {phase}"' in text
    assert text.count("#d9ead3") == 5
    found = drawn[1]
    assert all(key[: draw.SHORT] in text for key in found.values())


def test_mermaid(drawn):
    graph, found, cached = drawn
    lines = draw.mermaid(graph, found, cached).splitlines()
    assert lines[0] == "flowchart LR"
    assert sum(line.endswith(":::cached") for line in lines) == 5
    assert sum(line.endswith(":::run") for line in lines) == len(graph) - 5
    assert sum(" --> " in line for line in lines) == graph.number_of_edges()
    assert sum(line.startswith("  subgraph") for line in lines) == sum(line == "  end" for line in lines) > 4


def test_json(drawn):
    graph, found, cached = drawn
    steps = json.loads(draw.as_json(graph, found, cached))["steps"]
    assert [step["id"] for step in steps] == [step.id for step in steps_in_order(graph)]
    assert {step["id"]: step["key"] for step in steps} == found
    assert [step["id"] for step in steps if step["cached"]] == [step["id"] for step in steps[:5]]
    assert steps[0]["facts"][0] == {"kind": "protocol", "name": "imgc", "value": PROTOCOL}


def test_svg(drawn):
    root = xml.etree.ElementTree.fromstring(draw.svg(*drawn))
    assert root.tag.endswith("svg")
    titles = {node.text for node in root.iter() if node.tag.endswith("title")}
    assert set(drawn[0]) <= titles


def test_svg_without_graphviz(drawn, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImgcError, match="Not installed: dot") as caught:
        draw.svg(*drawn)
    assert (caught.value.code, "graphviz" in caught.value.hint) == ("E302", True)


def test_names_are_quoted():
    assert draw._quoted('a"b\\c\nd') == '"a\\"b\\\\c\\nd"'
    assert draw._escaped_text('<"&>') == "&lt;&quot;&amp;&gt;"
