"""Numbers for texts: fitting, answers with intervals, the reference's loss, real addresses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lmwright.assets import asset_file
from lmwright.baselines.mean import Mean
from lmwright.baselines.ridge import Ridge
from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.core.task import Answers, read_task, role_columns, task_to_json
from lmwright.data.corpus import schema_of
from lmwright.metrics.calibration import Calibration
from lmwright.models.load import load_predictor
from lmwright.tables import resolve
from lmwright.tasks.regression import Regression
from lmwright.tasks.regression_model import TextRegressor
from lmwright.train.finetune import Train
from tests.train.conftest import FakeWork, write_rows, write_task
from tests.train.conftest import small as small

ADDRESSES = "asset:state-of-the-union/state-of-the-union.parquet"


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Passages of real addresses, every sixth, with their years."""
    rows = pq.read_table(asset_file(ADDRESSES)).to_pylist()[::6]
    found = [
        {"text": row["passage"], "label": float(row["year"]), "id": f"{n:032x}", "source": "a"}
        for n, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(found)


@pytest.fixture(scope="module")
def task(table: pa.Table) -> Regression:
    return Regression().fitted(table.select(["text", "label"]).to_batches(50))


def test_range_mean_and_spread_are_those_of_the_rows(table: pa.Table, task: Regression) -> None:
    years = np.asarray(table.column("label"))
    assert (task.low, task.high) == (years.min(), years.max())
    assert task.mean == pytest.approx(years.mean())
    assert task.scale == pytest.approx(years.std(), rel=1e-6)
    assert read_task(task_to_json(task), "x", resolve) == task


def test_baselines_know_years_by_words(table: pa.Table, task: Regression, tmp_path: Path) -> None:
    """A ridge on words is far better than the mean; saved and loaded it answers alike."""
    order = np.random.default_rng(0).permutation(table.num_rows)
    learnt, held = table.take(order[:400]), table.take(order[400:])
    rows, errors = held.select(["text"]).to_pylist(), {}
    for kind in (Mean, Ridge):
        made = kind.fit(task, learnt, 0)
        answers = answer_all(made, rows)
        fitted = Calibration.fit(task, held, answers)
        found = task.measures(held, fitted.apply(task, answers))
        scores = found.scores(np.ones((1, held.num_rows)))
        errors[kind.kind] = float(scores["mae"][0])
        assert 0.88 <= found.shares["interval_coverage"].hits.mean() <= 1
        (tmp_path / kind.kind).mkdir()
        made.save(tmp_path / kind.kind)
        again = answer_all(load_predictor(tmp_path / kind.kind), rows)
        assert np.array_equal(again["logits"], answers["logits"])
    assert errors["ridge"] < 0.55 * errors["mean"]


def test_it_is_trained_saved_and_answers_with_intervals(
    table: pa.Table, task: Regression, small: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    schema = schema_of(role_columns(task, "input", "target"))
    rows = table.select(["text", "label", "source"]).to_pylist()
    write_rows(folder / "train.parquet", rows[:200], schema)
    write_rows(folder / "validation.parquet", rows[200:280], schema)
    write_task(folder, task)
    stage = Train(
        start=str(small), epochs=6, batch=20, max_tokens=64, lr=1e-2, evaluate_every=10, seed=1
    )
    work = FakeWork({"rows": folder}, tmp_path / "work")
    stage.run(work)
    curve = [each["squared_error"] for each in work.named("evaluated")]
    assert min(curve) < 0.9 < curve[0] + 0.2
    made = load_predictor(work.folder / "model")
    held = pq.read_table(folder / "validation.parquet")
    answers = answer_all(made, held.select(["text"]).to_pylist())
    fitted = Calibration.fit(made.task, held, answers)
    applied = fitted.apply(made.task, answers)
    told = [made.task.told(applied, place) for place in range(held.num_rows)]
    assert json.loads(json.dumps(told)) == told
    assert all(each["interval"][0] <= each["value"] <= each["interval"][1] for each in told)
    heard = made.task.heard(told)
    one, other = (made.task.measures(held, each) for each in (applied, heard))
    assert np.array_equal(
        one.losses["absolute_error"].values, other.losses["absolute_error"].values
    )
    assert set(made.task.signals(made.prepare(held.to_pylist()), applied)) == {
        "length",
        "vocabulary",
        "embedding",
        "value",
    }


def test_the_loss_is_the_mean_squared_error_of_standardised_numbers(
    table: pa.Table, task: Regression, small: Path, tmp_path: Path
) -> None:
    """As transformers trains a head with one output on standardised labels."""
    from lmwright.models.core.spec import Head
    from lmwright.models.files.folder import read_folder
    from lmwright.models.text_model import from_published

    regressor = TextRegressor(task)
    head = regressor.head(0.0)
    assert isinstance(head, Head)
    model = from_published(read_folder(small), head, 48, 1)
    examples = regressor.examples(model, table.slice(0, 12))
    loss = regressor.loss(model.network, examples, None)
    logits = model.logits(model.tokens(table.column("text").to_pylist()[:12]))[:, 0]
    years = np.asarray(table.column("label"))[:12]
    wanted = ((logits - (years - task.mean) / task.scale) ** 2).mean()
    assert loss.mean.item() == pytest.approx(wanted, rel=1e-5)
    assert (loss.count, loss.divisible) == (12, True)
    score = regressor.score(model.network, examples)
    assert score["squared_error"] == pytest.approx(wanted, rel=1e-5)
    assert isinstance(loss.mean, torch.Tensor)


def test_grades_are_rounded_and_judged_as_grades() -> None:
    rows = pa.Table.from_pylist([{"text": "a", "label": float(g)} for g in (1, 2, 2, 5)])
    task = Regression(ordinal=True).fitted(rows.to_batches())
    assert task.levels == (1.0, 2.0, 5.0)
    raw = (np.array([1.2, 2.9, 9.0, 4.0]) - task.mean) / task.scale
    answers = task.calibrated(Answers({"logits": raw[:, None]}), 1.0, 0.0)
    assert answers["value"].tolist() == [1.0, 2.0, 5.0, 5.0]
    found = task.measures(rows, answers)
    assert found.shares["accuracy"].hits.tolist() == [True, True, False, True]
    assert "weighted_kappa" in found.scores(np.ones((1, 4)))
    many = pa.Table.from_pylist([{"text": "a", "label": float(g)} for g in range(60)])
    with pytest.raises(BadInput, match="more than 50 numbers"):
        Regression(ordinal=True).fitted(many.to_batches())


@pytest.mark.parametrize("value", [None, "high", True, "nan", [1], "1e999", "1e308"])
def test_what_is_no_number_is_refused(task: Regression, value: Any) -> None:
    with pytest.raises(BadInput, match="label"):
        task.corrected({"label": value})


def test_a_number_whose_square_is_not_finite_is_a_fault_of_its_row() -> None:
    rows = [{"text": "a", "label": value} for value in (1e308, -1e308, 1e99, 3.0)]
    assert [Regression().fault(row) for row in rows] == ["label too large"] * 2 + [""] * 2
    kept = pa.Table.from_pylist(rows[2:])
    assert np.isfinite(Regression().fitted(kept.to_batches()).scale)


def test_a_small_spread_of_large_numbers_is_not_lost() -> None:
    values = 1e12 + np.random.default_rng(0).normal(0, 1, 300)
    rows = pa.table({"text": ["a"] * 300, "label": values})
    found = Regression().fitted(rows.to_batches(37))
    assert found.mean == pytest.approx(values.mean(), rel=1e-15)
    assert found.scale == pytest.approx(values.std(), rel=1e-3)


def test_numbers_in_words_of_digits_and_one_number_alone(task: Regression) -> None:
    assert task.corrected({"label": " 1901.5 "}) == {"label": 1901.5}
    same = pa.Table.from_pylist([{"text": "a", "label": 2.0}] * 3)
    with pytest.raises(BadInput, match="one number alone"):
        Regression().fitted(same.to_batches())
    assert not task.comparable(replace(task, high=3000.0))
