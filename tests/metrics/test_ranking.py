"""Ranks and discounted gains, against scikit-learn's and published worked values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from lmwright.metrics.ranking import dcg, ndcg, rank_among, reciprocal, single_ndcg


def test_discounted_gain_by_hand() -> None:
    """Gains 7, 3, 7, 0, 1, 3 over log2 of 2 to 7."""
    by_hand = 7 + 3 / np.log2(3) + 7 / 2 + 0 + 1 / np.log2(6) + 3 / np.log2(7)
    assert dcg([3, 2, 3, 0, 1, 2]) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(13.848, abs=1e-3)  # a textbook's value of this ranking
    assert dcg([3, 2, 3, 0, 1, 2], cut=1) == 7
    assert dcg([]) == 0


ITEMS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=25)


@given(ITEMS, st.integers(1, 12))
def test_ndcg_is_that_of_scikit_learn_ties_too(items: list[tuple[int, int]], cut: int) -> None:
    scores, relevances = np.array(items, dtype=float).T
    if not relevances.any():
        assert np.isnan(ndcg(scores, relevances, cut))
        return
    wanted = ndcg_score([2**relevances - 1], [scores], k=cut)
    assert ndcg(scores, relevances, cut) == pytest.approx(wanted)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30, unique=True), st.integers(0, 29))
def test_one_relevant_item_is_the_same_by_rank_and_by_scores(values: list[float], at: int) -> None:
    scores, own = np.array(values), at % len(values)
    relevances = np.arange(len(values)) == own
    rank = rank_among(scores[[own]], np.where(relevances, -np.inf, scores)[None])
    assert rank[0] == 1 + (scores > scores[own]).sum()
    assert single_ndcg(rank)[0] == pytest.approx(ndcg(scores, relevances))


def test_a_model_that_tells_nothing_apart_is_last() -> None:
    ranks = rank_among(np.zeros(1), np.array([[0.0, 0.0, 0.0, -np.inf]]))
    assert ranks.tolist() == [4]
    assert reciprocal(np.array([1, 4])).tolist() == [1.0, 0.25]
    assert single_ndcg(np.array([1, 3, 10, 11])).tolist() == [1.0, 0.5, 1 / np.log2(11), 0.0]
