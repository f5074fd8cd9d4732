"""The report of one boot."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from imgc.verify.checks import Check
from imgc.verify.report import BootReport


@pytest.fixture
def report() -> BootReport:
    return BootReport(
        image=Path("images/x.qcow2"),
        architecture="amd64",
        firmware="bios",
        accelerator="tcg",
        kernel="6.1.0",
        system="Debian",
        seconds_to_serial=1.5,
        seconds_to_ssh=30.0,
        seconds=31.0,
        serial_log=Path("/work/serial-bios.log"),
        checks=(Check("login", True, "root", "root"), Check("hostname", False, "a", "b")),
        evidence=(("the journal", "line 1\nline 2"),),
    )


def test_json_and_back(report: BootReport) -> None:
    wire = json.loads(json.dumps(report.as_dict()))
    assert wire["ok"] is False
    assert wire["checks"][1] == {"name": "hostname", "ok": False, "wanted": "a", "got": "b"}
    assert BootReport.from_dict(wire) == report


def test_a_failed_check_is_a_problem_with_its_evidence(report: BootReport) -> None:
    problem = report.problem()
    assert problem is not None
    assert problem.code == "E503"
    assert problem.message == "x.qcow2 came up wrong (bios): hostname."
    assert "hostname: wanted a; got b" in problem.detail
    assert "line 2" in problem.detail
    assert "/work/serial-bios.log" in problem.hint


def test_no_problem_when_every_check_holds(report: BootReport) -> None:
    good = dataclasses.replace(report, checks=report.checks[:1])
    assert good.ok
    assert good.problem() is None
