"""The stock resolver's own unit tests pass against imgc's resolver."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

import diskimage_builder
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import elementdeps_shim


def stock_tests(monkeypatch: pytest.MonkeyPatch) -> unittest.TestSuite:
    """The stock test classes, loaded with the shim in the resolver's place."""
    monkeypatch.setitem(sys.modules, "diskimage_builder.element_dependencies", elementdeps_shim)
    monkeypatch.setattr(diskimage_builder, "element_dependencies", elementdeps_shim, raising=False)
    monkeypatch.delitem(sys.modules, "diskimage_builder.tests.test_elementdeps", raising=False)
    return unittest.defaultTestLoader.loadTestsFromName("diskimage_builder.tests.test_elementdeps")


def test_the_stock_resolvers_tests_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    result = unittest.TestResult()
    suite = stock_tests(monkeypatch)
    module = sys.modules["diskimage_builder.tests.test_elementdeps"]
    assert module.element_dependencies is elementdeps_shim
    suite.run(result)
    failures = [text for _, text in (*result.failures, *result.errors)]
    assert not failures, "\n".join(failures)
    assert result.testsRun >= 18
    assert not result.skipped
