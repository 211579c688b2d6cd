"""Scores of a classifier, from right answers (n,) and probabilities (n, k).

Every score takes ``weights``, so that one call scores many resamples: weights are None (each row
counts once), (n,) or (draws, n), and the answer has the same leading shape. A score that has no
value (the recall of a class without rows) is NaN.
"""

from __future__ import annotations

import numpy as np

SMALLEST = 1e-15
"""Probabilities are held above this, so that one hopeless answer costs 34.5 nats, not infinity."""


def confusion(
    truth: np.ndarray, predicted: np.ndarray, classes: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Counts (..., k, k) of rows by right answer (first axis) and predicted one (second axis)."""
    cells = np.asarray(truth) * classes + np.asarray(predicted)
    if weights is None:
        counts = np.bincount(cells, minlength=classes * classes).astype(np.float64)
    else:
        counts = np.asarray(weights, dtype=np.float64) @ np.eye(classes * classes)[cells]
    return counts.reshape(*counts.shape[:-1], classes, classes)


def accuracy(table: np.ndarray) -> np.ndarray:
    """Share of right answers, from a confusion table (..., k, k)."""
    return _ratio(np.trace(table, axis1=-2, axis2=-1), table.sum((-2, -1)))


def precision(table: np.ndarray) -> np.ndarray:
    """Per class (..., k): of the rows given the class, the share that have it.

    A class that is never predicted scores 0, as in the usual tables.
    """
    hits = np.diagonal(table, axis1=-2, axis2=-1)
    predicted = table.sum(-2)
    return np.where(predicted > 0, hits / np.maximum(predicted, 1), 0.0)


def recall(table: np.ndarray) -> np.ndarray:
    """Per class (..., k): of the rows that have the class, the share found; NaN without rows."""
    return _ratio(np.diagonal(table, axis1=-2, axis2=-1), table.sum(-1))


def f1(table: np.ndarray) -> np.ndarray:
    """Per class (..., k): 2·hits / (rows of the class + rows given the class)."""
    hits = np.diagonal(table, axis1=-2, axis2=-1)
    return _ratio(2 * hits, table.sum(-1) + table.sum(-2))


def macro(per_class: np.ndarray) -> np.ndarray:
    """Mean over the classes that have a value: every class weighs the same."""
    known = np.isfinite(per_class)
    return _ratio(np.where(known, per_class, 0.0).sum(-1), known.sum(-1))


def micro_f1(table: np.ndarray) -> np.ndarray:
    """F1 over the pooled decisions; with one label a row it equals accuracy, by definition."""
    hits = np.trace(table, axis1=-2, axis2=-1)
    total = table.sum((-2, -1))
    return _ratio(2 * hits, 2 * hits + 2 * (total - hits))


def log_losses(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Per row (n,): minus the natural logarithm of the right answer's probability, in nats."""
    chosen = np.take_along_axis(np.asarray(probabilities), np.asarray(truth)[:, None], 1)[:, 0]
    return -np.log(np.clip(chosen, SMALLEST, 1.0))


def largest_log_loss(floor: float = 0.0) -> float:
    """The largest log-loss of a model that gives no probability below ``floor``, in nats."""
    return float(-np.log(max(floor, SMALLEST)))


def brier_scores(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Per row (n,): squared distance to the right answer, summed over classes (0 to 2).

    This is Brier's own definition (1950); for two classes it is twice the one-sided score.
    """
    target = np.eye(probabilities.shape[1])[truth]
    return np.square(probabilities - target).sum(1)


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean of ``values`` (n,) under ``weights``."""
    if weights is None:
        return np.asarray(values.mean())
    return (weights @ values) / weights.sum(-1)


def roc_auc(
    positive: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Chance that a positive row scores above a negative one, ties counting half.

    ``positive`` (n,) bool, ``scores`` (n,). NaN when one side has no weight. Equals the area
    under the ROC curve (Hanley and McNeil 1982).
    """
    # Large: a server, which needs none, starts without it.
    from scipy.stats import rankdata

    positive = np.asarray(positive, dtype=bool)
    if weights is None:
        ones, n = int(positive.sum()), len(positive)
        above = rankdata(scores)[positive].sum() - ones * (ones + 1) / 2
        return _ratio(np.asarray(above), np.asarray(ones * (n - ones)))
    values, place = np.unique(scores, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(values)))
    sorted_weights = np.asarray(weights, dtype=np.float64)[..., order]
    up = np.add.reduceat(sorted_weights * positive[order], starts, axis=-1)
    down = np.add.reduceat(sorted_weights * ~positive[order], starts, axis=-1)
    below = np.cumsum(down, axis=-1) - down / 2
    return _ratio((up * below).sum(-1), up.sum(-1) * down.sum(-1))


def roc_aucs(
    truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """One-against-the-rest areas, stacked on the last axis (..., k)."""
    columns = range(probabilities.shape[1])
    return np.stack([roc_auc(truth == c, probabilities[:, c], weights) for c in columns], axis=-1)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``, NaN where there is nothing below."""
    below = np.asarray(below, dtype=np.float64)
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
