"""Every score of a model on a set of rows, by name, with its interval."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmwright.core.task import Measures
from lmwright.metrics.intervals import Interval, draw_weights, mean_interval, quantiles, wilson


def score(
    measures: Measures,
    rows: int,
    draws: int,
    rng: np.random.Generator,
    level: float = 0.95,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """Intervals by name, and the details of the measures.

    Shares of rows have Wilson's interval, means of losses that of bounded values, the others the
    percentile bootstrap over rows, or over ``groups`` (rows,) of rows that belong together; a
    share of grouped rows has the bootstrap's too, but for one of none or of all, which no resample
    changes: that is Wilson's of the number of groups.
    """
    found = bootstrapped(measures, rows, draws, rng, level, groups)
    for name, loss in measures.losses.items():
        if name in found:
            found[name] = mean_interval(loss.values, 0.0, loss.largest, level, groups)
    for name, share in measures.shares.items():
        hits, among = int(share.hits.sum()), int(share.among.sum())
        if groups is None or name not in found:
            found[name] = wilson(hits, among, level)
        elif hits in (0, among):
            units = len(np.unique(groups[share.among]))
            found[name] = wilson(units if hits else 0, units, level)
    for name, give in measures.special.items():
        own = give(draws, rng, level)
        found[name] = Interval(own.value, own.low, own.high, level)
    return {
        "rows": rows,
        "metrics": {name: found[name].to_json() for name in sorted(found)},
        **measures.details,
    }


def bootstrapped(
    measures: Measures,
    rows: int,
    draws: int,
    rng: np.random.Generator,
    level: float,
    groups: np.ndarray | None,
) -> dict[str, Interval]:
    """The percentile bootstrap of every score that is a function of the rows' weights."""
    points = {name: float(v[0]) for name, v in measures.scores(np.ones((1, rows))).items()}
    parts = [
        np.stack(list(measures.scores(weights).values()), axis=1)
        for weights in draw_weights(rows, draws, rng, groups)
    ]
    low, high = quantiles(np.concatenate(parts), np.array([0.5 - level / 2, 0.5 + level / 2]))
    return {
        name: Interval(points[name], float(low[m]), float(high[m]), level)
        for m, name in enumerate(points)
    }


def weighted_scores(
    measures: Measures, weights: np.ndarray, also: str = ""
) -> dict[str, np.ndarray]:
    """Every score (draws,) under ``weights`` (draws, n), and ``also``, a share of rows; NaN of
    none."""
    found = measures.scores(weights)
    if also in measures.shares:
        share = measures.shares[also]
        with np.errstate(invalid="ignore"):
            found[also] = (weights @ share.hits) / (weights @ share.among)
    return found


def score_differences(
    first: Measures,
    other: Measures,
    rows: int,
    draws: int,
    rng: np.random.Generator,
    level: float,
    groups: np.ndarray | None = None,
    also: str = "",
) -> dict[str, dict[str, Any]]:
    """First less other on the same resamples of the same rows, for each score that is no loss.

    Above 0 is better for the first, unless the lower is. The verdict is read off the interval. Of
    scores of one label only ``also`` is compared.
    """
    ones = np.ones((1, rows))
    both = weighted_scores(first, ones, also).keys() & weighted_scores(other, ones, also).keys()
    names = sorted(name for name in both - first.losses.keys() if "." not in name or name == also)

    def gaps(weights: np.ndarray) -> np.ndarray:
        mine, its = (weighted_scores(each, weights, also) for each in (first, other))
        return np.stack([mine[name] - its[name] for name in names], axis=1)

    drawn = np.concatenate([gaps(weights) for weights in draw_weights(rows, draws, rng, groups)])
    low, high = quantiles(drawn, np.array([0.5 - level / 2, 0.5 + level / 2]))
    found = {}
    for m, (name, point) in enumerate(zip(names, gaps(ones)[0], strict=True)):
        above, below = ("worse", "better") if name in first.lower else ("better", "worse")
        word = above if low[m] > 0 else below if high[m] < 0 else "inconclusive"
        interval = Interval(float(point), float(low[m]), float(high[m]), level)
        found[name] = interval.to_json() | {"verdict": word}
    return found
