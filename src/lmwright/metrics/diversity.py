"""Diversity of texts: distinct n-grams of all of them (Li et al. 2016), repeats within each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from lmwright.core.task import Estimate

SIZES = (1, 2)
"""n of distinct-n."""
WORD = re.compile(r"\w+")


def ngrams(text: str, size: int) -> list[tuple[str, ...]]:
    """The n-grams of a text's words, in small letters."""
    words = WORD.findall(text.casefold())
    return list(zip(*(words[start:] for start in range(size)), strict=False))


@dataclass(frozen=True)
class Distinct:
    """Distinct n-grams of texts over all their n-grams, and its jackknife standard error.

    The bootstrap is of no use here: a text that is drawn twice is a repeat.
    """

    value: float
    error: float

    def interval(self, level: float) -> tuple[float, float]:
        """The ends of the normal interval at a level, within 0 and 1."""
        wide = float(norm.ppf(0.5 + level / 2)) * self.error
        return max(0.0, self.value - wide), min(1.0, self.value + wide)


def distinct(texts: Sequence[str], size: int) -> Distinct:
    """distinct-n of some texts; 0 where they have no n-gram."""
    each = [Counter(ngrams(text, size)) for text in texts]
    holders = Counter(gram for counts in each for gram in counts)
    totals = np.array([counts.total() for counts in each], float)
    alone = np.array([sum(holders[gram] == 1 for gram in counts) for counts in each], float)
    total, count = totals.sum(), len(texts)
    if not total:
        return Distinct(0.0, 0.0)
    left = (len(holders) - alone) / np.maximum(total - totals, 1.0)
    spread = ((left - left.mean()) ** 2).sum() * (count - 1) / count
    return Distinct(len(holders) / total, float(np.sqrt(spread)))


def repeats(texts: Sequence[str], size: int) -> np.ndarray:
    """The n-grams of each text that stood in it before, and all of its n-grams: (n, 2)."""
    found = [ngrams(text, size) for text in texts]
    return np.array([[len(each) - len(set(each)), len(each)] for each in found], float)


def distinct_scores(
    texts: Sequence[str],
) -> dict[str, Callable[[int, np.random.Generator, float], Estimate]]:
    """``distinct_1`` and ``distinct_2`` of texts, each with its own interval."""

    def of(found: Distinct) -> Callable[[int, np.random.Generator, float], Estimate]:
        return lambda draws, rng, level: Estimate(found.value, *found.interval(level))

    return {f"distinct_{size}": of(distinct(texts, size)) for size in SIZES}
