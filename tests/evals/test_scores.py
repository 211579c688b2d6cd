"""Intervals of scores: of shares of rows, alone and in groups."""

from __future__ import annotations

import numpy as np
import pytest

from lmwright.core.task import Measures, Share
from lmwright.evals.scores import score
from lmwright.metrics.intervals import wilson


def share_of(hits: np.ndarray, groups: np.ndarray | None) -> dict[str, float]:
    """The interval of a share of all rows."""

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"ends": weights @ hits / weights.sum(-1)}

    measures = Measures({}, scores, {"ends": Share(hits, np.ones(len(hits), bool))})
    found = score(measures, len(hits), 500, np.random.default_rng(0), 0.95, groups)
    kept: dict[str, float] = found["metrics"]["ends"]
    return kept


@pytest.mark.parametrize("value", [False, True])
def test_a_share_of_none_or_all_is_no_certainty(value: bool) -> None:
    """Forty rows of ten conversations that all end are no more than ten that do."""
    hits, groups = np.full(40, value), np.repeat(np.arange(10), 4)
    found, wanted = share_of(hits, groups), wilson(10 * value, 10)
    assert (found["low"], found["high"]) == (wanted.low, wanted.high)
    alone = share_of(hits, None)
    assert wanted.high - wanted.low > alone["high"] - alone["low"] > 0


def test_other_shares_of_groups_have_the_bootstrap() -> None:
    """Rows of a group that are all alike say as much as one."""
    hits, groups = np.repeat(np.arange(10) < 6, 4), np.repeat(np.arange(10), 4)
    found, apart = share_of(hits, groups), share_of(hits, None)
    assert found["low"] < apart["low"] < 0.6 < apart["high"] < found["high"]
