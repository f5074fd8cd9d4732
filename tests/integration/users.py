"""Ordinary users who exist for one test."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Ids outside every range that distributions hand out by themselves.
_FIRST_ID, _COUNT = 500_000_000, 65536

# Where the repository or Python is below a directory that only root may enter (/root, say), the user sees that
# directory empty but for them.  $1 is the user, $2 the closed directories, $3 what must be seen, by line.
_BECOME = """\
set -eu
user=$1 closed=$2 seen=$3
shift 3
if [ -n "$closed" ]; then
    mount -t tmpfs -o mode=755 tmpfs /mnt
    n=0
    echo "$seen" | while read -r path; do n=$((n + 1)); mkdir "/mnt/$n"; mount --rbind "$path" "/mnt/$n"; done
    echo "$closed" | while read -r path; do mount -t tmpfs -o mode=755 tmpfs "$path"; done
    n=0
    echo "$seen" | while read -r path; do n=$((n + 1)); mkdir -p "$path"; mount --rbind "/mnt/$n" "$path"; done
fi
exec setpriv --reuid "$user" --regid "$user" --clear-groups -- "$@"
"""


@contextmanager
def ordinary_user(home: Path, *, subordinate_ids: bool) -> Iterator[tuple[str, ...]]:
    """The command prefix that runs the rest as a new user who owns ``home``; the user is gone afterwards."""
    assert os.geteuid() == 0, "tests that make users must be run as root, as CI does"
    name = f"imgc-test-{os.getpid()}"
    _run("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(home), name)
    try:
        if subordinate_ids:
            ids = f"{_FIRST_ID}-{_FIRST_ID + _COUNT - 1}"
            _run("usermod", "--add-subuids", ids, "--add-subgids", ids, name)
        user = pwd.getpwnam(name)
        os.chown(home, user.pw_uid, user.pw_gid)
        yield _prefix(name, home)
    finally:
        _run("userdel", name)


def may_make_user_namespaces(prefix: tuple[str, ...]) -> bool:
    """Whether the system lets the user of ``prefix`` make a user namespace at all."""
    return (
        subprocess.run(
            [*prefix, "unshare", "--user", "--map-root-user", "true"], capture_output=True
        ).returncode
        == 0
    )


def _prefix(name: str, home: Path) -> tuple[str, ...]:
    needed = sorted({str(ROOT), sys.prefix, sys.base_prefix})
    closed = sorted({parent for path in needed if (parent := _closed(Path(path)))})
    seen = [path for path in needed if _closed(Path(path))]
    become = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _BECOME, "sh")
    identity = ("env", f"HOME={home}", f"USER={name}", f"LOGNAME={name}")
    return (*become, name, "\n".join(closed), "\n".join(seen), *identity)


def _closed(path: Path) -> str:
    """The outermost directory above ``path`` that others may not enter."""
    for parent in reversed((path, *path.parents)):
        if not parent.stat().st_mode & stat.S_IXOTH:
            return str(parent)
    return ""


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
