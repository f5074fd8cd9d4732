"""Waiting for a guest, with an eye on its console, on QEMU, on the clock and on the user."""

from __future__ import annotations

import importlib.resources
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imgc import process
from imgc.errors import ImgcError
from imgc.verify import checks, network, qemu, ssh, symptoms
from imgc.verify.guest import Guest
from imgc.verify.qmp import QmpError

#: The part of the timeout that a guest with a login prompt gets to answer on SSH.
LOGIN_SHARE = 0.25

#: Seconds for a guest that answers on SSH to let us in.
KEY_SECONDS = 60.0

#: Seconds between two looks at the guest, and between two log-ins.
LOOK, RETRY = 0.2, 3.0

#: Seconds that one script in the guest may take, and what it gets at least when time is nearly up.
SCRIPT_SECONDS, LAST_SECONDS = 90.0, 10.0


@dataclass
class Watch:
    """One guest being waited for.  ``started`` is on the monotonic clock, ``timeout`` in seconds from then."""

    guest: Guest
    image: Path
    directory: Path
    started: float
    timeout: float

    def wait_for_ssh(self, net: network.Network) -> int:
        """The loopback port that an SSH server answers on: the static address's or the DHCP lease's."""
        ports = self._ports()
        prompt_since: float | None = None
        with ssh.Doorbell(ports) as bell:
            while True:
                self.look()
                answered = bell.answered(LOOK)
                if answered:
                    return ports[answered]
                now = time.monotonic()
                if prompt_since is None and symptoms.waits_for_login(self.guest.serial.text):
                    prompt_since = now
                if prompt_since is not None and now - prompt_since > self.timeout * LOGIN_SHARE:
                    raise self.wrong(
                        "The guest shows its login prompt but nothing answers on SSH.",
                        f"Is sshd enabled, does it have host keys, did the guest take {net.address.ip}?",
                    )
                if now - self.started > self.timeout:
                    raise self.too_slow("answered on SSH")

    def _ports(self) -> dict[str, int]:
        try:
            return qemu.forwarded_ports(
                self.guest.monitor.command("human-monitor-command", {"command-line": "info usernet"})
            )
        except QmpError as error:
            raise self.wrong("QEMU ended at once.", "", str(error)) from None

    def log_in(self, port: int) -> tuple[ssh.Login, checks.Facts]:
        """Log in with the config drive's key, which may arrive a little after sshd; return the first facts."""
        login = ssh.Login(self.directory, port)
        patience = min(
            self.started + self.timeout, time.monotonic() + max(KEY_SECONDS, self.timeout * LOGIN_SHARE)
        )
        while True:
            said, facts = self.ask(login)
            if facts:
                return login, facts
            if time.monotonic() > patience:
                if "Permission denied" in said:
                    raise self.wrong(
                        "The guest answers on SSH but refuses the config drive's key for root.",
                        "Is there an agent (glean, cloud-init) that reads the drive, and may root log in by key?",
                        said,
                    )
                raise self.wrong(
                    "The guest answers on SSH but nobody can log in.", "ssh's own words are below.", said
                )
            self.rest(RETRY)

    def wait_until_settled(self, login: ssh.Login, facts: checks.Facts) -> checks.Facts:
        """The facts once the boot is finished; those of the time-out when it never is."""
        while not checks.settled(facts) and time.monotonic() - self.started < self.timeout:
            self.rest(RETRY)
            _, fresh = self.ask(login)
            facts = fresh or facts
        return facts

    def ask(self, login: ssh.Login) -> tuple[str, checks.Facts]:
        """What the guest says about itself; without facts, ssh's words on why not."""
        self.look()
        left = max(self.started + self.timeout - time.monotonic(), LAST_SECONDS)
        said = self._script(login, "facts.sh", min(left, SCRIPT_SECONDS))
        facts = checks.sections(said)
        return said, facts if "end" in facts else {}

    def evidence(self, login: ssh.Login) -> tuple[tuple[str, str], ...]:
        """Titled texts that help to understand a failed check."""
        said = self._script(login, "evidence.sh")
        found = [(title, "\n".join(lines)) for title, lines in checks.sections(said).items()]
        return (*found, ("the serial console", self.guest.serial.tail()))

    def _script(self, login: ssh.Login, name: str, seconds: float = SCRIPT_SECONDS) -> str:
        """What a script of this package prints in the guest; when it cannot be run, why."""
        text = importlib.resources.files("imgc.verify").joinpath(name).read_text()
        try:
            return login.run(text, seconds).output
        except ImgcError as error:
            if error.code != "E301":
                raise
            return f"{error.message}\n{error.detail}"

    def keep(self, login: ssh.Login, on_ready: Callable[[str], None] | None) -> None:
        """Say how to log in; return when the guest is gone or the user has had enough."""
        if on_ready:
            on_ready(login.by_hand())
        while self.guest.alive() and not process.INTERRUPT.is_set():
            self.guest.serial.poll()
            time.sleep(LOOK)

    def rest(self, seconds: float) -> None:
        """Wait, looking."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()
            time.sleep(LOOK)

    def look(self) -> None:
        """Raise when the user interrupts, the console shows a symptom, or QEMU has ended."""
        process.INTERRUPT.check()
        self.guest.serial.poll()
        symptom = symptoms.find(self.guest.serial.text)
        if symptom:
            raise self.wrong(f"{symptom.sentence} ({symptom.name})", symptom.hint)
        if not self.guest.alive():
            raise self.wrong(self.guest.why_it_ended(), "", self.guest.output())

    def wrong(self, sentence: str, hint: str, more: str = "") -> ImgcError:
        return self._error("E503", f"{self.image.name} came up wrong: {sentence}", hint, more)

    def too_slow(self, what: str) -> ImgcError:
        hint = "A slow host needs a longer --timeout; a guest that hangs shows where on its console."
        return self._error("E502", f"{self.image.name} has not {what} within {self.timeout:g} s.", hint, "")

    def _error(self, code: str, message: str, hint: str, more: str) -> ImgcError:
        self.guest.serial.poll()
        where = f"The serial console is in {self.guest.serial.path}."
        tail = self.guest.serial.tail() or "(nothing on the serial console)"
        detail = "\n".join(part for part in (more.rstrip(), "-- the serial console", tail) if part)
        return ImgcError(code, message, hint=f"{hint} {where}".lstrip(), detail=detail)
