"""The same elements through the stock driver and through imgc: what hooks see, and what comes of it.

The probe (``elements/``) writes down its environment in every phase; docs/compat.md lists what may differ.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from differences import ALLOWED, Allowed, differences
from probe_facts import facts_of
from probe_run import build_with_imgc, build_with_stock, host_environment, lay_out

from imgc.graph.step import PHASES

Facts = Mapping[str, str]
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/compat.md"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Facts, Facts]]:
    """The facts of the stock driver's build and of imgc's."""
    assert os.geteuid() == 0, "disk-image-create needs root: this test compares with it, so it does too"
    work = tmp_path_factory.mktemp("probe")
    host = host_environment(work)
    specs = lay_out(work)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if re.search("proxy|CERT|CA_|CAINFO", name, re.IGNORECASE):
                patch.delenv(name)
        for name, value in host.items():
            patch.setenv(name, value)
        with ThreadPoolExecutor() as pool:
            stock = pool.submit(build_with_stock, specs, work, host)
            imgc = pool.submit(build_with_imgc, specs, work)
            yield facts_of(stock.result()), facts_of(imgc.result())


def test_the_probe_saw_every_phase(built: tuple[Facts, Facts]) -> None:
    """What is compared below is really there."""
    for facts in built:
        for phase in PHASES:
            assert facts[f"{phase}/env/PROBE_SETTING"] == "of the spec"
            assert facts[f"{phase}/env/PROBE_ORDER"] == ":10:peer:100:11:9"
            assert facts[f"{phase}/process/user"].startswith("0:0:")
            assert f"{phase}/hooks/install.d/50-probe" in facts
        assert facts["root.d/env/TARGET_ROOT"] == "{build}/mnt"
        assert facts["finalise.d/found/state"] == "from pre-install.d"
        assert facts["finalise.d/found/fstab"] == "LABEL=probe-root / ext4 defaults 0 1"
        assert facts["tree/etc/resolv.conf"] == facts["tree/etc/resolv.conf"]
        assert "user.probe" in facts["tree/opt/kinds/attribute"]
        assert "thing-of-release-1" in facts["packages/asked"]


def test_hooks_run_in_the_same_order(built: tuple[Facts, Facts]) -> None:
    """By the leading number, then by bytes; those that extra-data.d wrote or linked among them."""
    own = re.compile(r"-5-negative|without-number|5-five|9-a|9z|010-z|10-[Bab]|40-.*|41-.*|42-.*")
    for facts in built:
        order = [name for name in facts["install.d/order"].split() if own.fullmatch(name)]
        assert " ".join(order) == (
            "-5-negative without-number 5-five 9-a 9z 010-z 10-B 10-a 10-b 40-probe-peer 41-probe-other 42-written"
        )


def test_nothing_else_differs(built: tuple[Facts, Facts]) -> None:
    undeclared = {
        name: values
        for name, values in differences(*built).items()
        if not any(case.matches(name, *values) for allowed in ALLOWED for case in allowed.cases)
    }
    lines = [f"{name}\n  stock: {stock!r}\n  imgc:  {imgc!r}" for name, (stock, imgc) in undeclared.items()]
    assert not lines, "differences that docs/compat.md does not list:\n" + "\n".join(lines)


@pytest.mark.parametrize("allowed", ALLOWED, ids=[one.name for one in ALLOWED])
def test_every_listed_difference_is_one(built: tuple[Facts, Facts], allowed: Allowed) -> None:
    """A difference that is gone must leave the list."""
    found = differences(*built).items()
    gone = [case for case in allowed.cases if not any(case.matches(name, *values) for name, values in found)]
    assert not gone


def test_the_document_lists_the_same_differences() -> None:
    rows = re.findall(
        r"^\| ([^|]+?) \|[^|]+\|[^|]+\|[^|]+\|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE
    )
    listed = [row.replace("`", "") for row in rows if row not in ("What", "---")]
    assert listed == [one.name for one in ALLOWED]
