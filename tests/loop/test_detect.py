"""The stage ``detect``: what it says of the rows that its detectors refer to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lmwright.baselines.majority import Majority
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput
from lmwright.core.task import role_columns, task_to_json
from lmwright.data.corpus import FRAME, TASK, schema_of, write_rows
from lmwright.loop.detect import Detect
from lmwright.loop.gate import Gate
from lmwright.loop.promote import judged
from lmwright.metrics.calibration import Calibration
from lmwright.models.files.folder import read_folder
from lmwright.models.text_model import TextPredictor, from_published
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.text_classification_model import TextClassifier
from tests.train.conftest import small as small


@pytest.fixture
def work(tmp_path: Path) -> SimpleNamespace:
    """45 gate rows, and a model that gives each label its share of former rows."""
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
    return SimpleNamespace(
        inputs={name: tmp_path / name for name in ("model", "scores", "rows")},
        out=lambda name: tmp_path / name,
        progress=lambda *shown: None,
    )


DETECT = Detect(reference=("rows/gate",), window=10, run_length=20.0, windows=2000)


def test_the_facts_hold_the_loss_on_the_reference_rows(work: Any) -> None:
    facts = DETECT.run(work)
    assert facts["loss"] == pytest.approx(-(30 * np.log(0.7) + 15 * np.log(0.3)) / 45)
    assert facts["confidence"] == pytest.approx(0.7)
    assert facts["reference_rows"] == 45


def test_the_reference_may_be_a_part_of_the_rows(work: Any) -> None:
    some = replace(DETECT, rows=31)
    assert some.run(work)["reference_rows"] == 31
    some.foresee(work.inputs)
    few = replace(DETECT, rows=20)
    with pytest.raises(BadInput, match="20 reference rows for windows of 10"):
        few.foresee(work.inputs)
    with pytest.raises(BadInput, match=r"detect\.rows is -1"):
        replace(DETECT, rows=-1).check()


def test_a_precision_is_that_of_a_network(
    work: Any, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="precision int8 for a majority model"):
        replace(DETECT, precision="int8").run(work)
    head = TextClassifier(task := TextClassification(labels=("no", "yes"))).head(0.0)
    model = TextPredictor(task, from_published(read_folder(small), head, 24, 1))
    model.save(work.inputs["model"])
    whole = DETECT.run(work)
    placed: list[str] = []
    place = TextPredictor.place
    monkeypatch.setattr(
        TextPredictor,
        "place",
        lambda self, placement: (placed.append(placement.precision), place(self, placement))[1],
    )
    fewer = replace(DETECT, precision="int8").run(work)
    assert placed == ["int8"]
    assert fewer["loss"] != whole["loss"] and fewer["loss"] == pytest.approx(whole["loss"], rel=0.1)
    asked = judged(work.inputs["model"], Calibration(), "int8")
    assert placed == ["int8", "int8"] and isinstance(asked.predictor, TextPredictor)
    judged(work.inputs["model"], Calibration(), "fp32")
    assert len(placed) == 2


def test_a_gate_in_fp32_is_known_as_before_it_had_a_precision() -> None:
    assert "precision" not in Gate().to_json()
    assert Gate(precision="int8").to_json()["precision"] == "int8"
