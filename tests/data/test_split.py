"""Splits: whole groups, exact shares, no luck of the order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.data.split import SPLITS, Fractions, assign, folds


def rows(count, seed=0, largest=1):
    """Groups, ids and labels of made-up rows."""
    rng = stream(seed, "rows")
    groups = np.sort(rng.integers(0, max(1, count // largest), count))
    ids = rng.integers(0, 2**63, (count, 2), dtype=np.uint64)
    return groups, ids, rng.integers(0, 3, count)


@given(st.integers(1, 300), st.integers(0, 5), st.integers(1, 8))
def test_no_group_crosses_and_order_does_not_matter(count, seed, largest):
    groups, ids, labels = rows(count, seed, largest)
    found = assign(groups, ids, labels, Fractions(), 7)
    for group in np.unique(groups):
        assert len(set(found[groups == group])) == 1
        assert len(set(folds(groups, ids, 4, 0)[groups == group])) == 1
    turn = stream(seed, "turn").permutation(count)
    renamed = (groups * 31 + 5)[turn]
    again = assign(renamed, ids[turn], labels[turn], Fractions(), 7)
    assert (again == found[turn]).all()


def test_shares_hold_in_every_label():
    _, ids, labels = rows(20_000)
    found = assign(np.arange(20_000), ids, labels, Fractions(), 0)
    for label in range(3):
        counts = np.bincount(found[labels == label], minlength=5)
        wanted = np.array([getattr(Fractions(), name) for name in SPLITS]) * counts.sum()
        assert np.abs(counts - wanted).max() <= 1


def test_seed_decides_and_shares_are_chance():
    _, ids, labels = rows(5000)
    one, two = (assign(np.arange(5000), ids, labels, Fractions(), seed) for seed in (1, 2))
    shares = np.array([0.70, 0.06, 0.06, 0.09, 0.09])
    assert abs((one == two).mean() - (shares**2).sum()) < 0.03


def test_rows_that_come_later_move_few():
    _, ids, labels = rows(10_000)
    before = assign(np.arange(9_000), ids[:9_000], labels[:9_000], Fractions(), 0)
    after = assign(np.arange(10_000), ids, labels, Fractions(), 0)[:9_000]
    assert (before != after).mean() < 0.04


@pytest.mark.parametrize(
    "wrong", [{"train": 0.9}, {"train": 0.76, "validation": 0.0}, {"gate": -0.1}]
)
def test_impossible_shares(wrong):
    with pytest.raises(BadInput, match="sum is 1"):
        Fractions(**wrong).check()
