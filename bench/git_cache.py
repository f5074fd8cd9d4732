#!/usr/bin/env python3
"""The git cache of imgc and diskimage-builder's source-repositories hook, with the same repositories and server.

    python bench/git_cache.py [--repositories N] [--connections N] [--json FILE]

Synthetic repositories are served by a git daemon on loopback.  Each tool fills an empty cache and makes the trees of an
image; then does it again when nothing has moved, for a new image, as the next night's build does: the stock hook
asks for each repository and clones it from its cache; imgc asks, finds the pin unchanged, and takes the layer that
it has.  What linking all trees into a new layer takes is shown as well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform as machine
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import cold_build
import stock_driver
from imgc import process
from imgc.errors import ImgcError

ROOT = Path(__file__).resolve().parent.parent
BRANCHES = ("master", "stable/2026.1", "stable/2025.2")
HOOK = "source-repositories/extra-data.d/98-source-repositories"

#: What is measured; the last is what only imgc has apart.
FILL, REFRESH, TREES = "first fill", "unchanged refresh", "unchanged refresh, trees anew"


@dataclass(frozen=True)
class Bench:
    """Where everything is, and how many repositories there are."""

    work: Path
    names: tuple[str, ...]
    url: str
    connections: int


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, _frame: process.INTERRUPT.set(signum))
    try:
        with tempfile.TemporaryDirectory(prefix="bench-git-", dir=options.work) as name:
            took = measure(options, Path(name).resolve())
    except ImgcError as problem:
        print(f"{problem}\n{problem.detail}\n{problem.hint}".rstrip(), file=sys.stderr)
        return 128 + process.INTERRUPT.signal if process.INTERRUPT.is_set() else 1
    report(options.repositories, took)
    if options.json:
        options.json.write_text(
            json.dumps(as_json(options.repositories, took), indent=2) + "\n", encoding="utf-8"
        )
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--repositories", type=int, default=1000, metavar="N", help="how many (%(default)s)")
    add(
        "--connections",
        type=int,
        default=8,
        metavar="N",
        help="imgc's connections to the server (%(default)s)",
    )
    add("--json", type=Path, metavar="FILE", help="write the measurements there as well")
    add("--work", type=Path, metavar="DIR", help="where to work (the system's temporary directory)")
    options = parser.parse_args(argv)
    if options.repositories < 1 or options.connections < 1:
        parser.error("there has to be one at least")
    return options


def measure(options: argparse.Namespace, work: Path) -> dict[tuple[str, str], cold_build.Took]:
    """What each tool takes for what, by tool and what."""
    names = tuple(f"org{number % 7}/project-{number:04}" for number in range(options.repositories))
    cold_build.say(f"making {len(names)} repositories")
    for number, name in enumerate(names):
        make_repository(work / "upstream" / name, number)
    took: dict[tuple[str, str], cold_build.Took] = {}
    with served(work / "upstream") as url:
        bench = Bench(work, names, url, options.connections)
        prepare(bench)
        runs = (
            ("stock", FILL, stock_argv(), stock_environment(bench, "fill")),
            ("imgc", FILL, imgc_argv(bench, "fill"), None),
            ("stock", REFRESH, stock_argv(), stock_environment(bench, "refresh")),
            ("imgc", REFRESH, imgc_argv(bench, None), None),
            ("imgc", TREES, imgc_argv(bench, "refresh"), None),
        )
        for tool, what, argv, environment in runs:
            log = work / f"{tool}-{what.replace(' ', '-')}.log"
            own = environment or {**process.clean_environment(), "HOME": str(work / "home")}
            took[tool, what] = cold_build.timed(argv, own, work, log)
            cold_build.say(f"{tool}: {what}: {took[tool, what].seconds:.2f} s")
        for name in ("fill", "refresh"):
            check(bench, name)
    return took


# --- the world ----------------------------------------------------------------------------------------------------


def make_repository(path: Path, number: int) -> None:
    """A bare repository of some commits on three branches, with tags; the same for the same number."""
    for name in ("objects", "refs"):
        (path / name).mkdir(parents=True)
    (path / "HEAD").write_text("ref: refs/heads/master\n", encoding="ascii")
    (path / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n", encoding="ascii")
    source = random.Random(number)
    lines = []
    for branch in BRANCHES:
        for commit in range(6):
            lines.append(
                f"commit refs/heads/{branch}\ncommitter Bench <bench@example.org> {1700000000 + commit} +0000"
            )
            lines.append(_data(f"{branch} {commit}"))
            for file in range(4):
                lines.append(f"M 100644 inline doc/file-{file}.txt")
                lines.append(_data("".join(f"{source.getrandbits(64):x}\n" for _ in range(60))))
            lines.append(f"M 100644 inline bindep.txt\n{_data(f'package-{number} [test]')}")
        tag = branch.replace("/", "-")
        lines.append(
            f"tag v-{tag}\nfrom refs/heads/{branch}\ntagger Bench <bench@example.org> 1700000000 +0000\n{_data(tag)}"
        )
    process.run(
        ["git", f"--git-dir={path}", "fast-import", "--quiet"], stdin="".join(f"{line}\n" for line in lines)
    )


def _data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}"


@contextmanager
def served(base: Path) -> Iterator[str]:
    """A git daemon on loopback; it ends with this program."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    daemon = ["git", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}"]
    # Its parent says that it has been started, and takes it along.
    script = 'setpriv --pdeathsig KILL -- "$@" & echo started; wait'
    with process.companion(
        ["sh", "-c", script, "sh", *daemon, f"--base-path={base}", str(base)], ready="started"
    ):
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise ImgcError("E301", "The git daemon does not come up.") from None
                time.sleep(0.05)
        yield f"git://127.0.0.1:{port}"


def prepare(bench: Bench) -> None:
    """The list of repositories in both tools' forms, and a sudo for who has none."""
    (bench.work / "projects.txt").write_text("".join(f"{name}\n" for name in bench.names), encoding="ascii")
    hooks = bench.work / "hooks"
    hooks.mkdir()
    lines = (f"{name.replace('/', '-')} git /opt/git/{name} {bench.url}/{name} *\n" for name in bench.names)
    (hooks / "source-repository-bench").write_text("".join(lines), encoding="ascii")
    (bench.work / "home").mkdir()
    (bench.work / "bin").mkdir()
    # Everything here belongs to one user: neither tool pays for changing to another.
    sudo = bench.work / "bin/sudo"
    sudo.write_text('#!/bin/sh\nexec "$@"\n', encoding="ascii")
    sudo.chmod(0o755)


# --- the tools ----------------------------------------------------------------------------------------------------


def stock_argv() -> list[str]:
    """The hook of the diskimage-builder that is installed, as it is."""
    return [str(stock_driver.stock_elements() / HOOK)]


def stock_environment(bench: Bench, image: str) -> dict[str, str]:
    """What the stock driver gives it, for a new image."""
    mount = bench.work / f"stock.{image}" / "mnt"
    (mount / "etc/dib-manifests").mkdir(parents=True)
    own = process.clean_environment()
    return {
        **own,
        "HOME": str(bench.work / "home"),
        "PATH": f"{bench.work / 'bin'}:{own['PATH']}",
        "TMP_MOUNT_PATH": str(mount),
        "TMP_HOOKS_PATH": str(bench.work / "hooks"),
        "DIB_IMAGE_CACHE": str(bench.work / "stock-cache"),
        "DIB_DEFAULT_INSTALLTYPE": "source",
        "DIB_MANIFEST_IMAGE_DIR": "/etc/dib-manifests",
        "DIB_OFFLINE": "",
        "IMAGE_NAME": "bench",
    }


def imgc_argv(bench: Bench, image: str | None) -> list[str]:
    """A whole process that refreshes the mirrors, and with ``image`` makes its trees."""
    argv = [sys.executable, "-m", "imgc.caches", "git", "--projects", str(bench.work / "projects.txt")]
    argv += ["--base", bench.url, "--connections", str(bench.connections), "--strict"]
    argv += ["--cache", str(bench.work / "imgc-cache")]
    return [*argv, "--into", str(bench.work / f"imgc.{image}")] if image else argv


def check(bench: Bench, image: str) -> None:
    """Raise E301 unless both tools have made the same branches of some repositories, checked out alike."""
    for name in random.Random(0).sample(bench.names, min(20, len(bench.names))):
        found = []
        for tool in ("stock", "imgc"):
            tree = bench.work / f"{tool}.{image}" / "mnt/opt/git" / name
            argv = ["git", "-C", str(tree), "-c", "safe.directory=*"]
            heads = process.run(
                [*argv, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags"]
            )
            status = process.run([*argv, "status", "--porcelain"])
            found.append((heads.output, status.output, (tree / "doc/file-0.txt").read_bytes()))
        if found[0] != found[1] or found[0][0].count("\n") != 2 * len(BRANCHES):
            raise ImgcError(
                "E301", f"The two trees of {name} differ.", detail=f"{found[0][:2]}\n{found[1][:2]}"
            )


# --- the report ---------------------------------------------------------------------------------------------------


def ratios(took: Mapping[tuple[str, str], cold_build.Took]) -> dict[str, float]:
    """How many times as fast imgc is."""
    pairs = {FILL: FILL, REFRESH: REFRESH, TREES: REFRESH}
    return {
        what: round(took["stock", stock].seconds / took["imgc", what].seconds, 2)
        for what, stock in pairs.items()
    }


def report(repositories: int, took: Mapping[tuple[str, str], cold_build.Took]) -> None:
    print(
        f"\n{repositories} repositories on {os.cpu_count()} cores, {machine.machine()}, {machine.release()}"
    )
    for (tool, what), one in took.items():
        print(f"  {tool:5}  {what:30} {one.seconds:8.2f} s, {one.processor:.2f} s of processor")
    for what, ratio in ratios(took).items():
        print(f"  {what}: imgc is {ratio:.1f} times as fast")


def as_json(repositories: int, took: Mapping[tuple[str, str], cold_build.Took]) -> dict[str, object]:
    return {
        "repositories": repositories,
        "machine": {"cores": os.cpu_count(), "arch": machine.machine(), "kernel": machine.release()},
        "took": {f"{tool}: {what}": asdict(one) for (tool, what), one in took.items()},
        "ratios": ratios(took),
    }


if __name__ == "__main__":
    sys.exit(main())
