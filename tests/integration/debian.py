"""The real Debian platform, with an element of its own that tests may edit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from imgc.engine.host import ca_bundle
from tests.integration.project import ELEMENTS, Project

SPECS = ELEMENTS.parents[2] / "specs"

#: The shipped platform in other words, and one more element and output: the archive shows the tree.
SPEC = """\
schema: 1
name: debian-bookworm
extends: {common}
base: {{release: bookworm}}
element_paths: [elements]
elements: [last]
outputs: [{{format: tar, compression: none}}, {{format: raw}}]
"""


#: A mark in the bundle of certificates that builds are given.
AUTHORITY = "the-certificates-of-the-build-host"


@dataclass
class Debian(Project):
    """A Debian whose cache outlives the tests where IMGC_TEST_CACHE says so."""

    name: ClassVar[str] = "debian-bookworm"

    @property
    def cache(self) -> Path:
        kept = os.environ.get("IMGC_TEST_CACHE")
        return Path(kept) if kept else self.directory / "cache"

    def environ(self) -> dict[str, str]:
        """The host's certificates and one more, by which they can be told from all others."""
        bundle = self.directory / "authorities.pem"
        bundle.write_text(f"# {AUTHORITY}\n{ca_bundle()}", encoding="utf-8")
        return {**super().environ(), "SSL_CERT_FILE": str(bundle)}

    def spec(self) -> str:
        return SPEC.format(common=SPECS / "common/debian.yaml")

    def say(self, text: str) -> None:
        """Have the last element write this into the image, at nearly the last moment."""
        self.hook("last/finalise.d/99-zzz-last", f"echo {text} >/etc/last")
