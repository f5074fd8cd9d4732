"""Runs inside an image: the units of all interfaces at once, while others read the network's configuration.

usage: glean_race.py UNIT ROUNDS INTERFACE…

Prints what failed, one line each, and ends with 1 then.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

NETWORK = Path("/etc/network")

#: What udev, networking.service and ifupdown-pre.service do, or may do, at the same time.
READERS = (("ifquery", "lo"), ("ifup", "--no-act", "lo"), ("ifquery", "--list"))

Argv = tuple[str, ...]


def commands(unit: Path, interface: str) -> list[Argv]:
    """What systemd runs to start ``unit`` for an interface, in order.

    ``${NAME}`` becomes one word, as in systemd; the unit uses it in no other way.
    """
    variables: dict[str, str] = {}
    found: dict[str, list[Argv]] = {"ExecStartPre": [], "ExecStart": []}
    for line in unit.read_text().splitlines():
        key, _, value = line.replace("%I", interface).partition("=")
        if key == "Environment":
            name, _, text = shlex.split(value)[0].partition("=")
            variables[f"${{{name}}}"] = text
        elif key in found:
            found[key].append(tuple(variables.get(word, word) for word in shlex.split(value)))
    return found["ExecStartPre"] + found["ExecStart"]


class Round:
    """All interfaces brought up once."""

    def __init__(self, unit: Path) -> None:
        self.unit = unit
        self.failures: list[str] = []
        self.starting = threading.Event()

    def run(self, argv: Argv) -> bool:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            self.failures.append(f"{shlex.join(argv)}: {done.returncode}: {done.stdout.strip()[-300:]}")
        return done.returncode == 0

    def start(self, interface: str) -> None:
        """Start the unit of an interface."""
        all(self.run(argv) for argv in commands(self.unit, interface))

    def read(self) -> None:
        """Read until all units have started."""
        while self.starting.is_set():
            for argv in READERS:
                self.run(argv)

    def play(self, interfaces: list[str]) -> list[str]:
        units = [threading.Thread(target=self.start, args=(one,)) for one in interfaces]
        reader = threading.Thread(target=self.read)
        self.starting.set()
        for thread in (reader, *units):
            thread.start()
        for thread in units:
            thread.join()
        self.starting.clear()
        reader.join()
        return self.failures


def reset(interfaces: list[str], text: str) -> None:
    """As before the first boot."""
    for file in (NETWORK / "interfaces.d").iterdir():
        file.unlink()
    (NETWORK / "interfaces").write_text(text)
    shutil.rmtree("/run/network", ignore_errors=True)
    for one in interfaces:
        subprocess.run(["ip", "address", "flush", "dev", one], check=True)


def main() -> int:
    unit, rounds, interfaces = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    text = (NETWORK / "interfaces").read_text()
    failed = []
    for number in range(rounds):
        reset(interfaces, text)
        failed += [f"round {number}: {one}" for one in Round(unit).play(interfaces)]
    print("\n".join(failed), end="")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
