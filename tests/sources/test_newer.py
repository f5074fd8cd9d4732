"""Which installed packages have newer versions, by a small real archive."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from outside_world import Web, web

from imgc.lock import Source
from imgc.sources.apt_pins import pin_apt
from imgc.sources.newer import Newer, newer_packages


@pytest.fixture
def server() -> Iterator[Web]:
    with web() as world:
        yield world


def suite(server: Web, name: str, **versions: str) -> Source:
    """Publish a suite that offers these packages; underscores stand for dashes."""
    stanzas = [
        f"Package: {package.replace('_', '-')}\nVersion: {version}\nArchitecture: amd64\n"
        f"Filename: pool/{package}_{version}.deb\nSize: 1\nSHA256: {'0' * 64}\n"
        for package, version in versions.items()
    ]
    packages = "\n".join(stanzas).encode()
    line = f" {hashlib.sha256(packages).hexdigest()} {len(packages)} main/binary-amd64/Packages"
    date = "Thu, 01 Oct 2026 10:00:00 UTC"
    release = f"Suite: {name}\nCodename: {name}\nArchitectures: amd64\nComponents: main\nDate: {date}\n"
    server.files[f"/debian/dists/{name}/Release"] = f"{release}SHA256:\n{line}\n".encode()
    server.files[f"/debian/dists/{name}/main/binary-amd64/Packages"] = packages
    detail = (("architecture", "amd64"), ("components", "main"), ("suite", name))
    return Source("apt", f"debian {name}", f"{server.url}/debian", detail)


def test_newer_versions_of_what_is_installed_are_named(server: Web, tmp_path: Path) -> None:
    main = suite(server, "stable", bash="5.2-1", coreutils="9.1-1", not_installed="1")
    security = suite(server, "stable-security", bash="5.2-1+deb12u1", dash="0.5-1")
    pins = {source.id: pin_apt(source, tmp_path) for source in (main, security)}
    installed = {"bash": "5.2-1", "coreutils": "9.1-1", "dash": "0.5-1", "local": "1"}
    assert newer_packages(installed, [main, security], pins, tmp_path) == (
        Newer("bash", "5.2-1", "5.2-1+deb12u1"),
    )


def test_what_an_archive_has_older_is_not_newer(server: Web, tmp_path: Path) -> None:
    source = suite(server, "stable", bash="5.2-1", ten="1.9")
    pins = {source.id: pin_apt(source, tmp_path)}
    assert newer_packages({"bash": "5.3-1", "ten": "1.10"}, [source], pins, tmp_path) == ()


def test_sources_that_are_no_archives_have_no_packages(tmp_path: Path) -> None:
    source = Source("git", "bash", "https://example.org/bash", (("ref", "master"),))
    assert newer_packages({"bash": "5"}, [source], {}, tmp_path) == ()
