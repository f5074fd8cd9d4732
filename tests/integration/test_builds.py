"""Whole builds of a tiny system through the command line: what runs again, and what a user is told."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.integration.project import HERE, Project, leftovers

#: The steps that make files of the finished tree; those that do not need each other run at once.
FILES = ("side-outputs", "tar", "check")

#: The steps of a project without elements of its own.
PLAIN = ("root.d/10-tiny", "resolv-conf", "install-type", "fstab", "finalise", *FILES)


def in_order(steps: list[str]) -> list[str]:
    """The steps that changed the tree in the order in which they ran, then the others as :data:`FILES` has them."""
    return [step for step in steps if step not in FILES] + [step for step in FILES if step in steps]


def snapshot(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Inode, time and bytes of every file: what must not change when nothing is done."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in directory.iterdir()
    }


# --- what runs -------------------------------------------------------------------------------------------------


def test_a_second_build_runs_nothing_and_touches_nothing(project: Project) -> None:
    project.hook("one/install.d/50-one", "id -u >/etc/one")
    first = project.build()
    assert first.status == 0, first.errors
    assert sorted(first.ran) == sorted([*PLAIN, "install.d/50-one"])
    assert project.text("etc/one") == "0\n"
    published = snapshot(project.images)
    assert set(published) == {"tiny.tar", "tiny.tar.sha256", "tiny.tar.md5", "tiny.lock"}
    digest = hashlib.sha256(project.tar.read_bytes()).hexdigest()
    assert Path(f"{project.tar}.sha256").read_text() == f"{digest}  tiny.tar\n"

    second = project.build()
    assert (second.status, second.ran) == (0, [])
    assert len(second.of("StepCached")) == len(first.ran)
    assert snapshot(project.images) == published


def test_an_edit_reruns_from_there(project: Project) -> None:
    project.hook("one/install.d/50-one", "echo one >/etc/one")
    project.hook("two/finalise.d/99-two", "echo before >/etc/two")
    assert project.build().status == 0
    project.hook("two/finalise.d/99-two", "echo after >/etc/two")
    again = project.build()
    assert in_order(again.ran) == ["finalise.d/99-two", "finalise", *FILES]
    assert project.text("etc/two") == "after\n"
    assert project.text("etc/one") == "one\n"

    # What was built before is still known: going back makes nothing but the archive's name.
    project.hook("two/finalise.d/99-two", "echo before >/etc/two")
    assert project.build().ran == []
    assert project.text("etc/two") == "before\n"


def test_a_file_of_an_element_reruns_what_reads_it(project: Project) -> None:
    project.hook("one/install.d/40-one", "echo one >/etc/one")
    project.write("two/greeting", "hello\n", 0o644)
    project.hook("two/install.d/50-two", 'cp "$(dirname "$0")/../greeting" /etc/greeting')
    project.hook("three/post-install.d/60-three", "echo three >/etc/three")
    assert project.build().status == 0
    assert project.text("etc/greeting") == "hello\n"
    project.write("two/greeting", "good day\n", 0o644)
    again = project.build()
    expected = ["install.d/50-two", "post-install.d/60-three", "fstab", "finalise", *FILES]
    assert in_order(again.ran) == expected
    assert project.text("etc/greeting") == "good day\n"


def test_fresh_runs_everything_again_and_replaces_it(project: Project) -> None:
    project.hook("one/install.d/50-one", "date +%s%N >/etc/one")
    assert project.build().status == 0
    before = project.text("etc/one")
    again = project.build("--fresh")
    assert again.status == 0, again.errors
    assert sorted(again.ran) == sorted([*PLAIN, "install.d/50-one"])
    assert project.text("etc/one") != before
    assert project.build().ran == []


def test_only_the_asked_format_is_made(project: Project) -> None:
    project.outputs = "{format: tar, compression: none}, {format: tar, compression: gzip}"
    done = project.build("--format", "tar")
    assert done.status == 0, done.errors
    assert sorted(path.name for path in project.images.glob("*.tar*")) == sorted(
        f"tiny.{kind}{checksum}" for kind in ("tar", "tar.gz") for checksum in ("", ".sha256", ".md5")
    )
    other = project.build("--format", "qcow2")
    assert other.status == 1
    assert "E405" in other.errors and "tiny has no output qcow2" in other.errors


def test_hooks_that_extra_data_writes_are_steps(project: Project) -> None:
    body = 'printf "#!/bin/bash\\necho %s >/etc/written\\n" >"$TMP_HOOKS_PATH/install.d/70-written"'
    tail = 'chmod +x "$TMP_HOOKS_PATH/install.d/70-written"'
    project.hook("one/extra-data.d/50-one", f"mkdir -p $TMP_HOOKS_PATH/install.d\n{body % 'first'}\n{tail}")
    first = project.build()
    assert first.status == 0, first.errors
    assert "install.d/70-written" in first.ran
    assert project.text("etc/written") == "first\n"
    assert project.build().ran == []

    project.hook("one/extra-data.d/50-one", f"mkdir -p $TMP_HOOKS_PATH/install.d\n{body % 'second'}\n{tail}")
    again = project.build()
    assert again.ran[:2] == ["extra-data.d/50-one", "install.d/70-written"]
    assert project.text("etc/written") == "second\n"


def test_what_hooks_write_beside_the_image(project: Project) -> None:
    project.hook(
        "one/cleanup.d/50-one", "mkdir -p tiny.d; echo kernel >tiny.d/kernel; sudo chown 1000 tiny.d/kernel"
    )
    assert project.build().status == 0
    assert (project.images / "tiny.d" / "kernel").read_text() == "kernel\n"
    assert (project.images / "tiny.d" / "kernel").stat().st_uid == os.geteuid()
    shutil.rmtree(project.images / "tiny.d")
    assert project.build().ran == []
    assert (project.images / "tiny.d" / "kernel").read_text() == "kernel\n"


# --- failures ----------------------------------------------------------------------------------------------------


def test_a_failure_says_where_and_the_next_build_resumes_there(project: Project) -> None:
    project.hook("one/install.d/40-one", "echo one >/etc/one")
    hook = project.hook(
        "two/install.d/50-two", "for n in $(seq 100); do echo line $n; done; echo oh no >&2; exit 7"
    )
    failed = project.build()
    assert failed.status == 1
    assert "E301: install.d/50-two of element two failed: exit status 7." in failed.errors
    assert "step tiny/install.d/50-two" in failed.errors
    assert str(hook.relative_to(project.directory)) in failed.errors
    assert "| line 100\n" in failed.errors and "| oh no\n" in failed.errors
    assert "| line 1\n" not in failed.errors, "only the last lines"
    assert str(failed.log.relative_to(project.directory)) in failed.errors
    assert "install.d/50-two | line 1\n" in failed.log.read_text(), "the log has all of them"
    assert failed.of("StepFailed")[0]["file"] == str(hook)
    assert failed.of("BuildFinished")[0]["status"] == "failed"
    assert not project.images.exists()
    assert "Traceback" not in failed.errors

    project.hook("two/install.d/50-two", "echo two >/etc/two")
    resumed = project.build()
    assert resumed.status == 0, resumed.errors
    assert in_order(resumed.ran) == ["install.d/50-two", "fstab", "finalise", *FILES]


def test_a_hook_that_is_killed(project: Project) -> None:
    project.hook("one/install.d/50-one", "kill -9 $$")
    assert "install.d/50-one of element one failed: signal 9." in project.build().errors


def test_a_hook_that_leaves_a_daemon(project: Project) -> None:
    is_it = "read -r name < /proc/$!/comm && [ $name = sleep ]"
    project.hook(
        "one/install.d/50-one", f"setsid sleep 600 </dev/null &\nuntil {is_it}; do :; done\necho started"
    )
    done = project.build()
    assert done.status == 0, done.errors
    assert "imgc: ended what the step left running: sleep" in done.lines
    assert leftovers(project.directory) == []


def test_a_hook_that_prints_anything(project: Project) -> None:
    project.hook("one/install.d/50-one", r"printf '\377\376 \303\274 \0 \033[31m\r\nno newline at the end'")
    done = project.build()
    assert done.status == 0, done.errors
    assert done.lines == ["\ufffd\ufffd ü \0 \x1b[31m", "no newline at the end"]


def test_a_hook_that_prints_without_end(project: Project) -> None:
    """200 MB without a newline, then the reason of the failure: neither memory nor time runs out."""
    project.hook("one/install.d/50-one", "head -c 200M /dev/zero | tr '\\0' x\necho\necho the reason\nexit 1")
    failed = project.build()
    assert failed.status == 1
    assert "| the reason\n" in failed.errors
    assert sum(len(line) for line in failed.lines) == 200 * 2**20 + len("the reason")


def test_mounts_that_a_hook_leaves_stay_for_the_next_steps_and_no_longer(project: Project) -> None:
    project.hook(
        "one/root.d/50-cache",
        "mkdir -p $DIB_IMAGE_CACHE/packages $TARGET_ROOT/var/cache/packages\n"
        "echo kept >$DIB_IMAGE_CACHE/packages/file\n"
        "sudo mount --bind $DIB_IMAGE_CACHE/packages $TARGET_ROOT/var/cache/packages",
    )
    project.hook("one/install.d/50-read", "cat /var/cache/packages/file")
    project.hook("one/finalise.d/50-look", "ls /var/cache/packages | wc -l")
    first = project.build()
    assert first.status == 0, first.errors
    assert first.lines == ["kept", "0"]
    assert "var/cache/packages" in project.tree()
    assert "var/cache/packages/file" not in project.tree()

    # The mount is made again when the build resumes behind the hook that made it.
    project.hook("one/install.d/50-read", "cat /var/cache/packages/file # again")
    again = project.build()
    assert "root.d/50-cache" not in again.ran
    assert again.lines[0] == "kept"


# --- the cache ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["empty", "truncated", "binary", "missing", "list"])
def test_a_damaged_layer_is_made_again(project: Project, damage: str) -> None:
    project.hook("one/install.d/50-one", "echo one >/etc/one")
    first = project.build()
    key = next(
        event["key"] for event in first.of("StepStarted") if event["step"].endswith("install.d/50-one")
    )
    meta = project.cache / "layers" / key / "meta.json"
    text = meta.read_bytes()
    if damage == "missing":
        meta.unlink()
    else:
        meta.write_bytes(
            {"empty": b"", "truncated": text[: len(text) // 2], "binary": b"\xff\0", "list": b"[1]"}[damage]
        )
    project.hook("two/post-install.d/50-two", "cat /etc/one")
    again = project.build()
    assert again.status == 0, again.errors
    assert again.ran[0] == "install.d/50-one"
    assert again.lines == ["one"]
    assert json.loads(meta.read_text())["key"] == key


def test_a_layer_of_an_earlier_boot_without_the_mark_is_made_again(project: Project) -> None:
    first = project.build()
    for meta in project.cache.glob("*/*/meta.json"):
        known = json.loads(meta.read_text())
        meta.write_text(json.dumps({**known, "boot": "another"}))
    assert project.build().ran == [], "it is marked as durable"
    for mark in project.cache.glob("*/*/durable"):
        mark.unlink()
    assert sorted(project.build().ran) == sorted(first.ran)


def test_an_output_that_was_written_to_is_made_again(project: Project) -> None:
    """The published file may be the store's own: whoever boots an image in place changes both."""
    project.build()
    good = project.tar.read_bytes()
    with project.tar.open("r+b") as file:
        file.write(b"somebody else's bytes")
    again = project.build()
    assert again.ran == ["tar", "check"]
    assert project.tar.read_bytes() == good


def test_an_output_that_was_removed_comes_back_without_a_step(project: Project) -> None:
    project.build()
    shutil.rmtree(project.images)
    again = project.build()
    assert (again.status, again.ran) == (0, [])
    assert project.tar.exists()


def test_two_builds_at_once(project: Project) -> None:
    project.hook("one/install.d/50-one", f"echo {HERE}; sleep 1; echo one >/etc/one")
    both = [project.start(), project.start()]
    ended = [one.end() for one in both]
    assert [one.status for one in ended] == [0, 0], [one.errors for one in ended]
    assert project.text("etc/one") == "one\n"
    assert sorted(path.name for path in project.images.iterdir()) == [
        *("tiny.lock", "tiny.tar", "tiny.tar.md5", "tiny.tar.sha256"),
    ]
    assert project.build().ran == []
    assert list((project.cache / "work").iterdir()) == []


def test_clean_does_not_take_the_layers_of_a_running_build(project: Project) -> None:
    project.hook("one/install.d/50-one", f"echo {HERE}; sleep 2")
    running = project.start()
    running.wait_for_hook()
    refused = project.imgc("clean", "--all")
    assert refused.returncode == 1
    assert "E304: The cache is in use by tiny-" in refused.stderr
    assert running.end().status == 0
    assert project.imgc("clean", "--all").returncode == 0
    assert list((project.cache / "layers").iterdir()) == []
    assert project.tar.exists()


# --- the host ----------------------------------------------------------------------------------------------------


def test_nothing_of_the_host_reaches_hooks_or_image(project: Project) -> None:
    project.host = {"SECRET_OF_THE_HOST": "leak", "http_proxy": "http://proxy.example:3128"}
    for path in ("root.d/60-look", "install.d/50-look", "finalise.d/50-look"):
        project.hook(f"one/{path}", 'env; echo "proxy $http_proxy"; env >/dev/shm/look || true')
    done = project.build()
    assert done.status == 0, done.errors
    text = "\n".join(done.lines)
    assert "leak" not in text
    assert str(project.directory) not in text
    assert os.path.expanduser("~") + "/" not in text.replace("HOME=/root", "")
    assert done.lines.count("proxy http://proxy.example:3128") == 3
    assert b"proxy.example" not in project.tar.read_bytes()
    assert str(project.directory).encode() not in project.tar.read_bytes()

    # How to reach the network is no part of what an image is.
    project.host = {}
    assert project.build().ran == []
