"""no-secrets: its hook on trees that hold secrets, and on trees that hold what only looks like one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import imgc

HOOK = Path(imgc.__file__).parent / "elements/no-secrets/cleanup.d/95-no-secrets"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree as an image has it, without a secret; its path holds a blank."""
    root = tmp_path / "a tree"
    for name in ("etc/ssh", "home/zuul/.ssh", "root", "opt/git"):
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/bash\nzuul:x:1000:1000::/home/zuul:/bin/bash\n"
    )
    (root / "etc/shadow").write_text(
        "root:*:19000:0:99999:7:::\nzuul:!:19000:0:99999:7:::\na:!!:19000::::::\nb:!*:19000::::::\nc::1::::::\n"
    )
    (root / "etc/group").write_text("root:x:0:\nzuul:x:1000:\n")
    (root / "home/zuul/.ssh/authorized_keys").write_text("ssh-ed25519 AAAA zuul\n")
    return root


def run(tree: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    programs = tree.parent / "bin"
    programs.mkdir(exist_ok=True)
    sudo = programs / "sudo"
    sudo.write_text('#!/bin/sh\nexec "$@"\n')
    sudo.chmod(0o755)
    return subprocess.run(
        [HOOK],
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "TARGET_ROOT": str(tree),
            "LC_ALL": "C",
            **variables,
        },
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=60,
    )


def found(tree: Path, **variables: str) -> list[str]:
    """What the hook tells, without its name; nothing when it finds nothing."""
    done = run(tree, **variables)
    lines = [line.removeprefix("no-secrets: ") for line in done.stdout.splitlines()]
    assert (done.returncode == 0) == (lines == []), done.stdout + done.stderr
    assert done.stderr == ""
    return lines[:-1]


def make_key(path: Path, *options: str) -> None:
    done = subprocess.run(
        ["ssh-keygen", "-q", "-N", "", *options, "-f", path], capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr


def test_a_tree_without_secrets(tree: Path) -> None:
    (tree / "root/notes").write_text("a private key begins with BEGIN and ends with END\n")
    assert found(tree) == []


def test_a_tree_with_none_of_the_places(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert found(tmp_path / "empty") == []


def test_private_keys_of_all_forms(tree: Path) -> None:
    make_key(tree / "home/zuul/.ssh/id_ed25519", "-t", "ed25519")
    make_key(tree / "home/zuul/a key", "-t", "rsa", "-m", "PEM")
    make_key(tree / "root/pkcs8", "-t", "ecdsa", "-m", "PKCS8")
    (tree / "root/putty.ppk").write_text("PuTTY-User-Key-File-3: ssh-ed25519\n")
    (tree / "root/old").write_bytes(b"SSH PRIVATE KEY FILE FORMAT 1.1\n\0\0\0")
    (tree / "etc/puppet/ssl/private_keys").mkdir(parents=True)
    make_key(tree / "etc/puppet/ssl/private_keys/host.pem", "-t", "rsa", "-m", "PEM")
    for public in tree.rglob("*.pub"):
        assert public.stat().st_size
    assert found(tree) == [
        "/etc/puppet/ssl/private_keys/host.pem: a private key",
        "/home/zuul/.ssh/id_ed25519: a private key",
        "/home/zuul/a key: a private key",
        "/root/old: a private key",
        "/root/pkcs8: a private key",
        "/root/putty.ppk: a private key",
    ]


def test_host_keys(tree: Path) -> None:
    make_key(tree / "etc/ssh/ssh_host_ed25519_key", "-t", "ed25519")
    (line,) = found(tree)
    assert line.startswith("/etc/ssh/ssh_host_ed25519_key: an SSH host key; ")


def test_passwords(tree: Path) -> None:
    # Made for this test: hashes by which nobody logs in anywhere.
    hashes = {"yes": "$y$j9T$abc$def", "locked": "!$6$salt$hash", "old": "abJnggxhB/yWI"}
    with (tree / "etc/shadow").open("a") as file:
        file.writelines(f"{name}:{text}:19000:0:99999:7:::\n" for name, text in hashes.items())
    (tree / "etc/gshadow").write_text("staff:$5$salt$hash::\nzuul:!::\n")
    assert found(tree) == [
        "/etc/shadow: a password of yes",
        "/etc/shadow: a password of locked",
        "/etc/shadow: a password of old",
        "/etc/gshadow: a password of staff",
    ]
    done = run(tree)
    assert not any(text in done.stdout for text in hashes.values())


def test_what_is_allowed(tree: Path) -> None:
    (tree / "home/zuul/test keys").mkdir()
    make_key(tree / "home/zuul/test keys/one", "-t", "ed25519")
    make_key(tree / "root/other", "-t", "ed25519")
    assert found(tree, DIB_NO_SECRETS_ALLOW="/home/*/test?keys/* /etc/nothing") == [
        "/root/other: a private key"
    ]
    assert found(tree, DIB_NO_SECRETS_ALLOW="/home/* /root/*") == []


def test_links_are_not_followed(tree: Path) -> None:
    outside = tree.parent / "outside"
    outside.mkdir()
    make_key(outside / "key", "-t", "ed25519")
    (tree / "root/link").symlink_to(outside / "key")
    (tree / "etc/puppet").symlink_to(outside)
    assert found(tree) == []


def test_git_trees_are_not_its_business(tree: Path) -> None:
    make_key(tree / "opt/git/fixture", "-t", "ed25519")
    assert found(tree) == []


def test_a_search_that_fails_is_no_search_without_a_find(tree: Path) -> None:
    programs = tree.parent / "bin"
    programs.mkdir()
    broken = programs / "grep"
    broken.write_text("#!/bin/sh\nexit 2\n")
    broken.chmod(0o755)
    done = run(tree)
    assert done.returncode != 0
