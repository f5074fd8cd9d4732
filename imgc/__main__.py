"""``python -m imgc`` and the ``imgc`` script."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line.  A Ctrl-C before it is even loaded ends like every other one: status 130, no traceback."""
    try:
        from imgc.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    run()


if __name__ == "__main__":
    main()
