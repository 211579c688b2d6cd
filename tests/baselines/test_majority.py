import numpy as np
import pytest

from lmwright.baselines.majority import Majority
from lmwright.core.errors import BadInput, Corrupt


def test_it_answers_with_the_shares_of_the_rows(tmp_path):
    model = Majority.fit(["ham"] * 6 + ["spam"] * 2, ("ham", "spam"))
    batch = model.prepare(["anything", ""])
    p = np.exp(model.logits(batch))
    np.testing.assert_allclose(p, [[0.7, 0.3]] * 2)  # (6+1)/10 and (2+1)/10
    assert model.embed(batch).shape == (2, 1) and [row.cost for row in batch] == [1, 1]
    model.save(tmp_path)
    np.testing.assert_array_equal(Majority.load(tmp_path).logits(batch), model.logits(batch))


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(BadInput, match="other"):
        Majority.fit(["other"], ("ham", "spam"))
    (tmp_path / "model.json").write_text('{"labels": ["a"], "counts": []}')
    with pytest.raises(Corrupt):
        Majority.load(tmp_path)
