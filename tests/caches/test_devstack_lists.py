"""devstack's own lists of packages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imgc.caches.bindep_lists import MOST_BYTES
from imgc.caches.bindep_platform import Target
from imgc.caches.devstack_lists import directory_of, read_devstack_list

LIST = b"""\
# a comment of its own
bridge-utils
curl # NOPRIME
lsof          # testonly
only-trusty   # dist:trusty
on-two        # a reason, dist:trusty,bookworm
in-capitals   # dist:Bookworm
not-here      # not:bookworm
not-there     # not:trusty,f41
both          # dist:bookworm,trusty not:trusty
"""
DEBIAN, TRUSTY = Target("debian", "bookworm"), Target("ubuntu", "trusty")


def test_markers_limit_lines_to_distributions() -> None:
    always = {"bridge-utils", "curl", "lsof"}
    assert set(read_devstack_list(LIST, DEBIAN).rules) == {
        *always,
        "on-two",
        "in-capitals",
        "not-there",
        "both",
    }
    assert set(read_devstack_list(LIST, TRUSTY).rules) == {*always, "only-trusty", "on-two", "not-here"}


def test_distributions_have_the_names_that_devstack_gives_them() -> None:
    targets = {
        Target("fedora", "41"): "f41",
        Target("centos", "7"): "rhel7",
        Target("centos", "9-stream"): "rhel9",
        Target("rocky", "9"): "rhel9",
        DEBIAN: "bookworm",
    }
    for target, name in targets.items():
        assert read_devstack_list(f"x # dist:{name}\n".encode(), target).rules == ("x",)
    assert directory_of(DEBIAN) == "files/debs"
    assert directory_of(Target("centos", "7")) == "files/rpms"


def test_several_packages_may_be_on_a_line() -> None:
    assert read_devstack_list(b"one two\r\n", DEBIAN).rules == ("one", "two")


def test_what_is_no_name_has_its_place_and_costs_no_other() -> None:
    lines = read_devstack_list(b"good\n  $(bad) fine\ncaf\xe9\n", DEBIAN)
    assert lines.rules == ("fine", "good")
    assert [(bad.line, bad.column) for bad in lines.bad] == [(2, 3), (3, 4)]


def test_a_file_that_is_no_list_is_one_finding() -> None:
    assert [bad.line for bad in read_devstack_list(b"x " * MOST_BYTES, DEBIAN).bad] == [0]


@given(st.binary(max_size=200))
def test_any_bytes_are_read(content: bytes) -> None:
    read_devstack_list(content, DEBIAN)
