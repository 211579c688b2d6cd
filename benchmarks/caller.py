"""What every client of ``benchmarks.clients`` shares: its checks are run, and one line is printed.

Runs in the client's own interpreter, so that it needs nothing but Python.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

QUESTION = "What is the weather in Bern in 3 days?"
GREETING = "Say hello."
CODE = "def add(a, b):"
TOKENS = 64

Checks = Mapping[str, Callable[[], Any]]
"""What is exercised, by its name; one that does not work raises."""


def main(packages: tuple[str, ...], checks: Callable[[str, str], Checks]) -> None:
    """Run all checks on the server and the model that are the arguments, and print a line."""
    url, model = sys.argv[1:]
    right, wrong = list[str](), dict[str, str]()
    for name, check in checks(url, model).items():
        try:
            check()
            right.append(name)
        except Exception as fault:
            wrong[name] = f"{type(fault).__name__}: {fault}"[:500]
    line = {
        "name": f"client {packages[0]}",
        "works": right,
        "fails": wrong,
        "versions": {each: version(each) for each in packages},
    }
    print(json.dumps(line), flush=True)


def same(found: Any, wanted: Any) -> None:
    """Refuse what is not as it should be."""
    if found != wanted:
        raise ValueError(f"{found!r}, not {wanted!r}")


def holds(condition: object, found: Any) -> None:
    """Refuse what was found unless the condition holds."""
    if not condition:
        raise ValueError(repr(found))
