"""The one way to start a program.

:func:`run` gives every program a clean environment, a closed stdin, its own session and a parent-death signal,
streams its output line by line, and ends it by a ladder of INT, TERM and KILL when it is interrupted or too slow.
A failure is an :class:`~imgc.errors.ImgcError` (E301, or E302 when the program is missing) whose detail holds the
replayable command and the last lines of output.
"""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from imgc.errors import ImgcError

#: Seconds between the rungs of the ladder; their sum stays below the three seconds an interrupt may take.
LADDER = ((signal.SIGINT, 0.5), (signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0))

#: The environment of every program, before the caller's own.
BASE_ENVIRONMENT = {"LC_ALL": "C.UTF-8"}

#: What a program may need from the host to find other programs and the network.
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR")

_SYSTEM = ("/usr/local/sbin", "/usr/sbin", "/sbin")

_TAIL = 40


class Interrupt:
    """A latch that ends every running program of this imgc when it is set (by a signal, or by a failed sibling)."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.signal = 0
        self._event = threading.Event()

    def set(self, signum: int = signal.SIGINT) -> None:
        """Latch.  Safe in a signal handler; the first signal is the one that is remembered."""
        self.signal = self.signal or signum
        self._event.set()
        try:
            os.write(self._write, b"x")
        except BlockingIOError:
            pass

    def is_set(self) -> bool:
        return self._event.is_set()

    def fileno(self) -> int:
        """Readable for ever once the latch is set."""
        return self._read

    def check(self) -> None:
        """Raise E307 when the latch is set."""
        if self.is_set():
            raise interrupted()

    def close(self) -> None:
        """Give back the descriptors of a latch that has served one program; it cannot be used afterwards."""
        os.close(self._read)
        os.close(self._write)


#: The latch that the command line's signal handlers set.
INTERRUPT = Interrupt()


def interrupted() -> ImgcError:
    return ImgcError(
        "E307", "The build was interrupted.", hint="Run the same command again; it resumes where it was."
    )


@dataclass(frozen=True)
class Completed:
    """A program that ended: its exit status (negative: the signal that ended it) and what it printed."""

    argv: tuple[str, ...]
    status: int
    output: str
    seconds: float


def quoted(argv: Sequence[str]) -> str:
    """The command as a shell would take it."""
    return " ".join(shlex.quote(word) for word in argv)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment a program gets: a few inherited names, the C.UTF-8 locale, then ``extra``."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**kept, "PATH": search_path(), **BASE_ENVIRONMENT, **(extra or {})}


def search_path() -> str:
    """Where programs are looked for: PATH, and the directories of mkfs and its kin, which users often lack there."""
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*directories, *(one for one in _SYSTEM if one not in directories)])


def which(program: str) -> str | None:
    """The path of a program as :func:`run` would find it; None when there is none."""
    return shutil.which(program, path=search_path())


def need(*programs: str, package: str = "") -> None:
    """Raise E302 naming the programs of ``programs`` that are not on PATH."""
    missing = [name for name in programs if which(name) is None]
    if missing:
        raise ImgcError(
            "E302",
            f"Not installed: {', '.join(missing)}.",
            hint=f"Install {package or 'the packages that bindep.txt names'} (`./dev setup` does it).",
        )


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    pass_fds: Sequence[int] = (),
    stdin: str | None = None,
    on_line: Callable[[str], None] | None = None,
    timeout: float | None = None,
    check: bool = True,
    interrupt: Interrupt = INTERRUPT,
) -> Completed:
    """Run a program to its end and return what it printed (stdout and stderr, interleaved).

    ``env`` is the whole environment (default: :func:`clean_environment`).  ``on_line`` is called with every line,
    without its newline, as it comes.  ``timeout`` is in seconds.  With ``check``, a status other than 0 raises.
    """
    started = time.monotonic()
    child = _start(argv, env, cwd, pass_fds, stdin)
    reader = _Reader(on_line)
    deadline = started + timeout if timeout else None
    try:
        why = _follow(child, reader, deadline, interrupt)
        if why:
            stop(child)
        else:
            child.wait()
    except BaseException:
        stop(child)
        raise
    finally:
        reader.close()
        if child.stdout:
            child.stdout.close()
    done = Completed(tuple(argv), child.returncode, reader.text(), time.monotonic() - started)
    if why == "interrupted":
        raise interrupted()
    if why == "timeout":
        raise failure(done, f"{os.path.basename(argv[0])} took longer than {timeout:g} s and was ended.")
    if check and done.status:
        raise failure(done)
    return done


@contextmanager
def companion(argv: Sequence[str], *, ready: str) -> Iterator[int]:
    """A program that runs beside others: yields its process id once it has printed the line ``ready``; kills it after.

    Raises E301 with its output when it ends or prints anything else instead.
    """
    child = _start(argv, None, None, (), None)
    try:
        line = child.stdout.readline().decode("utf-8", "replace") if child.stdout else ""
        if line.strip() != ready:
            child.kill()
            rest = child.stdout.read().decode("utf-8", "replace") if child.stdout else ""
            raise failure(Completed(tuple(argv), child.wait(), line + rest, 0.0))
        yield child.pid
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


def interact(argv: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Run a program with this terminal as its own and return its exit status."""
    need(argv[0])
    return subprocess.run(
        list(argv), env=dict(env) if env is not None else clean_environment(), check=False
    ).returncode


def failure(done: Completed, message: str = "") -> ImgcError:
    """The error for a program that ended badly, with its last lines and the command to replay."""
    how = f"ended by {signal.Signals(-done.status).name}" if done.status < 0 else f"exit status {done.status}"
    tail = "\n".join(done.output.splitlines()[-_TAIL:])
    name = os.path.basename(done.argv[0])
    return ImgcError(
        "E301", message or f"{name} failed: {how}.", detail=f"{tail}\n$ {quoted(done.argv)}".lstrip("\n")
    )


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a program and its session: INT, then TERM, then KILL, as long as it still runs."""
    for number, seconds in LADDER:
        if child.poll() is not None:
            break
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    child.poll()


def _start(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: str | None,
    pass_fds: Sequence[int],
    stdin: str | None,
) -> subprocess.Popen[bytes]:
    """Start ``argv`` in a session of its own, to be killed by the kernel when this thread's process dies."""
    need(argv[0])
    tied = ["setpriv", "--pdeathsig", "KILL", "--", *argv] if which("setpriv") else list(argv)
    with _input(stdin) as given:
        return subprocess.Popen(
            tied,
            env=dict(env) if env is not None else clean_environment(),
            cwd=cwd,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )


def _input(text: str | None) -> IO[bytes]:
    """What a program reads: a file in memory, which unlike a pipe never makes anyone wait; nothing for None."""
    if text is None:
        return open(os.devnull, "rb")
    file = os.fdopen(os.memfd_create("stdin"), "w+b")
    file.write(text.encode())
    file.seek(0)
    return file


def _follow(
    child: subprocess.Popen[bytes], reader: _Reader, deadline: float | None, interrupt: Interrupt
) -> str:
    """Read until the output ends.  Returns why it stopped early: ``"interrupted"``, ``"timeout"`` or ``""``."""
    if child.stdout is None:
        raise ValueError("the child's output is always a pipe")
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(interrupt, selectors.EVENT_READ)
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return "timeout"
            for key, _ in selector.select(left if left is None else min(left, 1.0)):
                if key.fileobj is interrupt:
                    return "interrupted"
                data = os.read(child.stdout.fileno(), 65536)
                if not data:
                    return ""
                reader.feed(data)


class _Reader:
    """Splits bytes into lines of text (never in the middle of a character) and remembers them."""

    #: Characters kept of the beginning, and of the end; a program that prints for ever must not fill memory.
    KEPT = 8 * 1024 * 1024
    #: A longer line is handed on in pieces of this many bytes.
    LONGEST = 1024 * 1024

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._rest = b""
        self._head: list[str] = []
        self._tail: deque[str] = deque()
        self._head_room = self._tail_room = self.KEPT
        self._on_line = on_line

    def feed(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._line(line)
        while len(self._rest) > self.LONGEST:
            cut = _character_start(self._rest, self.LONGEST)
            self._line(self._rest[:cut])
            self._rest = self._rest[cut:]

    def close(self) -> None:
        if self._rest:
            self._line(self._rest)
            self._rest = b""

    def text(self) -> str:
        lines = [*self._head, *self._tail]
        return "".join(f"{line}\n" for line in lines)

    def _line(self, raw: bytes) -> None:
        line = raw.rstrip(b"\r").decode("utf-8", "replace")
        self._keep(line)
        if self._on_line:
            self._on_line(line)

    def _keep(self, line: str) -> None:
        if self._head_room > 0:
            self._head.append(line)
            self._head_room -= len(line) + 1
            return
        self._tail.append(line)
        self._tail_room -= len(line) + 1
        while self._tail_room < 0:
            self._tail_room += len(self._tail.popleft()) + 1


def _character_start(data: bytes, position: int) -> int:
    """The last place at or shortly before ``position`` where a character of UTF-8 may begin."""
    for place in range(position, position - 4, -1):
        if data[place] & 0xC0 != 0x80:
            return place
    return position
