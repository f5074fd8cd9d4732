"""The steps that make files: the raw disk, the outputs, their check, the boot.  Each is a function of a ``Files``.

The rooms do the work (:mod:`imgc.disk`, :mod:`imgc.verify`); here is only what connects them with the engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgc.engine import installed, sandbox
from imgc.engine.host import sync_file_system
from imgc.engine.step_runner import SIDE, Files, FileStep
from imgc.engine.store import disk_usage
from imgc.errors import Collector, ImgcError
from imgc.graph.caches import OFFERS, SIDES
from imgc.graph.implied import has_disk
from imgc.graph.plan import element_texts
from imgc.graph.step import Kind, Step
from imgc.lock import Pin
from imgc.spec.model import Output, Platform
from imgc.verify import package_policy

if TYPE_CHECKING:
    from imgc.verify.report import BootReport

#: The raw disk's name in the result of the step that assembles it.
RAW = "disk.raw"
_TREE = f"{sandbox.BUILD}/mnt"


def assemble(files: Files) -> dict[str, Any]:
    """Tree to raw disk, inside the sandbox, where the tree can be seen."""
    from imgc.disk import assemble as room

    request = room.request(_TREE, f"{sandbox.WORK}/{RAW}", files.platform.disk, files.key, _epoch(files.step))
    answer = _in_sandbox(files, "imgc.disk.assemble", request)
    return {"layout": answer["layout"]}


def convert(files: Files) -> dict[str, Any]:
    """Raw disk, or tree, to one output file with its checksums."""
    from imgc.disk import archive
    from imgc.disk.convert import convert as convert_disk
    from imgc.disk.digests import digests

    output = _output(files.platform, files.step.name)
    made = files.made / f"image.{output.suffix}"
    if output.format == "tar":
        request = archive.request(_TREE, f"{sandbox.WORK}/{made.name}", output, _epoch(files.step))
        _in_sandbox(files, "imgc.disk.archive", request)
    else:
        convert_disk(str(_raw(files)), str(made), output, on_line=files.on_line)
    sha256, md5 = digests(str(made))
    status = made.stat()
    return {
        "file": made.name,
        "format": output.format,
        "suffix": output.suffix,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "sha256": sha256,
        "md5": md5,
    }


def collect(files: Files) -> dict[str, Any]:
    """What hooks wrote to their working directory (``NAME.d/`` and the like), and which packages the tree has.

    Raises E658 for packages that are installed and that only the package cache may hold.
    """
    script = f'cp -R --no-preserve=ownership --preserve=timestamps "$3" "$2" && {installed.EXTRACT}'
    lists = files.sandbox.offers.get(OFFERS["bindep"])
    if lists:
        script += f"; {package_policy.EXTRACT}"
    words = ("sh", "-c", script, "collect", _TREE, sandbox.WORK, f"{sandbox.BUILD}/out")
    payload = sandbox.Payload(words, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    made = [(str(files.made), sandbox.WORK, "rw")]
    outcome = files.sandbox.run(payload, files.scratch, state=files.state, binds=made, on_line=files.on_line)
    if outcome.status:
        raise ImgcError("E301", "What hooks wrote beside the image could not be collected.")
    if lists:
        _judge_packages(files, lists)
    return {"packages": installed.read(files.made)}


def _judge_packages(files: Files, lists: Path) -> None:
    """Raise E658 for what is installed though nothing in the base needs it, and only jobs ask for it."""
    from imgc.caches.bindep_cache import asked_by

    found = package_policy.read(files.made)
    asked = asked_by(lists)
    wanted = package_policy.mentioned({*asked, *files.platform.packages}, element_texts(files.plan))
    problems = Collector()
    for problem in package_policy.judge(found, asked, {*wanted, *files.platform.packages}):
        problems.add(problem)
    problems.check()


def side(files: Files) -> dict[str, Any]:
    """A side tree: the git trees or the files of the caches, as they are pinned."""
    from imgc.caches.file_cache import make_file_tree
    from imgc.caches.git_cache import make_git_tree
    from imgc.caches.model import Tree

    kind = next(kind for kind, name in SIDES.items() if name == files.step.name)
    source = next(one for one in files.sources if one.kind == kind)
    pins = [fact for fact in files.step.facts if fact.kind == "pin"]
    named = [(fact.name.removeprefix(f"{kind} "), fact.value) for fact in pins]
    into = files.made / SIDE
    into.mkdir(mode=0o755)
    if kind == "git-cache":
        trees = [Tree.parse(name, value) for name, value in named]
        told = make_git_tree(source, trees, into, files.cache, offline=files.offline, on_line=files.on_line)
    else:
        pin = Pin(kind, source.name, tuple(named))
        told = make_file_tree(source, pin, into, files.cache, offline=files.offline, on_line=files.on_line)
    return {"tree": {**told, "size": disk_usage(into)}}


def check(files: Files) -> dict[str, Any]:
    """The outputs are sound, hold the same disk, and what starts it is there."""
    from imgc.disk import check as room
    from imgc.disk.layout import Layout

    outputs = [
        (str(place / f"image.{output.suffix}"), output)
        for step_id, place in files.inputs.items()
        for output in files.platform.outputs
        if step_id.endswith(f"/{output.suffix}")
    ]
    if not has_disk(files.platform):
        for path, output in outputs:
            room.check_archive(path, output)
        return {}
    raw = _raw(files)
    with ThreadPoolExecutor() as pool:
        # Checking is work for the processor; what the build must sync at its end can go to the disk meanwhile.
        syncing = pool.submit(sync_file_system, files.made)
        room.check_outputs(str(raw), outputs)
        boot = room.inspect_boot(str(raw), Layout.from_json(_meta(raw.parent)["layout"]))
        syncing.result()
    return {"boot": boot}


def boot(files: Files) -> dict[str, Any]:
    """The image boots; its report is the result, its serial log stays beside the platform's logs."""
    from imgc.verify import boot as room

    image = next(
        place / meta["file"] for place in files.inputs.values() if (meta := _meta(place)).get("file")
    )
    options = room.BootOptions(
        firmware=files.step.option("firmware"),
        architecture=files.platform.base.arch,
        cache=files.logs.parent,
    )
    report = room.boot(image, work=files.logs, options=options, on_line=files.on_line)
    # By the name that it is going to have.
    report = replace(report, image=Path(f"{files.platform.name}{image.suffix}"))
    problem = report.problem()
    if problem:
        raise problem
    return {"report": report.as_dict()}


def boot_report(meta: Mapping[str, Any]) -> BootReport:
    """The report that was recorded with the result of a boot."""
    from imgc.verify.report import BootReport

    return BootReport.from_dict(meta["report"])


FILE_STEPS: Mapping[Kind, FileStep] = {
    Kind.ASSEMBLE: assemble,
    Kind.COLLECT: collect,
    Kind.SIDE: side,
    Kind.CONVERT: convert,
    Kind.CHECK: check,
    Kind.BOOT: boot,
}


def _meta(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "meta.json").read_text(encoding="utf-8"))
    return found


def _raw(files: Files) -> Path:
    return next(place / RAW for place in files.inputs.values() if (place / RAW).exists())


def _epoch(step: Step) -> int | None:
    """The latest time that a file of the image may have; None when the step says nothing about it."""
    return next((int(fact.value) for fact in step.facts if fact[:2] == ("pin", "epoch")), None)


def _output(platform: Platform, suffix: str) -> Output:
    return next(output for output in platform.outputs if output.suffix == suffix)


def _in_sandbox(files: Files, module: str, request: str) -> dict[str, Any]:
    """Call a function of the disk room in a process that sees the tree, read-only, and writes to ``files.made``."""
    from imgc.disk.inside import answer

    lines: list[str] = []
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": sandbox.PACKAGE,
    }
    payload = sandbox.Payload((f"{sandbox.BIN}/python3", "-m", module, request), env)
    made = [(str(files.made), sandbox.WORK, "rw")]
    files.sandbox.run(payload, files.scratch, state=files.state, binds=made, on_line=lines.append)
    return answer("\n".join(lines))
