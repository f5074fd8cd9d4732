"""What the bench makes of its measurements."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

import cold_build
from cold_build import Run, Took

LOG = """\
2026-01-01 00:00:00.000 | dib-run-parts ----------------------- PROFILING -----------------------
2026-01-01 00:00:00.000 | dib-run-parts Target: root.d
2026-01-01 00:00:00.000 | dib-run-parts ---------------------------------------  ----------
2026-01-01 00:00:00.000 | dib-run-parts 08-debootstrap                               12.806
2026-01-01 00:00:00.000 | dib-run-parts 75-debian-minimal-baseinstall                12.429
2026-01-01 00:00:00.000 | dib-run-parts --------------------- END PROFILING ---------------------
2026-01-01 00:00:00.000 | dib-run-parts 99-not-a-profile                              1.000
2026-01-01 00:00:00.000 | dib-run-parts Target: install.d
2026-01-01 00:00:00.000 | dib-run-parts 01-package-installs                          49.693
2026-01-01 00:00:00.000 | dib-run-parts --------------------- END PROFILING ---------------------
"""


def test_phases_of_the_stock_driver() -> None:
    phases = cold_build.stock_phases(LOG, 150.0)
    assert phases == {"root.d": 25.235, "install.d": 49.693, "driver": 75.072}


RUNS = [
    Run("imgc", Took(40.0, 20.0, 0.0), 10),
    Run("stock", Took(100.0, 90.0, 0.0), 20),
    Run("stock", Took(140.0, 90.0, 3.0), 20),
    Run("imgc", Took(60.0, 40.0, 0.0), 10),
]


def test_ratio_is_of_the_medians() -> None:
    written = cold_build.as_json("small", RUNS)
    assert written["seconds"] == {"imgc": 50.0, "stock": 120.0}
    assert (written["ratio"], written["processor_ratio"]) == (2.4, 3.0)
    assert cold_build.as_json("small", RUNS[:1])["ratio"] is None


def test_processor_time_is_measured(tmp_path: Path) -> None:
    took = cold_build.timed(
        ["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"], {}, tmp_path, tmp_path / "log"
    )
    assert took.processor > 0
    assert took.seconds > 0


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    cold_build.report(argparse.Namespace(platform="small"), RUNS)
    assert "imgc is 2.40 times as fast, with 3.00 times less processor time" in capsys.readouterr().out


def test_a_wrong_platform_is_the_users_error(tmp_path: Path) -> None:
    script = Path(cold_build.__file__)
    argv = [sys.executable, str(script), "--platform", "no-such", "--specs", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 1
    assert "E116" in done.stderr and "Traceback" not in done.stderr
