#!/usr/bin/env python3
"""A cold build of one platform by imgc and by stock diskimage-builder, side by side on this machine.

    ./dev bench [--platform NAME] [--runs N] [--only stock|imgc] [--json FILE]

Both start from nothing: a new HOME, new caches, the kernel's page cache dropped; both use the same elements,
environment, packages and mirror, and make the same formats.  With several runs the two take turns, and each
goes first in every other round, so that a busy machine or a warming mirror is no one's advantage.
It needs root, as stock diskimage-builder does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform as machine
import re
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import stock_driver
from imgc import process, spec
from imgc.errors import ImgcError

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Took:
    """Wall seconds, processor seconds of all of its processes, and how busy the machine was before it began.

    A busy machine makes the first number large and leaves the second nearly alone.
    """

    seconds: float
    processor: float
    load_before: float


@dataclass(frozen=True)
class Run:
    """One build: who did it, what it took, the image's bytes on disk, seconds by phase where the tool tells them."""

    tool: str
    took: Took
    image_bytes: int
    phases: Mapping[str, float] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, _frame: process.INTERRUPT.set(signum))
    try:
        found = spec.load(options.platform, specs_dir=options.specs, host_environment=os.environ)
        command = stock_driver.stock_command(found)
        if os.geteuid():
            raise ImgcError("E303", "Stock diskimage-builder needs root.", hint="Run ./dev bench as root.")
        runs = measure(options, command)
    except ImgcError as problem:
        print(f"{problem}\n{problem.detail}\n{problem.hint}".rstrip(), file=sys.stderr)
        return 128 + process.INTERRUPT.signal if process.INTERRUPT.is_set() else 1
    report(options, runs)
    if options.json:
        options.json.write_text(
            json.dumps(as_json(options.platform, runs), indent=2) + "\n", encoding="utf-8"
        )
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--platform", default="debian-bookworm", metavar="NAME", help="which platform (%(default)s)")
    add(
        "--specs", type=Path, default=ROOT / "specs", metavar="DIR", help="where specs are (the repository's)"
    )
    add("--runs", type=int, default=1, metavar="N", help="builds with each tool (%(default)s)")
    add("--only", choices=("stock", "imgc"), help="measure one tool only")
    add("--json", type=Path, metavar="FILE", help="write the measurements there as well")
    add("--logs", type=Path, metavar="DIR", help="keep each build's output there")
    add("--work", type=Path, metavar="DIR", help="where to build (the system's temporary directory)")
    options = parser.parse_args(argv)
    if options.runs < 1:
        parser.error("--runs has to be 1 or more")
    return options


def measure(options: argparse.Namespace, command: stock_driver.StockCommand) -> list[Run]:
    """All runs, in turns.  Prints each as it ends."""
    say(f"{options.platform}: {', '.join(command.formats)}; stock: {process.quoted(command.argv)}")
    for note in command.notes:
        say(f"note: {note}")
    runs: list[Run] = []
    for round_number in range(options.runs):
        turn = ("imgc", "stock") if round_number % 2 == 0 else ("stock", "imgc")
        for tool in turn:
            if options.only in (None, tool):
                runs.append(one_run(tool, round_number, options, command))
                say(f"{tool}: {described(runs[-1])}")
    return runs


def described(run: Run) -> str:
    took = run.took
    image = f"image {run.image_bytes / 1e6:.0f} MB"
    return f"{took.seconds:.1f} s ({took.processor:.1f} s of processor, load {took.load_before:.1f} before), {image}"


def one_run(
    tool: str, round_number: int, options: argparse.Namespace, command: stock_driver.StockCommand
) -> Run:
    """One cold build in a directory that is gone afterwards."""
    if options.logs:
        options.logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"bench-{tool}-", dir=options.work) as name:
        work = Path(name).resolve()
        log = (options.logs or work) / f"{tool}-{round_number}.log"
        drop_page_cache()
        if tool == "stock":
            return stock_run(work, log, command)
        return imgc_run(work, log, options, command.formats)


def stock_run(work: Path, log: Path, command: stock_driver.StockCommand) -> Run:
    with stock_driver.Sandbox(work / "stock") as sandbox:
        for note in sandbox.notes:
            say(f"note: {note}")
        took = timed(sandbox.argv(command), sandbox.environment(command), sandbox.out, log)
        phases = stock_phases(log.read_text(encoding="utf-8"), took.seconds)
        return Run("stock", took, disk_usage(sandbox.out, "image."), phases)


def imgc_run(work: Path, log: Path, options: argparse.Namespace, formats: Sequence[str]) -> Run:
    for name in ("home", "out", "cache", "tmp"):
        (work / name).mkdir()
    environment = {
        **os.environ,
        "HOME": str(work / "home"),
        "XDG_CACHE_HOME": str(work / "cache"),
        "TMPDIR": str(work / "tmp"),
    }
    argv = [sys.executable, "-m", "imgc", "--specs", str(options.specs), "--cache", str(work / "cache/imgc")]
    argv += ["build", options.platform, "-o", str(work / "out")]
    for name in formats:
        argv += ["--format", name]
    took = timed(argv, environment, ROOT, log)
    return Run("imgc", took, disk_usage(work / "out", options.platform))


def timed(argv: Sequence[str], environment: Mapping[str, str], cwd: Path, log: Path) -> Took:
    """What a program takes that writes its output to ``log``."""
    load = os.getloadavg()[0]
    processor = children_processor()
    with log.open("w", encoding="utf-8", buffering=1) as file:
        started = time.monotonic()
        process.run(argv, env=environment, cwd=str(cwd), on_line=lambda line: print(line, file=file))
        return Took(time.monotonic() - started, children_processor() - processor, load)


def children_processor() -> float:
    """Processor seconds, user's and system's, of every program that was started from here and has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def stock_phases(log: str, total: float) -> dict[str, float]:
    """Seconds of each phase from the driver's own profile; the rest is the driver itself (disk, copy, convert)."""
    phases: dict[str, float] = {}
    phase = ""
    for line in log.splitlines():
        target = re.search(r"dib-run-parts Target: (\S+)", line)
        hook = re.search(r"dib-run-parts (\S+)\s+(\d+\.\d+)$", line)
        if target:
            phase = target[1]
        elif hook and phase:
            phases[phase] = round(phases.get(phase, 0.0) + float(hook[2]), 3)
        elif "END PROFILING" in line:
            phase = ""
    phases["driver"] = round(total - sum(phases.values()), 3)
    return phases


def disk_usage(directory: Path, prefix: str) -> int:
    """Bytes that the images take on disk (a raw one has holes)."""
    files = [path for path in directory.rglob(f"{prefix}*") if path.is_file()]
    return sum(path.stat().st_blocks * 512 for path in files)


def drop_page_cache() -> None:
    """Let neither tool find warm what the one before it read."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")


def medians(runs: Sequence[Run], what: str) -> dict[str, float]:
    """The median of a field of :class:`Took` for each tool that ran."""
    tools = dict.fromkeys(run.tool for run in runs)
    return {
        tool: statistics.median(getattr(run.took, what) for run in runs if run.tool == tool) for tool in tools
    }


def ratio(middle: Mapping[str, float]) -> float | None:
    """How many times as fast imgc is; None when only one of them ran."""
    return round(middle["stock"] / middle["imgc"], 3) if len(middle) == 2 else None


def report(options: argparse.Namespace, runs: Sequence[Run]) -> None:
    """The table, and how many times as fast imgc is."""
    wall, processor = medians(runs, "seconds"), medians(runs, "processor")
    print(
        f"\ncold build of {options.platform} on {os.cpu_count()} cores, {machine.machine()}, {machine.release()}"
    )
    for tool in wall:
        each = ", ".join(f"{run.took.seconds:.1f}" for run in runs if run.tool == tool)
        print(f"  {tool:5}  {wall[tool]:7.1f} s ({each}), {processor[tool]:.1f} s of processor")
    for run in [run for run in runs if run.phases][-1:]:
        phases = ", ".join(f"{name} {took:.1f}" for name, took in run.phases.items())
        print(f"  {run.tool} by phase: {phases}")
    if len(wall) == 2:
        print(
            f"  imgc is {ratio(wall):.2f} times as fast, with {ratio(processor):.2f} times less processor time"
        )


def as_json(platform: str, runs: Sequence[Run]) -> dict[str, object]:
    wall, processor = medians(runs, "seconds"), medians(runs, "processor")
    return {
        "platform": platform,
        "machine": {"cores": os.cpu_count(), "arch": machine.machine(), "kernel": machine.release()},
        "seconds": wall,
        "ratio": ratio(wall),
        "processor_seconds": processor,
        "processor_ratio": ratio(processor),
        "runs": [asdict(run) for run in runs],
    }


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
