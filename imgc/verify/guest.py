"""A running guest: QEMU held by a thread, its monitor, and its serial console as it grows.

QEMU is an ordinary :func:`imgc.process.run`, so that it dies with imgc however imgc dies.  Nothing of it has a name
in the file system but the serial log: the monitor is a socket pair, the ports are QEMU's own choice.
"""

from __future__ import annotations

import codecs
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from imgc import process
from imgc.errors import ImgcError
from imgc.verify import qemu, symptoms
from imgc.verify.qmp import Qmp, QmpError

#: Seconds for QEMU to answer on its monitor after it was started; long, because a busy host may be slow.
START_SECONDS = 60.0

#: Seconds for QEMU to end by itself before it is made to.
QUIT_SECONDS = 1.0


class SerialConsole:
    """Reads a serial log while QEMU writes it.  ``text`` is plain: no terminal control, no carriage returns."""

    #: Characters of ``text`` that are kept: the log file has everything.
    KEPT = 400_000

    def __init__(self, path: Path, on_line: Callable[[str], None] | None) -> None:
        self.path = path
        self.text = ""
        self.first: float | None = None
        self._file = path.open("rb")
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._on_line = on_line
        self._told = ""

    def poll(self) -> None:
        """Take what has come; pass whole new lines on."""
        data = self._file.read()
        if not data:
            return
        self.first = self.first or time.monotonic()
        fresh = symptoms.plain(self._decoder.decode(data))
        self.text = (self.text + fresh)[-self.KEPT :]
        *lines, self._told = (self._told + fresh).split("\n")
        if self._on_line:
            for line in lines:
                self._on_line(line)

    def tail(self, lines: int = 30) -> str:
        return "\n".join([line for line in self.text.splitlines() if line.strip()][-lines:])

    def close(self) -> None:
        self.poll()
        if self._told and self._on_line:
            self._on_line(self._told)
        self._file.close()


class Guest:
    """One QEMU.  Made by :func:`running`."""

    def __init__(self, monitor: socket.socket, serial: SerialConsole) -> None:
        self.serial = serial
        self.monitor = Qmp(monitor)
        self._stop = process.Interrupt()
        self._thread: threading.Thread | None = None
        self._done: process.Completed | None = None
        self._error: BaseException | None = None

    def start(self, argv: Sequence[str], directory: Path, pass_fd: int) -> None:
        """Start QEMU and wait for its monitor.  Raises E501 when it ends instead."""
        self._thread = threading.Thread(
            target=self._hold, args=(argv, directory, pass_fd), name="qemu", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        try:
            while not self.monitor.greet(0.2):
                process.INTERRUPT.check()
                if not self.alive() or time.monotonic() > deadline:
                    raise self._did_not_start(argv)
        except (QmpError, OSError):
            raise self._did_not_start(argv) from None

    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def why_it_ended(self) -> str:
        """A sentence about a guest that is gone: what it asked for, else how QEMU ended."""
        self.monitor.drain()
        reasons = [
            event["data"].get("reason", "") for event in self.monitor.events if event["event"] == "SHUTDOWN"
        ]
        if "guest-reset" in reasons:
            return "The guest rebooted."
        if "guest-shutdown" in reasons:
            return "The guest powered itself off."
        if "guest-panic" in reasons:
            return "The guest's kernel panicked."
        return "QEMU ended before the guest came up."

    def output(self) -> str:
        """What QEMU itself printed, once it has ended, and the command that started it."""
        if isinstance(self._error, ImgcError):
            return self._error.detail or str(self._error)
        return process.failure(self._done).detail if self._done else ""

    def stop(self) -> None:
        """End QEMU: by its monitor, else by signals.  Returns when it is gone."""
        if self.alive():
            with contextlib.suppress(QmpError):
                self.monitor.command("quit", seconds=QUIT_SECONDS)
            self._join(QUIT_SECONDS)
        if self.alive():
            self._stop.set()
            self._join(sum(seconds for _, seconds in process.LADDER))
        self._stop.close()

    def _join(self, seconds: float) -> None:
        if self._thread:
            self._thread.join(seconds)

    def _hold(self, argv: Sequence[str], directory: Path, pass_fd: int) -> None:
        try:
            self._done = process.run(
                argv, cwd=str(directory), pass_fds=[pass_fd], check=False, interrupt=self._stop
            )
        except BaseException as error:  # a thread's exception would be lost
            self._error = error

    def _did_not_start(self, argv: Sequence[str]) -> ImgcError:
        self._join(QUIT_SECONDS)
        return ImgcError(
            "E501",
            "QEMU did not start.",
            hint="What it printed is below; a newer QEMU or other options may help.",
            detail=self.output() or f"no answer on its monitor\n$ {process.quoted(argv)}",
        )


@contextlib.contextmanager
def running(
    setup: qemu.Setup, *, directory: Path, on_line: Callable[[str], None] | None = None
) -> Iterator[Guest]:
    """Run QEMU in ``directory`` for as long as the block.  At its end no process and no port is left.

    The setup's serial log is emptied first, and stays.
    """
    setup.serial_log.write_bytes(b"")
    with contextlib.ExitStack() as stack:
        serial = SerialConsole(setup.serial_log, on_line)
        stack.callback(serial.close)
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        with theirs:
            guest = Guest(ours, serial)
            stack.callback(guest.stop)
            guest.start(qemu.command(setup, theirs.fileno()), directory, theirs.fileno())
        yield guest
