"""Which mirror the build host itself uses, read from its apt sources.

Both forms are understood: one-line (``sources.list``, ``*.list``) and deb822 (``*.sources``), as sources.list(5)
defines them.  A host names sources of many makers; :func:`host_mirror` picks the distribution's own archive by
what apt recorded about it (Origin), by the key that signs it, or by the host being of that distribution.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Schemes that a chroot can use as well as the host: a file: or cdrom: source stays behind.
_SCHEMES = ("http://", "https://")

#: apt reads no other files from sources.list.d.
_PART_NAME = re.compile(r"[A-Za-z0-9_.-]+\.(list|sources)")

#: What apt escapes in the name of a list file, before it turns each slash into an underscore.
_ESCAPED = re.compile(r"[\\|{}\[\]<>\"^~_=!@#$%&*\x00-\x20\x7f-\xff]")


@dataclass(frozen=True)
class Mirror:
    """A distribution's archive: its URL and its security suite's (no slash at the end), and the components used."""

    url: str
    security_url: str | None
    components: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """One URI and one suite of one apt source of binary packages.

    ``signed_by`` is as written: a key file, fingerprints, or a key; empty when apt's trusted keys apply.
    """

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str


def host_mirror(distro: str, release: str, root: Path = Path("/")) -> Mirror | None:
    """The mirror that the host at ``root`` uses for ``release`` of ``distro``; None when it names none.

    A host that names the distribution's archive for other releases only still counts (a mirror of a distribution
    serves all of its releases); its components are then those of the host's own release.
    """
    released = {source: _release_file(source, root) for source in read_sources(root)}
    identity = _os_release(root)
    archive = [source for source in released if _is_archive(source, released[source], distro, identity)]

    def of_suite(name: str) -> list[Source]:
        """The sources of a suite; `stable` and its like count by their codename."""
        return [source for source in archive if name in (source.suite, _codename(source, released[source]))]

    main = of_suite(release) or of_suite(identity.get("VERSION_CODENAME", release))
    if not main:
        return None
    url = main[0].uri
    components = [name for source in main if source.uri == url for name in source.components]
    beside = (
        f"{main[0].suite}-security",
        f"{release}-security",
        f"{identity.get('VERSION_CODENAME')}-security",
    )
    security = [source.uri for suite in beside for source in of_suite(suite)]
    return Mirror(url, security[0] if security else None, tuple(dict.fromkeys(components)))


def read_sources(root: Path = Path("/")) -> list[Source]:
    """Every enabled source of binary packages that has an http or https URI, in apt's order, without repeats."""
    apt = root / "etc/apt"
    parts = apt / "sources.list.d"
    named = sorted(parts.iterdir()) if parts.is_dir() else []
    found: dict[Source, None] = {}
    for path in (apt / "sources.list", *(part for part in named if _PART_NAME.fullmatch(part.name))):
        text = _text(path)
        parsed = _deb822(text) if path.suffix == ".sources" else _one_line(text)
        for source in parsed:
            for uri in _plain_uris(source.uri, root):
                found.setdefault(Source(uri.rstrip("/"), source.suite, source.components, source.signed_by))
    return list(found)


def _one_line(text: str) -> Iterator[Source]:
    """``deb [option=value …] URI SUITE COMPONENT…``, one a line."""
    for line in text.splitlines():
        match = re.fullmatch(
            r"deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<rest>\S.*)", line.split("#")[0].strip()
        )
        if not match:
            continue
        uri, *words = match["rest"].split()
        options = dict(word.split("=", 1) for word in (match["options"] or "").split() if "=" in word)
        # A suite that ends with a slash is a directory of packages, not a distribution.
        if words and not words[0].endswith("/"):
            yield Source(uri, words[0], tuple(words[1:]), options.get("signed-by", ""))


def _deb822(text: str) -> Iterator[Source]:
    """Stanzas of ``Field: value``, any of which may go on over indented lines; several URIs and suites in each."""
    for stanza in _stanzas(text):
        kinds = stanza.get("types", "").split()
        if "deb" not in kinds or stanza.get("enabled", "yes").lower() in (
            "no",
            "false",
            "0",
            "off",
            "without",
        ):
            continue
        components = tuple(stanza.get("components", "").split())
        for uri in stanza.get("uris", "").split():
            for suite in stanza.get("suites", "").split():
                if not suite.endswith("/"):
                    yield Source(uri, suite, components, stanza.get("signed-by", ""))


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """The fields of each stanza, by lower-case name; an end marker stanza is made of the end of the text."""
    fields: dict[str, str] = {}
    name = ""
    for line in (*text.splitlines(), ""):
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0] in " \t":
            fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            fields[name] = value.strip()


def _plain_uris(uri: str, root: Path) -> Iterator[str]:
    """``uri`` where a chroot can use it; the entries of its list where it is one (``mirror+file:``, cloud images)."""
    if uri.startswith("mirror+file:"):
        path = "/" + uri.removeprefix("mirror+file:").lstrip("/")
        for line in _text(root / path.lstrip("/")).splitlines():
            words = line.split("#")[0].split()
            if words:
                yield from _plain_uris(words[0], root)
    elif uri.startswith(_SCHEMES) and "$(" not in uri:
        yield uri


def _is_archive(source: Source, released: dict[str, str], distro: str, identity: dict[str, str]) -> bool:
    """Whether ``source`` is the archive of ``distro`` itself, and not another maker's for the same release."""
    if "main" not in source.components:
        return False
    if "Origin" in released:
        return released["Origin"].lower() == distro
    if source.signed_by:
        return f"{distro}-archive-" in source.signed_by
    return identity.get("ID") == distro


def _release_file(source: Source, root: Path) -> dict[str, str]:
    """What apt recorded of the suite's Release file (Origin, Suite, Codename …); empty before the first update."""
    place = f"{source.uri.split('://', 1)[1]}/dists/{source.suite}"
    escaped = _ESCAPED.sub(lambda match: f"%{ord(match[0]):02x}", place).replace("/", "_")
    for name in ("InRelease", "Release"):
        text = _text(root / "var/lib/apt/lists" / f"{escaped}_{name}")
        fields = re.findall(r"^(Origin|Suite|Codename):[ \t]*(\S.*?)[ \t]*$", text, re.MULTILINE)
        if fields:
            return dict(fields)
    return {}


def _codename(source: Source, released: dict[str, str]) -> str:
    """The release a main suite is of, as recorded.  The suites beside it (`x-updates`) may record the same one."""
    return "" if "-" in source.suite else released.get("Codename", "")


def _os_release(root: Path) -> dict[str, str]:
    """The fields of os-release(5), unquoted."""
    text = _text(root / "etc/os-release") or _text(root / "usr/lib/os-release")
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, value in pairs}


def _text(path: Path) -> str:
    """The file's text; empty when it is not there or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
