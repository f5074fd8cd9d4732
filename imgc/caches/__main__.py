"""``python -m imgc.caches git|bindep|files …``: what the elements of the caches run where imgc is not the driver."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence

from imgc import process
from imgc.errors import ImgcError, sorted_problems

#: Each has its own module, with a function ``run``.
CACHES = ("git", "bindep", "files")


def main(arguments: Sequence[str]) -> int:
    """Run one of them; the exit status.  What goes wrong is told on standard error, each with code and place."""
    if not arguments or arguments[0] not in CACHES:
        print(
            f"usage: python -m imgc.caches {'|'.join(CACHES)} …   (--help after one tells more)",
            file=sys.stderr,
        )
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, _frame: process.INTERRUPT.set(signum))
    module = importlib.import_module(f"imgc.caches.standalone_{arguments[0]}")
    try:
        status: int = module.run(list(arguments[1:]))
    except ImgcError as problem:
        for one in sorted_problems([problem]):
            print(told(one), file=sys.stderr)
        return 128 + process.INTERRUPT.signal if process.INTERRUPT.is_set() else 1
    return status


def told(problem: ImgcError) -> str:
    """A problem as text: its place, code and message, then its detail and hint where it has them."""
    return "\n".join(part for part in (str(problem), problem.detail, problem.hint) if part)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
