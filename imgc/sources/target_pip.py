"""pip as the Python of an image would run it.  Started as ``python -I target_pip.py VERSION ARGUMENT…``.

pip's --python-version chooses files for another Python, but evaluates markers (``python_version < "3.8"``) for its
own: a dependency that only an old Python needs would be left out.  Here markers are those of VERSION.
"""

from __future__ import annotations

import runpy
import sys


def main() -> None:
    version = sys.argv.pop(1)
    from pip._vendor.packaging import markers

    of_host = markers.default_environment

    def of_target() -> dict[str, str]:
        full = f"{version}.0"
        return {
            **of_host(),
            "python_version": version,
            "python_full_version": full,
            "implementation_version": full,
        }

    markers.default_environment = of_target
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
