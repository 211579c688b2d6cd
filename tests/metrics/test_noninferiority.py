import math

import numpy as np
import pytest

from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.metrics import noninferiority as ni


def simulated_losses(rng, n, worse):
    """A simulation of paired log-losses: skewed, correlated, the new one worse by ``worse``."""
    hard = rng.gamma(0.5, size=n)
    old = hard + rng.exponential(0.3, n) - 0.3
    return hard + rng.exponential(0.5, n) - 0.5 + worse, old


@pytest.mark.parametrize("n", [60, 400])
def test_a_model_worse_by_the_margin_passes_at_most_alpha_of_the_time_in_simulation(n):
    rng = stream(0, "simulated", n)
    trials, passed = 1500, 0
    for _ in range(trials):
        new, old = simulated_losses(rng, n, worse=0.05)
        passed += ni.compare(new, old, 0.05, 0.05, rng, draws=400).passes
    assert passed / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert passed / trials > 0.01


def test_groups_keep_the_error_rate_where_rows_depend_on_each_other_in_simulation():
    rng = stream(1, "simulated")
    groups = np.repeat(np.arange(60), 8)
    grouped, alone = 0, 0
    for _ in range(500):
        gap = np.repeat(rng.normal(size=60), 8) + rng.normal(size=480) * 0.3
        new, old = gap + 0.1, np.zeros(480)
        grouped += ni.compare(new, old, 0.1, 0.05, rng, draws=300, groups=groups).passes
        alone += ni.compare(new, old, 0.1, 0.05, rng, draws=300).passes
    assert grouped / 500 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)
    assert alone / 500 > 0.15


def test_the_four_verdicts():
    rng = stream(2, "t")
    noise = rng.normal(size=2000) * 0.1
    old = np.zeros(2000)
    for worse, margin, word in (
        (-0.1, 0.05, "superior"),
        (0.0, 0.05, "not inferior"),
        (0.2, 0.05, "inferior"),
        (0.05, 0.05, "inconclusive"),
    ):
        new = noise - noise.mean() + worse
        found = ni.compare(new, old, margin, 0.05, rng)
        assert found.verdict == word, found
        assert found.passes == (word in ("superior", "not inferior"))
    few = ni.compare(noise[:20] - 5, old[:20], 0.05, 0.05, rng)
    assert few.verdict == "inconclusive" and "too few rows" in few.reason
    assert few.to_json()["upper"] is None
    same = ni.compare(noise, noise, 0.01, 0.05, rng)
    assert same.verdict == "not inferior" and same.upper == 0


def test_bounds_approach_students_for_normal_differences():
    gaps = stream(3, "t").normal(size=3000) + 0.2
    lower, upper = ni.one_sided_bounds(gaps, 0.05, stream(4, "t"), draws=20000)
    half = 1.645 * gaps.std(ddof=1) / np.sqrt(3000)
    np.testing.assert_allclose((lower, upper), (gaps.mean() - half, gaps.mean() + half), atol=2e-3)


def test_what_is_no_comparison_is_refused():
    rng = stream(5, "t")
    for new, old, margin, alpha in (
        (np.zeros(40), np.zeros(41), 0.1, 0.05),
        (np.zeros(40), np.zeros(40), -0.1, 0.05),
        (np.zeros(40), np.zeros(40), 0.1, 0.7),
        (np.full(40, np.nan), np.zeros(40), 0.1, 0.05),
    ):
        with pytest.raises(BadInput):
            ni.compare(new, old, margin, alpha, rng)


def test_all_looks_together_spend_no_more_than_alpha():
    assert ni.allowance(0.05, 0) == pytest.approx(0.05 * 6 / math.pi**2)
    assert ni.allowance(0.05, 1) == pytest.approx(ni.allowance(0.05, 0) / 4)
    assert ni.spent(0.05, 0) == 0
    assert 0.0499 < ni.spent(0.05, 2000) < 0.05
    with pytest.raises(BadInput):
        ni.allowance(0.05, -1)


def test_reusing_the_same_rows_stays_within_alpha_in_simulation():
    rng = stream(6, "simulated")
    ever = 0
    for _ in range(400):
        ever += any(
            ni.compare(
                *simulated_losses(rng, 100, 0.05), 0.05, ni.allowance(0.1, k), rng, draws=400
            ).passes
            for k in range(5)
        )
    assert ever / 400 < 0.1 + 3 * math.sqrt(0.1 * 0.9 / 400)
