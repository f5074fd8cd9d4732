"""Lists in bindep's syntax, read line by line, and platforms that are not this host."""

from __future__ import annotations

import pytest
from bindep.depends import Depends
from hypothesis import given, settings
from hypothesis import strategies as st

from imgc.caches.bindep_lists import MOST_BYTES, findings, packages_of, read_list
from imgc.caches.bindep_platform import Target, platform_profiles

TARGETS = [
    Target("debian", "bookworm"),
    Target("debian", "sid"),
    Target("ubuntu", "trusty"),
    Target("ubuntu", "noble"),
    Target("centos", "7"),
    Target("centos", "9-stream"),
    Target("rocky", "9"),
    Target("fedora", "41"),
]

LIST = """\
# a comment
always
deb [platform:dpkg]
rpm [platform:rpm]  # with a comment
not-rpm [!platform:rpm]
trusty [platform:ubuntu-trusty platform:centos-7]
debian12 [platform:debian-12]
py2 [platform:base-py2]
el9 [(platform:centos-9 test) (platform:rocky-9 test)]
redhat [platform:redhat !platform:fedora]
test [test]
both [platform:dpkg test]
group [(platform:dpkg test !doc)]
never [!test !doc test]
doc [doc]
version >=1.0,<2:3.4-5
versioned [platform:rpm] ==1.2
/usr/bin/file [platform:rpm]
g++ [platform:dpkg test] !=1~rc1
"""


@pytest.mark.parametrize("target", TARGETS, ids=lambda one: f"{one.distro}-{one.release}")
def test_packages_are_those_that_bindep_itself_finds(target: Target) -> None:
    """The whole file, parsed and evaluated by the library, for every choice of profiles."""
    lines, whole = read_list(LIST.encode()), Depends(LIST)
    assert not lines.bad
    for chosen in ((), ("test",), ("doc",), ("test", "doc")):
        profiles = platform_profiles(target) | set(chosen)
        expected = {rule[0] for rule in whole.active_rules(sorted(profiles))}
        assert set(packages_of(lines.rules, profiles)) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target("debian", "bookworm"), "base-py3 debian debian-12 debian-bookworm dpkg"),
        (
            Target("ubuntu", "trusty"),
            "base-py2 dpkg ubuntu ubuntu-14 ubuntu-14.04 ubuntu-trusty ubuntu-trusty-tahr",
        ),
        (Target("ubuntu", "noble"), "base-py3 dpkg ubuntu ubuntu-24 ubuntu-24.04 ubuntu-noble"),
        (Target("ubuntu", "unheard-of"), "base-py3 dpkg ubuntu ubuntu-unheard-of"),
        (Target("centos", "7"), "base-py2 centos centos-7 centos-core redhat rpm"),
        (Target("centos", "9-stream"), "base-py3 centos centos-9 redhat rpm"),
        (Target("rocky", "9"), "base-py3 redhat rocky rocky-9 rocky-blue rocky-blue-onyx rpm"),
        (Target("fedora", "41"), "base-py3 fedora fedora-41 redhat rpm"),
    ],
    ids=lambda one: one.release if isinstance(one, Target) else "",
)
def test_profiles_are_those_of_the_target(target: Target, expected: str) -> None:
    assert sorted(platform_profiles(target)) == [f"platform:{one}" for one in expected.split()]


def test_the_host_is_asked_again_afterwards() -> None:
    before = Depends("").platform_profiles()
    platform_profiles(Target("fedora", "40"))
    assert Depends("").platform_profiles() == before


@pytest.mark.parametrize(
    ("line", "column"),
    [
        (b"foo [test", 10),
        (b"foo\t[test]", 4),
        (b"foo bar", 5),
        (b"-foo", 1),
        (b"caf\xe9", 4),
        (b"foo >=1.0-", 11),
        (b"x" * 1001, 1001),
    ],
)
def test_a_bad_line_has_its_place_and_costs_no_other(line: bytes, column: int) -> None:
    lines = read_list(b"one\n" + line + b"\ntwo [test]\n")
    assert lines.rules == ("one", "two [test]")
    (bad,) = lines.bad
    assert (bad.line, bad.column) == (2, column)
    (finding,) = findings(lines, "org/p@master:bindep.txt")
    assert finding.code == "E656"
    assert str(finding).startswith(f"org/p@master:bindep.txt:2:{column}: ")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_end_as_in_any_text_file(end: bytes) -> None:
    assert read_list(end.join([b"one", b"", b"# two", b"three"])).rules == ("one", "three")


def test_a_file_that_is_no_list_is_one_finding() -> None:
    lines = read_list(b"x" * (MOST_BYTES + 1))
    assert not lines.rules
    (finding,) = findings(lines, "org/p@master:bindep.txt")
    assert finding.place
    assert finding.place.line == 0


def test_of_many_bad_lines_the_first_ones_are_told_each() -> None:
    told = list(findings(read_list(b"[bad\n" * 50), "bindep.txt"))
    assert len(told) == 6
    assert "45 further lines" in told[-1].message


@settings(max_examples=50, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.text("ab-+ []():!<=>.,#\n\t0é", max_size=60).map(str.encode)))
def test_any_bytes_are_read(content: bytes) -> None:
    lines = read_list(content)
    packages_of(lines.rules, platform_profiles(TARGETS[0]))
    list(findings(lines, "bindep.txt"))
