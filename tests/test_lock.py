"""The lock file: written and read back, everything that can be wrong with one, what it says about its spec."""

from __future__ import annotations

import os
import string
import threading
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from imgc import lock as locks
from imgc.errors import ImgcError, Place, Problems
from imgc.lock import EARLIEST_EPOCH, KINDS, Lock, Pin, Source

DIGEST = "0123456789abcdef" * 4
COMMIT = "89abcdef01" * 4

GIT = Source(
    "git",
    "glean",
    "https://example.org/glean",
    (("ref", "master"),),
    Place("e/source-repository-glean", 1, 1),
)
FILE = Source("file", "pip", "https://example.org/pip/3.5/get-pip.py")
WHEELS = Source("wheels", "simple-init", "", (("python", "3.11"), ("requirements", "glean>=1\nsix")))
APT = Source("apt", "debian bookworm", "http://example.org/debian", (("suite", "bookworm"),))


def pin_of(source: Source, *identity: tuple[str, str], **notes: str) -> Pin:
    return Pin(source.kind, source.name, identity, (*source.asked, *notes.items()))


LOCK = Lock(
    "debian-bookworm",
    {
        APT.id: pin_of(APT, ("sha256", DIGEST), date="2026-08-01T10:00:00Z"),
        GIT.id: pin_of(GIT, ("commit", COMMIT)),
        FILE.id: pin_of(FILE, ("sha256", DIGEST), last_modified="Wed, 21 Oct 2026 07:28:00 GMT"),
        WHEELS.id: pin_of(WHEELS, ("glean-1.25.1-py3-none-any.whl", DIGEST)),
    },
    1785578400,
    {"bash": "5.2.15-2+b7", "adduser": "3.134"},
)

TEXT = f"""\
# Written by `imgc lock`: what builds of this platform take from outside, as it was then.
version: 1
platform: debian-bookworm
epoch: 1785578400

apt:
  debian bookworm:
    sha256: {DIGEST}
    notes:
      date: "2026-08-01T10:00:00Z"

git:
  glean:
    commit: {COMMIT}
    notes:
      ref: master

file:
  pip:
    sha256: {DIGEST}
    notes:
      path: /pip/3.5/get-pip.py
      last_modified: "Wed, 21 Oct 2026 07:28:00 GMT"

wheels:
  simple-init:
    glean-1.25.1-py3-none-any.whl: {DIGEST}
    notes:
      requirements: "glean>=1, six"
      python: "3.11"

packages:
  adduser: "3.134"
  bash: 5.2.15-2+b7
"""


def problems_of(text: str | bytes) -> list[ImgcError]:
    with pytest.raises(ImgcError) as caught:
        locks.parse(text.encode() if isinstance(text, str) else text, "x.lock")
    found = caught.value
    return found.problems if isinstance(found, Problems) else [found]


# --- writing and reading --------------------------------------------------------------------------------------------


def test_a_lock_is_written_for_people_to_read(tmp_path: Path) -> None:
    locks.write(LOCK, tmp_path / "debian-bookworm.lock")
    assert (tmp_path / "debian-bookworm.lock").read_text() == TEXT


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = locks.path_of(tmp_path, "debian-bookworm")
    locks.write(LOCK, path)
    assert locks.read(path) == LOCK
    assert path == tmp_path / "debian-bookworm.lock"


#: Everything that YAML can hold; a lone surrogate is no text.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
AWKWARD = """
1|1.0|1e5|0x1F|0b1|yes|NO|null|~|| |a: b|a #b|- a|2026-01-01|12:30:45|1_0|.inf|=|<<|*a|&a|!a|a:|#|'|"|\\|%|a\x00|\ufeff
"""
awkward = st.sampled_from([*AWKWARD.strip("\n").split("|"), "|", "\n", "a\nb", "\u2028", "\x85"])
words = texts | awkward | st.text(string.hexdigits + ".:+-eE_ ", max_size=12)
identities = st.dictionaries(
    words.filter(lambda name: name not in ("notes", "commit", "sha256") and not name.startswith("heads/")),
    words,
    min_size=1,
    max_size=4,
).filter(lambda found: not any(name.endswith(".whl") for name in found))
needed = {"git": {"commit": COMMIT}, **{key: {"sha256": DIGEST} for key in ("file", "base", "bindep")}}


@st.composite
def locks_of_any_kind(draw: st.DrawFn) -> Lock:
    pins = {}
    for kind, name in draw(st.sets(st.tuples(st.sampled_from(KINDS), words), max_size=6)):
        identity = {**needed.get(kind, {}), **draw(identities)}
        notes = draw(st.dictionaries(words, words, max_size=3))
        pins[kind, name] = Pin(kind, name, tuple(identity.items()), tuple(notes.items()))
    packages = draw(st.dictionaries(words, words, max_size=4))
    return Lock(draw(words), pins, draw(st.integers(0, 10**11)), packages)


@given(locks_of_any_kind())
def test_every_lock_survives_being_written_and_read(lock: Lock) -> None:
    text = locks.text_of(lock)
    assert locks.parse(text.encode(), "x.lock") == lock


@given(locks_of_any_kind())
def test_other_readers_of_yaml_find_the_same_strings(lock: Lock) -> None:
    loaded = yaml.safe_load(locks.text_of(lock))
    assert loaded["platform"] == lock.platform
    assert loaded.get("packages", {}) == dict(lock.packages)
    for (kind, name), pin in lock.pins.items():
        found = dict(loaded[kind][name])
        assert found.pop("notes", {}) == dict(pin.notes)
        assert tuple(found.items()) == pin.identity


def test_the_order_of_pins_does_not_change_the_text() -> None:
    backwards = Lock(LOCK.platform, dict(reversed(LOCK.pins.items())), LOCK.epoch, LOCK.packages)
    assert locks.text_of(backwards) == locks.text_of(LOCK)


def test_a_lock_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(ImgcError, match="E405"):
        locks.write(LOCK, path)
    assert os.listdir(tmp_path) == ["x.lock"]


def test_a_reader_never_sees_half_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    locks.write(LOCK, path)
    stop = threading.Event()
    problems: list[BaseException] = []

    def read() -> None:
        while not stop.is_set():
            try:
                locks.read(path)
            except ImgcError as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for epoch in range(100):
        locks.write(Lock(LOCK.platform, LOCK.pins, epoch, LOCK.packages), path)
    stop.set()
    reader.join()
    assert problems == []


# --- what can be wrong with a lock ----------------------------------------------------------------------------------


def test_all_that_is_wrong_is_told_at_once_each_with_its_place() -> None:
    text = "version: 1\nplatform: p\nepoch: soon\ngti: {}\ngit:\n  glean:\n    commit: abc\nfile:\n  a: {}\n"
    found = [(str(one.place), one.code) for one in problems_of(text)]
    assert found == [
        ("x.lock:3:8", "E611"),
        ("x.lock:4:1", "E611"),
        ("x.lock:7:13", "E611"),
        ("x.lock:9:6", "E611"),
    ]
    assert all(one.hint for one in problems_of(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("just words", "has to be a map"),
        ("- a list", "has to be a map"),
        ("a: [", "Not YAML"),
        ("a: 1\n--- \nb: 2", "Not YAML"),
        ("\x00", "Not YAML"),
        ("version: 2\nfuture: yes\n", "version 2; this imgc reads version 1"),
        ("version: 1\nepoch: 1\n", "`platform` is missing"),
        ("version: 1\nplatform: p\nepoch: -1\n", "`epoch` is not"),
        ("version: 1\nplatform: p\nepoch: 1\nepoch: 2\n", "written twice"),
        ("version: 1\nplatform: [p]\nepoch: 1\n", "A list or a map where a value"),
        ("version: 1\nplatform: p\nepoch: 1\ngit: []\n", "`git` has to be a map"),
        ("version: 1\nplatform: p\nepoch: 1\ngit: {a: {ref: b}}\n", "git a has no commit"),
        ("version: 1\nplatform: p\nepoch: 1\napt: {a: {}}\n", "apt a has no identity"),
        ("version: 1\nplatform: p\nepoch: 1\napt: {a: {sha256: abc}}\n", "not a SHA-256 digest"),
        (
            "version: 1\nplatform: p\nepoch: 1\nwheels: {a: {b-1-py3-none-any.whl: abc}}\n",
            "not a SHA-256 digest",
        ),
        ("version: 1\nplatform: p\nepoch: 1\n? [a]\n: b\n", "itself a list or a map"),
        ("version: 1\nplatform: p\nepoch: 1\napt: {a: &x {b: c}, d: *x}\n", "an alias"),
        ("[" * 10000, ""),
        (f"version: 1\nx: {'a' * (5 << 20)}", "at most 4 MiB"),
    ],
)
def test_what_is_not_a_lock_is_refused_in_a_sentence(text: str, said: str) -> None:
    found = problems_of(text)
    assert {one.code for one in found} == {"E611"}
    assert any(said in one.message for one in found), [one.message for one in found]


def test_bytes_that_are_no_text_are_refused() -> None:
    assert "UTF-8" in problems_of(b"version: \xff")[0].message


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | st.just(TEXT.encode()))
def test_no_bytes_give_anything_but_a_lock_or_problems(data: bytes) -> None:
    try:
        locks.parse(data, "x.lock")
    except ImgcError as error:
        assert {one.code for one in getattr(error, "problems", [error])} == {"E611"}


@given(st.data())
def test_a_damaged_lock_gives_a_lock_or_problems(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(TEXT) - 1))
    damaged = (
        TEXT[:at]
        + data.draw(st.sampled_from(["", "\t", ":", "[", "}", '"', "\n", "  ", "\n\n- ", "*a"]))
        + TEXT[at + 1 :]
    )
    try:
        locks.parse(damaged.encode(), "x.lock")
    except ImgcError as error:
        assert {one.code for one in getattr(error, "problems", [error])} == {"E611"}


def test_a_lock_that_is_not_there_is_told_with_how_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImgcError) as caught:
        locks.read(tmp_path / "small.lock")
    assert (str(caught.value), caught.value.hint) == (
        "E613: There is no lock small.lock.",
        "`imgc lock small` writes it.",
    )


def test_a_directory_in_its_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImgcError, match=r"E611: .* cannot be read: Is a directory"):
        locks.read(tmp_path)


# --- what a lock says -----------------------------------------------------------------------------------------------


SOURCES = (APT, GIT, FILE, WHEELS)


def test_a_lock_of_these_sources_is_not_stale() -> None:
    assert locks.stale(LOCK, SOURCES) == []


def test_an_added_and_a_removed_source_make_a_lock_stale() -> None:
    added = Source("git", "nova", "https://example.org/nova", (("ref", "master"),), Place("e/x", 2, 1))
    found = locks.stale(LOCK, (APT, FILE, WHEELS, added))
    assert [one.message for one in found] == [
        "The lock of debian-bookworm has no pin for git nova.",
        "The lock of debian-bookworm pins git glean, which it no longer takes.",
    ]
    assert found[0].place == Place("e/x", 2, 1)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (Source("git", "glean", GIT.location, (("ref", "stable"),)), "ref"),
        (Source("file", "pip", "https://example.org/pip/3.7/get-pip.py"), "path"),
        (
            Source("wheels", "simple-init", "", (("python", "3.13"), ("requirements", "glean>=1\nsix"))),
            "python",
        ),
        (
            Source("wheels", "simple-init", "", (("python", "3.11"), ("requirements", "glean>=2\nsix"))),
            "requirements",
        ),
    ],
)
def test_a_source_that_asks_for_something_else_makes_a_lock_stale(changed: Source, what: str) -> None:
    others = [source for source in SOURCES if source.id != changed.id]
    (problem,) = locks.stale(LOCK, [*others, changed])
    assert problem.message.endswith(f"pins {changed.kind} {changed.name} for another {what}.")


def test_another_mirror_does_not_make_a_lock_stale() -> None:
    moved = [
        Source("apt", APT.name, "http://other.test/debian", APT.detail),
        Source("git", GIT.name, "http://other.test/glean", GIT.detail),
        Source("file", FILE.name, "http://other.test/pip/3.5/get-pip.py"),
        WHEELS,
    ]
    assert locks.stale(LOCK, moved) == []


def test_the_lock_of_another_platform_is_not_for_this_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.lock"
    locks.write(LOCK, path)
    with pytest.raises(ImgcError, match=r"E613: .* is the lock of debian-bookworm, not of mine"):
        locks.check(path, "mine", SOURCES)
    assert locks.check(path, "debian-bookworm", SOURCES) == LOCK


def test_notes_are_not_moves() -> None:
    noted = {**LOCK.pins, GIT.id: Pin("git", "glean", LOCK.pins[GIT.id].identity, (("ref", "x"),))}
    assert locks.moves(LOCK.pins, noted) == ()


def test_moves_are_what_is_new_gone_or_different_in_the_order_of_the_file() -> None:
    other = pin_of(GIT, ("commit", "1" * 40))
    new = Pin("yum", "fedora", (("sha256", DIGEST),))
    after = {
        ("yum", "fedora"): new,
        GIT.id: other,
        FILE.id: LOCK.pins[FILE.id],
        APT.id: LOCK.pins[APT.id],
    }
    found = locks.moves(LOCK.pins, after)
    assert [(one.kind, one.name) for one in found] == [
        ("yum", "fedora"),
        ("git", "glean"),
        ("wheels", "simple-init"),
    ]
    assert [(bool(one.before), bool(one.after)) for one in found] == [
        (False, True),
        (True, True),
        (True, False),
    ]


def test_the_epoch_is_the_newest_date_of_the_archives() -> None:
    assert locks.epoch_of(LOCK.pins) == 1785578400, "not that of the file, which is newer"


def test_the_epoch_without_archives_is_the_newest_date_of_all() -> None:
    pins = {id: pin for id, pin in LOCK.pins.items() if id != APT.id}
    assert locks.epoch_of(pins) == 1792567680


@pytest.mark.parametrize("date", ["", "soon", "0001-01-01T00:00:00Z", "9999-12-31", "1970-01-01"])
def test_the_epoch_is_never_the_clock_nor_an_error(date: str) -> None:
    pins = {GIT.id: pin_of(GIT, ("commit", COMMIT), **({"date": date} if date else {}))}
    expected = 253402214400 if date.startswith("9999") else EARLIEST_EPOCH
    assert locks.epoch_of(pins) == expected


def test_the_value_of_a_pin_is_one_line_of_its_identity() -> None:
    assert LOCK.pins[APT.id].value == f"sha256:{DIGEST}"
