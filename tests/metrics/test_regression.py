"""Scores of numbers under weights: those of scipy and scikit-learn on repeated rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, f1_score, r2_score

from lmwright.metrics import multilabel as m
from lmwright.metrics import regression as r


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drawn numbers with ties, and weights as the bootstrap draws them."""
    draw = np.random.default_rng(5)
    x = draw.integers(0, 6, 40).astype(float)
    y = np.round(x + draw.normal(0, 2, 40))
    return x, y, draw.multinomial(40, [1 / 40] * 40, 6).astype(float)


def test_correlations_and_explained_variance(drawn) -> None:
    x, y, weights = drawn
    for place, row in enumerate(weights.astype(int)):
        a, b = np.repeat(x, row), np.repeat(y, row)
        assert r.pearson(x, y, weights)[place] == pytest.approx(stats.pearsonr(a, b).statistic)
        assert r.spearman(x, y, weights)[place] == pytest.approx(stats.spearmanr(a, b).statistic)
        assert r.r_squared(x, y, weights)[place] == pytest.approx(r2_score(a, b))
    assert r.pearson(np.ones(40), y, weights).tolist() == [0.0] * 6


def test_kappa(drawn) -> None:
    x, y, weights = drawn
    x, y = x.astype(int), np.clip(y, 0, 5).astype(int)
    for place, row in enumerate(weights.astype(int)):
        wanted = cohen_kappa_score(
            np.repeat(x, row), np.repeat(y, row), weights="quadratic", labels=range(6)
        )
        assert r.weighted_kappa(x, y, 6, weights)[place] == pytest.approx(wanted)


def test_intervals_cover_what_they_promise() -> None:
    """Split conformal intervals of 2,000 simulations hold a new value at their level or more."""
    draw = np.random.default_rng(1)
    errors = np.abs(draw.standard_cauchy((2000, 51)))
    held = [row[50] <= r.conformal_quantile(row[:50], 0.9) for row in errors]
    assert 0.885 < np.mean(held) < 0.93
    assert r.conformal_quantile(np.ones(3), 0.9) == np.inf


def test_f1_of_labels_is_scikit_learns(drawn) -> None:
    draw = np.random.default_rng(2)
    truth = (draw.random((40, 5)) < 0.3).astype(float)
    said = np.where(draw.random((40, 5)) < 0.3, 1 - truth, truth)
    weights = drawn[2]
    table = m.counts(truth, said, weights)
    per_label = m.f1_of(table["both"], table["said"], table["true"])
    micro = m.f1_of(*(table[name].sum(-1) for name in ("both", "said", "true")))
    for place, row in enumerate(weights.astype(int)):
        a, b = np.repeat(truth, row, axis=0), np.repeat(said, row, axis=0)
        assert per_label[place] == pytest.approx(f1_score(a, b, average=None, zero_division=0))
        assert micro[place] == pytest.approx(f1_score(a, b, average="micro"))
    some = (truth.sum(1) + said.sum(1)) > 0
    wanted = f1_score(truth[some], said[some], average="samples", zero_division=0)
    assert m.sample_f1(truth, said)[some].mean() == pytest.approx(wanted)
    assert (m.sample_f1(truth, said)[~some] == 1).all()


def test_the_best_threshold_is_that_of_a_search() -> None:
    draw = np.random.default_rng(3)
    for _ in range(50):
        truth = (draw.random(30) < 0.4).astype(float)
        truth[0] = 1.0
        p = np.round(np.clip(0.5 * truth + draw.random(30) * 0.6, 0, 1), 1)

        def f1(at: float, truth: np.ndarray = truth, p: np.ndarray = p) -> float:
            return float(f1_score(truth, p >= at, zero_division=0))

        best = max(map(f1, np.linspace(0, 1, 101)))
        assert f1(m.best_threshold(truth, p)) == pytest.approx(best)


def test_rare_labels_share_a_threshold() -> None:
    truth = np.zeros((20, 3))
    truth[:10, 0] = truth[:8, 1] = truth[0, 2] = 1.0
    p = np.linspace(0.9, 0.1, 20)[:, None] * np.array([1.0, 0.5, 0.2])
    found = m.thresholds(truth, p, 5)
    assert found[0] > found[1]
    assert found[2] == m.best_threshold(truth.ravel(), p.ravel())
