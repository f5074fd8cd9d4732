"""puppet-keys: what can be seen of it without an image.  tests/integration/test_users.py runs Puppet in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import diskimage_builder.paths
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import imgc

ELEMENTS = Path(imgc.__file__).parent / "elements"
ELEMENT = ELEMENTS / "puppet-keys"
HOOK = ELEMENT / "post-install.d/60-puppet-keys"
STOCK = Path(diskimage_builder.paths.get_path("elements"))

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"

# The data for Hiera, by the functions of the hook alone.
_DATA = """\
set -eu
set -o pipefail
cd "$1"
source <(sed '/^source /d; /^ci_load /,$d' "$2")
source ci-users-data/users.bash
ci_load /dev/null/none
data
"""


def data(users: list[dict[str, Any]]) -> str:
    done = subprocess.run(
        ["bash", "-c", _DATA, "bash", ELEMENTS / "ci-users-data", HOOK],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", "DIB_CI_USERS": json.dumps(users)},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.decode()


_COMMENTS = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Co", "Cn"), exclude_characters="\ufeff"),
    min_size=1,
    max_size=12,
).filter(lambda text: text == text.strip(" ") and "PRIVATE KEY" not in text)


@settings(max_examples=40)
@given(comments=st.lists(_COMMENTS, max_size=3), uid=st.none() | st.integers(1, 60000), sudo=st.booleans())
@example(comments=['"a\\" %{facts} %{', "\U0001f600 é"], uid=None, sudo=True)
def test_puppet_reads_what_the_list_says(comments: list[str], uid: int | None, sudo: bool) -> None:
    """The data are JSON and YAML at once, and Hiera finds nothing in them to fill in but what stands for a %."""
    keys = [f"{KEY} {comment}" for comment in comments]
    users = [
        {"name": "zuul", "keys": keys, "uid": uid, "sudo": sudo, "groups": ["docker", "adm"]},
        {"name": "other", "groups": ["docker"], "home": "/srv/other", "shell": "/bin/sh"},
    ]
    text = data(users)
    found = json.loads(text)
    assert yaml.safe_load(text) == found
    assert found["ci_users::groups"] == ["adm", "docker"]
    written = found["ci_users::users"]["zuul"].pop("authorized_keys")
    assert written.replace("%{literal('%')}", "%") == "".join(f"{key}\n" for key in keys)
    assert "%{" not in written.replace("%{literal('%')}", "")
    assert found["ci_users::users"] == {
        "zuul": {"home": "/home/zuul", "shell": "/bin/bash", "sudo": sudo, "groups": ["docker", "adm"]}
        | ({} if uid is None else {"uid": uid}),
        "other": {
            "home": "/srv/other",
            "shell": "/bin/sh",
            "sudo": False,
            "groups": ["docker"],
            "authorized_keys": "",
        },
    }


def test_without_groups_the_list_of_groups_is_empty() -> None:
    assert json.loads(data([{"name": "root", "keys": [KEY]}]))["ci_users::groups"] == []


@pytest.mark.parametrize(
    ("distro", "release", "package"),
    [
        ("debian", "bookworm", "puppet-agent"),
        ("debian", "trixie", "puppet-agent"),
        ("ubuntu", "trusty", "puppet"),
        ("ubuntu", "jammy", "puppet"),
        ("ubuntu", "noble", "puppet-agent"),
        ("fedora", "41", "puppet"),
    ],
)
def test_the_package_of_each_platform(tmp_path: Path, distro: str, release: str, package: str) -> None:
    (tmp_path / "puppet-keys").write_bytes((ELEMENT / "pkg-map").read_bytes())
    # The program looks in one place only, which is in the image.
    text = (STOCK / "pkg-map/bin/pkg-map").read_text()
    assert "/usr/share/pkg-map/" in text
    program = tmp_path / "pkg-map.py"
    program.write_text(text.replace("/usr/share/pkg-map/", f"{tmp_path}/"))
    done = subprocess.run(
        [sys.executable, program, "--element", "puppet-keys", "puppet"],
        env={"PATH": os.environ["PATH"], "DISTRO_NAME": distro, "DIB_RELEASE": release},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, package), done.stderr
