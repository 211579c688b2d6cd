"""Correlations of two series under weights, as the bootstrap draws them."""

from __future__ import annotations

import numpy as np


def pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's correlation (draws,) of x and y, each (n,) or (draws, n), by weights (draws, n).

    A row of weight w counts as w equal rows. NaN where a series does not vary.
    """
    total = weights.sum(-1, keepdims=True)
    x = x - (weights * x).sum(-1, keepdims=True) / total
    y = y - (weights * y).sum(-1, keepdims=True) / total
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights * x * y).sum(-1) / np.sqrt(
            (weights * x * x).sum(-1) * (weights * y * y).sum(-1)
        )


def spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation (draws,) of x (n,) and y (n,) by weights (draws, n).

    Pearson's correlation of the mid-ranks that the rows have among their repetitions (Spearman
    1904).
    """
    return pearson(mid_ranks(x, weights), mid_ranks(y, weights), weights)


def mid_ranks(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Ranks (draws, n) of x (n,) from 1, where a row of weight w is w rows and equals share the
    mean of their ranks."""
    _, place = np.unique(x, return_inverse=True)
    order = np.argsort(place, kind="stable")
    firsts = np.flatnonzero(np.diff(place[order], prepend=-1))
    sums = np.add.reduceat(weights[..., order], firsts, axis=-1)
    below = np.cumsum(sums, axis=-1) - sums
    return (below + (sums + 1) / 2)[..., place]
