"""What jobs do in an image: programs in its tree, without a network."""

from __future__ import annotations

import subprocess
from pathlib import Path


def in_chroot(root: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a tree, without a network."""
    words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
    enter = (
        f'mount -t proc proc {root}/proc && mount --bind /dev {root}/dev && exec chroot {root} bash -c "$1"'
    )
    return subprocess.run(
        [*words, "bash", "-c", enter, "bash", f"set -eu; {script}"],
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def job(root: Path, project: str, *options: str, branch: str = "master") -> subprocess.CompletedProcess[str]:
    """What a job does that is given a project of the cache: a clone, then its packages."""
    place = f"/root/job-{project.replace('/', '-')}-{branch.replace('/', '-')}"
    clone = f"rm -rf {place}; git clone --quiet --branch {branch} /opt/git/{project} {place}"
    return in_chroot(root, f"{clone}; install-distro-packages {' '.join(options)} {place}")
