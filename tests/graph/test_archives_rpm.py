"""Which yum repositories a plan reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imgc.graph import compile_plan
from imgc.graph.archives import archives_of
from imgc.spec.model import Base

MIRROR = "http://mirror.example/pub"


def locations(
    debian_platform, distro: str, release: str, mirror: str = MIRROR, environment=()
) -> dict[str, str]:
    base = replace(
        debian_platform.base, kind="minimal", distro=distro, release=release, arch="amd64", baseline=False
    )
    assert isinstance(base, Base)
    mirrors = {"DIB_DISTRIBUTION_MIRROR": mirror} if mirror else {}
    plan = compile_plan(
        replace(debian_platform, base=base, elements=(), environment=environment), mirrors=mirrors
    )
    return {source.name: source.location for source in archives_of(plan)}


@pytest.mark.parametrize(
    ("distro", "release", "expected"),
    [
        ("rocky", "9", {"baseos": "9/BaseOS/x86_64/os", "appstream": "9/AppStream/x86_64/os"}),
        (
            "centos",
            "9-stream",
            {"baseos": "9-stream/BaseOS/x86_64/os", "appstream": "9-stream/AppStream/x86_64/os"},
        ),
        ("centos", "7", {"base": "7/os/x86_64", "updates": "7/updates/x86_64", "extras": "7/extras/x86_64"}),
        (
            "fedora",
            "41",
            {"fedora": "releases/41/Everything/x86_64/os", "updates": "updates/41/Everything/x86_64"},
        ),
    ],
)
def test_a_mirror_has_the_repositories_of_the_release(debian_platform, distro, release, expected) -> None:
    wanted = {f"{distro} {release} {name}": f"{MIRROR}/{path}" for name, path in expected.items()}
    assert locations(debian_platform, distro, release) == wanted
    assert locations(debian_platform, distro, release, f"{MIRROR}/") == wanted


def test_without_a_mirror_nothing_is_known_to_pin(debian_platform) -> None:
    # The elements of centos and fedora name lists of mirrors; rocky's names nothing.
    for distro, release in (("rocky", "9"), ("centos", "9-stream"), ("centos", "7"), ("fedora", "41")):
        assert locations(debian_platform, distro, release, mirror="") == {}


def test_repositories_of_ones_own_win_over_the_mirror(debian_platform, tmp_path: Path) -> None:
    (tmp_path / "own.repo").write_text("[own]\nbaseurl=http://own.example/$releasever/$basearch/\n")
    environment = (("DIB_YUM_MINIMAL_BOOTSTRAP_REPOS", str(tmp_path)),)
    found = locations(debian_platform, "rocky", "9", environment=environment)
    assert found == {"rocky 9 own": "http://own.example/9/x86_64"}
