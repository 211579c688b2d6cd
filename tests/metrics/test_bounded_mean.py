"""Bounds of a bounded mean: equal to exact ones where these are known, and to drawing."""

import math

import numpy as np
import pytest
from scipy import stats

from lmwright.core.random import stream
from lmwright.metrics.bounded_mean import chance_at, mean_bounds


@pytest.mark.parametrize("alpha", [0.05, 0.0304, 1e-3, 1e-9])
@pytest.mark.parametrize(
    ("ones", "n"), [(0, 40), (2, 200), (30, 90), (0, 685), (1, 685), (40, 40), (5, 20_000)]
)
def test_bounds_of_two_values_are_those_of_clopper_and_pearson(ones, n, alpha):
    values = np.where(np.arange(n) < ones, 2.0, -2.0)
    lower, upper = mean_bounds(values, -2.0, 2.0, alpha)
    exact = stats.beta.isf(alpha, ones + 1, n - ones) if ones < n else 1.0
    assert (upper + 2) / 4 == pytest.approx(exact, rel=1e-3, abs=1e-6)
    exact = stats.beta.ppf(alpha, ones, n - ones + 1) if ones else 0.0
    assert (lower + 2) / 4 == pytest.approx(exact, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        stream(0, "t").normal(size=200) * 0.01,
        np.append(stream(1, "t").normal(size=684) * 1e-6, 5.0),
        stream(2, "t").exponential(size=50),
        stream(3, "t").standard_t(2, size=400).clip(-6, 6),
        np.full(60, 0.25),
    ],
)
def test_the_bound_is_the_quantile_of_drawn_weighted_means(values):
    draws, largest = 60_000, 6.4
    weights = stream(4, "t").standard_exponential((draws, len(values) + 1))
    weights /= weights.sum(1, keepdims=True)
    means = weights @ np.append(values, largest)
    for alpha in (0.05, 0.005):
        _, upper = mean_bounds(values, -largest, largest, alpha)
        beyond = (means > upper).mean()
        assert beyond == pytest.approx(alpha, abs=5 * math.sqrt(alpha / draws))
        assert chance_at(values, upper, largest) == pytest.approx(alpha, rel=1e-6)


def test_bounds_tend_to_students_with_many_rows():
    gaps = stream(5, "t").normal(size=50_000) + 0.2
    lower, upper = mean_bounds(gaps, -6, 6, 0.05)
    half = 1.645 * gaps.std(ddof=1) / np.sqrt(50_000)
    np.testing.assert_allclose((lower, upper), (gaps.mean() - half, gaps.mean() + half), atol=3e-4)


def test_bounds_move_and_grow_with_the_values_and_mirror_each_other():
    values = stream(6, "t").normal(size=100).clip(-3, 3)
    lower, upper = mean_bounds(values, -3, 4, 0.03)
    moved = mean_bounds(10 * values + 7, -23, 47, 0.03)
    np.testing.assert_allclose(moved, (10 * lower + 7, 10 * upper + 7), rtol=1e-7)
    np.testing.assert_allclose(mean_bounds(-values, -4, 3, 0.03), (-upper, -lower), rtol=1e-9)
    assert mean_bounds(values, -3, 9, 0.03)[1] > upper
    assert mean_bounds(values, -3, 9, 0.03)[0] == lower


def test_groups_of_one_row_are_rows_and_groups_of_equal_rows_are_one_row():
    values = stream(7, "t").random(80)
    alone = mean_bounds(values, 0, 1, 0.05)
    assert mean_bounds(values, 0, 1, 0.05, np.arange(80)) == pytest.approx(alone)
    thrice = mean_bounds(np.repeat(values, 3), 0, 1, 0.05, np.repeat(np.arange(80), 3))
    assert thrice == pytest.approx(alone)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_values_have_the_bound_of_none_among_n(value):
    lower, upper = mean_bounds(np.full(100, value), 0, 1, 0.05)
    share = 1 - 0.05 ** (1 / 100)
    assert upper == pytest.approx(value + (1 - value) * share, abs=1e-7)
    assert lower == pytest.approx(value * (1 - share), abs=1e-7)
