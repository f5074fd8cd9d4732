"""Reading and pinning apt archives; dpkg is the judge of versions."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from apt_world import Archive, Signer, signer, source
from fault_server import FaultServer, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from imgc.errors import ImgcError
from imgc.sources.apt_archive import suite_directory
from imgc.sources.apt_index import parse_packages, parse_release
from imgc.sources.apt_pins import locked_versions, pin_apt
from imgc.sources.apt_versions import compare

DIGEST = "0123456789abcdef" * 4

RELEASE = f"""\
Origin: Test
Date: Sat, 16 May 2026 09:45:00 UTC
Acquire-By-Hash: yes
MD5Sum:
 00000000000000000000000000000000 10 main/binary-amd64/Packages
SHA256:
 {DIGEST} 10 main/binary-amd64/Packages
 {DIGEST.upper()} 5 ./main/binary-amd64/Packages.xz
"""

VERSION = st.from_regex(r"([0-9]:)?[0-9][0-9a-zA-Z.+~]{0,8}(-[0-9a-zA-Z.+~]{1,5})?", fullmatch=True)


@pytest.fixture(scope="module")
def key() -> Iterator[Signer]:
    with signer() as made:
        yield made


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FaultServer]:
    (tmp_path / "web").mkdir()
    with serving(tmp_path / "web") as server:
        yield server


def test_a_release_file_names_its_indexes_and_its_date():
    release = parse_release(RELEASE.encode())
    assert release.files["main/binary-amd64/Packages"] == (DIGEST, 10)
    assert release.files["main/binary-amd64/Packages.xz"] == (DIGEST, 5)
    assert release.by_hash["MD5Sum", "0" * 32] == "main/binary-amd64/Packages"
    assert release.has_by_hash
    assert release.iso_date == "2026-05-16T09:45:00Z"


def test_a_signed_release_file_says_the_same_as_the_plain_one():
    signed = (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n"
        f"{RELEASE}- -dashed: x\n-----BEGIN PGP SIGNATURE-----\n\nabc: d\n-----END PGP SIGNATURE-----\n"
    )
    release = parse_release(signed.encode())
    assert release.files == parse_release(RELEASE.encode()).files
    assert release.fields["-dashed"] == "x"
    assert "abc" not in release.fields


@pytest.mark.parametrize(
    "text",
    ["", "<html>not found</html>", "-----BEGIN PGP SIGNED MESSAGE-----\n\nSHA256:\n", "MD5Sum:\n 00 1 x\n"],
)
def test_what_is_no_release_file_is_refused(text):
    with pytest.raises(ValueError, match="it"):
        parse_release(text.encode())


@given(st.binary(max_size=400))
def test_any_bytes_are_a_release_file_or_a_value_error(data):
    try:
        assert parse_release(data).files
    except ValueError as error:
        assert str(error)


FIELD = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r", exclude_categories=["Zs", "Zl", "Zp", "Cc"])
)


@given(st.lists(st.tuples(FIELD.filter(bool), st.integers(0, 10**12)), max_size=20))
def test_packages_are_read_as_they_were_written(packages):
    text = "\n\n".join(
        f"Package: {name}\nVersion: 1\nDescription: Filename: no\n Filename: neither\nSize: {size}\n"
        f"Filename: pool/{number}/x\nSHA256: {DIGEST}"
        for number, (name, size) in enumerate(packages)
    )
    read = [(package.name, package.size, package.path) for package in parse_packages(text.encode())]
    assert read == [(name, size, f"pool/{number}/x") for number, (name, size) in enumerate(packages)]


def test_a_package_without_a_sha256_is_not_offered():
    assert list(parse_packages(b"Package: x\nFilename: pool/x\nMD5sum: 00\n")) == []


@settings(max_examples=60)
@given(VERSION, VERSION)
def test_versions_are_ordered_as_dpkg_orders_them(one, other):
    def dpkg(sign: str) -> bool:
        return subprocess.run(["dpkg", "--compare-versions", one, sign, other]).returncode == 0

    order = compare(one, other)
    assert (order < 0, order == 0, order > 0) == (dpkg("lt"), dpkg("eq"), dpkg("gt"))


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.0~rc1", "1.0"),
        ("1.0", "1.0-1"),
        ("9", "10"),
        ("2.0", "1:1.0"),
        ("1.0a", "1.0+"),
        ("1.0-1", "1.0-1+b1"),
    ],
)
def test_versions_that_people_get_wrong(older, newer):
    assert compare(older, newer) < 0 < compare(newer, older)
    assert compare(older, older) == 0


def test_suites_have_directories_and_flat_archives_are_their_own():
    assert suite_directory("bookworm") == "dists/bookworm/"
    assert suite_directory("bookworm/updates") == "dists/bookworm/updates/"
    assert suite_directory("./") == suite_directory("/") == ""
    assert suite_directory("stable/") == "stable/"


def test_a_pin_has_the_digest_the_date_and_the_point_release(web, key, tmp_path):
    archive = Archive(web.root, key)
    digest = archive.publish("bookworm", archive.package("hello", "1"))
    pin = pin_apt(source(web.url, "bookworm"), tmp_path / "cache")
    assert (pin.kind, pin.name) == ("apt", "debian bookworm")
    assert pin.value == f"sha256:{digest}"
    assert dict(pin.notes) == {"date": "2026-05-16T09:45:00Z", "version": "12.1"}


def test_what_is_no_archive_cannot_be_pinned(web, tmp_path):
    (web.root / "dists/bookworm").mkdir(parents=True)
    (web.root / "dists/bookworm/InRelease").write_text("<html>welcome</html>")
    with pytest.raises(ImgcError) as caught:
        pin_apt(source(web.url, "bookworm"), tmp_path / "cache")
    assert caught.value.code == "E605"
    with pytest.raises(ImgcError) as caught:
        pin_apt(source(web.url, "trixie"), tmp_path / "cache")
    assert caught.value.code == "E601"
    assert not (tmp_path / "cache").exists()


def test_the_newest_versions_of_a_pinned_suite_are_known_also_after_it_moved(web, key, tmp_path):
    archive = Archive(web.root, key)
    old, new = archive.package("hello", "1.9"), archive.package("hello", "1.10")
    archive.publish("bookworm", new, old, archive.package("other", "3"))
    suite = source(web.url, "bookworm")
    pin = pin_apt(suite, tmp_path / "cache")
    assert locked_versions(suite, pin, tmp_path / "cache") == {"hello": "1.10", "other": "3"}
    archive.publish("bookworm", archive.package("hello", "2"))
    assert locked_versions(suite, pin, tmp_path / "cache", offline=True) == {"hello": "1.10", "other": "3"}
    assert locked_versions(suite, pin_apt(suite, tmp_path / "cache"), tmp_path / "cache") == {"hello": "2"}
