"""Whether a stated confidence of 80 % is right 80 % of the time, without the usual bias.

The plain binned error (Naeini et al. 2015) is a sum of absolute values, so chance alone makes it
positive: a perfect predictor seems miscalibrated, the more so the fewer the rows. The debiased
error here is zero on average for a perfect predictor (the idea of Kumar, Liang and Ma 2019, §5).
"""

from __future__ import annotations

import numpy as np

from lmwright.metrics.intervals import wilson

BINS = 15


def equal_mass_bins(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin of every row (n,), with about as many rows in each; equal values share a bin.

    Fewer bins are used where there are fewer than 10 rows for each.
    """
    bins = max(1, min(bins, len(confidence) // 10))
    inner = np.quantile(confidence, np.arange(1, bins) / bins)
    _, filled = np.unique(np.searchsorted(inner, confidence, side="right"), return_inverse=True)
    return filled


def reliability_bins(
    confidence: np.ndarray, right: np.ndarray, most: int = 10
) -> list[dict[str, float]]:
    """Bins of equal size by confidence: mean confidence, share right with its interval, rows."""
    place = equal_mass_bins(confidence, most)
    bins = []
    for number in range(place.max(initial=-1) + 1):
        member = place == number
        value = wilson(int(right[member].sum()), int(member.sum()))
        bins.append(
            {
                "rows": float(member.sum()),
                "confidence": float(confidence[member].mean()),
                "right": value.estimate,
                "low": value.low,
                "high": value.high,
            }
        )
    return bins


def plain_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Σ_b (n_b/n)·|mean confidence − share right|: the customary figure, biased upwards."""
    place = equal_mass_bins(confidence, bins)
    gaps = np.bincount(place, weights=np.asarray(correct, dtype=float) - confidence)
    return float(np.abs(gaps).sum() / len(confidence))


def debiased_square(
    confidence: np.ndarray,
    correct: np.ndarray,
    weights: np.ndarray | None = None,
    bins: int = BINS,
) -> np.ndarray:
    """An unbiased estimate of the squared calibration error; it may fall below zero.

    With r_i = correct_i − confidence_i, S_b = Σ_{i∈b} r_i and Q_b = Σ_{i∈b} r_i²:

        error² = Σ_b (n_b/n) · (S_b² − Q_b) / (n_b (n_b − 1))

    The fraction is the mean of r_i·r_j over pairs i≠j of the bin, whose expectation is exactly
    (E r)², whatever the rows' number. (Kumar et al. subtract ȳ(1−ȳ)/(n−1) from the squared gap
    instead, which is this for equal confidences in a bin.) ``weights`` as in ``classification``;
    bins are those of the unweighted rows; bins with less than two rows' weight are left out.
    """
    residual = np.asarray(correct, dtype=float) - confidence
    place = equal_mass_bins(confidence, bins)
    member = np.eye(place.max() + 1)[place]
    w = np.ones(len(residual)) if weights is None else np.asarray(weights, dtype=float)
    n_b, s_b, q_b = (
        w @ member,
        w @ (member * residual[:, None]),
        w @ (member * residual[:, None] ** 2),
    )
    full = n_b >= 2
    pairs = np.where(full, (s_b**2 - q_b) / np.where(full, n_b * (n_b - 1), 1.0), 0.0)
    return (pairs * n_b).sum(-1) / np.where(full, n_b, 0.0).sum(-1)


def plug_in_square(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Σ_b (n_b/n)·(S_b/n_b)²: the squared error of the rows themselves, taken as a population.

    A bootstrap draws from that population, so this is what its draws of ``debiased_square``
    scatter about; an interval must be taken round it.
    """
    place = equal_mass_bins(confidence, bins)
    gaps = np.bincount(place, weights=np.asarray(correct, dtype=float) - confidence)
    counts = np.bincount(place)
    return float((gaps**2 / counts).sum() / len(confidence))


def debiased_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """The root of ``debiased_square``, 0 where that is negative: in points of probability."""
    return float(np.sqrt(max(0.0, float(debiased_square(confidence, correct, None, bins)))))
