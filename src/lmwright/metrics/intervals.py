"""Intervals: Wilson's for shares, Gaffke's for means, the bootstrap for other statistics.

A statistic for the bootstrap is a function of weights (draws, n) that gives (draws, ...): how
often each row was drawn. All draws are scored at once, in pieces that fit a memory budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from lmwright.metrics.bounded_mean import mean_bounds

Statistic = Callable[[np.ndarray], np.ndarray]

PIECE = 4_000_000
"""Most weights held at a time (32 MB of float64)."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its lower and upper bound at a level (0.95: 19 of 20 such hold)."""

    estimate: float
    low: float
    high: float
    level: float = 0.95

    def to_json(self) -> dict[str, float | None]:
        """Estimate, low and high as JSON numbers; a missing value is null."""
        pairs = (("estimate", self.estimate), ("low", self.low), ("high", self.high))
        return {name: float(value) if np.isfinite(value) else None for name, value in pairs}


def wilson(successes: float, trials: float, level: float = 0.95) -> Interval:
    """Wilson's score interval (1927, eq. 4 in Brown, Cai and DasGupta 2001) for a share."""
    if trials <= 0:
        return Interval(np.nan, np.nan, np.nan, level)
    z = ndtri(0.5 + level / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = share * (1 - share) / trials + z * z / (4 * trials * trials)
    half = z / (1 + z * z / trials) * np.sqrt(spread)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(share, low, high, level)


def draw_weights(
    n: int, draws: int, rng: np.random.Generator, groups: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Pieces (some draws, n) of how often each row is drawn, with replacement.

    ``groups`` (n,) draws whole groups instead of rows, for rows that are not independent.
    """
    if groups is None:
        units, place = n, None
    else:
        names, place = np.unique(groups, return_inverse=True)
        units = len(names)
    step = max(1, PIECE // max(n, 1))
    for start in range(0, draws, step):
        count = min(step, draws - start)
        picks = rng.integers(0, units, size=(count, units))
        flat = (picks + np.arange(count)[:, None] * units).ravel()
        drawn = np.bincount(flat, minlength=count * units).reshape(count, units)
        weights = drawn if place is None else drawn[:, place]
        yield weights.astype(np.float64)


def bootstrap_draws(
    statistic: Statistic,
    n: int,
    draws: int,
    rng: np.random.Generator,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """The statistic on ``draws`` resamples of n rows (or of the groups): (draws, ...)."""
    return np.concatenate([statistic(piece) for piece in draw_weights(n, draws, rng, groups)])


def bootstrap(
    statistic: Statistic,
    n: int,
    draws: int,
    rng: np.random.Generator,
    level: float = 0.95,
    groups: np.ndarray | None = None,
    method: str = "percentile",
) -> Interval:
    """An interval of one number by the bootstrap: ``method`` "percentile" or "bca".

    BCa (Efron 1987) corrects for bias and skewness; its acceleration comes from a jackknife over
    at most 200 blocks of rows, or over the groups.
    """
    estimate = float(statistic(np.ones((1, n)))[0])
    values = bootstrap_draws(statistic, n, draws, rng, groups)
    levels = np.array([0.5 - level / 2, 0.5 + level / 2])
    if method == "bca":
        levels = _bca_levels(values, estimate, _acceleration(statistic, n, groups), level)
    low, high = quantiles(values, levels)
    return Interval(estimate, float(low), float(high), level)


def quantiles(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles of the finite draws along the first axis; NaN where no draw is finite."""
    if np.isfinite(values).all():
        return np.quantile(values, levels, axis=0)
    columns = values.reshape(len(values), -1).T
    found = [
        np.quantile(kept, levels) if len(kept := column[np.isfinite(column)]) else levels * np.nan
        for column in columns
    ]
    return np.stack(found, axis=1).reshape(len(levels), *values.shape[1:])


def _bca_levels(values: np.ndarray, estimate: float, a: float, level: float) -> np.ndarray:
    """The two percentiles to read off, Efron and Tibshirani (1993) eq. 14.10."""
    below = (np.sum(values < estimate) + 0.5 * np.sum(values == estimate)) / len(values)
    z0 = ndtri(np.clip(below, 1 / (2 * len(values)), 1 - 1 / (2 * len(values))))
    z = ndtri([0.5 - level / 2, 0.5 + level / 2])
    return ndtr(z0 + (z0 + z) / (1 - a * (z0 + z)))


def _acceleration(statistic: Statistic, n: int, groups: np.ndarray | None) -> float:
    """One sixth of the skewness of the jackknife values, Efron and Tibshirani eq. 14.15."""
    if groups is None:
        place = np.arange(n) * min(n, 200) // n
    else:
        _, place = np.unique(groups, return_inverse=True)
    weights = 1.0 - np.eye(place.max() + 1)[:, place]
    step = max(1, PIECE // n)
    values = np.concatenate(
        [statistic(weights[start : start + step]) for start in range(0, len(weights), step)]
    )
    gaps = values.mean() - values
    scale = np.sum(gaps**2) ** 1.5
    return float(np.sum(gaps**3) / (6 * scale)) if scale > 0 else 0.0


def mean_interval(
    values: np.ndarray,
    least: float,
    largest: float,
    level: float = 0.95,
    groups: np.ndarray | None = None,
) -> Interval:
    """Mean of ``values`` (n,) that lie between ``least`` and ``largest``: Gaffke's bounds.

    Each end is wrong with half of what ``level`` leaves; see
    :mod:`lmwright.metrics.bounded_mean`.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, level)
    low, high = mean_bounds(values, least, largest, (1 - level) / 2, groups)
    return Interval(float(values.mean()), low, high, level)


def paired_difference(
    left: np.ndarray,
    right: np.ndarray,
    largest: float,
    level: float = 0.95,
    groups: np.ndarray | None = None,
) -> Interval:
    """Mean of ``left − right`` (n,), measured on the same rows, each from 0 to ``largest``."""
    gaps = np.asarray(left, dtype=float) - np.asarray(right, dtype=float)
    return mean_interval(gaps, -largest, largest, level, groups)


def seeds_difference(
    left: np.ndarray,
    right: np.ndarray,
    draws: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws of the mean of ``left − right`` over rows and over each side's training seeds.

    ``left`` (seeds of the left, n) and ``right`` (seeds of the right, n) are scores of the same
    n rows. Every draw takes the rows with replacement (the same for both sides) and, apart for
    each side, its seeds with replacement: the interval covers another test set and another
    training run. A one-sided lower bound at 95 % is ``np.quantile(result, 0.05)``.
    """
    left, right = np.asarray(left, dtype=float), np.asarray(right, dtype=float)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"left has {left.shape[1]} rows, right {right.shape[1]}: not paired")
    found = []
    for rows in draw_weights(left.shape[1], draws, rng):
        mine = np.concatenate(list(draw_weights(len(left), len(rows), rng))) @ left
        other = np.concatenate(list(draw_weights(len(right), len(rows), rng))) @ right
        gap = mine / len(left) - other / len(right)
        found.append((gap * rows).sum(1) / rows.sum(1))
    return np.concatenate(found)
