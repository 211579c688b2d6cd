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

from lmwright.core.errors import BadInput
from lmwright.metrics.bounded_mean import group_totals, mean_bounds

FEWEST = 30
"""With fewer independent rows (or groups) than this no bound is trusted."""
ROUNDING = 1e-9
"""By so much a loss may be beyond what it can be."""


@dataclass(frozen=True)
class Verdict:
    """What a paired comparison found; losses in the unit of the loss (nats for log-loss).

    ``difference`` is the mean over rows, or over the means of groups where rows belong together.
    """

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
    largest: float,
    largest_old: float | None = None,
    groups: np.ndarray | None = None,
    fewest: int = FEWEST,
) -> Verdict:
    """The verdict on losses ``new`` and ``old`` (n,) of the same rows in the same order.

    ``margin`` ≥ 0 is the largest loss of quality that is still acceptable; ``alpha`` the chance
    of passing a model that is worse by the margin. A loss is at least 0 and at most ``largest``
    for the new one, ``largest_old`` for the old one (the same where it is not given): bounds that
    keep their level for every distribution need these (:mod:`lmwright.metrics.bounded_mean`).
    ``groups`` (n,) says which rows belong together (of one author, one document): then a group's
    mean counts once, however many rows it has, so that one long document neither decides nor has
    to be feared as the next one.

    BadInput for losses beyond their largest, or what cannot be compared.
    """
    new, old = np.asarray(new, dtype=float), np.asarray(old, dtype=float)
    largest_old = largest if largest_old is None else largest_old
    if new.shape != old.shape or new.ndim != 1:
        raise BadInput(f"losses of shapes {new.shape} and {old.shape}", "the same rows for both")
    if margin < 0 or not 0 < alpha < 0.5:
        raise BadInput(f"margin {margin}, alpha {alpha}", "margin ≥ 0 and 0 < alpha < 0.5")
    if not (math.isfinite(largest) and math.isfinite(largest_old)):
        raise BadInput(f"a largest loss of {max(largest, largest_old)}", "a finite one")
    for losses, most in ((new, largest), (old, largest_old)):
        low, high = losses.min(initial=0), losses.max(initial=0)
        if not (low >= -ROUNDING and high <= most + ROUNDING):
            raise BadInput(f"losses from {low:g} to {high:g}", f"losses from 0 to {most:g}")
    gaps = new - old if groups is None else group_means(new - old, groups)
    units = len(gaps)
    gap = float(gaps.mean()) if units else math.nan
    if units < fewest:
        reason = f"too few rows: {units} independent ones, {fewest} needed"
        return Verdict("inconclusive", gap, -math.inf, math.inf, margin, alpha, len(new), reason)
    least, most = -largest_old - ROUNDING, largest + ROUNDING
    lower, upper = mean_bounds(gaps, least, most, alpha)
    word, reason = _judge(lower, upper, margin)
    if word == "inconclusive" and units < (needed := rows_needed(margin, largest, alpha)):
        reason += f"; {units} rows, and models that are alike need {needed} to show it"
    return Verdict(word, gap, lower, upper, margin, alpha, len(new), reason)


def compare_scores(
    harm: float, drawn: np.ndarray, margin: float, alpha: float, rows: int, units: int
) -> Verdict:
    """The verdict on a score that is no mean of losses, as macro-F1 is none.

    ``harm`` is by how much the new one's score is worse on the ``rows``, of which ``units`` are
    independent; ``drawn`` (draws,) is the same on resamples of them. The bounds are the
    bootstrap's quantiles, each wider by the share of rows of which none may have been seen by
    chance (the rule of three): of few wrong rows the bootstrap alone is too sure.
    """
    if margin < 0 or not 0 < alpha < 0.5:
        raise BadInput(f"margin {margin}, alpha {alpha}", "margin ≥ 0 and 0 < alpha < 0.5")
    finite = drawn[np.isfinite(drawn)]
    if units < FEWEST or not math.isfinite(harm) or not len(finite):
        reason = f"too few rows: {units} independent ones, {FEWEST} needed"
        if units >= FEWEST:
            reason = "one of the two has no such score on these rows"
        return Verdict("inconclusive", harm, -math.inf, math.inf, margin, alpha, rows, reason)
    unseen = -math.log(alpha) / units
    low, high = np.quantile(finite, [alpha, 1 - alpha])
    lower, upper = float(low) - unseen, float(high) + unseen
    word, reason = _judge(lower, upper, margin)
    return Verdict(word, harm, lower, upper, margin, alpha, rows, reason)


def group_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The mean (units,) of ``values`` (n,) in each group."""
    total, size = group_totals(values, groups)
    return total / size


def _judge(lower: float, upper: float, margin: float) -> tuple[str, str]:
    if upper < 0:
        return "superior", f"upper bound {upper:.5g} is below 0"
    if upper < margin:
        return "not inferior", f"upper bound {upper:.5g} is below the margin {margin:.5g}"
    if lower > margin:
        return "inferior", f"lower bound {lower:.5g} is above the margin {margin:.5g}"
    return "inconclusive", f"the margin {margin:.5g} lies between {lower:.5g} and {upper:.5g}"


def rows_needed(margin: float, largest: float, alpha: float) -> float:
    """The least number of rows on which a model like the old one can be shown not inferior.

    On fewer, a loss of ``largest`` that is rare enough not to be seen once could make the new one
    worse by the margin (the rule of three, of Hanley and Lippman-Hand 1983).
    """
    if margin <= 0:
        return math.inf
    if margin >= largest:
        return 1
    return math.floor(math.log(alpha) / math.log1p(-margin / largest)) + 1


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
