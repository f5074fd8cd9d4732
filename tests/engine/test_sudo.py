"""The stand-in for sudo: what it takes from sudo's options, and which environment it hands on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from imgc.engine import sandbox

SUDO = Path(sandbox.__file__).parent / "sandbox_files" / "sudo"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def sudo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": PATH, **environment}
    return subprocess.run(["sh", str(SUDO), *arguments], env=env, capture_output=True, text=True)


def environment_of(*arguments: str, **environment: str) -> dict[str, str]:
    lines = sudo(*arguments, "env", **environment).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_the_environment_is_reset() -> None:
    found = environment_of(MINE="1", LANG="C.UTF-8", http_proxy="http://proxy.example", HOME="/elsewhere")
    assert "MINE" not in found
    assert (found["HOME"], found["USER"], found["LOGNAME"]) == ("/root", "root", "root")
    assert (found["LANG"], found["http_proxy"]) == ("C.UTF-8", "http://proxy.example")
    assert "LC_ALL" not in found and "https_proxy" not in found


@pytest.mark.parametrize("option", ["-E", "--preserve-env", "--preserve-env=MINE"])
def test_the_environment_is_kept_on_request(option: str) -> None:
    assert environment_of(option, MINE="1")["MINE"] == "1"


def test_variables_on_the_command_line() -> None:
    found = environment_of("-E", "ONE=1", "TWO=2 3", MINE="1")
    assert (found["ONE"], found["TWO"], found["MINE"]) == ("1", "2 3", "1")
    assert environment_of("ONE=1", MINE="1").get("MINE") is None


def test_options_with_values_are_skipped() -> None:
    assert sudo("-n", "-H", "-p", "prompt", "-g", "root", "--", "printf", "%s ", "-E", "x").stdout == "-E x "
    assert sudo("echo", "-u", "nobody").stdout == "-u nobody\n"


@pytest.mark.parametrize(
    "option", [["-u", "nobody"], ["--user", "nobody"], ["--user=nobody"], ["-E", "-u", "nobody"]]
)
def test_another_user(option: list[str]) -> None:
    assert sudo(*option, "id", "-un").stdout == "nobody\n"
    if "-E" not in option:
        assert environment_of(*option)["USER"] == "nobody"


def test_root_by_name_and_number() -> None:
    assert sudo("-u", "root", "id", "-un").stdout == "root\n"
    assert sudo("-u", "0", "id", "-un").stdout == "root\n"


def test_the_status_is_the_commands() -> None:
    assert sudo("sh", "-c", "exit 9").returncode == 9
    assert sudo().returncode == 1
    assert "usage" in sudo("-E").stderr


def test_arguments_stay_whole() -> None:
    assert sudo("printf", "%s|", "a b", "", "*", "$HOME").stdout == "a b||*|$HOME|"


def test_in_a_user_namespace_sysfs_is_bound(tmp_path: Path) -> None:
    """Where the kernel refuses a new sysfs, the one that there is is shown, and goes with one umount."""
    there, sudo = str(tmp_path), f"sh {SUDO}"
    script = f"set -e; {sudo} mount -t sysfs none {there}; ls {there}; {sudo} umount {there}; ls {there}"
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        env={"PATH": PATH, "IMGC_USER_NAMESPACE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split().count("kernel") == 1
