"""Bounds keep their level for every shape of loss: a grid of simulations.

Each shape is a distribution whose mean is known. The upper bound may lie below that mean in a
share α of all samples, and in no more. ``largest`` is that of the log-loss of two labels after 300
calibration rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from lmwright.core.random import stream
from lmwright.metrics.bounded_mean import chance_at
from lmwright.metrics.noninferiority import compare, rows_needed

LARGEST = math.log(2 * 301)
Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, float, np.ndarray | None]]
"""(generator, rows) -> differences of losses, their mean, and the group of each row."""


def rare(expected: float, spread: float = 0.0) -> Draw:
    """``expected`` rows, on average, as bad as can be; the others near 0."""

    def draw(rng, n):
        small = spread * (rng.exponential(size=n) - 1) if spread else np.zeros(n)
        bad = rng.random(n) < expected / n
        return np.where(bad, LARGEST, small), expected / n * LARGEST, None

    return draw


def constant(rng, n):
    return np.full(n, 0.1), 0.1, None


def two(low: float, high: float, share: float) -> Draw:
    def draw(rng, n):
        values = np.where(rng.random(n) < share, high, low)
        return values, share * high + (1 - share) * low, None

    return draw


def both_ways(rng, n):
    """Few large differences in either direction among small ones."""
    up, down = (rng.random(n) < 3 / n for _ in range(2))
    return np.where(up & ~down, LARGEST, np.where(down & ~up, -LARGEST, 0.01)), both_mean(n), None


def both_mean(n: int) -> float:
    once = 3 / n * (1 - 3 / n)
    return 0.01 * (1 - 2 * once)


@cache
def mean_of_quantiles(name: str) -> float:
    """The mean of a capped heavy tail, from its quantiles."""
    shares = (np.arange(4_000_000) + 0.5) / 4_000_000
    return float(HEAVY[name](shares).mean())


def lomax(shares: np.ndarray) -> np.ndarray:
    return np.minimum(0.02 * (shares ** (-1 / 1.1) - 1), LARGEST)


def log_uniform(shares: np.ndarray) -> np.ndarray:
    return LARGEST * np.exp(-12 * shares)


HEAVY = {"lomax": lomax, "log-uniform": log_uniform}


def heavy(name: str) -> Draw:
    def draw(rng, n):
        return HEAVY[name](rng.random(n)), mean_of_quantiles(name), None

    return draw


def normal(rng, n):
    return np.clip(rng.normal(0, 0.5, n), -LARGEST, LARGEST), 0.0, None


def near_the_ends(rng, n):
    return LARGEST * rng.beta(0.05, 0.2, n), LARGEST * 0.2, None


def clusters(rng, n):
    """Articles of eight sentences that are nearly all right or all wrong together."""
    groups = np.arange(n) // 8
    bad = rng.random(groups[-1] + 1) < 0.1
    values = np.where(bad[groups], 2.0, 0.0) + rng.normal(0, 0.1, n).clip(-0.5, 0.5)
    return values, 0.2, groups


def unequal_clusters(rng, n):
    """Long articles are wrong more often than short ones, which all count by their rows."""
    sizes = rng.choice([1, 10], n // 5, p=[0.5, 0.5])
    bad = rng.random(len(sizes)) < np.where(sizes == 10, 0.2, 0.02)
    mean = (10 * 0.2 + 1 * 0.02) / 11 * 2.0
    return np.repeat(np.where(bad, 2.0, 0.0), sizes), mean, np.repeat(np.arange(len(sizes)), sizes)


SHAPES: dict[str, Draw] = {
    "a third of a wrong row": rare(0.3),
    "one wrong row": rare(1),
    "one wrong row among noise": rare(1, 0.02),
    "three wrong rows": rare(3),
    "three wrong rows among noise": rare(3, 0.02),
    "ten wrong rows": rare(10, 0.02),
    "constant": constant,
    "right and wrong": two(-1.0, 1.0, 0.5),
    "two values, the larger one rare": two(0.0, LARGEST, 0.02),
    "two values, the larger one usual": two(-LARGEST, LARGEST, 0.9),
    "both ways": both_ways,
    "a heavy tail": heavy("lomax"),
    "a log-uniform tail": heavy("log-uniform"),
    "normal": normal,
    "near the ends": near_the_ends,
    "clusters": clusters,
    "unequal clusters": unequal_clusters,
}


def allowed(alpha: float, trials: int) -> float:
    """The level, and three standard errors of the simulation."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)


def misses(shape: str, n: int, trials: int, alphas: tuple[float, ...]) -> list[float]:
    """How often the upper bound at each alpha is below the true mean."""
    rng = stream(0, "simulated", shape, n)
    found = []
    for _ in range(trials):
        values, mean, groups = SHAPES[shape](rng, n)
        found.append(chance_at(values, mean, LARGEST, groups))
    return [float((np.array(found) < alpha).mean()) for alpha in alphas]


@pytest.mark.parametrize("shape", SHAPES)
def test_bounds_keep_their_level(shape):
    trials = 2000
    for alpha, share in zip((0.05, 0.01), misses(shape, 100, trials, (0.05, 0.01)), strict=True):
        assert share <= allowed(alpha, trials), (shape, alpha)


@pytest.mark.long
@pytest.mark.parametrize("n", [30, 300, 700, 2000])
@pytest.mark.parametrize("shape", SHAPES)
def test_bounds_keep_their_level_whatever_the_number_of_rows(shape, n):
    trials = 2000
    alphas = (0.05, 0.0304, 0.0025)
    for alpha, share in zip(alphas, misses(shape, n, trials, alphas), strict=True):
        assert share <= allowed(alpha, trials), (shape, n, alpha)


def test_the_simulation_would_see_a_bound_that_does_not_hold():
    """Student's bound, on the same samples, is below the mean whenever no wrong row is seen."""
    rng, missed = stream(0, "simulated"), 0
    for _ in range(500):
        values, mean, _ = SHAPES["one wrong row among noise"](rng, 100)
        error = values.std(ddof=1) / 10
        missed += values.mean() + 1.66 * error < mean
    assert missed / 500 > 0.3


@pytest.mark.parametrize("wrong", [2.0, 5.0, 10.0, 20.0, 34.0])
def test_one_wrong_row_in_700_leaves_a_far_better_model_superior(wrong):
    new = np.full(685, 1e-6)
    new[0] = wrong
    found = compare(new, np.full(685, math.log(4)), 0.0, 0.0304, wrong, math.log(4))
    assert found.verdict == "superior"
    assert found.lower < found.difference < found.upper < -1


@pytest.mark.parametrize(("largest", "margin"), [(1.0, 0.02), (2.0, 0.02), (LARGEST, 0.05)])
def test_alike_models_are_not_inferior_from_the_rows_needed_on(largest, margin):
    needed = rows_needed(margin, largest, 0.05)
    for rows, word in ((needed, "not inferior"), (needed - 1, "inconclusive")):
        found = compare(np.full(rows, 0.3), np.full(rows, 0.3), margin, 0.05, largest)
        assert found.verdict == word
    assert f"need {needed}" in found.reason


@pytest.mark.parametrize(("rows", "least"), [(400, 0.5), (1000, 0.9)])
def test_power_in_simulation(rows, least):
    """Log-losses of a model that is better by 0.1 on average, a tenth of its answers changed."""
    rng, passed = stream(1, "simulated", rows), 0
    for _ in range(200):
        old = rng.exponential(0.4, rows).clip(0, LARGEST)
        changed = rng.random(rows) < 0.5
        new = np.where(changed, (old - 0.2 + rng.normal(0, 0.3, rows)).clip(0, LARGEST), old)
        passed += compare(new, old, 0.02, 0.05, LARGEST).passes
    assert passed / 200 > least
