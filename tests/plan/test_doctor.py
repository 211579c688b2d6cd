"""The doctor finds the cause that a journal shows, and no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmwright.cli.main import main
from lmwright.core.journal import Journal
from lmwright.plan.doctor import check_machine, explain_run
from lmwright.store.store import Store


def run_with(store: Store, events: list[tuple[str, dict]], ended: dict | None) -> str:
    """A run whose journal holds these events."""
    name, folder = store.new_run("toy")
    (folder / "run.json").write_text(json.dumps({"recipe": "toy", "began": 0, "raw": {}}))
    journal = Journal(folder / "journal.jsonl")
    journal.record("run began", process=2**22 + 12345)
    journal.record("stage began", step="train")
    for event, facts in events:
        journal.record(event, **facts)
    if ended is not None:
        journal.record("run ended", **ended)
    journal.close()
    return name


def steps(losses: list[float], gradients: list[float]) -> list[tuple[str, dict]]:
    """Training steps."""
    return [
        ("step", {"step": k, "loss": loss, "gradient": gradient})
        for k, (loss, gradient) in enumerate(zip(losses, gradients, strict=True))
    ]


FALLING = [0.7 - 0.004 * k for k in range(90)]
CALM = [1.0 + 0.01 * (k % 7) for k in range(90)]


@pytest.mark.parametrize(
    ("events", "ended", "cause"),
    [
        (steps(FALLING, CALM), None, "killed"),
        ([], {"state": "interrupted", "kind": "SystemExit", "error": "143"}, "interrupted"),
        ([], {"state": "failed", "kind": "MemoryError", "error": "x"}, "out of memory"),
        (
            [("fault", {"what": "the loss", "loss": "nan", "step": 7})],
            {"state": "failed", "kind": "LmwrightError", "error": "x"},
            "no number",
        ),
        (steps(FALLING, [*CALM[:80], *([900.0] * 10)]), {"state": "done"}, "exploding gradient"),
        (
            steps([0.69 + 0.001 * (k % 5) for k in range(90)], CALM),
            {"state": "done"},
            "no learning",
        ),
        ([], {"state": "failed", "kind": "BadInput", "error": "rows.csv, row 7"}, "bad input"),
    ],
)
def test_a_cause_is_found_by_its_signs(tmp_path: Path, events, ended, cause) -> None:
    store = Store(tmp_path)
    found = explain_run(store, run_with(store, events, ended))
    assert [finding.name for finding in found] == [cause]
    assert not found[0].well
    assert found[0].cure


def test_a_good_run_is_said_to_be_well(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = explain_run(store, run_with(store, steps(FALLING, CALM), {"state": "done"}))
    assert [finding.well for finding in found] == [True]


def test_the_machine_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {finding.name for finding in check_machine(tmp_path)}
    assert {"memory", "disk", "store", "torch", "assets"} <= names
    main(["doctor", "--store", str(tmp_path)])
    assert "torch" in capsys.readouterr().out


def test_an_unknown_run_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path)
    assert main(["doctor", "nothing", "--store", str(tmp_path)]) == 1
    assert "there is no run" in capsys.readouterr().err
