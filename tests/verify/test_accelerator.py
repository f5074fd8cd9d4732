"""The probe of KVM, really run."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgc.errors import ImgcError
from imgc.verify import accelerator, qemu

AMD64 = qemu.MACHINES["amd64"]


def test_the_probe_runs_to_its_end_where_every_instruction_works() -> None:
    assert accelerator.probe(AMD64, "tcg") == ""


def test_a_guest_that_hangs_is_a_verdict_and_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = b"\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa"
    good = accelerator.PROBES["amd64"]
    monkeypatch.setitem(accelerator.PROBES, "amd64", accelerator.Probe(hangs, good.options, good.status))
    monkeypatch.setattr(accelerator, "PROBE_SECONDS", 1.0)
    assert "did not end within 1 s" in accelerator.probe(AMD64, "tcg")


def test_kvm_is_chosen_exactly_when_the_probe_runs_under_it(tmp_path: Path) -> None:
    trouble = accelerator.probe(AMD64)
    assert accelerator.choose("auto", AMD64, tmp_path) == ("tcg" if trouble else "kvm")


def test_a_verdict_is_kept_and_believed(tmp_path: Path) -> None:
    accelerator.choose("auto", AMD64, tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_text("")
    assert accelerator.choose("kvm", AMD64, tmp_path) == "kvm"
    kept.write_text("it broke")
    assert accelerator.choose("auto", AMD64, tmp_path) == "tcg"
    with pytest.raises(ImgcError) as caught:
        accelerator.choose("kvm", AMD64, tmp_path)
    assert (caught.value.code, caught.value.detail) == ("E501", "it broke")


def test_tcg_needs_no_probe(tmp_path: Path) -> None:
    assert accelerator.choose("tcg", AMD64, tmp_path / "never-made") == "tcg"
    assert not (tmp_path / "never-made").exists()


def test_kvm_cannot_run_another_architecture() -> None:
    other = next(machine for name, machine in qemu.MACHINES.items() if name != qemu.host_architecture())
    assert other.architecture in accelerator.probe(other)
