"""The one way to start a program: its environment, its output, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgc import process
from imgc.errors import ImgcError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def interrupt() -> Iterator[process.Interrupt]:
    """A latch of one's own."""
    latch = process.Interrupt()
    yield latch
    latch.close()


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and waits to be collected does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_output_of_both_kinds_in_order() -> None:
    lines: list[str] = []
    done = process.run(["sh", "-c", "echo one; echo two >&2; printf three"], on_line=lines.append)
    assert (done.status, done.output) == (0, "one\ntwo\nthree\n")
    assert lines == ["one", "two", "three"]


def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    names = {line.partition("=")[0] for line in process.run(["env"]).output.splitlines()}
    assert names <= {*process.INHERITED, "LC_ALL"}
    assert process.run(["env"], env={"ONLY": "this"}).output == "ONLY=this\n"
    assert "MORE=1\n" in process.run(["env"], env=process.clean_environment({"MORE": "1"})).output


def test_stdin_is_closed_unless_given() -> None:
    assert process.run(["cat"]).output == ""
    assert process.run(["cat"], stdin="text").output == "text\n"
    # However much it is, and whether or not the program reads it.
    assert process.run(["cat"], stdin="x\n" * 500_000).output == "x\n" * 500_000
    assert process.run(["true"], stdin="x" * 1_000_000).status == 0


def test_the_working_directory(tmp_path: Path) -> None:
    assert process.run(["pwd"], cwd=str(tmp_path)).output == f"{tmp_path}\n"


def test_a_failure_shows_the_command_and_the_last_lines() -> None:
    with pytest.raises(ImgcError) as raised:
        process.run(["sh", "-c", "seq 100; echo 'it broke'; exit 3"])
    assert (raised.value.code, raised.value.message) == ("E301", "sh failed: exit status 3.")
    lines = raised.value.detail.splitlines()
    assert lines[-1] == "$ sh -c 'seq 100; echo '\"'\"'it broke'\"'\"'; exit 3'"
    assert lines[-2] == "it broke"
    assert "61" not in lines and "62" in lines
    assert process.run(["sh", "-c", "exit 3"], check=False).status == 3


def test_a_signal_is_named() -> None:
    with pytest.raises(ImgcError, match="sh failed: ended by SIGKILL"):
        process.run(["sh", "-c", "kill -9 $$"])


def test_a_missing_program() -> None:
    with pytest.raises(ImgcError) as raised:
        process.run(["no-such-program-anywhere"])
    assert raised.value.code == "E302"
    with pytest.raises(ImgcError, match=r"Not installed: no-a, no-b\.") as several:
        process.need("sh", "no-a", "no-b", package="things")
    assert several.value.hint.startswith("Install things")
    with pytest.raises(ImgcError):
        process.interact(["no-such-program-anywhere"])


def test_interacting_hands_on_the_status() -> None:
    assert process.interact(["sh", "-c", "exit 5"]) == 5
    assert process.interact(["sh", "-c", 'test "$A" = b'], {"A": "b"}) == 0


def test_time_out() -> None:
    started = time.monotonic()
    with pytest.raises(ImgcError, match=r"sleep took longer than 0\.2 s"):
        process.run(["sleep", "60"], timeout=0.2)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("ignored", ["", "INT", "INT TERM"])
def test_an_interrupt_climbs_the_ladder(interrupt: process.Interrupt, ignored: str) -> None:
    """However stubborn the program, and whatever it started in its session, it ends within three seconds."""
    pids: list[int] = []

    def remember(line: str) -> None:
        pids.append(int(line))
        if len(pids) == 2:
            interrupt.set(signal.SIGTERM)

    script = f"trap '' {ignored or 'USR1'}; sleep 60 & echo $!; echo $$; while :; do sleep 60; done"
    started = time.monotonic()
    with pytest.raises(ImgcError) as raised:
        process.run(["bash", "-c", script], on_line=remember, interrupt=interrupt)
    assert raised.value.code == "E307"
    assert time.monotonic() - started < 3
    assert not alive(pids[1])
    assert interrupt.signal == signal.SIGTERM


def test_the_first_signal_is_remembered(interrupt: process.Interrupt) -> None:
    interrupt.check()
    interrupt.set(signal.SIGINT)
    for _ in range(100_000):
        interrupt.set(signal.SIGTERM)
    assert interrupt.signal == signal.SIGINT
    with pytest.raises(ImgcError, match="interrupted"):
        interrupt.check()


def test_every_running_program_ends(interrupt: process.Interrupt) -> None:
    codes: list[str] = []

    def wait() -> None:
        try:
            process.run(["sleep", "60"], interrupt=interrupt)
        except ImgcError as problem:
            codes.append(problem.code)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    interrupt.set()
    for thread in threads:
        thread.join(10)
    assert codes == ["E307"] * 3


def test_an_error_of_the_reader_ends_the_program() -> None:
    pids: list[int] = []

    def refuse(line: str) -> None:
        pids.append(int(line))
        raise OSError("the log is full")

    with pytest.raises(OSError, match="the log is full"):
        process.run(["sh", "-c", "echo $$; sleep 60"], on_line=refuse)
    assert not alive(pids[0])


def test_a_program_dies_with_imgc() -> None:
    code = (
        "from imgc import process\n"
        "process.run(['sh', '-c', 'echo $$; exec sleep 60'], on_line=lambda line: print(line, flush=True))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 5
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(pid)


def test_descriptors_are_passed_on_request(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        process.run(["bash", "-c", f"echo here >&{file.fileno()}"], pass_fds=[file.fileno()])
    assert (tmp_path / "file").read_text() == "here\n"


def test_lines_are_cut_only_between_characters() -> None:
    """A line without end comes in pieces; put together they are what was printed."""
    lines: list[str] = []
    script = "import sys; sys.stdout.write('aä€😀' * 300_000)"
    process.run([sys.executable, "-c", script], on_line=lines.append, env={"PYTHONIOENCODING": "utf-8"})
    assert len(lines) > 1
    assert "".join(lines) == "aä€😀" * 300_000


def test_what_is_no_text_is_replaced() -> None:
    assert process.run(["printf", r"\377ok\r\n"]).output == "\ufffdok\n"
    # Bytes that can only be the middle of characters have no place to cut at.
    assert set(process.run(["sh", "-c", r"head -c 2000000 /dev/zero | tr '\0' '\200'"]).output) == {
        "\ufffd",
        "\n",
    }


def test_output_without_end_does_not_fill_memory() -> None:
    """Of a quarter of a gigabyte, the beginning and the end are kept."""
    tracemalloc.start()
    try:
        done = process.run(["sh", "-c", "echo first; head -c 250M /dev/zero | tr '\\0' x; echo; echo last"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert done.output.startswith("first\nxxx")
    assert done.output.endswith("xxx\nlast\n")
    assert peak < 80 * 2**20


def test_programs_in_system_directories_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user's PATH has no /usr/sbin, where mkfs and its kin are."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert process.which("mke2fs") == "/usr/sbin/mke2fs"
    process.need("mke2fs")
    assert process.run(["mke2fs", "-V"]).status == 0
    assert process.search_path().split(":")[:2] == ["/usr/bin", "/bin"]
