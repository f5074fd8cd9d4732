"""ci-users and ci-users-data: how the list of users is read.  tests/integration/test_users.py makes the users."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import imgc
from imgc.graph import Plan, compile_plan, keys, lower, steps_in_order
from imgc.spec.load import load

ELEMENTS = Path(imgc.__file__).parent / "elements"
READER = ELEMENTS / "ci-users-data/ci-users-data/users.bash"
SPECS = ELEMENTS.parents[1] / "specs"

#: An Ed25519 key that nobody has the private half of: its 32 bytes are the numbers from 0 on.
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"

# What the script has read, as lines that end with NUL: for each user the name, then the other fields in this order.
_SHOW = """\
set -eu
set -o pipefail
source "$1"
ci_load "$2"
for name in ${ci_names[@]+"${ci_names[@]}"}; do
    printf '%s\\0' "$name" "${ci_uid[$name]}" "${ci_groups[$name]}" "${ci_sudo[$name]}" "${ci_shell[$name]}" \\
        "${ci_home[$name]}" "${ci_keys[$name]}"
done
"""


def run(text: str | None, file: Path | str = "/dev/null/none") -> subprocess.CompletedProcess[bytes]:
    given = {} if text is None else {"DIB_CI_USERS": text}
    return subprocess.run(
        ["bash", "-c", _SHOW, "bash", READER, file],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", **given},
        capture_output=True,
        timeout=60,
    )


def read(text: str | None, file: Path | str = "/dev/null/none") -> list[tuple[str, ...]]:
    done = run(text, file)
    assert done.returncode == 0, done.stdout + done.stderr
    fields = done.stdout.decode().split("\0")[:-1]
    return [tuple(fields[at : at + 7]) for at in range(0, len(fields), 7)]


def expected(user: dict[str, Any]) -> tuple[str, ...]:
    name = user["name"]
    home = user.get("home") or ("/root" if name == "root" else f"/home/{name}")
    uid = user.get("uid")
    return (
        name,
        "" if uid is None else str(uid),
        ",".join(user.get("groups", ())),
        "true" if user.get("sudo") else "false",
        (user.get("shell") or "/bin/bash").rstrip("/"),
        home.rstrip("/"),
        "\n".join(key.strip(" \t") for key in user.get("keys", ())),
    )


# --- lists that are right -----------------------------------------------------------------------------------------

_NAMES = st.from_regex(r"[a-z_][a-z0-9_-]{0,31}", fullmatch=True)
_PATHS = st.from_regex(r"(/[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,8}){1,3}/?", fullmatch=True)
_COMMENTS = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\x7f"), max_size=12
).filter(lambda text: "PRIVATE KEY" not in text)
_KEYS = st.builds(
    lambda options, comment: f"{options}{KEY} {comment}",
    st.sampled_from(["", "restrict,pty ", 'from="10.0.0.0/8",command="echo \\"a b\\", c" ', "  "]),
    _COMMENTS,
)
_USERS = st.lists(
    st.fixed_dictionaries(
        {"name": _NAMES},
        optional={
            "uid": st.none() | st.integers(1, 2**32 - 2),
            "groups": st.lists(_NAMES, max_size=3),
            "sudo": st.booleans(),
            "shell": st.just("") | _PATHS,
            "home": st.just("") | _PATHS,
            "keys": st.lists(_KEYS, max_size=3),
        },
    ),
    max_size=3,
    unique_by=lambda user: user["name"],
)


@settings(max_examples=60)
@given(users=_USERS, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
@example(users=[{"name": "root", "keys": [f"{KEY} \U0001f600 é €"]}], ascii_only=True, indent=None)
def test_a_list_is_read_as_python_reads_it(
    users: list[dict[str, Any]], ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(users, ensure_ascii=ascii_only, indent=indent)
    assert read(text) == [expected(user) for user in users]


def test_without_the_variable_the_file_of_an_element_counts(tmp_path: Path) -> None:
    file = tmp_path / "users.json"
    file.write_text(json.dumps([{"name": "zuul"}]))
    assert [user[0] for user in read(None, file)] == ["zuul"]
    assert [user[0] for user in read("", file)] == ["zuul"]
    assert [user[0] for user in read('[{"name": "other"}]', file)] == ["other"]
    assert read('[{"uid": 0, "name": "root"}]')[0][:2] == ("root", "0")
    assert read("[]", file) == []
    assert read(None) == []


# --- lists that are wrong -----------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(st.data())
def test_what_is_not_json_is_refused(data: st.DataObject) -> None:
    """A sound list with one piece taken out or put in: never is more read than Python reads."""
    text = json.dumps([{"name": "zuul", "uid": 7, "groups": ["a", "b"], "sudo": True, "keys": [KEY]}])
    at = data.draw(st.integers(0, len(text)))
    piece = data.draw(st.sampled_from(["", *'[]{}",:\\u0x 1', "true", "null", "\\u0041", "\\ud800"]))
    changed = text[:at] + piece + text[at + data.draw(st.integers(0, 3)) :]
    done = run(changed)
    try:
        users = json.loads(changed)
    except ValueError:
        assert done.returncode == 1, changed
    if done.returncode == 0:
        assert read(changed) == [expected(user) for user in users]
    else:
        assert (done.returncode, done.stderr) == (1, b"")
        assert done.stdout.startswith(b"ci-users: DIB_CI_USERS: ") and done.stdout.count(b"\n") == 1


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ({}, "has no name"),
        ({"name": "Zuul"}, "name that is none"),
        ({"name": "zuul:x"}, "name that is none"),
        ({"name": "z" * 33}, "name that is none"),
        ({"name": 7}, "a string is expected at token 5"),
        ({"name": "zuul", "uid": 0}, "is 0, that of root"),
        ({"name": "zuul", "uid": "7"}, "number of a user"),
        ({"name": "zuul", "uid": 4294967295}, "too large"),
        ({"name": "zuul", "groups": "docker"}, "a list is expected"),
        ({"name": "zuul", "groups": ["a,b"]}, "group whose name is none"),
        ({"name": "zuul", "sudo": "yes"}, "true or false is expected"),
        ({"name": "zuul", "shell": "bash"}, "shell is not an absolute path"),
        ({"name": "zuul", "home": "/home/../etc"}, "home is not an absolute path"),
        ({"name": "zuul", "home": "/"}, "home is not an absolute path"),
        ({"name": "zuul", "password": "x"}, "a field other than"),
        ({"name": "zuul", "keys": ["~/.ssh/id_ed25519.pub"]}, "not an OpenSSH public key"),
        ({"name": "zuul", "keys": ["ssh-dss AAAA"]}, "of a type that is in use"),
        ({"name": "zuul", "keys": ["ssh-rsa " + KEY.split()[1]]}, "are not those of an ssh-rsa key"),
        ({"name": "zuul", "keys": [KEY + "!"]}, "are not those of an ssh-ed25519 key"),
        ({"name": "zuul", "keys": [f"{KEY}\n{KEY}"]}, "line break"),
        ({"name": "zuul", "keys": ["from=10.0.0.0/8 " + KEY]}, "not an OpenSSH public key"),
    ],
)
def test_wrong_users(user: dict[str, Any], said: str) -> None:
    done = run(json.dumps([user]))
    assert (done.returncode, done.stderr) == (1, b"")
    assert said in done.stdout.decode()


def test_a_user_or_a_field_that_comes_twice_is_refused() -> None:
    assert b"zuul is listed twice" in run('[{"name": "zuul"}, {"name": "zuul"}]').stdout
    assert b"the same field twice" in run('[{"name": "zuul", "name": "other"}]').stdout


def test_a_private_key_is_refused_and_not_repeated(tmp_path: Path) -> None:
    made = subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], capture_output=True
    )
    assert made.returncode == 0
    text = (tmp_path / "key").read_text()
    for pasted in (text, text.replace("\n", " ")):
        done = run(json.dumps([{"name": "zuul", "keys": [pasted]}]))
        assert done.returncode == 1
        assert not any(line.encode() in done.stdout + done.stderr for line in text.splitlines())
    assert b"a private key is among the keys" in done.stdout


# --- beside other elements ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    """A Debian with users, by itself, and with puppet-keys."""
    directory = tmp_path_factory.mktemp("specs")
    for name, elements in (("own", "[]"), ("puppet", "[puppet-keys]")):
        (directory / f"{name}.yaml").write_text(
            f"schema: 1\nname: {name}\nextends: {SPECS / 'common/debian.yaml'}\nbase: {{release: bookworm}}\n"
            f"elements: {elements}\nusers: [{{name: zuul, keys: ['{KEY}']}}]\n"
        )
    mirrors = {"DIB_DISTRIBUTION_MIRROR": "http://mirror.example/debian"}
    return {
        name: compile_plan(load(name, specs_dir=directory, host_environment={}), mirrors=mirrors)
        for name in ("own", "puppet")
    }


def hooks(plan: Plan, phase: str) -> list[tuple[str, str]]:
    return [(hook.element, hook.name) for hook in plan.phase(phase)]


def test_users_bring_the_element_that_makes_them(plans: dict[str, Plan]) -> None:
    assert ("ci-users", "60-ci-users") in hooks(plans["own"], "post-install.d")
    assert ("puppet-keys", "60-puppet-keys") in hooks(plans["puppet"], "post-install.d")
    assert "ci-users" not in {element.name for element in plans["puppet"].elements}


def first_changed(directory: Path, maker: str, before: str, after: str) -> str:
    """The first step with another key when a project's ``users.json`` has another text."""
    listed = directory / "elements/project/ci-users/users.json"
    listed.parent.mkdir(parents=True, exist_ok=True)
    (directory / "one.yaml").write_text(
        "schema: 1\nname: one\nbase: {kind: minimal, distro: debian, release: bookworm, baseline: false}\n"
        f"element_paths: [elements]\nelements: [project, {maker}]\n"
    )
    found = []
    for text in (before, after):
        listed.write_text(text)
        platform = load("one", specs_dir=directory, host_environment={})
        graph = lower(
            compile_plan(platform, mirrors={"DIB_DISTRIBUTION_MIRROR": "http://mirror.example/debian"})
        )
        found.append((steps_in_order(graph), keys(graph)))
    (steps, one), (_, other) = found
    return next((step.id for step in steps if one[step.id] != other[step.id]), "")


@pytest.mark.parametrize("maker", ["ci-users", "puppet-keys"])
def test_a_changed_list_reruns_the_hook_that_reads_it_and_no_earlier_one(tmp_path: Path, maker: str) -> None:
    changed = first_changed(tmp_path, maker, '[{"name": "zuul"}]', '[{"name": "other"}]')
    assert changed == f"one/post-install.d/60-{maker}"


@pytest.mark.parametrize("name", ["own", "puppet"])
def test_secrets_are_looked_for_when_host_keys_are_gone(plans: dict[str, Plan], name: str) -> None:
    late = hooks(plans[name], "cleanup.d")
    host_keys = late.index(("runtime-ssh-host-keys", "90-remove-ssh-host-keys"))
    assert late.index(("no-secrets", "95-no-secrets")) > host_keys


def test_the_shipped_part_brings_the_check(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(
        f"schema: 1\nname: one\nextends: [{SPECS / 'common/debian.yaml'}, {SPECS / 'common/ci-users.yaml'}]\n"
        "base: {release: bookworm}\n"
    )
    platform = load("one", specs_dir=tmp_path, host_environment={})
    assert "no-secrets" in platform.elements and platform.users == ()
