"""Lists of projects: every form of them, and every wrong entry with its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from git_world import PLACE, source
from hypothesis import given
from hypothesis import strategies as st
from outside_world import Web, web

from imgc.caches.projects import asked_for, parse, read_projects
from imgc.errors import ImgcError, Place, Problems
from imgc.sources import download

GERRIT = """\
- project: openstack/nova
  description: 'Compute: servers'
  groups:
    - openstack
  options:
    - track-upstream
- project: openstack/akanda
  acl-config: /home/gerrit2/acls/openstack/retired.config
- project: openstack-attic/quantum
  description: RETIRED
- project: opendev/bindep
  acl-config: /home/gerrit2/acls/opendev/bindep.config
"""


def names(text: str) -> list[str]:
    entries, found = parse(text.encode(), "list")
    assert not found
    return [entry.name for entry in entries]


def wrong(text: str) -> list[tuple[str, str]]:
    """Place and message of each finding."""
    _, found = parse(text.encode(), "list")
    assert all(one.code == "E651" for one in found)
    return [(str(one.place), one.message) for one in found]


# --- forms --------------------------------------------------------------------------------------------------------


def test_the_projects_of_gerrit_without_those_that_are_over() -> None:
    assert names(GERRIT) == ["openstack/nova", "opendev/bindep"]


def test_a_list_of_names_and_urls() -> None:
    entries, found = parse(b"# ours\n- a/b\n- c/d: https://git.example.org/d\n- 'e'\n", "list")
    assert not found
    assert [(entry.name, entry.url, entry.place.line) for entry in entries] == [
        ("a/b", "", 2),
        ("c/d", "https://git.example.org/d", 3),
        ("e", "", 4),
    ]


def test_a_map_of_names_and_urls() -> None:
    entries, _ = parse(b"a/b: https://one.example.org/b\nc: ssh://git@two.example.org/c\n", "list")
    assert [entry.url for entry in entries] == ["https://one.example.org/b", "ssh://git@two.example.org/c"]


def test_plain_text() -> None:
    assert names("\n# ours\nopenstack/nova   # compute\n\n  opendev/bindep\r\n") == [
        "openstack/nova",
        "opendev/bindep",
    ]


def test_a_list_on_one_line() -> None:
    assert names("[a/b, c/d]") == ["a/b", "c/d"]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "[]", "---\n"])
def test_a_list_without_projects(text: str) -> None:
    assert names(text) == []


# --- wrong entries ------------------------------------------------------------------------------------------------


def test_every_wrong_entry_is_told_with_its_place_and_the_rest_goes_on() -> None:
    text = (
        "- a/b\n- ../etc\n- project: [x]\n- project: /abs\n- - list\n- c: not a url\n- d: {x: y}\n"
        "- -rf\n- .git/hooks\n- 'a b'\n- e:\n- ok\n"
    )
    entries, _ = parse(text.encode(), "list")
    assert [entry.name for entry in entries] == ["a/b", "ok"]
    assert [place for place, _ in wrong(text)] == [
        "list:2:3",
        "list:3:12",
        "list:4:12",
        "list:5:3",
        "list:6:3",
        "list:7:3",
        "list:8:3",
        "list:9:3",
        "list:10:3",
        "list:11:3",
    ]


def test_the_place_in_plain_text() -> None:
    assert wrong("a/b\n   c//d # e\n") == [
        ("list:2:4", "`c//d` is no name of a project: it has an empty part.")
    ]


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"a/b\nc\xff\n", "list:2:2"),
        (b"- a\n- [b\n", "list:3:1"),
        (b"- &x a\n- *x\n", "list:2:3"),
        (b"--- a\n--- b\n", "list:2:5"),
        (b"--- text\n", "list:1:5"),
        (b"[" * 40 + b"]" * 40, "list:1:33"),
    ],
)
def test_what_is_no_list_at_all(data: bytes, place: str) -> None:
    with pytest.raises(ImgcError) as caught:
        parse(data, "list")
    assert (caught.value.code, str(caught.value.place)) == ("E651", place)


@given(st.one_of(st.text(), st.binary(), st.lists(st.sampled_from(list("-:[]{}#&*!|>'\"\n a/.\t%@`")))))
def test_no_input_gives_anything_but_entries_and_problems(given_: str | bytes | list[str]) -> None:
    data = given_ if isinstance(given_, bytes) else "".join(given_).encode("utf-8", "surrogatepass")
    try:
        entries, found = parse(data, "list")
    except ImgcError as problem:
        assert problem.code == "E651"
        assert problem.place is not None
        return
    assert all(one.place is not None and one.place.line > 0 for one in found)
    for entry in entries:
        path = Path("/opt/git", entry.name)
        assert path.is_relative_to("/opt/git")
        assert ".." not in path.parts
        assert len(path.parts) > 3 or "/" not in entry.name


# --- several lists ------------------------------------------------------------------------------------------------


def read(tmp_path: Path, text: str, **settings: str) -> tuple[list[str], list[str]]:
    """Names with URLs, and findings."""
    (tmp_path / "projects.yaml").write_text(text)
    projects, found = read_projects(source(tmp_path / "projects.yaml", **settings), tmp_path / "cache")
    return [f"{one.name} {one.origin} {one.location}" for one in projects], [str(one) for one in found]


def test_names_are_appended_to_the_base_and_fetched_from_the_mirror(tmp_path: Path) -> None:
    text = "- a/b\n- c: https://user:secret@elsewhere.example.org/c\n"
    projects, found = read(
        tmp_path, text, base="https://opendev.example.org/", mirror="https://mirror.example.org"
    )
    assert not found
    assert projects == [
        "a/b https://opendev.example.org/a/b https://mirror.example.org/a/b",
        "c https://elsewhere.example.org/c https://user:secret@elsewhere.example.org/c",
    ]


def test_a_project_that_is_listed_twice_or_lies_in_another(tmp_path: Path) -> None:
    projects, found = read(tmp_path, "a/b\nc\nc\na/b/d\n", base="https://git.example.org")
    assert [project.split()[0] for project in projects] == ["a/b", "c"]
    path = tmp_path / "projects.yaml"
    assert found == [
        f"{path}:3:1: E651: c is listed twice; the first is at {path}:2:1.",
        f"{path}:4:1: E651: The tree of a/b/d would lie in that of a/b.",
    ]


def test_a_name_without_a_url_and_without_a_base(tmp_path: Path) -> None:
    projects, found = read(tmp_path, "- a\n- b: https://git.example.org/b\n")
    assert len(projects) == 1
    assert "a has no URL" in found[0]


def test_strict_raises_all_of_it(tmp_path: Path) -> None:
    with pytest.raises(Problems) as caught:
        read(tmp_path, "a\n..\n-x\n", base="https://git.example.org", strict="yes")
    assert [one.place.line for one in caught.value.problems if one.place] == [2, 3]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImgcError) as caught:
        read_projects(source(tmp_path / "none", "https://git.example.org"), tmp_path)
    assert (caught.value.code, caught.value.place) == ("E651", PLACE)


def test_what_a_pin_says_of_its_lists(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("a\n")
    before = asked_for([str(path), "https://git.example.org/projects.yaml"])
    assert before.endswith(" https://git.example.org/projects.yaml")
    path.write_text("b\n")
    assert asked_for([str(path), "https://git.example.org/projects.yaml"]) != before


# --- lists by URL -------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(download, "_PAUSE", 0.01)
    with web() as world:
        yield world


def by_url(server: Web, cache: Path, **settings: str) -> tuple[list[str], list[ImgcError]]:
    asked = source(f"{server.url}/projects.yaml", "https://git.example.org", **settings)
    projects, found = read_projects(asked, cache)
    return [project.name for project in projects], list(found)


def test_a_list_by_url_is_kept_for_the_day_when_it_cannot_be_fetched(server: Web, tmp_path: Path) -> None:
    server.files["/projects.yaml"] = b"- a\n- ..\n"
    projects, found = by_url(server, tmp_path)
    assert projects == ["a"]
    assert found[0].place == Place(f"{server.url}/projects.yaml", 2, 3)
    del server.files["/projects.yaml"]
    projects, found = by_url(server, tmp_path)
    assert projects == ["a"]
    assert [one.code for one in found] == ["E651", "E651"]
    assert "404" in found[0].message
    with pytest.raises(Problems):
        by_url(server, tmp_path, strict="yes")


@pytest.mark.parametrize("page", [b"<html><body>log in</body></html>", b"- [", b"\xff\xfe"])
def test_a_page_that_is_no_list_does_not_take_the_place_of_one(
    server: Web, tmp_path: Path, page: bytes
) -> None:
    server.files["/projects.yaml"] = b"- a\n"
    by_url(server, tmp_path)
    server.files["/projects.yaml"] = page
    projects, found = by_url(server, tmp_path)
    assert (projects, [one.code for one in found]) == (["a"], ["E651"])
    projects, found = by_url(server, tmp_path)
    assert (projects, [one.code for one in found]) == (["a"], ["E651"])


def test_a_list_by_url_that_was_never_there(server: Web, tmp_path: Path) -> None:
    with pytest.raises(ImgcError) as caught:
        by_url(server, tmp_path)
    assert (caught.value.code, caught.value.place) == ("E651", PLACE)


def test_offline_takes_the_copy_or_says_that_there_is_none(server: Web, tmp_path: Path) -> None:
    asked = source(f"{server.url}/projects.yaml", "https://git.example.org")
    with pytest.raises(ImgcError) as caught:
        read_projects(asked, tmp_path, offline=True)
    assert caught.value.code == "E604"
    server.files["/projects.yaml"] = b"- a\n"
    read_projects(asked, tmp_path)
    seen = len(server.requests)
    assert read_projects(asked, tmp_path, offline=True)[0][0].name == "a"
    assert len(server.requests) == seen
