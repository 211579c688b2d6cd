"""The stage ``detect``: what it says of the rows that its detectors refer to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lmwright.baselines.majority import Majority
from lmwright.core.durable import write_json
from lmwright.core.task import role_columns, task_to_json
from lmwright.data.corpus import FRAME, TASK, schema_of, write_rows
from lmwright.loop.detect import Detect
from lmwright.metrics.calibration import Calibration
from lmwright.tasks.text_classification import TextClassification


def test_the_facts_hold_the_loss_on_the_reference_rows(tmp_path: Path) -> None:
    task = TextClassification(labels=("no", "yes"))
    model = Majority(task, (29, 69))
    for name in ("model", "scores/model", "rows", "detectors"):
        (tmp_path / name).mkdir(parents=True)
    model.save(tmp_path / "model")
    Calibration(temperature=1.0).save(tmp_path / "scores" / "model")
    truths = ["yes"] * 30 + ["no"] * 15
    columns: dict[str, Any] = {name: [f"{k:032x}" for k in range(45)] for name in (*FRAME, "text")}
    schema = schema_of(role_columns(task, "input", "target"))
    gate = [pa.table(columns | {"label": truths})]
    write_rows(tmp_path / "rows" / "gate.parquet", schema, gate)
    write_json(tmp_path / "rows" / TASK, task_to_json(task))
    work = SimpleNamespace(
        inputs={name: tmp_path / name for name in ("model", "scores", "rows")},
        out=lambda name: tmp_path / name,
        progress=lambda *shown: None,
    )
    facts = Detect(reference=("rows/gate",), window=10, run_length=20.0, windows=2000).run(work)
    assert facts["loss"] == pytest.approx(-(30 * np.log(0.7) + 15 * np.log(0.3)) / 45)
    assert facts["confidence"] == pytest.approx(0.7)
