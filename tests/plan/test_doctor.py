"""The doctor finds the cause that a journal shows, and no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lmwright.cli.main import main
from lmwright.core.journal import Journal
from lmwright.machine.probe import Machine
from lmwright.plan.doctor import check_machine, cpu_findings, explain_run, gpu_findings
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


MACHINE = Machine(
    "Pretended",
    "0x2b",
    "C",
    "AMX is shown and granted",
    2,
    {
        "fp32": {"1": 10.0, "512": 100.0},
        "bf16": {"1": 11.0, "512": 900.0},
        "int8": {"1": 30.0, "512": 950.0},
    },
    {"amx_int8": 4000.0},
    {"1": 15.0, "2": 28.25},
    {"onednn": "the process was ended by SIGILL"},
)


def test_what_is_said_of_a_cpu() -> None:
    found = list(cpu_findings(MACHINE))
    said = {finding.name: finding.seen for finding in found}
    assert said["cpu"] == "class C (Pretended, microcode 0x2b): AMX is shown and granted"
    assert "10 at 1, 100 at 512" in said["rate fp32"] and "4000" in said["peak"]
    assert "15.0 GB/s with 1 thread, 28.2 GB/s with 2 threads" in said["bandwidth"]
    assert said["probe"] == "not measured: onednn; the process was ended by SIGILL"
    works = [finding.seen for finding in found if finding.name == "fastest"]
    assert works[0].startswith("training: bf16, 9.0 times fp32 at rows 512 (fp32 100, bf16 900)")
    assert works[0].endswith("; precision: bf16") and len(works) == 3
    assert found[0].facts["rates"] == MACHINE.rates and all(finding.well for finding in found)


def test_a_cpu_on_which_torch_dies_is_unwell() -> None:
    dead = replace(MACHINE, rates={}, faults={"fp32": "the process was ended by SIGILL"})
    found = {finding.name: finding for finding in cpu_findings(dead)}
    assert not found["probe"].well and "LMWRIGHT_ISA" in found["probe"].cure
    assert "fastest" not in found


def test_a_gpu_is_told_by_kind_memory_and_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(gpu_findings()) == [] or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Pretended")
    memory = SimpleNamespace(total_memory=150 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: memory)
    (found,) = gpu_findings()
    wanted = "class gpu: Pretended, 150.0 GB, compute capability 9.0, bf16 native"
    assert found.seen == wanted and found.facts["bf16"] is True


def test_the_machine_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said: list[str] = []
    names = {finding.name for finding in check_machine(tmp_path, said.append)}
    assert {"memory", "disk", "store", "torch", "assets", "threads", "cpu", "fastest"} <= names
    assert said
    main(["doctor", "--store", str(tmp_path)])
    assert "torch" in capsys.readouterr().out


def test_an_unknown_run_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path)
    assert main(["doctor", "nothing", "--store", str(tmp_path)]) == 1
    assert "there is no run" in capsys.readouterr().err


def test_again_measures_the_machine_and_explains_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "nothing", "--again", "--store", str(tmp_path)]) == 1
    assert "--again beside a run" in capsys.readouterr().err


def test_the_environment_names_a_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMWRIGHT_ISA", "D")
    assert main(["doctor", "--store", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "LMWRIGHT_ISA is 'D'; wanted: A, B or C" in error and "Traceback" not in error
