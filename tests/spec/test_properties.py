"""What holds for any input: nothing but problems comes out, and merging is what it says."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgc import spec
from imgc.errors import CODES, Collector, ImgcError, Place, Problems
from imgc.spec.merge import merge
from imgc.spec.nodes import Entry, Mapping, Node, Scalar, Sequence
from imgc.spec.reader import parse
from imgc.spec.settings import SPEC

START = "schema: 1\nname: one\nbase: {distro: debian, release: sid}\n"


def load(data: bytes) -> spec.Platform | list[ImgcError]:
    """The platform of a file with these bytes, or what is wrong with it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "one.yaml")
        path.write_bytes(data)
        try:
            return spec.load(str(path), specs_dir=Path(directory), host_environment={"IMGC_X": "x"})
        except Problems as several:
            found = several.problems
        except ImgcError as one:
            found = [one]
    lines = data.decode("utf-8", "replace").splitlines()
    for problem in found:
        assert problem.code in CODES
        assert problem.code != "E901"
        assert problem.message.isprintable()
        assert problem.place is not None
        assert problem.place.line <= len(lines) + 1
    return found


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    load(data)


@given(st.text(max_size=400))
def test_any_text(text: str) -> None:
    load(text.encode("utf-8", "surrogatepass"))


#: Pieces of YAML, to be put together in any order.
PIECES = st.sampled_from(
    [
        *(f"{setting.key}: " for setting in SPEC.settings),
        "- ", "\n", "\n  ", "\n    ", "[", "]", "{", "}", ", ", ": ",
        "?", "&a ", "*a", "!replace ", "!!set ", "!<x> ", "|", ">-", "'", '"', "\\", "\\U00110000", "#", "---\n",
        "...\n", "%YAML 1.", "99999", "%TAG ! x\n", "<<", "=", "~", "null", "yes", "0x1F", "1e99", ".nan", "1:60",
        "2024-01-01", "{{ name }}", "{{ ", " }}", "{% if ", " %}", "env.IMGC_X", "\t", "\r", "\u2028", "\x00", "x", "é",
        "4 GiB", "format: qcow2", "label: ", "boot: both",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=40), st.booleans())
@settings(max_examples=400)
def test_anything_like_yaml(pieces: list[str], started: bool) -> None:
    load(((START if started else "") + "".join(pieces)).encode())


KEYS = st.sampled_from(
    [s.key for s in SPEC.settings] + ["distro", "release", "size", "label", "boot", "format", "extra", "X"]
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.sampled_from(
        ["auto", "4 GiB", "{{ name }}", "{{ disk.label }}", "{{ base }}", "qcow2", "ext4", "gpt", "both", "one", "1.1"]
    )
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_structure(document: dict[str, object]) -> None:
    whole = {"schema": 1, "name": "one", "base": {"distro": "debian", "release": "sid"}, **document}
    load(yaml.safe_dump(whole, allow_unicode=True).encode("utf-8", "replace"))


@given(st.text("{}%abnme.()[]|'\"~+-=!<> 01,_", max_size=60))
def test_any_template(text: str) -> None:
    quoted = text.replace("'", "''")
    load(f"{START}description: '{{{{ {quoted}'\nenvironment: {{A: '{quoted} }}}}'}}\n".encode())


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_values_arrive_as_they_are(text: str) -> None:
    """A string, however YAML writes it, reaches the elements unchanged."""
    if "\0" in text or "{{" in text or "{%" in text:
        return
    dumped = yaml.safe_dump({"environment": {"A": text}}, allow_unicode=False)
    platform = load((START + dumped).encode())
    assert isinstance(platform, spec.Platform)
    assert dict(platform.environment) == {"A": text}


def trees(depth: int = 3) -> st.SearchStrategy[Node]:
    """Trees whose every node has a place of its own, as far as chance goes."""
    places = st.builds(Place, st.sampled_from(["a", "b"]), st.integers(1, 10**6), st.integers(1, 10**6))
    scalars = st.builds(Scalar, st.sampled_from("xyz"), st.just("str"), places)
    if not depth:
        return scalars
    inner = trees(depth - 1)
    sequences = st.builds(Sequence, st.lists(inner, max_size=3).map(tuple), places, st.booleans())
    entries = st.lists(
        st.builds(Entry, st.sampled_from("klm"), places, inner), max_size=3, unique_by=lambda e: e.key
    )
    mappings = st.builds(Mapping, entries.map(tuple), places, st.booleans())
    return scalars | sequences | mappings


def scalars_of(node: Node) -> set[tuple[str, Place]]:
    if isinstance(node, Scalar):
        return {(node.text, node.place)}
    inner = node.items if isinstance(node, Sequence) else [entry.value for entry in node.entries]
    return set().union(*(scalars_of(each) for each in inner))


@given(trees(), trees(), trees())
def test_merging_is_associative(a: Node, b: Node, c: Node) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(trees(), trees())
def test_merging_invents_nothing(a: Node, b: Node) -> None:
    merged = scalars_of(merge(a, b))
    assert merged <= scalars_of(a) | scalars_of(b)
    assert scalars_of(b) <= merged


@given(trees())
def test_an_empty_map_changes_nothing(a: Node) -> None:
    empty = Mapping((), Place("empty"))
    if isinstance(a, Mapping):
        assert scalars_of(merge(a, empty)) == scalars_of(merge(empty, a)) == scalars_of(a)


@given(st.text(st.sampled_from("a b\n\r\t\u2028\x85é\U0001f600:-[]"), max_size=60))
def test_places_point_at_the_text(text: str) -> None:
    """Whatever stands before it, a plain word is found where it is."""
    document = yaml.safe_dump({"before": text, "after": "needle"}, allow_unicode=True, sort_keys=False)
    problems = Collector()
    tree = parse(document.encode(), "x", problems)
    assert isinstance(tree, Mapping)
    found = tree.get("after")
    assert isinstance(found, Scalar)
    before = document[: document.index("needle")]
    assert found.place.column == len("after: ") + 1
    assert found.place.line == len(
        before.replace("\r\n", "\n")
        .translate(dict.fromkeys(map(ord, "\r\x85\u2028\u2029"), "\n"))
        .split("\n")
    )
