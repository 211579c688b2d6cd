"""Runs the tests, and fails when one was skipped that should have run.

A skipped test is a hole that a green line would hide. Only a program that this machine lacks
excuses one, and the skipped tests are listed with it; with ``LMWRIGHT_TESTS=all``, as CI has it,
nothing does.
"""

from __future__ import annotations

import os
import sys
from collections import Counter

import pytest

EXCUSE = "this machine lacks "
"""How the reason of a skipped test begins where the machine is at fault."""
LISTED = 20
"""Files whose time is told."""


class Notes:
    """Collects what was skipped and why, and the seconds that each file took."""

    def __init__(self) -> None:
        self.skipped: dict[str, str] = {}
        self.seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note one report."""
        self.seconds[report.nodeid.partition("::")[0]] += report.duration  # type: ignore[assignment]
        if report.skipped:
            reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else ""
            self.skipped[report.nodeid] = str(reason)


def main(arguments: list[str]) -> int:
    """Run pytest on two processes; 0 only if all passed and each skip is excused."""
    long = "--long" in arguments
    rest = [word for word in arguments if word != "--long"]
    notes = Notes()
    marker = "long" if long else "not long"
    spread = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    code = pytest.main([*spread, "-m", marker, *rest], plugins=[notes])
    most = notes.seconds.most_common(LISTED)
    print(f"seconds of {sum(notes.seconds.values()):.0f}, of the files that took most:")
    print(*(f"  {seconds:6.0f}  {name}" for name, seconds in most), sep="\n")
    listed = [f"\n  {name}: {why}" for name, why in notes.skipped.items()]
    print("skipped:", *(listed or ["nothing"]))
    if code:
        return int(code)
    strict = os.environ.get("LMWRIGHT_TESTS") == "all"
    holes = [name for name, why in notes.skipped.items() if strict or EXCUSE not in why]
    if holes and not long:
        print("these tests should have run:", *holes, sep="\n  ")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
