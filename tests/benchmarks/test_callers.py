"""The line of a client: what works, and what does not and why."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import pytest
from benchmarks.caller import Checks, holds, main, same


def test_a_check_that_raises_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def checks(url: str, model: str) -> Checks:
        return {
            "right": lambda: same((url, model), ("http://127.0.0.1:1/v1", "tiny")),
            "another": lambda: same(1, 2),
            "nothing": lambda: holds([], "nothing"),
            "last": lambda: holds([1], None),
        }

    monkeypatch.setattr(sys, "argv", ["caller", "http://127.0.0.1:1/v1", "tiny"])
    main(("pytest",), checks)
    assert json.loads(capsys.readouterr().out) == {
        "name": "client pytest",
        "works": ["right", "last"],
        "fails": {"another": "ValueError: 1, not 2", "nothing": "ValueError: 'nothing'"},
        "versions": {"pytest": version("pytest")},
    }
