"""A tree of files as one archive.  The same tree gives the same bytes every time.

The engine calls this inside its sandbox, where the tree can be seen: ``python -m imgc.disk.archive REQUEST``,
with a request from :func:`request`; :func:`imgc.disk.inside.answer` reads what it prints.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

from imgc import process
from imgc.disk import inside
from imgc.errors import ImgcError
from imgc.spec.model import Output

#: zstd's bytes are the same for any number of threads (but for `--single-thread`, which is another way of working).
_COMPRESSORS = {"gzip": "gzip -n", "zstd": "zstd -T0 -q"}

#: Directories whose content belongs to the running machine: the build's, here.
_EXCLUDED = ("dev", "proc", "sys")


def tar_tree(tree: str, out: str, output: Output, *, epoch: int | None = None) -> None:
    """Write ``tree`` to the archive ``out`` with owners by number, hard links, extended attributes and
    capabilities.

    What lies in ``/dev``, ``/proc`` and ``/sys`` is left out; the directories stay.  No file is later than ``epoch``
    (seconds since 1970; None: any time).  ``out`` is removed when anything goes wrong (E405).
    """
    process.need("tar")
    compression = output.option("compression")
    command = ["tar", "--create", "--file", out, "--sort=name", "--numeric-owner"]
    if compression != "none":
        process.need(compression)
        command.append(f"--use-compress-program={_COMPRESSORS[compression]}")
    # Only pax headers hold extended attributes; the times of reading and of changing attributes are the build's.
    command += ["--format=posix", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"]
    if epoch is not None:
        command += [f"--mtime=@{epoch}", "--clamp-mtime"]
    command += ["--xattrs", "--xattrs-include=*", "--warning=no-file-ignored", "--anchored"]
    command += [f"--exclude=./{name}/*" for name in _EXCLUDED]
    try:
        process.run([*command, "--directory", tree, "."])
    except BaseException as error:
        if os.path.exists(out):
            os.unlink(out)
        if isinstance(error, ImgcError) and error.code == "E301":
            raise ImgcError("E405", f"Writing {out}: {error.message}", detail=error.detail) from error
        raise


def request(tree: str, out: str, output: Output, epoch: int | None = None) -> str:
    """What to pass to ``python -m imgc.disk.archive`` for that; ``epoch`` as in :func:`tar_tree`."""
    return inside.encode({"tree": tree, "out": out, "output": asdict(output), "epoch": epoch})


def serve(fields: dict[str, object]) -> dict[str, object]:
    """Do what a request says; the answer is empty."""
    plain = dict(fields["output"])  # type: ignore[call-overload]
    options = tuple((str(name), str(value)) for name, value in plain["options"])
    output = Output(plain["format"], plain["suffix"], options)
    epoch = fields["epoch"]
    tar_tree(
        str(fields["tree"]), str(fields["out"]), output, epoch=None if epoch is None else int(str(epoch))
    )
    return {}


if __name__ == "__main__":
    sys.exit(inside.main(serve, sys.argv))
