"""The host's mirror, from apt sources as they are found in the wild; apt itself is the judge of the parsing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgc.sources.apt import Mirror, host_mirror, read_sources

DEB822 = """\
# A comment before the stanza
Types: deb deb-src
# http://old.example/debian
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
 non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
Enabled: no
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
"""

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib # and this
deb [ arch=amd64 trusted=yes ] http://mirror.example/debian bookworm-updates main
deb\t[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]  http://security.example/d bookworm-security main
deb http://flat.example/packages ./
"""

OTHER_MAKER = "deb [signed-by=/usr/share/keyrings/maker.gpg] https://maker.example/apt bookworm main\n"


def host(root: Path, files: dict[str, str], distro: str = "debian", codename: str = "bookworm") -> Path:
    """A host's root directory with an os-release and ``files``."""
    release = f'ID={distro}\nVERSION_CODENAME="{codename}"\n'
    for name, text in {"etc/os-release": release, "etc/apt/sources.list.d/.keep": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def apt_says(root: Path) -> set[tuple[str, str, str]]:
    """Every (URI, suite, component) of binary packages that apt itself reads from the host at ``root``."""
    for name in ("var/lib/apt/lists/partial", "var/cache/apt", "var/lib/dpkg", "etc/apt/preferences.d"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "var/lib/dpkg/status").touch()
    done = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--no-release-info",  # also before the first update
            f"-oDir={root}",
            f"-oDir::State::status={root}/var/lib/dpkg/status",
            "--format=$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Identifier: Packages",
        ],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = (line.split() for line in done.stdout.splitlines())
    return {(uri.rstrip("/"), suite, component) for uri, suite, component in words}


def we_say(root: Path) -> set[tuple[str, str, str]]:
    return {(source.uri, source.suite, name) for source in read_sources(root) for name in source.components}


@pytest.mark.parametrize(
    "files",
    [
        {"etc/apt/sources.list.d/debian.sources": DEB822},
        {"etc/apt/sources.list": ONE_LINE.replace("deb http://flat.example/packages ./\n", "")},
        {
            "etc/apt/sources.list": "deb http://mirror.example/debian bookworm main\n",
            "etc/apt/sources.list.d/b.list": OTHER_MAKER,
            "etc/apt/sources.list.d/a.sources": DEB822,
            "etc/apt/sources.list.d/ignored.list.bak": "deb http://ignored.example/debian bookworm main\n",
            "etc/apt/sources.list.d/odd name.list": "deb http://odd.example/debian bookworm main\n",
        },
        {},
    ],
    ids=["deb822", "one-line", "mixed", "none"],
)
def test_reads_what_apt_reads(tmp_path: Path, files: dict[str, str]) -> None:
    root = host(tmp_path, files)
    assert we_say(root) == apt_says(root)
    assert bool(files) == bool(we_say(root))


words = st.from_regex(r"[a-z][a-z0-9]{0,6}", fullmatch=True)
lines = st.builds(
    "{}deb{}{} http://{}.example/{}{} {} {}{}".format,
    st.sampled_from(["", "", "# ", "  "]),
    st.sampled_from([" ", "\t", "  "]),
    st.sampled_from(["", "[arch=amd64]", "[ trusted=yes ]", "[arch=amd64 lang=none]"]),
    words,
    words,
    st.sampled_from(["", "/"]),
    words,
    words,
    st.sampled_from(["", " extra", "  # a remark", "\t"]),
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(lines, max_size=6, unique=True))
def test_reads_any_one_line_file_as_apt_does(tmp_path: Path, written: list[str]) -> None:
    root = host(tmp_path, {"etc/apt/sources.list": "".join(f"{line}\n" for line in written)})
    assert we_say(root) == apt_says(root)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(), st.text("deb [=]:/\n \t#Types URIsuComponents.")), st.binary())
def test_no_file_makes_it_fail(tmp_path: Path, text: str, junk: bytes) -> None:
    root = host(tmp_path, {})
    (root / "etc/apt/sources.list").write_text(text)
    (root / "etc/apt/sources.list.d/x.sources").write_text(text)
    (root / "etc/apt/sources.list.d/y.list").write_bytes(junk)
    (root / "etc/apt/sources.list.d/z.sources").write_bytes(junk)
    host_mirror("debian", "bookworm", root)


def test_mirror_from_deb822(tmp_path: Path) -> None:
    root = host(tmp_path, {"etc/apt/sources.list.d/debian.sources": DEB822})
    assert host_mirror("debian", "bookworm", root) == Mirror(
        "http://mirror.example/debian", "http://mirror.example/debian-security", ("main", "non-free-firmware")
    )


def test_mirror_from_one_line(tmp_path: Path) -> None:
    root = host(tmp_path, {"etc/apt/sources.list": ONE_LINE})
    assert host_mirror("debian", "bookworm", root) == Mirror(
        "http://mirror.example/debian", "http://security.example/d", ("main", "contrib")
    )


def test_another_release_of_the_same_distribution(tmp_path: Path) -> None:
    root = host(tmp_path, {"etc/apt/sources.list": ONE_LINE})
    assert host_mirror("debian", "trixie", root) == host_mirror("debian", "bookworm", root)


def test_another_distribution_has_no_mirror_here(tmp_path: Path) -> None:
    root = host(tmp_path, {"etc/apt/sources.list": ONE_LINE})
    assert host_mirror("ubuntu", "jammy", root) is None


def test_another_maker_of_the_same_release_is_not_the_archive(tmp_path: Path) -> None:
    only = host(tmp_path / "only", {"etc/apt/sources.list": OTHER_MAKER})
    assert host_mirror("debian", "bookworm", only) is None
    first = host(tmp_path / "first", {"etc/apt/sources.list": OTHER_MAKER + ONE_LINE})
    mirror = host_mirror("debian", "bookworm", first)
    assert mirror is not None and mirror.url == "http://mirror.example/debian"


def recorded(root: Path, name: str, origin: str, suite: str, codename: str) -> None:
    """Record a Release file as `apt-get update` does."""
    path = root / "var/lib/apt/lists" / f"{name}_InRelease"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nOrigin: {origin}\nSuite: {suite}\nCodename: {codename}\n"
    )


def test_what_apt_recorded_decides(tmp_path: Path) -> None:
    text = "deb http://maker.example/a_b bookworm main\ndeb http://mirror.example/debian stable main\n"
    root = host(tmp_path, {"etc/apt/sources.list": text})
    recorded(root, "maker.example_a%5fb_dists_bookworm", "Some Maker", "stable", "bookworm")
    recorded(root, "mirror.example_debian_dists_stable", "Debian", "stable", "bookworm")
    mirror = host_mirror("debian", "bookworm", root)
    assert mirror == Mirror("http://mirror.example/debian", None, ("main",))


def test_suites_beside_the_release_with_its_codename(tmp_path: Path) -> None:
    """Ubuntu records the same codename for a release and for the suites beside it."""
    text = (
        "deb http://security.example/ubuntu jammy-security main universe\n"
        "deb http://mirror.example/ubuntu jammy-updates main universe\n"
        "deb http://mirror.example/ubuntu jammy main universe\n"
    )
    root = host(tmp_path, {"etc/apt/sources.list": text}, "ubuntu", "jammy")
    recorded(root, "security.example_ubuntu_dists_jammy-security", "Ubuntu", "jammy-security", "jammy")
    recorded(root, "mirror.example_ubuntu_dists_jammy-updates", "Ubuntu", "jammy-updates", "jammy")
    recorded(root, "mirror.example_ubuntu_dists_jammy", "Ubuntu", "jammy", "jammy")
    assert host_mirror("ubuntu", "jammy", root) == Mirror(
        "http://mirror.example/ubuntu", "http://security.example/ubuntu", ("main", "universe")
    )


def test_a_list_of_mirrors_gives_its_first(tmp_path: Path) -> None:
    """Debian's cloud images name their mirrors in a file of their own."""
    files = {
        "etc/apt/sources.list.d/debian.sources": DEB822.replace(
            "http://mirror.example/debian/", "mirror+file:///etc/apt/mirrors/debian.list"
        ),
        "etc/apt/mirrors/debian.list": "# ours\nhttps://mirror.example/first\nhttp://mirror.example/second\n",
    }
    mirror = host_mirror("debian", "bookworm", host(tmp_path, files))
    assert mirror is not None and mirror.url == "https://mirror.example/first"


@pytest.mark.parametrize(
    "uri", ["file:/srv/debian", "cdrom:[Debian]/", "http://mirror.example/$(ARCH)/debian"]
)
def test_a_source_that_no_chroot_can_use(tmp_path: Path, uri: str) -> None:
    root = host(tmp_path, {"etc/apt/sources.list": f"deb {uri} bookworm main\n"})
    assert host_mirror("debian", "bookworm", root) is None


def test_an_unreadable_host_names_none(tmp_path: Path) -> None:
    assert host_mirror("debian", "bookworm", tmp_path) is None
