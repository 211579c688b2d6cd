"""The score that decides which weights are kept may be any of the task's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.core.task import asked_rows
from lmwright.models.load import load_predictor
from lmwright.report.sections.learning import drawn, monitored
from lmwright.train import monitor
from lmwright.train.finetune import Train
from tests.train.conftest import TASK, FakeWork


@pytest.fixture
def stage(small: Path) -> Train:
    return Train(
        start=str(small),
        rows=100,
        epochs=30,
        batch=10,
        max_tokens=48,
        lr=3e-3,
        evaluate_every=10,
        patience=2,
        checkpoint_every=7,
        seed=3,
    )


@pytest.mark.parametrize(("name", "best"), [("macro_f1", max), ("brier", min), ("recall.1", max)])
def test_the_weights_with_the_best_measure_are_kept(stage, rows, tmp_path, name, best):
    """A rate this high overfits a hundred sentences soon."""
    work = FakeWork({"rows": rows}, tmp_path / "work")
    facts = replace(stage, monitor=name).run(work)
    scores = {each["step"]: each[name] for each in work.named("evaluated")}
    assert facts["best_step"] == best(scores, key=scores.__getitem__)
    assert facts[f"validation_{name}"] == best(scores.values())
    assert facts["steps"] == facts["best_step"] + 20 < 300
    assert facts["ended"] == f"no better {name} for 2 scores"
    model = load_predictor(work.folder / "model")
    table = pq.read_table(rows / "validation.parquet")
    answers = answer_all(model, asked_rows(TASK, table))
    found = TASK.measures(table, TASK.calibrated(answers, 1.0, 0.0))
    every = found.scores(np.ones((1, table.num_rows)))
    told = found.losses[name].values.mean() if name in found.losses else every[name][0]
    assert told == pytest.approx(facts[f"validation_{name}"], rel=1e-6)


def test_the_report_draws_the_monitored_score_up_to_where_training_stopped(stage, rows, tmp_path):
    work = FakeWork({"rows": rows}, tmp_path / "work")
    facts = replace(stage, monitor="macro_f1").run(work)
    curves = json.loads((work.folder / "model" / "curves.json").read_text())
    assert monitored(facts) == "macro_f1"
    assert curves[-1]["step"] == facts["steps"]
    assert [line for _, line in drawn(curves, "macro_f1")["legend"]]


@pytest.mark.parametrize("step", [11, 20, 33])
def test_an_interrupted_run_stops_at_the_same_step(stage, rows, tmp_path, step):
    whole, broken = (FakeWork({"rows": rows}, tmp_path / name) for name in ("whole", "broken"))
    own = replace(stage, monitor="accuracy")
    facts = own.run(whole)
    broken.fail_at = step
    with pytest.raises(KeyboardInterrupt):
        own.run(broken)
    broken.fail_at = 0
    assert own.run(broken) == facts
    made = [each.folder / "model" / "model.safetensors" for each in (whole, broken)]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_a_measure_that_is_no_number_is_no_better(stage, rows, tmp_path, monkeypatch):
    """An area under a curve where a class has no rows, say."""
    values = iter([0.5, np.nan, 0.7, np.nan, 0.6])
    monkeypatch.setattr(monitor.Monitor, "measured", lambda self: (next(values), False))
    work = FakeWork({"rows": rows}, tmp_path / "work")
    facts = replace(stage, monitor="macro_roc_auc").run(work)
    assert (facts["best_step"], facts["validation_macro_roc_auc"]) == (30, 0.7)
    assert [sorted(each) for each in work.named("evaluated")][1].count("macro_roc_auc") == 0


def test_an_unknown_measure_is_refused_with_those_that_there_are(stage, rows):
    with pytest.raises(BadInput) as refusal:
        replace(stage, monitor="makro_f1").foresee({"rows": rows})
    words = str(refusal.value)
    assert words.startswith("train.monitor is 'makro_f1'")
    assert "log_loss, brier, error, accuracy, macro_f1" in words and "'macro_f1'?" in words
    with pytest.raises(BadInput, match=r"train\.monitor is 'bleu'"):
        replace(stage, monitor="bleu").check_task(TASK)
