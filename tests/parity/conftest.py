"""Each module's ``CASES`` go to the tests that ask for a ``case`` (or a ``generating`` one)."""

from __future__ import annotations

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case."""
    cases = getattr(metafunc.module, "CASES", {})
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", cases.values(), ids=cases)
    if "generating" in metafunc.fixturenames:
        found = {name: case for name, case in cases.items() if case.generating}
        metafunc.parametrize("generating", found.values(), ids=found)
