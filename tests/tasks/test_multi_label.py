"""Any number of labels for a text: tuned thresholds, the reference's loss, real tags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from lmwright.assets import asset_file
from lmwright.baselines.frequent import Frequent
from lmwright.baselines.tfidf_labels import TfidfLabels
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.predictor import answer_all
from lmwright.core.task import read_task, role_columns, task_to_json
from lmwright.data.corpus import schema_of
from lmwright.metrics.calibration import Calibration
from lmwright.metrics.multilabel import binary_log_losses
from lmwright.models.files.folder import read_folder
from lmwright.models.load import load_predictor
from lmwright.models.text_model import from_published
from lmwright.tables import resolve
from lmwright.tasks.multi_label_classification import MultiLabelClassification
from lmwright.tasks.multi_label_classification_model import MultiLabelModel
from lmwright.train.finetune import Train
from tests.train.conftest import FakeWork, write_rows, write_task
from tests.train.conftest import small as small

TAGS = "asset:debian-tags/debian-tags.parquet"


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Real descriptions with their tags, every sixth."""
    rows = pq.read_table(asset_file(TAGS)).to_pylist()[::6]
    found = [
        {"text": row["description"], "labels": row["tags"], "id": f"{n:032x}", "source": "debian"}
        for n, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(found)


@pytest.fixture(scope="module")
def task(table: pa.Table) -> MultiLabelClassification:
    return MultiLabelClassification(fewest=10).fitted(table.to_batches(100))


def test_rare_labels_are_left_out(table: pa.Table, task: MultiLabelClassification) -> None:
    every = [label for labels in table.column("labels").to_pylist() for label in labels]
    assert task.known == tuple(sorted({x for x in every if every.count(x) >= 10}))
    assert 20 < len(task.known) < len(set(every))
    assert task.table(table).sum() == sum(label in task.known for label in every)
    assert read_task(task_to_json(task), "x", resolve) == task


def test_tuned_thresholds_find_more_than_a_half_does(
    table: pa.Table, task: MultiLabelClassification, tmp_path: Path
) -> None:
    """On rows of their own, and the baseline of words is far better than that of frequencies."""
    order = np.random.default_rng(0).permutation(table.num_rows)
    learnt, tuning, held = (table.take(order[a:b]) for a, b in ((0, 450), (450, 640), (640, None)))
    found = {}
    for kind in (Frequent, TfidfLabels):
        made = kind.fit(task, learnt, 0)
        rows = held.select(["text"]).to_pylist()
        answers = answer_all(made, rows)
        fitted = Calibration.fit(
            task, tuning, answer_all(made, tuning.select(["text"]).to_pylist())
        )
        assert len(fitted.thresholds) == len(task.known)
        scores = task.measures(held, fitted.apply(task, answers)).scores(np.ones((1, len(rows))))
        plain = task.measures(held, task.calibrated(answers, 1.0, 0.0)).scores(
            np.ones((1, len(rows)))
        )
        found[kind.kind] = float(scores["micro_f1"][0])
        assert scores["micro_f1"][0] > plain["micro_f1"][0]
        (tmp_path / kind.kind).mkdir()
        made.save(tmp_path / kind.kind)
        again = answer_all(load_predictor(tmp_path / kind.kind), rows)
        assert np.array_equal(again["logits"], answers["logits"])
    assert found["tfidf-labels"] > found["frequent"] + 0.1


def test_the_loss_is_the_references(
    table: pa.Table, task: MultiLabelClassification, small: Path
) -> None:
    """Binary cross-entropy, the mean over rows and labels, as transformers has it."""
    by_model = MultiLabelModel(task)
    model = from_published(read_folder(small), by_model.head(0.0), 48, 1)
    examples = by_model.examples(model, table.slice(0, 9))
    loss = by_model.loss(model.network, examples, None)
    logits = torch.from_numpy(model.logits(model.tokens(table.column("text").to_pylist()[:9])))
    wanted = F.binary_cross_entropy_with_logits(
        logits, torch.from_numpy(task.table(table.slice(0, 9)))
    )
    assert loss.mean.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert by_model.score(model.network, examples)["log_loss"] == pytest.approx(
        wanted.item(), rel=1e-5
    )


def test_it_is_trained_saved_and_answers(
    table: pa.Table, task: MultiLabelClassification, small: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    schema = schema_of(role_columns(task, "input", "target"))
    rows = table.select(["text", "labels", "source"]).to_pylist()
    write_rows(folder / "train.parquet", rows[:160], schema)
    write_rows(folder / "validation.parquet", rows[160:240], schema)
    write_task(folder, task)
    stage = Train(
        start=str(small), epochs=12, batch=20, max_tokens=48, lr=1e-2, evaluate_every=8, seed=1
    )
    work = FakeWork({"rows": folder}, tmp_path / "work")
    stage.run(work)
    curve = [each["scaled_log_loss"] for each in work.named("evaluated")]
    assert min(curve) < curve[0] - 1e-4
    made = load_predictor(work.folder / "model")
    learnt = pq.read_table(folder / "train.parquet")
    wanted = made.task.table(learnt)
    logits = answer_all(made, learnt.select(["text"]).to_pylist())["logits"]
    alike = np.tile(np.log(wanted.mean(0) + 1e-3), (len(wanted), 1))

    def log_loss(p: np.ndarray) -> float:
        return float(binary_log_losses(wanted, p).mean())

    assert log_loss(1 / (1 + np.exp(-logits))) < log_loss(np.exp(alike)), (
        "more than shares is learnt"
    )
    held = pq.read_table(folder / "validation.parquet")
    answers = answer_all(made, held.select(["text"]).to_pylist())
    applied = Calibration.fit(made.task, held, answers).apply(made.task, answers)
    told = [made.task.told(applied, place) for place in range(held.num_rows)]
    assert json.loads(json.dumps(told)) == told
    heard = made.task.heard(told)
    one, other = (made.task.measures(held, each) for each in (applied, heard))
    for name in ("f1_error", "hamming", "log_loss"):
        assert np.allclose(one.losses[name].values, other.losses[name].values)
        assert (one.losses[name].values <= one.losses[name].largest).all()
    pooled = made.task.calibrated(made.task.pooled([applied, applied]), 1.0, 0.0)
    assert np.allclose(pooled["probabilities"], applied["probabilities"])


def test_a_drawn_head_gives_each_label_its_share_at_first(
    small: Path, table: pa.Table, task: MultiLabelClassification
) -> None:
    by_model = MultiLabelModel(task)
    drawn = from_published(read_folder(small), by_model.head(0.0), 24, 1)
    ready, _ = by_model.prepared_start(drawn)
    assert ready.network is drawn.network and ready.network.head is not None
    bias = ready.network.head.out.bias.detach().clone()
    np.testing.assert_allclose(torch.sigmoid(bias), task.table(table).mean(0), atol=1e-6)
    examples = by_model.examples(ready, table.slice(0, 60))
    begun = by_model.score(ready.network, examples)["log_loss"]
    with torch.no_grad():
        ready.network.head.out.bias.zero_()
    assert begun < by_model.score(ready.network, examples)["log_loss"] / 3
    by_model.prepared_start(ready, earlier=task)
    assert not ready.network.head.out.bias.any(), "an earlier model's head is its own"
    with torch.no_grad():
        ready.network.head.out.bias.fill_(0.5)
    by_model.prepared_start(ready)
    assert (ready.network.head.out.bias == 0.5).all(), "so is a trained one"


@pytest.mark.parametrize("value", [None, "no such label", ["no such label"], 3, {"a": 1}])
def test_wrong_labels_are_named(task: MultiLabelClassification, value: Any) -> None:
    with pytest.raises(BadInput, match="label"):
        task.corrected({"labels": value})


def test_corrections_and_faults(task: MultiLabelClassification, tmp_path: Path) -> None:
    assert task.corrected({"labels": [task.known[1], task.known[0]]}) == {
        "labels": sorted(task.known[:2])
    }
    assert task.corrected({"labels": []}) == {"labels": []}
    alike = pa.Table.from_pylist([{"labels": ["a", "b"]}] * 3)
    with pytest.raises(BadInput, match="every training row has the labels"):
        MultiLabelClassification().fitted(alike.to_batches())
    some = pa.concat_tables([alike, pa.Table.from_pylist([{"labels": ["a"]}])])
    assert MultiLabelClassification().fitted(some.to_batches()).known == ("a", "b")
    with pytest.raises(BadInput, match="no label stands in 9 training rows"):
        MultiLabelClassification(fewest=9).fitted(
            pa.Table.from_pylist([{"labels": ["a"]}] * 3).to_batches()
        )
    Frequent(task, [0.5] * len(task.known)).save(tmp_path)
    text = (tmp_path / "model.json").read_text().replace("0.5,", "2.0,", 1)
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(Corrupt, match="shares are"):
        load_predictor(tmp_path)
