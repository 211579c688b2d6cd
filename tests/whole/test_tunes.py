"""A tune that cannot be merged, through its whole line: trained, scored, promoted, answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.loop.promote import promote_version
from lmwright.metrics.calibration import Calibration
from lmwright.models.core.device import Placement
from lmwright.models.files.export import export_predictor
from lmwright.models.load import load_predictor
from lmwright.models.placement import place_networks
from lmwright.plan.recipe import open_recipe
from lmwright.serve.load import answer_rows, load_version
from lmwright.store.run import run_recipe
from lmwright.store.store import Store
from tests.small_recipe import write_reviews
from tests.whole.test_adapters import ALIAS, ROWS, recipe_of, write_start


@pytest.mark.parametrize(
    "tune",
    [{"kind": "prompt", "length": 4}, {"kind": "prefix", "length": 4}],
    ids=lambda t: t["kind"],
)
def test_a_model_with_its_prompt_is_served_as_it_was_trained(tune: dict[str, Any], tmp_path):
    write_reviews(tmp_path / "rows.csv", 300)
    path = recipe_of(tmp_path, write_start(tmp_path / "start"), tune=tune)
    store = Store(tmp_path / "store")
    run = run_recipe(open_recipe(path, []), store)
    promote_version(store, ALIAS, run.artifacts["version"], "for the test")
    folder = tmp_path / "store" / "artifacts" / run.artifacts["model"]
    assert {"adapter.safetensors", "base.json"} <= {each.name for each in folder.iterdir()}
    loaded = load_version(store, ALIAS)
    answers = answer_rows(loaded, ROWS)
    store.database.close()
    found = load_predictor(folder)
    logits = answer_all(found, ROWS).columns["logits"]
    calibrated = loaded.calibration.apply(found.task, answer_all(found, ROWS))
    wanted = calibrated.columns["probabilities"]
    for answer, right in zip(answers, wanted, strict=True):
        assert list(answer["probabilities"].values()) == pytest.approx(right.tolist())
    for precision, bound in (("int8", 0.02), ("bf16", 0.05)):
        assert place_networks(found, Placement("cpu", precision))
        other = answer_all(found, ROWS).columns["logits"]
        assert 0 < np.abs(other - logits).max() < bound
    with pytest.raises(BadInput, match="cannot be merged"):
        export_predictor(found, Calibration(1.0), "m@1", tmp_path / "out", "folder")
