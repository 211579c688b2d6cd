"""The recipe of code at smoke size: a published language model as it is, on real functions."""

from __future__ import annotations

from pathlib import Path

import pytest

import lmwright as lw

RECIPE = Path(__file__).parents[2] / "recipes" / "code.yaml"

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def test_it_foresees_solutions_better_than_their_ngrams(tmp_path: Path) -> None:
    done = lw.run(RECIPE, {"evaluate.rows": 12, "evaluate.draws": 200}, store=tmp_path / "store")
    models = done.facts["evaluate"]["splits"]["test"]["models"]
    own = models["model"]
    assert own["corpus_bits_per_byte"]["high"] < models["ngram"]["corpus_bits_per_byte"]["low"]
    for name in ("repetition", "distinct_1", "distinct_2"):
        assert 0 < own[name]["low"] <= own[name]["estimate"] <= own[name]["high"] < 1
