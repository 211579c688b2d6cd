"""Runs the tests and fails when what was skipped is not exactly what is expected to be.

A test that is skipped where it should run is a hole that a green line would hide; so the list
below is part of the suite: reason for reason, nothing more and nothing less.
"""

from __future__ import annotations

import sys

import pytest

EXPECTED: frozenset[str] = frozenset()
"""Node ids that may be skipped in the ordinary run."""


class Skips:
    """Collects what was skipped and why."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.ran = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note one report."""
        if report.skipped:
            reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else ""
            self.found[report.nodeid] = str(reason)
        elif report.when == "call":
            self.ran += 1


def main(arguments: list[str]) -> int:
    """Run pytest on two processes; 0 only if all passed and the skips are the expected ones."""
    long = "--long" in arguments
    rest = [word for word in arguments if word != "--long"]
    skips = Skips()
    marker = "long" if long else "not long"
    code = pytest.main(["-n", "2", "--dist", "loadfile", "-m", marker, *rest], plugins=[skips])
    listed = [f"\n  {name}: {why}" for name, why in skips.found.items()]
    print("skipped:", *(listed or ["nothing"]))
    if code:
        return int(code)
    if not long and not rest and set(skips.found) != set(EXPECTED):
        print("the skipped tests are not the expected ones", *sorted(EXPECTED), sep="\n  ")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
