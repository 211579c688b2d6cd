import json

import numpy as np
import pyarrow as pa
import pytest

from lmwright.baselines.majority import Majority
from lmwright.core.errors import BadInput, Corrupt
from lmwright.models.load import load_predictor
from lmwright.tasks.text_classification import TextClassification

TASK = TextClassification(labels=("ham", "spam"))


def rows(*labels):
    return pa.table({"text": ["a text"] * len(labels), "label": list(labels)})


def test_it_answers_with_the_shares_of_the_rows(tmp_path):
    model = Majority.fit(TASK, rows(*["ham"] * 6, *["spam"] * 2), 0)
    batch = model.prepare([{"text": "anything"}, {"text": ""}])
    found = model.answers(batch)
    np.testing.assert_allclose(np.exp(found["logits"]), [[0.7, 0.3]] * 2)  # (6+1)/10, (2+1)/10
    assert found.vectors.shape == (2, 1) and [row.cost for row in batch] == [1, 1]
    assert model.facts() == {}
    model.save(tmp_path)
    loaded = load_predictor(tmp_path)
    assert isinstance(loaded, Majority) and loaded.task == TASK
    np.testing.assert_array_equal(loaded.answers(batch)["logits"], found["logits"])


def test_a_model_of_format_1_is_read(tmp_path):
    old = {"kind": "majority", "labels": ["ham", "spam"], "counts": [6, 2]}
    (tmp_path / "model.json").write_text(json.dumps(old))
    loaded = load_predictor(tmp_path)
    assert loaded.task == TASK
    found = loaded.answers(loaded.prepare([{"text": "x"}]))
    np.testing.assert_allclose(np.exp(found["logits"]), [[0.7, 0.3]])


@pytest.mark.parametrize("counts", [[], [1], [1, 2, 3], [1, -2], [1, 0.5], [1, True], None, {}])
def test_counts_that_are_not_those_of_the_labels_are_corrupt(tmp_path, counts):
    Majority(TASK, [1, 2]).save(tmp_path)
    value = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**value, "counts": counts}))
    with pytest.raises(Corrupt, match="2 whole numbers"):
        load_predictor(tmp_path)


def test_a_label_that_the_task_has_not_is_refused():
    with pytest.raises(BadInput, match="other"):
        Majority.fit(TASK, rows("other"), 0)
