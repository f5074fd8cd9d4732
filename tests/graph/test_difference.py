"""Why a step would run: the first difference, in words that name what to edit."""

from __future__ import annotations

import re
from dataclasses import replace

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgc.graph.difference import Record, Recorded, cause, headline, why
from imgc.graph.keys import keys, manifest
from imgc.graph.lower import lower
from imgc.graph.places import owners, place
from imgc.graph.step import Fact, Kind, Step


def chain(*steps):
    """A graph of steps one upon the other; each is (name, facts) or a whole :class:`Step`."""
    graph = networkx.DiGraph()
    before = ()
    for one in steps:
        if isinstance(one, tuple):
            name, facts = one
            phase, _, last = name.rpartition("/")
            one = Step(f"p/{name}", Kind.HOOK, "p", phase, last, "ssh", False, (), tuple(facts))
        one = replace(one, inputs=before)
        graph.add_node(one.id, step=one)
        graph.add_edges_from((input, one.id) for input in before)
        before = (one.id,)
    return graph


def recorded(graph, files=None, unmade=()):
    """What records.py would remember of a graph that was built."""
    found = keys(graph)
    steps = {
        id: Recorded(found[id], step.element, tuple(manifest(step, found)), step.inputs)
        for id, step in graph.nodes(data="step")
        if id not in unmade
    }
    return Record(steps, files or {}, tuple(unmade))


def texts(before, after, old_files=None, files=None):
    last = recorded(before, old_files)
    return [one.text for one in why(after, keys(after), last, files or old_files or {})]


def changed(kind, name, before, after, **files):
    """What is said when one fact of the middle one of three steps changes; None is a fact that is not there."""
    graphs = [
        chain(
            ("root.d/1", ()),
            ("install.d/50-x", () if value is None else (Fact(kind, name, value),)),
            ("install.d/60-y", ()),
        )
        for value in (before, after)
    ]
    found = texts(*graphs, **files)
    assert len(found) == 1
    return found[0]


A, B = "0755 sha256:" + "a" * 64, "0755 sha256:" + "b" * 64


@pytest.mark.parametrize(
    ("fact", "before", "after", "said"),
    [
        ("script install.d/50-x", A, B, "script install.d/50-x of element ssh changed"),
        (
            "script install.d/50-x",
            A,
            A.replace("0755", "0700"),
            "mode of script install.d/50-x of element ssh changed: 0755 -> 0700",
        ),
        ("file lib/x", A, B, "file lib/x of element y changed"),
        ("file lib/new", None, A, "file lib/new of element y is new"),
        ("file lib/old", A, None, "file lib/old of element y is gone"),
        ("file lib/x", None, A, "install.d/50-x now reads file lib/x of element y"),
        ("file lib/x", A, None, "install.d/50-x no longer reads file lib/x of element y"),
        ("file elements/z/pkg-map", A, B, "file pkg-map of element z changed"),
        ("file elements/z (overridden)/a/b", A, B, "file a/b of element z changed"),
        ("file install.d/", "hooks a b", "hooks a c", "hooks in install.d/ changed: +c -b"),
        ("env DIB_RELEASE", "bookworm", "trixie", "variable DIB_RELEASE: 'bookworm' -> 'trixie'"),
        ("env DIB_X", None, "1", "variable DIB_X is set now: '1'"),
        ("env DIB_X", "1", None, "variable DIB_X is no longer set, was '1'"),
        ("env IMAGE_ELEMENT", "a b", "a b c", "elements: +c"),
        ("env IMAGE_ELEMENT", "a b", "b a", "elements: another order"),
        ("env IMAGE_ELEMENT_YAML", "a=0 b=1", "a=0 c=1", "elements: +c -b"),
        ("env IMAGE_ELEMENT_YAML", "a=0 b=1", "a=1 b=1", "elements taken from another directory: a"),
        ("option size", "auto", "4G", "option size of install.d/50-x: auto -> 4G"),
        ("option label", "", "root", "option label of install.d/50-x: empty -> root"),
        ("option packages", "vim", "vim nano", "packages of the spec: +nano"),
        ("tool mmdebstrap", A, B, "tool mmdebstrap changed"),
        ("tool python3", "3.11.2", "3.13.5", "tool python3 changed: 3.11.2 -> 3.13.5"),
        ("tool mmdebstrap", "absent", A, "tool mmdebstrap was installed"),
        ("tool mmdebstrap", A, "absent", "tool mmdebstrap is no longer installed"),
        ("tool git", None, A, "install.d/50-x now uses tool git"),
        ("tool git", A, None, "install.d/50-x no longer uses tool git"),
        (
            "pin apt debian",
            f"sha256:{'a' * 64}",
            f"sha256:{'b' * 64}",
            "pin apt debian moved: sha256:aaaaaaaaaaaa… -> sha256:bbbbbbbbbbbb…",
        ),
        ("pin git glean", None, "commit:1", "pin git glean is new: commit:1"),
        ("pin git glean", "commit:1", None, "pin git glean is gone, was commit:1"),
        ("protocol imgc", "1", "2", "protocol of imgc changed: 1 -> 2"),
        ("novelty x", "1", "2", "novelty x: 1 -> 2"),
    ],
)
def test_each_kind_of_change_in_words(fact, before, after, said):
    kind, _, name = fact.partition(" ")
    old = {"lib/x": "y", "lib/old": "y"}
    now = {"lib/x": "y", "lib/new": "y"}
    assert changed(kind, name, before, after, old_files=old, files=now) == said


def test_a_variable_that_other_steps_read_already_is_not_called_new():
    fact = Fact("env", "DIB_X", "1")
    few, all = chain(("a", (fact,)), ("b", ())), chain(("a", (fact,)), ("b", (fact,)))
    assert texts(few, all) == ["b now reads variable DIB_X"]
    assert texts(all, few) == ["b no longer reads variable DIB_X"]


def test_long_values_are_shown_where_they_part():
    start = "partitions: " * 20
    said = changed("env", "DIB_CONFIG", f"{start}\nsize: 1", f"{start}\nsize: 2")
    old, new = re.fullmatch(r"variable DIB_CONFIG: '(.*)' -> '(.*)'", said).groups()
    assert (old[-7:], new[-7:]) == ("size: 1", "size: 2")
    assert len(said) < 160


def test_one_change_that_many_steps_see_is_one_cause_at_the_first_of_them():
    def made(value):
        return chain(*((f"install.d/{n}", (Fact("env", "X", value),)) for n in range(5)))

    before, after = made("1"), made("2")
    (one,) = why(after, keys(after), recorded(before), {})
    assert one.step == "p/install.d/0"


def test_of_several_changes_the_first_in_the_order_of_the_build_leads():
    def made(one, two):
        return chain(
            ("a", (Fact("env", "X", one),)), ("b", (Fact("env", "Y", two), Fact("tool", "git", two)))
        )

    before, after = made("1", "1"), made("2", "2")
    causes = why(after, keys(after), recorded(before), {})
    assert [one.name for one in causes] == ["X", "Y", "git"]
    assert headline(causes) == "variable X: '1' -> '2' (and 2 more changes)"
    assert headline(causes[:2]) == "variable X: '1' -> '2' (and 1 more change)"
    assert headline(causes[:1]) == "variable X: '1' -> '2'"
    assert headline([]) == ""


def test_a_new_a_gone_and_a_moved_hook():
    a, b, c = (("install.d/1", ()), ("install.d/2", ()), ("install.d/3", ()))
    assert texts(chain(a, c), chain(a, b, c)) == ["hook install.d/2 of element ssh is new"]
    assert texts(chain(a, b, c), chain(a, c)) == ["step install.d/2 of element ssh is gone"]
    assert texts(chain(a, b, c), chain(a, c, b)) == [
        "install.d/3 runs after install.d/1 now, before after install.d/2",
        "install.d/2 runs after install.d/3 now, before after install.d/1",
    ]


def test_what_follows_from_another_change_comes_after_it():
    """A script that lost its exec bit is a file now, which an earlier hook may read: the hook that is gone leads."""
    files = {"install.d/1": "one", "install.d/2": "two"}
    file = Fact("file", "install.d/2", A)
    before = chain(("install.d/1", ()), ("install.d/2", ()), ("install.d/3", ()))
    after = chain(("install.d/1", (file,)), ("install.d/3", ()))
    assert texts(before, after, files) == [
        "step install.d/2 of element ssh is gone",
        "install.d/1 now reads file install.d/2 of element two",
    ]
    last = recorded(before, files)
    assert cause(after, keys(after), last, files, "p/install.d/3").kind == "gone"
    assert cause(after, keys(after), last, files, "p/install.d/1").kind == "file"


def test_another_kind_of_step():
    step = Step("p/x", Kind.DRIVER, "p", "", "x", "", False, (), ())
    assert texts(chain(step), chain(replace(step, kind=Kind.PACKAGES))) == [
        "x is another kind of step: driver x -> packages x"
    ]


def test_the_cause_of_a_step_is_looked_for_below_it_only():
    def made(low, high):
        return chain(("a", (Fact("env", "X", low),)), ("b", ()), ("c", (Fact("env", "Y", high),)))

    before, after = made("1", "1"), made("2", "2")
    last = recorded(before)

    def of(graph, step):
        return cause(graph, keys(graph), last, {}, step)

    assert of(after, "p/b").name == "X"
    assert of(after, "p/c").name == "X"
    assert of(made("1", "2"), "p/b") is None
    assert of(made("1", "2"), "p/c").step == "p/c"
    assert of(before, "p/c") is None


def test_steps_that_no_build_came_to_are_not_called_new():
    graph = chain(("a", ()), ("b", ()), ("c", ()))
    last = recorded(graph, unmade=("p/b", "p/c"))
    assert why(graph, keys(graph), last, {}) == []
    assert cause(graph, keys(graph), last, {}, "p/c") is None


def test_a_boot_that_was_not_asked_for_before_is_no_change():
    boot = Step("p/boot-bios", Kind.BOOT, "p", "", "boot-bios", "", False, (), ())
    assert texts(chain(("a", ())), chain(("a", ()), boot)) == []


FACTS = st.dictionaries(
    st.tuples(st.sampled_from(["script", "file", "env", "option", "tool", "pin"]), st.sampled_from("abc")),
    st.sampled_from(["1", "2", "0644 sha256:" + "c" * 64, ""]),
    max_size=4,
).map(lambda facts: tuple(Fact(*what, value) for what, value in facts.items()))
NAMES = st.permutations("pqrstu").flatmap(lambda names: st.integers(1, 6).map(lambda n: names[:n]))
GRAPHS = st.builds(
    lambda names, facts: chain(*zip(names, facts, strict=False)),
    NAMES,
    st.lists(FACTS, min_size=6, max_size=6),
)


@given(GRAPHS, GRAPHS)
def test_a_step_has_a_cause_exactly_when_its_key_differs(before, after):
    last, now = recorded(before), keys(after)
    for id in after:
        same = id in last.steps and last.steps[id].key == now[id]
        found = cause(after, now, last, {}, id)
        assert (found is None) == same
        if found:
            assert found.text
            assert found.step == id or networkx.has_path(after, found.step, id)
    assert bool(why(after, now, last, {})) == any(
        id not in last.steps or last.steps[id].key != now[id] for id in after
    )


# --- where it is --------------------------------------------------------------------------------------------------


@pytest.fixture
def two(elements, compiled):
    """Two elements whose hooks read each other's files, and what a build of them left."""
    elements.add(
        "one",
        {
            "install.d/50-x": '#!/bin/sh\n. "$(dirname "$0")/../lib/x"\n',
            "lib/x": "echo\n",
            "extra-data.d/10-map": "#!/bin/sh\nfor e in $IMAGE_ELEMENT_YAML; do cat $e/pkg-map; done\n",
            "pkg-map": "{}",
        },
    )
    plan = compiled("one", environment=(("DIB_X", "1"),))
    return elements, compiled, recorded(lower(plan), dict(owners(plan)))


def only(plan, last):
    graph = lower(plan)
    (found,) = why(graph, keys(graph), last, owners(plan))
    return found


@pytest.mark.parametrize(
    ("dest", "said"),
    [
        ("install.d/50-x", "script install.d/50-x of element one changed"),
        ("lib/x", "file lib/x of element one changed"),
        ("pkg-map", "file pkg-map of element one changed"),
    ],
)
def test_a_changed_file_is_named_with_its_element_and_path(two, dest, said):
    elements, compiled, last = two
    path = elements.path / "one" / dest
    path.write_bytes(path.read_bytes() + b"\n")
    plan = compiled("one", environment=(("DIB_X", "1"),))
    found = only(plan, last)
    assert (found.text, found.element, place(plan, found)) == (said, "one", str(path))


def test_a_hook_that_is_gone_is_shown_where_it_was(two):
    elements, compiled, last = two
    path = elements.path / "one/install.d/50-x"
    path.unlink()
    plan = compiled("one", environment=(("DIB_X", "1"),))
    found = only(plan, last)
    assert found.text == "step install.d/50-x of element one is gone"
    assert place(plan, found) == str(path)


def test_a_new_hook_is_shown_where_it_is(two):
    elements, compiled, last = two
    elements.write("one/install.d/60-y", "#!/bin/sh\n")
    plan = compiled("one", environment=(("DIB_X", "1"),))
    found = only(plan, last)
    assert found.text == "hook install.d/60-y of element one is new"
    assert place(plan, found) == str(elements.path / "one/install.d/60-y")


def test_a_hook_that_install_types_links_is_shown_where_its_bytes_are(elements, compiled):
    path = elements.add("one", {"install.d/one-source-install/40-y": "#!/bin/sh\n"})
    plan = compiled("one", "install-types")
    last = recorded(lower(plan), dict(owners(plan)))
    real = path / "install.d/one-source-install/40-y"
    for text, mode in (("#!/bin/sh\n\n", 0o755), ("#!/bin/sh\n", 0o644)):
        real.write_text(text)
        real.chmod(mode)
        plan = compiled("one", "install-types")
        graph = lower(plan)
        found = cause(graph, keys(graph), last, owners(plan), "small/finalise")
        assert found.element == "one"
        assert "40-y of element one" in found.text
        assert place(plan, found) == str(real)
