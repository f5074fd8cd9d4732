"""Element resolution: the stock semantics in a stable order."""

from __future__ import annotations

import itertools
import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgc.errors import ImgcError, Problems
from imgc.graph.elements import ElementError, resolve


def names(*args, **kwargs):
    return [element.name for element in resolve(*args, **kwargs)]


def test_dependencies_come_first_and_names_alphabetically(elements):
    elements.add("zebra", deps=["moss"])
    elements.add("moss", deps=["apple", "system"])
    elements.add("apple")
    elements.add("bee")
    assert names(["zebra", "bee"], [str(elements.path)]) == ["apple", "bee", "system", "moss", "zebra"]


def test_the_order_of_the_arguments_does_not_matter(elements):
    elements.add("a", deps=["c", "virtual"])
    elements.add("b", provides=["virtual"])
    elements.add("c", deps=["a"])
    orders = {
        tuple(names(order, [str(elements.path)]))
        for order in itertools.permutations(["a", "b", "c", "system"])
    }
    assert len(orders) == 1


def test_a_virtual_dependency_met_before_its_provider_is_found(elements):
    elements.add("vm", deps=["block-device"])
    elements.add("my-image", deps=["block-device-gpt"])
    elements.add("block-device-gpt", provides=["block-device"])
    for order in itertools.permutations(["vm", "my-image", "system"]):
        assert names(order, [str(elements.path)]) == ["block-device-gpt", "my-image", "system", "vm"]


def test_a_provided_name_hides_the_element_of_that_name(elements):
    elements.add("virtual", deps=["extra"])
    elements.add("extra")
    elements.add("provider", provides=["virtual"])
    elements.add("user", deps=["virtual"])
    assert names(["user", "provider", "system"], [str(elements.path)]) == ["provider", "system", "user"]


def test_cycles_are_allowed(elements):
    elements.add("a", deps=["b"])
    elements.add("b", deps=["a"])
    elements.add("self", deps=["self"])
    elements.add("before", deps=["a"])
    assert names(["b", "self", "before", "system"], [str(elements.path)]) == [
        "b",
        "a",
        "before",
        "self",
        "system",
    ]


def test_an_earlier_path_overrides_the_whole_directory(elements, more):
    elements.add("thing", {"element-deps": "gone\n", "install.d/50-x": "#!/bin/sh\n"})
    home = more.add("thing")
    found = {
        element.name: element
        for element in resolve(["thing", "system"], [str(more.path), str(elements.path)])
    }
    assert found["thing"].path == os.path.realpath(home)
    assert found["thing"].search_path_index == 0
    assert found["thing"].depends == ()
    assert found["system"].search_path_index == 1


def test_a_linked_element_has_the_name_of_its_target(elements, more):
    elements.add("real")
    (more.path / "alias").symlink_to(elements.path / "real")
    assert "real" in names(["real", "system"], [str(more.path), str(elements.path)])
    with pytest.raises(ElementError, match="alias"):
        resolve(["alias", "system"], [str(more.path), str(elements.path)])


def test_a_missing_element_has_a_place_and_a_suggestion(elements, place):
    with pytest.raises(ElementError) as caught:
        resolve(["system", "sistem"], [str(elements.path)], place_of=place)
    assert caught.value.code == "E201"
    assert caught.value.place == place("sistem")
    assert caught.value.hint == "Did you mean `system`?"


def test_a_missing_dependency_names_who_wants_it(elements, place):
    elements.add("user", deps=["nowhere"])
    with pytest.raises(ElementError, match="`nowhere`, which `user` depends on") as caught:
        resolve(["user", "system"], [str(elements.path)], place_of=place)
    assert caught.value.place == place("user")


def test_two_providers_are_both_named(elements, place):
    elements.add("one", provides=["virtual"])
    elements.add("two", provides=["virtual"])
    with pytest.raises(ElementError, match="`one` and `two`") as caught:
        resolve(["one", "two", "system"], [str(elements.path)], place_of=place)
    assert (caught.value.code, caught.value.names) == ("E202", ("virtual", "one", "two"))
    assert caught.value.place == max(place("one"), place("two"))


def test_a_requested_name_that_is_provided_is_a_conflict(elements):
    elements.add("provider", provides=["virtual"])
    with pytest.raises(ElementError, match="`virtual` is requested, but `provider`") as caught:
        resolve(["provider", "virtual", "system"], [str(elements.path)])
    assert caught.value.code == "E202"


def test_no_operating_system(elements):
    elements.add("alone")
    with pytest.raises(ElementError) as caught:
        resolve(["alone"], [str(elements.path)])
    assert caught.value.code == "E203"


def test_a_virtual_name_without_provider_lists_candidates(elements):
    elements.add("vm", deps=["block-device"])
    elements.add("block-device-gpt", provides=["block-device"])
    with pytest.raises(ElementError, match="`block-device`, which `vm` depends on") as caught:
        resolve(["vm", "system"], [str(elements.path)])
    assert caught.value.code == "E208"
    assert "`block-device-gpt`" in caught.value.hint


def test_a_name_whose_provider_it_brings_itself(elements):
    elements.add("circle", deps=["provider"])
    elements.add("provider", provides=["circle"])
    elements.add("user", deps=["circle"])
    with pytest.raises(ElementError) as caught:
        resolve(["user", "system"], [str(elements.path)])
    assert caught.value.code == "E208"


def test_all_problems_come_together(elements, tmp_path):
    elements.add("bad", {"element-deps": b"\xff\xfe\n"})
    with pytest.raises(Problems) as caught:
        resolve(["bad", "none"], [str(elements.path), str(tmp_path / "absent")])
    assert sorted(problem.code for problem in caught.value.problems) == ["E201", "E204", "E209"]
    assert all(isinstance(problem, ImgcError) for problem in caught.value.problems)


@given(
    st.dictionaries(
        st.sampled_from(string.ascii_lowercase[:8]), st.sets(st.sampled_from(string.ascii_lowercase[:8]))
    )
)
def test_every_element_comes_after_its_dependencies_unless_they_form_a_cycle(tmp_path_factory, graph):
    base: Path = tmp_path_factory.mktemp("elements")
    (base / "system").mkdir()
    (base / "system/element-provides").write_text("operating-system\n")
    for name in {*graph, *(one for deps in graph.values() for one in deps)}:
        (base / name).mkdir()
        (base / name / "element-deps").write_text("".join(f"{one}\n" for one in sorted(graph.get(name, ()))))
    order = names([*graph, "system"], [str(base)])
    assert order == names([*reversed(list(graph)), "system"], [str(base)])

    def reachable(start):
        seen, queue = set(), [start]
        while queue:
            for one in graph.get(queue.pop(), ()):
                if one not in seen:
                    seen.add(one)
                    queue.append(one)
        return seen

    for name, deps in graph.items():
        for dep in deps:
            if name not in reachable(dep):
                assert order.index(dep) < order.index(name)
