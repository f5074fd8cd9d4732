"""The verdict on one boot."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgc.errors import ImgcError
from imgc.verify.checks import Check


@dataclass(frozen=True)
class BootReport:
    """What a guest that came up said.  Times are in seconds since QEMU was started; ``seconds`` is the whole boot.

    ``system`` is the guest's own name for itself, ``evidence`` titled texts that were collected because a check failed.
    """

    image: Path
    architecture: str
    firmware: str
    accelerator: str
    kernel: str
    system: str
    seconds_to_serial: float
    seconds_to_ssh: float
    seconds: float
    serial_log: Path
    checks: tuple[Check, ...]
    evidence: tuple[tuple[str, str], ...] = ()

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.ok)

    def problem(self) -> ImgcError | None:
        """The failed checks as one E503 with the evidence; None when every check held."""
        if self.ok:
            return None
        names = ", ".join(check.name for check in self.failed)
        lines = [f"{check.name}: wanted {check.wanted}; got {check.got}" for check in self.failed]
        texts = [f"\n-- {title}\n{text}" for title, text in self.evidence]
        return ImgcError(
            "E503",
            f"{self.image.name} came up wrong ({self.firmware}): {names}.",
            hint=f"The serial console is in {self.serial_log}.",
            detail="\n".join([*lines, *texts]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` takes them back."""
        plain = dataclasses.asdict(self)
        return {
            **plain,
            "image": str(self.image),
            "serial_log": str(self.serial_log),
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "evidence": [{"title": title, "text": text} for title, text in self.evidence],
            "ok": self.ok,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> BootReport:
        """The report that :meth:`as_dict` wrote."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in plain.items() if name in known}
        return cls(
            **{
                **values,
                "image": Path(plain["image"]),
                "serial_log": Path(plain["serial_log"]),
                "checks": tuple(Check(**check) for check in plain["checks"]),
                "evidence": tuple((one["title"], one["text"]) for one in plain["evidence"]),
            }
        )
