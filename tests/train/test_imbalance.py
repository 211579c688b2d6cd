"""Rare labels: class weights, the focal loss and resampling."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from lmwright.core.errors import BadInput
from lmwright.core.task import role_columns
from lmwright.data.corpus import schema_of
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.text_classification_model import TextClassifier
from lmwright.tasks.token_classification import TokenClassification
from lmwright.train.batches import UNLEARNT, Chosen, EpochBatches, resampled
from lmwright.train.division import Division, add_gradients
from lmwright.train.finetune import Train
from lmwright.train.loss import cross_entropy
from tests.train.conftest import TASK, FakeWork, write_rows, write_task
from tests.train.test_division import close, encoder, examples, gradients


def test_balanced_weights_are_scikit_learns() -> None:
    labels = ["a"] * 70 + ["b"] * 25 + ["c"] * 5
    rows = pa.table({"label": labels}).to_batches(10)
    found = TextClassification(class_weights="balanced").fitted(rows).weights
    assert found == pytest.approx(
        compute_class_weight("balanced", classes=np.array([*"abc"]), y=labels)
    )
    assert TextClassification().fitted(rows).weights == ()


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    return logits, torch.tensor([0, 1, 2, UNLEARNT, 2, 2, 0, UNLEARNT, 1])


def test_a_weighted_loss_is_the_weighted_mean() -> None:
    logits, targets = drawn()
    weights = (0.5, 2.0, 1.0)
    found = cross_entropy(logits, targets, weights=weights)
    wanted = F.cross_entropy(logits, targets, torch.tensor(weights).double(), ignore_index=UNLEARNT)
    torch.testing.assert_close(found.mean, wanted)
    assert found.count == pytest.approx(0.5 * 2 + 2.0 * 2 + 1.0 * 3)


def test_the_focal_loss_is_equation_4() -> None:
    """-(1 - p)^gamma log p, written out; 0 leaves the cross-entropy."""
    logits, targets = drawn()
    known = [n for n in range(9) if targets[n] != UNLEARNT]
    for gamma in (0.5, 2.0):
        total = 0.0
        for n in known:
            row = [math.exp(value) for value in logits[n].tolist()]
            p = row[int(targets[n])] / sum(row)
            total -= (1 - p) ** gamma * math.log(p)
        found = cross_entropy(logits, targets, focal=gamma)
        assert found.mean.item() == pytest.approx(total / len(known))
    plain = cross_entropy(logits, targets)
    tiny = cross_entropy(logits, targets, focal=1e-12)
    assert tiny.mean.item() == pytest.approx(plain.mean.item())


@pytest.mark.parametrize(
    "settings", [{"weights": (0.6, 3.0)}, {"weights": (0.6, 3.0), "focal": 2.0}]
)
def test_micro_batches_give_the_gradient_of_the_whole(settings: dict) -> None:
    """Each part counts by the sum of its weights."""
    by_model = TextClassifier(replace(TASK, class_weights="balanced", **settings))
    batches, network = EpochBatches(examples(13), 13, 1, seed=2), encoder()
    whole = add_gradients(network, batches, by_model.loss, 0, Division())
    wanted = gradients(network)
    network.zero_grad()
    found = add_gradients(network, batches, by_model.loss, 0, Division(4))
    assert found == (pytest.approx(whole[0], rel=1e-5), whole[1])
    close(gradients(network), wanted)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.booleans(), st.integers(0, 9))
def test_resampling_gives_each_stratum_as_many(strata: list[str], more: bool, seed: int) -> None:
    places = resampled(strata, more, seed)
    names, sizes = np.unique(strata, return_counts=True)
    counts = {name: sum(strata[place] == name for place in places) for name in names}
    assert set(counts.values()) == {int(sizes.max() if more else sizes.min())}
    assert (np.diff(places) >= 0).all()
    assert np.array_equal(places, resampled(strata, more, seed))
    times = np.bincount(places, minlength=len(strata))
    for name in names:  # no row stands twice more often than another of its stratum
        own = times[[place for place, each in enumerate(strata) if each == name]]
        assert own.max() - own.min() <= 1
    assert not more or set(places.tolist()) == set(range(len(strata)))


@pytest.mark.parametrize(
    ("resample", "steps", "learnt"), [("none", 6, 60), ("over", 10, 60), ("under", 2, 20)]
)
def test_the_stage_honours_resample(
    small: Path, sentences: list, tmp_path: Path, resample: str, steps: int, learnt: int
) -> None:
    rare = [row for row in sentences if row["label"] == "1"][:10]
    often = [row for row in sentences if row["label"] == "0"][:50]
    folder = tmp_path / "rows"
    folder.mkdir()
    schema = schema_of(role_columns(TASK, "input", "target"))
    write_rows(folder / "train.parquet", rare + often, schema)
    write_rows(folder / "validation.parquet", sentences[200:240], schema)
    write_task(folder, TASK)
    stage = Train(
        start=str(small), resample=resample, epochs=1, batch=10, max_tokens=32, lr=1e-3, seed=3
    )
    work = FakeWork({"rows": folder}, tmp_path / "work")
    facts = stage.run(work)
    assert (facts["steps"], facts["rows"]) == (steps, learnt)
    assert pq.read_table(work.folder / "model" / "rows.parquet").num_rows == learnt


def test_a_task_without_strata_is_not_resampled(tmp_path: Path, small: Path) -> None:
    task = TokenClassification(labels=("PER",))
    folder = tmp_path / "rows"
    folder.mkdir()
    span = {"start": 0, "end": 4, "label": "PER"}
    rows = [{"text": f"Anna {n}", "spans": [span], "source": "a"} for n in range(4)]
    schema = schema_of(role_columns(task, "input", "target"))
    write_rows(folder / "train.parquet", rows, schema)
    write_rows(folder / "validation.parquet", rows, schema)
    write_task(folder, task)
    stage = Train(start=str(small), resample="over", max_tokens=32, validation_rows=4)
    with pytest.raises(BadInput, match="token-classification has no strata"):
        stage.run(FakeWork({"rows": folder}, tmp_path / "work"))


def test_chosen_examples_are_those_at_the_places() -> None:
    every = examples(6)
    found = Chosen(every, np.array([1, 1, 4]))
    assert [each.document for each in found] == [7, 7, 28]
    assert [each.document for each in found[1:]] == [7, 28]


@pytest.mark.parametrize(
    ("settings", "said"), [({"focal": 11}, "focal is 11"), ({"focal": -1}, "focal")]
)
def test_settings_out_of_range(settings: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        TextClassification(**settings).check()
