"""`imgc build --shell` at a terminal: a shell in the chroot where a step failed."""

from __future__ import annotations

import os
import pty
import select
import time

import pytest

from tests.integration.project import Project, leftovers


def read_until(terminal: int, text: str) -> str:
    """Everything that a terminal shows until ``text`` comes."""
    seen, until = b"", time.monotonic() + 30
    while text.encode() not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0, until - time.monotonic()))
        assert ready, seen.decode(errors="replace")
        seen += os.read(terminal, 4096)
    return seen.decode(errors="replace")


@pytest.mark.parametrize("phase", ["install.d", "cleanup.d"])
def test_a_shell_where_a_step_failed(project: Project, phase: str) -> None:
    project.environment = {"OF_THE_SPEC": "here"}
    project.write("one/environment.d/10-one.bash", "export OF_THE_ELEMENT=there\n", 0o644)
    in_chroot = phase == "install.d"
    place = "" if in_chroot else "$TARGET_ROOT"
    project.hook(f"one/{phase}/50-one", f"echo half >{place}/etc/half; exit 1")
    argv = project.command("build", project.name, "--shell", "-o", str(project.images))
    child, terminal = pty.fork()
    if not child:
        os.chdir(project.directory)
        os.execvpe(argv[0], argv, {**project.environ(), "TERM": "xterm"})
    try:
        shown = read_until(terminal, "(imgc)")
        assert "E301" in shown and "A shell where" in shown
        os.write(
            terminal,
            f"cat {place}/etc/half; echo $OF_THE_SPEC $OF_THE_ELEMENT; touch {place}/etc/more\n".encode(),
        )
        read_until(terminal, "half\r\nhere there")
        os.write(terminal, b"exit 5\n")
        until = time.monotonic() + 30
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until:
            time.sleep(0.05)
        assert os.waitstatus_to_exitcode(ended[1]) == 1, "the status is the build's"
    finally:
        os.close(terminal)
    assert leftovers(project.directory) == []
    assert list((project.cache / "work").iterdir()) == []

    project.hook(f"one/{phase}/50-one", f"ls {place}/etc")
    done = project.build()
    assert done.status == 0, done.errors
    assert "more" not in done.lines and "half" not in done.lines, "nothing done in the shell is kept"
