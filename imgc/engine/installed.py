"""Which packages a tree has installed, with their versions: read from the databases of dpkg or rpm."""

from __future__ import annotations

from pathlib import Path

#: Shell: copies what :func:`read` needs out of the tree ``$1`` into the directory ``$2``.
EXTRACT = (
    'if [ -e "$1/var/lib/dpkg/status" ]; then cp "$1/var/lib/dpkg/status" "$2/dpkg-status";'
    ' elif [ -x "$1/usr/bin/rpm" ]; then'
    " chroot \"$1\" rpm -qa --queryformat '%{NAME} %|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}.%{ARCH}\\n'"
    ' > "$2/rpm-list"; fi'
)


def read(directory: Path) -> dict[str, str]:
    """Versions by package, sorted, from what :data:`EXTRACT` left in ``directory``; that is removed."""
    found: dict[str, str] = {}
    for name, parse in (("dpkg-status", _dpkg), ("rpm-list", _rpm)):
        file = directory / name
        if file.exists():
            found |= parse(file.read_text(encoding="utf-8", errors="replace"))
            file.unlink()
    return dict(sorted(found.items()))


def _dpkg(text: str) -> dict[str, str]:
    """The packages of a dpkg status file that are installed; a second architecture of one has its name after it."""
    found: dict[str, str] = {}
    for paragraph in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] not in " \t"
        )
        if fields.get("Status", "").endswith(" installed"):
            name = fields["Package"]
            if name in found:
                name = f"{name}:{fields.get('Architecture', '')}"
            found[name] = fields["Version"]
    return found


def _rpm(text: str) -> dict[str, str]:
    """The packages of a list of names and versions; of several versions of one (kernels) all are named."""
    found: dict[str, str] = {}
    for line in sorted(text.splitlines()):
        name, _, version = line.partition(" ")
        # Keys are no packages.
        if version and name != "gpg-pubkey":
            found[name] = f"{found[name]} {version}" if name in found else version
    return found
