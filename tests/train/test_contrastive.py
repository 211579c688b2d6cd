"""Few rows learnt as pairs: which pairs, which loss, and the head that is fitted behind it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.data.corpus import read_split
from lmwright.metrics.calibration import softmax
from lmwright.models.core.ragged import pack
from lmwright.models.load import load_predictor
from lmwright.tasks.regression import Regression
from lmwright.train.contrastive import Contrastive, Pairs, vectors_of
from lmwright.train.finetune import Train
from lmwright.train.several import Also
from lmwright.train.task_model import trained_task_model
from tests.train.conftest import TASK, FakeWork, write_task
from tests.train.test_distil import files, losses


@pytest.fixture
def stage(small) -> Train:
    return Train(
        start=str(small),
        rows=12,
        epochs=1,
        batch=16,
        max_tokens=32,
        lr=3e-3,
        contrastive=Contrastive(pairs=6),
        evaluate_every=4,
        checkpoint_every=3,
        validation_rows=20,
        seed=3,
    )


def test_pairs_are_of_equal_and_of_different_labels(stage, rows, tmp_path):
    trial = stage.trial(FakeWork({"rows": rows}, tmp_path))
    examples = trial.task_model.examples(trial.model, trial.rows)
    pairs = Pairs(examples, 6, 3)
    label = {each.document: each.target for each in examples}
    assert len(pairs) == 2 * 6 * 12
    found = [pairs[place] for place in range(len(pairs))]
    assert Counter(each.target for each in found) == {0: 72, 1: 72}
    for each in found:
        (other,) = each.beside
        assert (label[each.document] == label[other.document]) == bool(each.target)
        assert each.document != other.document
    assert Counter(each.document for each in found) == {each.document: 12 for each in examples}
    assert len({(each.document, each.beside[0].document) for each in found}) > 60
    lone = Pairs([examples[0], *(e for e in examples if e.target != examples[0].target)], 1, 0)
    assert lone[0].beside[0].document == examples[0].document
    with pytest.raises(BadInput, match="one label"):
        Pairs([each for each in examples if each.target == 0], 2, 0)


def test_the_loss_is_the_squared_error_of_the_cosine(stage, rows, tmp_path):
    trial = stage.trial(FakeWork({"rows": rows}, tmp_path))
    network = trial.model.network
    made = Contrastive(pairs=2).make(trial.task_model, network, 3)
    examples = trial.task_model.examples(trial.model, trial.rows)
    pairs = Pairs(examples, 2, 3)[:9]
    found = made.wrapped(trial.task_model.loss)(network, pairs, None)
    wanted = []
    for each in pairs:
        one, two = (network.hidden(pack([t])).mean(0) for t in (each.tokens, each.beside[0].tokens))
        cosine = one @ two / one.norm() / two.norm()
        wanted.append((cosine - each.target) ** 2)
    torch.testing.assert_close(found.mean, torch.stack(wanted).mean(), rtol=1e-4, atol=1e-6)
    assert found.count == 9 and found.divisible


def test_the_head_is_a_logistic_regression_on_the_vectors(stage, rows, tmp_path):
    work = FakeWork({"rows": rows}, tmp_path / "run")
    facts = stage.run(work)
    assert facts["pairs"] == 144 and facts["steps"] == 9 and facts["rows"] == 12
    assert np.mean(losses(work)[-3:]) < np.mean(losses(work)[:3])
    found = load_predictor(work.folder / "model")
    trial = stage.trial(FakeWork({"rows": rows}, tmp_path / "other"))
    examples = trial.task_model.examples(trial.model, trial.rows)
    with torch.no_grad():
        x = vectors_of(found.model.network, examples, None, []).double().numpy()
    y = [each.target for each in examples]
    scale = np.linalg.norm(x, axis=1).mean()
    fitted = LogisticRegression(C=1.0, max_iter=2000).fit(x / scale, y)
    table = read_split(rows, "validation").select(["text"]).to_pylist()
    answers = answer_all(found, table).columns["logits"]
    held_out = found.prepare(table)
    with torch.no_grad():
        hidden = [found.model.network.hidden(pack([t.ids])).mean(0) for t in held_out]
    wanted = fitted.predict_proba(torch.stack(hidden).double().numpy() / scale)
    np.testing.assert_allclose(softmax(answers), wanted, atol=1e-5)


def test_an_interrupted_run_ends_in_the_same_bits(stage, rows, tmp_path):
    works = [FakeWork({"rows": rows}, tmp_path / name) for name in "ab"]
    facts = stage.run(works[0])
    works[1].fail_at = 5
    with pytest.raises(KeyboardInterrupt):
        stage.run(works[1])
    works[1].fail_at = 0
    assert stage.run(works[1]) == facts
    assert works[1].named("resumed") == [{"step": 3}]
    assert files(works[1]) == files(works[0])


def test_micro_batches_give_the_same_losses(stage, rows, tmp_path):
    works = [FakeWork({"rows": rows}, tmp_path / name) for name in "ab"]
    for work, micro in zip(works, (0, 5), strict=True):
        replace(stage, micro_batch=micro).run(work)
    assert losses(works[0]) == pytest.approx(losses(works[1]), abs=1e-5)


def test_what_pairs_cannot_teach_is_refused(stage, rows, tmp_path):
    for changed, found in (
        (replace(stage, contrastive=Contrastive(pairs=0)), "pairs is 0"),
        (replace(stage, contrastive=Contrastive(strength=0)), "strength is 0"),
        (replace(stage, epochs=0), "epochs: 0"),
        (replace(stage, distil={"kind": "logits", "teacher": "t"}), "beside distil"),
        (replace(stage, also={"other": Also(rows="more")}), "contrastive, and several tasks"),
    ):
        with pytest.raises(BadInput, match=found):
            changed.check()
    trial = stage.trial(FakeWork({"rows": rows}, tmp_path))
    network = trial.model.network
    pairs = Contrastive()
    with pytest.raises(BadInput, match="the task regression"):
        pairs.make(trained_task_model(Regression(low=0, high=1)), network, 0)
    smooth = trained_task_model(replace(TASK, smoothing=0.1))
    with pytest.raises(BadInput, match="smoothing of the task"):
        pairs.make(smooth, network, 0)
    for name, weight in network.named_parameters():
        weight.requires_grad_(name.startswith("head."))
    with pytest.raises(BadInput, match="no weight of the body"):
        pairs.make(trial.task_model, network, 0)


def test_weights_of_classes_are_refused(stage, rows, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    write_task(folder, replace(TASK, class_weights="balanced", weights=(1.0, 1.0)))
    for split in ("train", "validation"):
        (folder / f"{split}.parquet").write_bytes(Path(rows / f"{split}.parquet").read_bytes())
    with pytest.raises(BadInput, match="weights of the task"):
        stage.run(FakeWork({"rows": folder}, tmp_path))
