"""`imgc lock`, on real element files and a real git repository."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from imgc import lock as locks
from imgc.lock import Lock

from .conftest import Imgc

SPEC = """\
schema: 1
name: {name}
description: A platform that takes one repository from outside.
base: {{kind: minimal, distro: tiny, release: one, mirror: default, baseline: false}}
element_paths: [elements]
elements: [takes]
outputs: [{{format: tar}}]
"""

_WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Somebody"), ("EMAIL", "somebody@example.org"))
}


class Upstream:
    """A git repository."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "--quiet", "--initial-branch=master")
        self.first = self.commit()

    def git(self, *arguments: str) -> str:
        argv = ["git", "-C", str(self.path), *arguments]
        return subprocess.run(
            argv, env={**os.environ, **_WHO}, capture_output=True, text=True, check=True
        ).stdout.strip()

    def commit(self) -> str:
        self.git("commit", "--quiet", "--allow-empty", "--message", "change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def upstream(project: Path) -> Upstream:
    """A repository, and a platform `tiny` of this project that takes it."""
    made = Upstream(project / "upstream")
    specs = project / "specs"
    (specs / "good.yaml").unlink()
    (specs / "tiny.yaml").write_text(SPEC.format(name="tiny"))
    for element, file, text in (
        ("tiny-minimal", "element-provides", "operating-system\n"),
        ("takes", "element-deps", "source-repositories\n"),
        ("takes", "source-repository-tool", f"tool git /opt/tool {made.path}\n"),
    ):
        (specs / "elements" / element).mkdir(parents=True, exist_ok=True)
        (specs / "elements" / element / file).write_text(text)
    return made


LOCK = Path("specs/tiny.lock")
TAKES = Path("specs/elements/takes/source-repository-tool")


def test_a_lock_is_written_beside_the_spec(upstream: Upstream, imgc: Imgc) -> None:
    ended = imgc("lock", "tiny")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert ended.output.splitlines() == [
        "tiny: 1 pin, 1 moved -> specs/tiny.lock",
        f"  git tool  new: {upstream.first[:12]}",
    ]
    assert locks.read(LOCK).pins["git", "tool"].get("commit") == upstream.first


def test_locking_again_says_what_moved(upstream: Upstream, imgc: Imgc) -> None:
    imgc("lock", "tiny")
    assert imgc("lock", "tiny").output == "tiny: 1 pin, none moved -> specs/tiny.lock\n"
    second = upstream.commit()
    assert (
        imgc("lock", "--all").output.splitlines()[1] == f"  git tool  {upstream.first[:12]} -> {second[:12]}"
    )


def test_a_diff_writes_nothing(upstream: Upstream, imgc: Imgc) -> None:
    imgc("lock", "tiny")
    before = LOCK.read_bytes()
    second = upstream.commit()
    ended = imgc("lock", "tiny", "--diff")
    assert (ended.exit_code, ended.output.splitlines()) == (
        0,
        ["tiny: 1 pin, 1 moved", f"  git tool  {upstream.first[:12]} -> {second[:12]}"],
    )
    assert LOCK.read_bytes() == before


def test_a_diff_for_programs(upstream: Upstream, imgc: Imgc) -> None:
    imgc("lock", "tiny")
    second = upstream.commit()
    (found,) = json.loads(imgc("lock", "tiny", "--diff", "--json").output)
    assert (found["platform"], found["lock"], found["newer"]) == ("tiny", "specs/tiny.lock", [])
    assert found["moves"] == [
        {"kind": "git", "name": "tool", "before": {"commit": upstream.first}, "after": {"commit": second}}
    ]
    assert found["pins"][0]["notes"] == {"ref": "master"}


def test_a_fitting_lock_passes_the_check_without_the_network(upstream: Upstream, imgc: Imgc) -> None:
    imgc("lock", "tiny")
    upstream.path.rename("away")
    ended = imgc("lock", "--all", "--check")
    assert (ended.exit_code, ended.output) == (0, "tiny  ok  1 pin\n")


def test_a_missing_lock_fails_the_check(upstream: Upstream, imgc: Imgc) -> None:
    ended = imgc("lock", "tiny", "--check")
    assert ended.exit_code == 1
    assert ended.stderr == "E613: There is no lock specs/tiny.lock.\n    hint: `imgc lock tiny` writes it.\n"


def test_a_stale_lock_fails_the_check_with_the_place_that_changed(upstream: Upstream, imgc: Imgc) -> None:
    imgc("lock", "tiny")
    TAKES.write_text(f"\ntool git /opt/tool {upstream.path} stable\nmore git /opt/more {upstream.path}\n")
    ended = imgc("lock", "tiny", "--check")
    assert ended.exit_code == 1
    assert [line for line in ended.stderr.splitlines() if "E613" in line] == [
        f"{TAKES}:2:1: E613: The lock of tiny pins git tool for another ref.",
        f"{TAKES}:3:1: E613: The lock of tiny has no pin for git more.",
    ]


def test_every_platform_is_checked_in_one_run(upstream: Upstream, imgc: Imgc) -> None:
    Path("specs/other.yaml").write_text(SPEC.format(name="other"))
    ended = imgc("lock", "--all", "--check")
    assert ended.exit_code == 1
    assert ended.stderr.count("E613: There is no lock") == 2


def test_a_broken_lock_fails_the_check_and_is_replaced(upstream: Upstream, imgc: Imgc) -> None:
    LOCK.write_text("version: 1\nplatform: tiny\n")
    ended = imgc("lock", "tiny", "--check")
    assert (ended.exit_code, "specs/tiny.lock:1:1: E611: `epoch` is missing." in ended.stderr) == (1, True)
    assert imgc("lock", "tiny", "--diff").exit_code == 1
    assert imgc("lock", "tiny").exit_code == 0
    assert imgc("lock", "tiny", "--check").exit_code == 0


def test_offline_the_pins_that_are_known_are_kept_and_gone_sources_dropped(
    upstream: Upstream, imgc: Imgc
) -> None:
    TAKES.write_text(f"tool git /opt/tool {upstream.path}\nmore git /opt/more {upstream.path}\n")
    imgc("lock", "tiny")
    upstream.commit()
    TAKES.write_text(f"tool git /opt/tool {upstream.path}\n")
    ended = imgc("lock", "tiny", "--offline")
    assert ended.output.splitlines()[1:] == [f"  git more  gone, was {upstream.first[:12]}"]
    assert locks.read(LOCK).pins["git", "tool"].get("commit") == upstream.first


def test_offline_what_the_last_build_used_can_be_locked(
    upstream: Upstream, imgc: Imgc, tmp_path: Path
) -> None:
    imgc("lock", "tiny")
    recorded = tmp_path / "xdg" / "imgc" / "pins"
    recorded.mkdir(parents=True)
    LOCK.rename(recorded / "tiny.lock")
    upstream.commit()
    assert imgc("lock", "tiny", "--offline").exit_code == 0
    assert locks.read(LOCK).pins["git", "tool"].get("commit") == upstream.first


def test_offline_a_missing_pin_is_named_and_nothing_written(upstream: Upstream, imgc: Imgc) -> None:
    ended = imgc("lock", "tiny", "--offline")
    assert ended.exit_code == 1
    assert f"{TAKES}:1:1: E612: git tool is not pinned, and nothing may be looked up." in ended.stderr
    assert not LOCK.exists()


def test_one_platform_that_cannot_be_pinned_leaves_all_locks_as_they_were(
    upstream: Upstream, imgc: Imgc
) -> None:
    TAKES.write_text(f"tool git /opt/tool {upstream.path} nowhere\n")
    ended = imgc("lock", "tiny")
    assert (ended.exit_code, "E614" in ended.stderr, LOCK.exists()) == (1, True, False)


def test_what_was_installed_is_kept_as_long_as_nothing_moves(upstream: Upstream, imgc: Imgc) -> None:
    imgc("lock", "tiny")
    lock = locks.read(LOCK)
    locks.write(Lock(lock.platform, lock.pins, lock.epoch, {"bash": "5.2"}), LOCK)
    imgc("lock", "tiny")
    assert locks.read(LOCK).packages == {"bash": "5.2"}
    upstream.commit()
    imgc("lock", "tiny")
    assert locks.read(LOCK).packages == {}


def test_verbose_tells_what_is_pinned(upstream: Upstream, imgc: Imgc) -> None:
    assert f"git tool is commit:{upstream.first}" in imgc("lock", "tiny", "-v").stderr


def test_a_line_that_nothing_can_pin_is_warned_about(upstream: Upstream, imgc: Imgc) -> None:
    TAKES.write_text(f"tool git /opt/tool {upstream.path} $(date)\n")
    ended = imgc("lock", "tiny")
    assert "warning: tiny: " in ended.stderr and f"{TAKES}:1:1" in ended.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["tiny", "--all"], ["tiny", "--check", "--diff"], ["tiny", "--diff", "--offline"]]
)
def test_what_makes_no_sense_together_is_wrong_usage(
    upstream: Upstream, imgc: Imgc, arguments: list[str]
) -> None:
    assert imgc("lock", *arguments).exit_code == 2
