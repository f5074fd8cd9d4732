"""Which package archives the build of a plan reads, as its elements will name them.

This follows what diskimage-builder's elements do: debian-minimal writes the lines of DIB_APT_SOURCES_CONF,
ubuntu-minimal makes lines of its mirror, release and DIB_UBUNTU_MIRROR_DISTS, debootstrap starts from the mirror,
yum-minimal takes the repository files in yum.repos.d, or those of yum-mirror.d below the mirror.
"""

from __future__ import annotations

import configparser
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from imgc.errors import Place
from imgc.graph.implied import plain_environment
from imgc.graph.plan import Plan
from imgc.lock import Source

#: An apt source on one line, with or without options.
_APT_LINE = re.compile(r"deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s+(\S+)\s*(.*)")

#: The kinds of sources that are archives of packages.
PACKAGES = ("apt", "yum")

#: A variable in a repository file: ``$basearch`` or ``${basearch}``.
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")

#: What RPM calls the architectures.
_RPM_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


class _Archive(NamedTuple):
    """One apt archive and suite, as an image's sources name it."""

    location: str
    suite: str
    components: tuple[str, ...]


def archives_of(plan: Plan) -> tuple[Source, ...]:
    """Every package archive that the build of ``plan`` is known to read.

    Pure: reads element files.  Empty when the operating system comes from an element that nothing is known of.
    """
    values = plain_environment(
        (*plan.environment, ("DIB_DEFAULT_INSTALLTYPE", plan.install_type)), plan.environment_files
    )
    elements = {element.name for element in plan.elements}
    if "debian-minimal" in elements:
        lines = values.get("DIB_APT_SOURCES_CONF", "").splitlines()
        written = _apt_lines(line.partition(":")[2] for line in lines)
        # imgc-bootstrap bootstraps from these lines; without it, debootstrap reads the mirror by itself.
        first = () if "imgc-bootstrap" in elements else _bootstrap(values)
        return _apt_sources([*written, *first], values, _place(plan, "DIB_APT_SOURCES_CONF"))
    if "ubuntu-minimal" in elements:
        place = _place(plan, "DIB_DISTRIBUTION_MIRROR")
        return _apt_sources([*_bootstrap(values), *_ubuntu(values)], values, place)
    if "yum-minimal" in elements:
        return tuple(_yum_sources(plan, values))
    if "imgc-base-image" in elements:
        place = _place(plan, "DIB_DISTRIBUTION_MIRROR")
        return _apt_sources(_of_base(values), values, place)
    return ()


def _place(plan: Plan, variable: str) -> Place:
    """Where the spec says which archives; the mirror setting when it leaves that to the elements."""
    named = variable in dict(plan.platform.environment)
    return plan.platform.place(f"environment.{variable}" if named else "base.mirror")


# --- apt ---


def _apt_lines(lines: Iterable[str]) -> Iterator[_Archive]:
    for line in lines:
        found = _APT_LINE.fullmatch(line.split("#")[0].strip())
        if found and found[1].startswith(("http://", "https://")):
            yield _Archive(found[1].rstrip("/"), found[2], tuple(found[3].split()))


def _bootstrap(values: Mapping[str, str]) -> Iterator[_Archive]:
    """What the debootstrap element starts from."""
    components = values.get("DIB_DEBIAN_COMPONENTS", "main").replace(",", " ")
    line = f"deb {values.get('DIB_DISTRIBUTION_MIRROR', '')} {values.get('DIB_RELEASE', '')} {components}"
    return _apt_lines([line])


def _ubuntu(values: Mapping[str, str]) -> Iterator[_Archive]:
    """The suites beside the release that ubuntu-minimal adds."""
    for archive in _bootstrap(values):
        for beside in values.get("DIB_UBUNTU_MIRROR_DISTS", "").replace(",", " ").split():
            yield archive._replace(suite=f"{archive.suite}-{beside}")


def _of_base(values: Mapping[str, str]) -> Iterator[_Archive]:
    """What imgc-base-image writes into the image; nothing is known of the sources of a base that keeps them."""
    lines = values.get("DIB_APT_SOURCES_CONF", "").splitlines()
    if lines:
        yield from _apt_lines(line.partition(":")[2] for line in lines)
        return
    beside = {"ubuntu": ("updates", "security", "backports"), "debian": ("updates",)}
    rolling = values.get("DIB_RELEASE", "") in ("testing", "unstable")
    for archive in _bootstrap(values):
        yield archive
        for suite in () if rolling else beside.get(values.get("DISTRO_NAME", ""), ()):
            yield archive._replace(suite=f"{archive.suite}-{suite}")
        security = values.get("DIB_DEBIAN_SECURITY_MIRROR", "").rstrip("/")
        if security and not rolling and values.get("DISTRO_NAME") == "debian":
            yield archive._replace(location=security, suite=f"{archive.suite}-security")


def _apt_sources(archives: Iterable[_Archive], values: Mapping[str, str], place: Place) -> tuple[Source, ...]:
    """One source for each location and suite, with the components of all its lines."""
    components: dict[tuple[str, str], dict[str, None]] = {}
    for archive in archives:
        found = components.setdefault((archive.location, archive.suite), {})
        found.update(dict.fromkeys(archive.components))
    names = _names(components, values)
    return tuple(
        Source(
            "apt",
            names[location, suite],
            location,
            (
                ("suite", suite),
                ("components", " ".join(found)),
                ("architecture", values.get("ARCH", "")),
            ),
            place,
        )
        for (location, suite), found in components.items()
    )


def _names(archives: Iterable[tuple[str, str]], values: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """What a lock calls each location and suite.

    The distribution's own archives are named by what they are, so that a lock holds whichever mirror is used.
    """
    distro = values.get("DISTRO_NAME", "")
    main = values.get("DIB_DISTRIBUTION_MIRROR", "").rstrip("/")
    security = values.get("DIB_DEBIAN_SECURITY_MIRROR", "").rstrip("/")
    names: dict[tuple[str, str], str] = {}
    for location, suite in archives:
        parts = urlsplit(location)
        host = parts.netloc.rpartition("@")[2]
        # A mirror may have both in one place.
        if location == security and (location != main or suite.endswith("-security")):
            role = f"{distro}-security"
        else:
            role = distro if location == main else posixpath.basename(parts.path) or host
        if f"{role} {suite}" in names.values():
            role = f"{host}{parts.path}"
        names[location, suite] = f"{role} {suite}"
    return names


# --- yum ---


def _yum_sources(plan: Plan, values: Mapping[str, str]) -> Iterator[Source]:
    """The enabled repositories whose files name a URL; those with only a list of mirrors cannot be pinned."""
    release = values.get("DIB_RELEASE", "")
    arch = _RPM_ARCHITECTURES.get(values.get("ARCH", ""), values.get("ARCH", ""))
    variables = {"releasever": release.partition("-")[0], "basearch": arch, "arch": arch, "stream": release}
    # In the repository files that imgc's own yum-minimal has for each distribution.
    mirror = values.get("DIB_DISTRIBUTION_MIRROR", "").rstrip("/")
    variables |= {"DIB_RELEASE": release, "DIB_DISTRIBUTION_MIRROR": mirror}
    prefix = f"{values.get('DISTRO_NAME', '')} {release}".strip()
    taken: set[str] = set()
    for path, place in _repository_files(plan, values, release):
        for name, location in _repositories(path, variables):
            if location not in taken:
                taken.add(location)
                yield Source("yum", f"{prefix} {name}", location, (("architecture", arch),), place)


def _repository_files(plan: Plan, values: Mapping[str, str], release: str) -> Iterator[tuple[Path, Place]]:
    """The repository files that the image gets, and where to change which they are."""
    bootstrap = values.get("DIB_YUM_MINIMAL_BOOTSTRAP_REPOS", "")
    below_mirror = _below_mirror(plan, values, release)
    if bootstrap:
        place = _place(plan, "DIB_YUM_MINIMAL_BOOTSTRAP_REPOS")
        yield from ((path, place) for path in sorted(Path(bootstrap).glob("*.repo")))
    elif below_mirror:
        yield below_mirror, _place(plan, "DIB_DISTRIBUTION_MIRROR")
    else:
        files = [file for file in plan.tree if file.kind == "file" and file.dest.endswith(".repo")]
        by_directory = {posixpath.dirname(file.dest) for file in files}
        own = f"yum.repos.d/{release}"
        directory = own if own in by_directory else "yum.repos.d"
        for file in files:
            if posixpath.dirname(file.dest) == directory:
                yield Path(file.source), Place(file.source)
    extra = values.get("DIB_YUM_MINIMAL_EXTRA_REPOS", "")
    more = [*sorted(Path(extra).glob("*.repo"))] if extra else []
    named = [Path(path) for path in values.get("DIB_YUM_REPO_CONF", "").split()]
    yield from ((path, _place(plan, "DIB_YUM_MINIMAL_EXTRA_REPOS")) for path in more)
    yield from ((path, _place(plan, "DIB_YUM_REPO_CONF")) for path in named)


def _below_mirror(plan: Plan, values: Mapping[str, str], release: str) -> Path | None:
    """The file that says where below the mirror the repositories are; None when there is no mirror, or no such file."""
    if not values.get("DIB_DISTRIBUTION_MIRROR"):
        return None
    files = {file.dest: file for file in plan.tree if file.kind == "file"}
    directory = f"yum-mirror.d/{values.get('DISTRO_NAME', '')}"
    found = files.get(f"{directory}/{release}.repo") or files.get(f"{directory}/default.repo")
    return Path(found.source) if found else None


def _repositories(path: Path, variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The id and the URL of each enabled repository in a file.  A file that cannot be read names none."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, configparser.Error):
        return
    for name in parser.sections():
        section = parser[name]
        if section.get("enabled", "1").strip().lower() in ("0", "no", "false"):
            continue
        for url in section.get("baseurl", "").replace(",", " ").split():
            url = _VARIABLE.sub(lambda found: variables.get(found[1], found[0]), url)
            if url.startswith(("http://", "https://")) and "$" not in url:
                yield name, url.rstrip("/")
                break
