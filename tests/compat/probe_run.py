"""Builds the probe twice: with the stock driver, and with imgc."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import tarfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import stock_driver
from imgc import build, process
from imgc.engine import events, protocol
from imgc.graph.step import PHASES

HERE = Path(__file__).resolve().parent

SPEC = """\
schema: 1
name: probe
base:
  distro: probe
  release: "1"
  mirror: default
  baseline: false
element_paths: [elements]
elements: [block-device-probe, probe]
packages: [probe-package]
environment:
  DIB_INSTALLTYPE_probe_peer: package
  DIB_JOURNAL_SIZE: "4"
  PROBE_SETTING: of the spec
  PROBE_SOURCES: {sources}
disk:
  partitioning: mbr
  boot: bios
  label: probe-root
outputs:
  - format: tar
    compression: none
  - raw
"""

#: What both are told about the network, as a host would.  Nothing of the probe uses it.
NETWORK = ("http_proxy", "no_proxy", "SSL_CERT_FILE", "CURL_CA_BUNDLE")

#: Variables of the host that have nothing to do with the build.
LEAKED = {"PROBE_LEAKED": "of the host", "LC_CTYPE": "C.UTF-8"}

#: Seconds after which a build hangs.
TIMEOUT = 240


@dataclass(frozen=True)
class Built:
    """One build of the probe: the archive of its tree, the hooks of each phase in the order in which they ran.

    ``paths`` are those of this build, each with the word that stands for it in both.
    """

    archive: Path
    order: Mapping[str, list[str]]
    paths: Mapping[str, str] = field(default_factory=dict)


def lay_out(work: Path) -> Path:
    """Copy the elements to ``work``, beside sources for source-repositories and a spec; the directory of specs."""
    elements = work / "elements"
    shutil.copytree(HERE / "elements", elements, symlinks=True)
    # An element's directory, because that is what a hook can see of the host; `tests` is not part of the protocol.
    sources = elements / "probe/tests/sources"
    make_sources(sources)
    (work / "probe.yaml").write_text(SPEC.format(sources=sources), encoding="utf-8")
    return work


def make_sources(sources: Path) -> None:
    """A git repository and a tar archive for source-repositories, the same ones every time."""
    repository = sources / "probe-git"
    repository.mkdir(parents=True)
    who = {f"GIT_{role}_{what}": "probe" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    when = {f"GIT_{role}_DATE": "2024-01-01T00:00:00Z" for role in ("AUTHOR", "COMMITTER")}
    environment = {"PATH": os.environ["PATH"], "HOME": str(sources), **who, **when}
    (repository / "file").write_text("of the repository\n", encoding="utf-8")
    for words in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "file"],
        ["commit", "--quiet", "--message=A file"],
    ):
        subprocess.run(["git", *words], cwd=repository, env=environment, check=True)
    (repository / "HEAD").write_text("a file to fetch\n", encoding="utf-8")
    tree = sources / "probe-1.0"
    tree.mkdir()
    (tree / "file").write_text("of the archive\n", encoding="utf-8")
    with tarfile.open(sources / "probe.tar.gz", "w:gz") as archive:
        archive.add(tree, "probe-1.0")


def host_environment(work: Path) -> dict[str, str]:
    """What the host's environment holds beyond the usual, in both builds."""
    bundle = work / "certificates.crt"
    bundle.write_text("The certificates of this host.\n", encoding="utf-8")
    network = {"http_proxy": "http://proxy.example:3128", "no_proxy": "example"}
    certificates = dict.fromkeys(NETWORK[2:], str(bundle))
    return {**LEAKED, **network, **certificates}


def build_with_stock(specs: Path, work: Path, host: Mapping[str, str]) -> Built:
    """``disk-image-create`` in namespaces of its own, which take along whatever it leaves behind."""
    settings = build.Settings(specs, work / "unused", {})
    platform = build.compile_platform("probe", settings).platform
    command = stock_driver.stock_command(platform)
    words = list(command.argv)
    words[words.index("-t") + 1] = "tar"
    words[words.index("-o") + 1] = platform.name
    words[1:1] = ["--no-tmpfs", "--checksum"]
    with stock_driver.Sandbox(work / "stock") as sandbox:
        shutil.copy2(HERE / "stand_ins/sudo", sandbox.work / "bin/sudo")
        programs = f"{sandbox.work}/bin:{sysconfig.get_path('scripts')}:{stock_driver.SYSTEM_PATH}"
        environment = {
            "PATH": programs,
            "HOME": f"{sandbox.work}/home",
            "USER": "root",
            "LOGNAME": "root",
            "SHELL": "/bin/bash",
            "TERM": "unknown",
            "DIB_IMAGE_CACHE": f"{sandbox.work}/cache",
            "DIB_LOCKFILES": f"{sandbox.work}/locks",
            "TMP_DIR": f"{sandbox.work}/tmp",
            **host,
            **command.environment,
            "ELEMENTS_PATH": str(specs / "elements"),
        }
        replaced = stock_driver.StockCommand(tuple(words), environment, ("tar",))
        argv = sandbox.argv(replaced)
        done = process.run(argv, env=environment, cwd=str(sandbox.out), timeout=TIMEOUT, check=False)
    assert done.status == 0, done.output[-6000:]
    known = {str(sandbox.out): "{out}", str(specs / "elements"): "{elements}"}
    return Built(sandbox.out / "probe.tar", order_in(done.output), known)


def order_in(output: str) -> dict[str, list[str]]:
    """The hooks of each phase as dib-run-parts says that it runs them."""
    order: dict[str, list[str]] = defaultdict(list)
    for phase, name in re.findall(r"dib-run-parts Running \S*/([a-z-]+\.d)/(\S+)$", output, re.MULTILINE):
        order[phase].append(name)
    return dict(order)


def build_with_imgc(specs: Path, work: Path) -> Built:
    """The same platform with imgc, up to the archive of the tree."""
    settings = build.Settings(specs, work / "imgc-cache", {})
    compiled = build.compile_platform("probe", settings)
    order: dict[str, list[str]] = defaultdict(list)
    lines: list[str] = []

    def read(event: events.Event) -> None:
        if isinstance(event, events.Line):
            lines.append(event.text)
        elif isinstance(event, events.StepStarted):
            _, _, rest = event.step.partition("/")
            phase, _, name = rest.partition("/")
            if phase in PHASES:
                order[phase].append(name)

    options = build.BuildOptions(work / "imgc-out", formats=("tar",))
    result = build.build(compiled, options, settings, events.Stream(read))
    assert result.error is None, f"{result.failed_step}: {result.error}\n" + "\n".join(lines[-40:])
    known = {protocol.OUT: "{out}", str(specs / "elements"): "{elements}"}
    return Built(result.artifacts[0].path, dict(order), known)
