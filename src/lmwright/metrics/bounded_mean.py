"""Bounds of the mean of bounded values that keep their level whatever the values' distribution.

Gaffke's bound (2005, Mathematical Methods of Statistics 14, 451–467; studied by Learned-Miller
and Thomas 2019, arXiv 1905.06208): the sample and one value more, the largest that there can be,
weighted by Dirichlet(1, …, 1). For two values it is Clopper and Pearson's bound, with many values
it tends to Student's. That it keeps its level for every distribution is conjectured, not proven;
``tests/metrics/test_levels.py`` tries the shapes that losses have. Student's interval and the
bootstrap fail there: a sample that lacks a rare large value does not show its own spread.

The chance is not drawn but computed: a Dirichlet weight is an exponential number over the sum of
all, so that the weighted mean is above c where Σ Eᵢ(xᵢ − c) > 0, and the distribution of a sum of
weighted exponentials follows from its moment generating function.
"""

from __future__ import annotations

import math

import numpy as np

STEP, REACH = 0.08, 14.0
"""The grid of the inversion integral, in the exponent of the distance from the saddle point."""
LEAST_LOG = -700.0
"""Logarithms of chances are held above this."""


def mean_bounds(
    values: np.ndarray,
    least: float,
    largest: float,
    alpha: float,
    groups: np.ndarray | None = None,
) -> tuple[float, float]:
    """Lower and upper bound of the mean of ``values`` (n,), each wrong with chance ``alpha``.

    ``least`` and ``largest`` are the ends of what a value can be: the upper bound depends on
    ``largest`` alone, the lower one on ``least`` alone. ``groups`` (n,) says which rows belong
    together; then groups are the sample, no group being taken for larger than the largest seen.
    """
    total, size = group_totals(values, groups)
    upper = _upper(total, size, largest, alpha)
    return -_upper(-total, size, -least, alpha), upper


def chance_at(
    values: np.ndarray, mean: float, largest: float, groups: np.ndarray | None = None
) -> float:
    """The p-value of a mean as large as ``mean``: below α just where the upper bound is below it.

    ``values`` (n,) are at most ``largest``; ``groups`` as in :func:`mean_bounds`.
    """
    total, size = group_totals(values, groups)
    return math.exp(_log_chance(total, size, largest, mean))


def group_totals(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The sum (units,) and the number (units,) of the values of each group, or of each row."""
    values = np.asarray(values, dtype=float)
    if groups is None:
        return values, np.ones(len(values))
    _, place = np.unique(groups, return_inverse=True)
    return np.bincount(place, weights=values), np.bincount(place).astype(float)


def _upper(total: np.ndarray, size: np.ndarray, largest: float, alpha: float) -> float:
    from scipy.optimize import brentq  # a third of a second to load

    total = np.minimum(total, size * largest)
    low = float((total / size).min())
    if low >= largest:
        return largest
    wanted = math.log(alpha)
    middle = float(total.sum() / size.sum())
    if middle < largest and _log_chance(total, size, largest, middle) > wanted:
        low = middle
    found = brentq(
        lambda mean: _log_chance(total, size, largest, mean) - wanted,
        low,
        largest,
        xtol=1e-10 * (largest - low),
        rtol=1e-12,
    )
    return float(found)


def _log_chance(total: np.ndarray, size: np.ndarray, largest: float, mean: float) -> float:
    """The logarithm of the chance that the weighted mean is above ``mean``."""
    scale, counts = np.unique(
        np.append(total - mean * size, size.max() * (largest - mean)), return_counts=True
    )
    if scale[-1] <= 0:
        return LEAST_LOG
    if scale[0] >= 0:
        return 0.0
    scale = scale / scale[-1]
    s = _saddle(scale, counts)
    # P(S > 0) = 1/π ∫ Re(M(s + it) / (s + it)) dt over t > 0, for any s where M exists.
    slope = scale / (1 - s * scale)
    width = 1 / math.sqrt(float(counts @ slope**2) + 1 / s**2)
    exponent = np.arange(-REACH / 2, REACH, STEP)
    t = width * np.exp(exponent - np.exp(-exponent))
    weights = t * (1 + np.exp(-exponent)) * STEP
    turned = np.multiply.outer(t, slope)
    size_of = -0.5 * np.log1p(turned**2) @ counts - 0.5 * np.log1p((t / s) ** 2)
    angle = np.arctan(turned) @ counts - np.arctan(t / s)
    integral = float(weights @ (np.exp(size_of) * np.cos(angle)))
    peak = -float(counts @ np.log1p(-s * scale)) - math.log(s)
    if integral <= 0:
        return LEAST_LOG
    return min(0.0, max(LEAST_LOG, peak + math.log(integral / math.pi)))


def _saddle(scale: np.ndarray, counts: np.ndarray) -> float:
    """The s in (0, 1) at which log M(s) − log s is least; ``scale`` is at most 1."""
    low, high = 0.0, 1.0
    s = 0.5
    for _ in range(60):
        slope = scale / (1 - s * scale)
        first = float(counts @ slope) - 1 / s
        if first > 0:
            high = s
        else:
            low = s
        step = first / (float(counts @ slope**2) + 1 / s**2)
        new = s - step
        new = new if low < new < high else (low + high) / 2
        if abs(new - s) < 1e-6 * s * (1 - s):
            return new
        s = new
    return s
