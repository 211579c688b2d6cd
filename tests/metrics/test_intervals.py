import numpy as np
import pytest
from scipy import stats

from lmwright.core.random import stream
from lmwright.metrics import intervals as iv


def mean_of(values):
    return lambda weights: (weights @ values) / weights.sum(-1)


def test_wilson_against_published_and_scipy_values():
    # Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for right, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = iv.wilson(right, n)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)
        reference = stats.binomtest(right, n).proportion_ci(method="wilson")
        np.testing.assert_allclose((found.low, found.high), reference, atol=1e-12)
    assert iv.wilson(0, 0).to_json() == {"estimate": None, "low": None, "high": None}


def test_draws_keep_the_number_of_rows_and_whole_groups():
    weights = np.concatenate(list(iv.draw_weights(50, 200, stream(0, "t"))))
    assert (weights.sum(1) == 50).all()
    groups = np.repeat(np.arange(10), 5)
    grouped = np.concatenate(list(iv.draw_weights(50, 200, stream(0, "t"), groups)))
    assert (grouped.reshape(200, 10, 5).std(2) == 0).all()


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_agrees_with_scipy(method):
    values = stream(1, "simulated").exponential(size=120)
    ours = iv.bootstrap(mean_of(values), 120, 20000, stream(2, "t"), method=method)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method=method, rng=np.random.default_rng(0)
    ).confidence_interval
    np.testing.assert_allclose((ours.low, ours.high), theirs, atol=0.01)


def test_coverage_in_simulation():
    rng = stream(3, "simulated")
    held = {"wilson": 0, "percentile": 0, "bca": 0}
    for _ in range(400):
        held["wilson"] += covers(iv.wilson(rng.binomial(150, 0.83), 150), 0.83)
        values = rng.gamma(2.0, size=80)
        for method in ("percentile", "bca"):
            found = iv.bootstrap(mean_of(values), 80, 500, rng, method=method)
            held[method] += covers(found, 2.0)
    assert all(0.91 <= count / 400 <= 0.98 for count in held.values()), held


def test_groups_widen_the_interval_to_its_right_size_in_simulation():
    rng = stream(4, "simulated")
    alone, together = 0, 0
    groups = np.repeat(np.arange(40), 10)
    for _ in range(200):
        values = np.repeat(rng.normal(size=40), 10) + 0.3 * rng.normal(size=400)
        alone += covers(iv.bootstrap(mean_of(values), 400, 300, rng), 0.0)
        together += covers(iv.bootstrap(mean_of(values), 400, 300, rng, groups=groups), 0.0)
    assert alone / 200 < 0.6
    assert together / 200 > 0.89


def test_a_paired_difference_is_narrower_than_two_intervals():
    rng = stream(5, "simulated")
    hard = rng.random(size=300)
    left = (hard + 0.02 * rng.normal(size=300) + 0.05).clip(0, 1)
    right = (hard + 0.02 * rng.normal(size=300)).clip(0, 1)
    found = iv.paired_difference(left, right, 1.0)
    assert found.low > 0
    each = iv.mean_interval(left, 0.0, 1.0)
    assert found.high - found.low < 0.5 * (each.high - each.low)


def test_seeds_widen_the_difference_in_simulation():
    rng = stream(6, "simulated")
    lower, rows_only = 0, 0
    for _ in range(200):
        rows = rng.normal(size=200)
        left = rows + rng.normal(size=(5, 1)) * 0.2 + 0.3 * rng.normal(size=(5, 200))
        right = rows + rng.normal(size=(5, 1)) * 0.2 + 0.3 * rng.normal(size=(5, 200))
        lower += np.quantile(iv.seeds_difference(left, right, 400, rng), 0.05) <= 0
        rows_only += (
            iv.bootstrap(mean_of(left.mean(0) - right.mean(0)), 200, 400, rng, 0.9).low <= 0
        )
    assert lower / 200 > 0.9  # nominal 0.95; five seeds make it a little short
    assert rows_only / 200 < 0.75
    with pytest.raises(ValueError, match="not paired"):
        iv.seeds_difference(np.zeros((2, 5)), np.zeros((2, 6)), 10, rng)


def covers(interval, truth):
    return interval.low <= truth <= interval.high
