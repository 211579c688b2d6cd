"""Is the new one at least as good as the old one, up to a margin that was fixed beforehand?

Both are judged on the same rows by a loss (lower is better; log-loss by default, a proper score).
The verdict comes from one-sided bounds of the mean difference, new − old, each at level 1 − α:

    superior       the upper bound is below 0
    not inferior   the upper bound is below the margin
    inferior       the lower bound is above the margin
    inconclusive   none of these: more rows are needed; it is no pass

(The layout of Piaggio et al., CONSORT extension for non-inferiority trials, 2012, figure 1.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from lmwright.core.errors import BadInput
from lmwright.metrics.intervals import PIECE, draw_weights

FEWEST = 30
"""With fewer independent rows (or groups) than this no bound is trusted."""


@dataclass(frozen=True)
class Verdict:
    """What a paired comparison found; losses in the unit of the loss (nats for log-loss)."""

    verdict: str
    difference: float
    lower: float
    upper: float
    margin: float
    alpha: float
    rows: int
    reason: str

    @property
    def passes(self) -> bool:
        """Whether a gate that asks for "not inferior" is content."""
        return self.verdict in ("superior", "not inferior")

    def to_json(self) -> dict[str, float | int | str | None]:
        """The fields as JSON values; a bound that does not exist is null."""
        values = {**vars(self)}
        for name in ("lower", "upper", "difference"):
            values[name] = values[name] if math.isfinite(values[name]) else None
        return values


def compare(
    new: np.ndarray,
    old: np.ndarray,
    margin: float,
    alpha: float,
    rng: np.random.Generator,
    draws: int = 2000,
    groups: np.ndarray | None = None,
    fewest: int = FEWEST,
    largest: float = math.inf,
) -> Verdict:
    """The verdict on losses ``new`` and ``old`` (n,) of the same rows in the same order.

    ``margin`` ≥ 0 is the largest loss of quality that is still acceptable; ``alpha`` the chance
    of passing a model that is worse by the margin. ``groups`` (n,) keeps rows that belong
    together (of one author, one day) together. ``largest`` is the largest loss there can be, 0
    the least.

    Losses that are right or wrong (0 or 1) are counted (:func:`score_bounds`); those that have a
    largest are bounded by it (:func:`bounded_bounds`); all others, and rows in groups, are drawn
    (:func:`one_sided_bounds`). BadInput for losses beyond ``largest`` or what cannot be compared.
    """
    new, old = np.asarray(new, dtype=float), np.asarray(old, dtype=float)
    if new.shape != old.shape or new.ndim != 1:
        raise BadInput(f"losses of shapes {new.shape} and {old.shape}", "the same rows for both")
    if margin < 0 or not 0 < alpha < 0.5:
        raise BadInput(f"margin {margin}, alpha {alpha}", "margin ≥ 0 and 0 < alpha < 0.5")
    if not (np.isfinite(new).all() and np.isfinite(old).all()):
        raise BadInput("a loss is not a finite number", "finite losses")
    if math.isfinite(largest):
        low, high = np.min([new, old], initial=0), np.max([new, old], initial=0)
        if low < -1e-9 or high > largest + 1e-9:
            raise BadInput(f"losses from {low:g} to {high:g}", f"losses from 0 to {largest:g}")
    units = len(new) if groups is None else len(np.unique(groups))
    gap = float(np.mean(new - old)) if len(new) else math.nan
    if units < fewest:
        reason = f"too few rows: {units} independent ones, {fewest} needed"
        return Verdict("inconclusive", gap, -math.inf, math.inf, margin, alpha, len(new), reason)
    if groups is None and np.isin((new, old), (0, 1)).all():
        lower, upper = score_bounds(int((new > old).sum()), int((old > new).sum()), units, alpha)
    elif groups is None and math.isfinite(largest):
        lower, upper = bounded_bounds(new - old, largest, alpha, rng, draws)
    else:
        lower, upper = one_sided_bounds(new - old, alpha, rng, draws, groups)
    word, reason = _judge(lower, upper, margin)
    return Verdict(word, gap, lower, upper, margin, alpha, len(new), reason)


def _judge(lower: float, upper: float, margin: float) -> tuple[str, str]:
    if upper < 0:
        return "superior", f"upper bound {upper:.5g} is below 0"
    if upper < margin:
        return "not inferior", f"upper bound {upper:.5g} is below the margin {margin:.5g}"
    if lower > margin:
        return "inferior", f"lower bound {lower:.5g} is above the margin {margin:.5g}"
    return "inconclusive", f"the margin {margin:.5g} lies between {lower:.5g} and {upper:.5g}"


def score_bounds(worse: int, better: int, n: int, alpha: float) -> tuple[float, float]:
    """Lower and upper bound of the difference of two shares of wrong answers to ``n`` rows.

    The new one is wrong on ``worse`` of them where the old one is right, and right on ``better``
    where that is wrong. The score interval (Tango 1998, Statistics in Medicine 17, 891–908),
    which holds where few rows, or none, tell the two apart.
    """
    z = -float(ndtri(alpha))
    return -_score_upper(better, worse, n, z), _score_upper(worse, better, n, z)


def _score_upper(worse: int, better: int, n: int, z: float) -> float:
    from scipy.optimize import brentq  # a third of a second to load

    if worse == n:
        return 1.0

    def beyond(gap: float) -> float:
        # The share of rows that speak for the new one, likeliest if the difference is ``gap``.
        half = worse + better - (2 * n - worse + better) * gap
        share = (half + math.sqrt(half**2 + 8 * n * better * gap * (1 - gap))) / (4 * n)
        error = math.sqrt(max(0.0, n * (2 * share + gap * (1 - gap))))
        return worse - better - n * gap + z * error

    # A hair above the estimate, where the error may be 0 and this no root yet.
    return float(brentq(beyond, (worse - better) / n + 1e-12, 1.0))


def bounded_bounds(
    differences: np.ndarray, reach: float, alpha: float, rng: np.random.Generator, draws: int = 2000
) -> tuple[float, float]:
    """Lower and upper bound of the mean of ``differences`` (n,) that lie in [-reach, reach].

    Gaffke's bound (2005, Mathematical Methods of Statistics 14, 451–467; studied by
    Learned-Miller and Thomas 2019, arXiv 1905.06208): one row more that is as bad as can be, and
    all rows weighted by the gaps between uniform numbers. For two values it is that of Clopper
    and Pearson. That it holds for every distribution is conjectured, not proven; with many rows
    it tends to Student's. Where few large differences stand among many small ones, the
    studentised bootstrap has no bound worth having, and this one has.
    """
    differences = np.asarray(differences, dtype=float)
    n = len(differences)
    rests, means = [], []
    step = max(1, PIECE // (n + 1))
    for start in range(0, draws, step):
        gaps = rng.standard_exponential((min(step, draws - start), n + 1))
        gaps /= gaps.sum(1, keepdims=True)
        means.append(gaps[:, :n] @ differences)
        rests.append(gaps[:, n] * reach)
    mean, rest = np.concatenate(means), np.concatenate(rests)
    lower = np.quantile(mean - rest, alpha, method="lower")
    return float(lower), float(np.quantile(mean + rest, 1 - alpha, method="higher"))


def one_sided_bounds(
    differences: np.ndarray,
    alpha: float,
    rng: np.random.Generator,
    draws: int = 2000,
    groups: np.ndarray | None = None,
) -> tuple[float, float]:
    """Lower and upper bound of the mean difference, each exceeded with chance ``alpha``.

    The studentised bootstrap (Hall 1988): losses are skewed, and unlike the percentile method it
    is right to second order for a skewed mean. With groups, the mean is a ratio of group totals
    and its error the linearised one (Cochran 1977, §6.3).
    """
    differences = np.asarray(differences, dtype=float)
    if np.ptp(differences) <= 1e-12 * np.abs(differences).max():
        return float(differences.mean()), float(differences.mean())
    # Errors are sums of squares less squares of sums, which cancel where values are far from 0.
    centre = float(differences.mean())
    total, size = _group_totals(differences - centre, groups)
    mean, error = _ratio_and_error(np.ones((1, len(total))), total, size)
    if error[0] == 0:  # of groups whose means are equal
        return centre, centre
    scaled = []
    for weights in draw_weights(len(total), draws, rng):
        m, e = _ratio_and_error(weights, total, size)
        # A draw without spread says nothing about the scale: count it against both bounds.
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled.append(np.where(e > 0, (m - mean) / e, np.nan))
    t = np.concatenate(scaled)
    low_t = np.quantile(np.where(np.isnan(t), -np.inf, t), alpha, method="lower")
    high_t = np.quantile(np.where(np.isnan(t), np.inf, t), 1 - alpha, method="higher")
    middle = centre + mean[0]
    return float(middle - error[0] * high_t), float(middle - error[0] * low_t)


def _group_totals(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if groups is None:
        return values, np.ones(len(values))
    _, place = np.unique(groups, return_inverse=True)
    return np.bincount(place, weights=values), np.bincount(place).astype(float)


def _ratio_and_error(
    weights: np.ndarray, total: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (draws,) and its standard error (draws,) under ``weights`` (draws, groups)."""
    units = weights.shape[1]
    rows = weights @ size
    mean = (weights @ total) / rows
    square = (
        weights @ total**2 - 2 * mean * (weights @ (total * size)) + mean**2 * (weights @ size**2)
    )
    return mean, np.sqrt(np.maximum(square, 0) * units / (units - 1)) / rows


def allowance(alpha: float, used: int) -> float:
    """The α for the next look at gate rows that have already been used ``used`` times.

    The k-th use gets α·6/(π²k²). The shares of all uses, however many there will be, sum to α
    (Σ 1/k² = π²/6), so by the union bound the chance of ever passing a worse model stays ≤ α.
    """
    if used < 0:
        raise BadInput(f"{used} uses of the gate's rows", "0 or more")
    return alpha * 6 / (math.pi * (used + 1)) ** 2


def spent(alpha: float, used: int) -> float:
    """How much of ``alpha`` the first ``used`` looks have consumed together."""
    return math.fsum(allowance(alpha, look) for look in range(used))
