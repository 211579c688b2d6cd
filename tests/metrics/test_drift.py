import numpy as np
from scipy import stats
from scipy.spatial.distance import jensenshannon
from sklearn.covariance import LedoitWolf

from lmwright.metrics import drift


def test_ks_equals_scipy_with_ties():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 15, 90), rng.integers(2, 17, 40)
        assert abs(drift.ks_distance(a, b) - stats.ks_2samp(a, b).statistic) < 1e-12
    assert drift.ks_distance(np.array([1, 2]), np.array([3, 4])) == 1.0


def test_jensen_shannon_equals_scipy_and_keeps_its_bounds():
    rng = np.random.default_rng(1)
    p, q = rng.integers(0, 9, (2, 30))
    np.testing.assert_allclose(drift.jensen_shannon(p, q), jensenshannon(p, q, base=2) ** 2)
    assert drift.jensen_shannon(np.array([3, 0]), np.array([0, 8])) == 1.0
    assert drift.jensen_shannon(np.array([3, 1]), np.array([6, 2])) == 0.0
    assert drift.jensen_shannon(np.array([3, 1]), np.array([0, 0])) == 0.0


def test_population_stability_worked_value():
    p, q = np.array([50, 50]), np.array([80, 20])
    a, b = np.array([50.5, 50.5]) / 101, np.array([80.5, 20.5]) / 101
    np.testing.assert_allclose(drift.population_stability(p, q), ((b - a) * np.log(b / a)).sum())
    assert drift.population_stability(p, p) == 0
    assert drift.population_stability(np.array([5, 0]), np.array([0, 5])) > 0.25


def test_the_precision_is_ledoit_and_wolfs():
    sample = np.random.default_rng(2).normal(size=(60, 20)) * np.linspace(0.5, 3, 20)
    np.testing.assert_allclose(
        drift.shrunk_precision(sample), LedoitWolf().fit(sample).precision_, rtol=1e-6
    )
    assert not drift.shrunk_precision(np.ones((10, 3))).any()


def test_mean_shift_is_hotellings():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(80, 4)), rng.normal(size=(50, 4)) + 0.2
    inverse = np.linalg.inv(np.cov(a.T))
    gap = b.mean(0) - a.mean(0)
    np.testing.assert_allclose(
        drift.mean_shift(a.mean(0), b.mean(0), inverse) ** 2, gap @ inverse @ gap
    )
