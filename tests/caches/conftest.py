"""What tests of the caches share: the small outside world of tests/sources."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "sources"))
