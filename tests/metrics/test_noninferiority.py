import math

import numpy as np
import pytest
from scipy import stats

from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.metrics import noninferiority as ni
from lmwright.metrics.bounded_mean import chance_at

LARGEST = 6.4


def simulated_losses(rng, n, worse):
    """A simulation of paired log-losses: skewed, correlated, the new one worse by ``worse``."""
    hard = rng.gamma(0.5, size=n).clip(0, 2)
    old = hard + rng.exponential(0.3, n).clip(0, 3)
    return (old + worse + rng.normal(0, 0.2, n).clip(-worse, worse)).clip(0, LARGEST), old


@pytest.mark.parametrize("n", [200, 2000])
def test_a_model_worse_by_the_margin_passes_at_most_alpha_of_the_time_in_simulation(n):
    rng = stream(0, "simulated", n)
    trials = 600
    passed = sum(
        ni.compare(*simulated_losses(rng, n, worse=0.05), 0.05, 0.05, LARGEST).passes
        for _ in range(trials)
    )
    assert passed / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(("n", "rare"), [(120, 0.1), (300, 0.5)])
def test_a_worse_macro_f1_passes_at_most_alpha_of_the_time_in_simulation(n, rare):
    """Labels of a class that is rare or not; of it the new one misses so many that it is worse by
    the margin, the old one is right."""
    rng = stream(4, "simulated", n)
    margin, trials = 0.15, 200
    missed = next(m for m in np.arange(0, 1, 0.001) if macro_f1_of(rare, m) <= 1 - margin)
    passed = superior = 0
    for _ in range(trials):
        truth = rng.random(n) < rare
        wrong = truth & (rng.random(n) < missed)
        weights = np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), 400)])
        fp, fn, tp = weights @ np.zeros(n), weights @ wrong, weights @ (truth & ~wrong)
        tn = weights.sum(1) - tp - fn
        with np.errstate(invalid="ignore"):
            f1 = (2 * tp / (2 * tp + fp + fn) + 2 * tn / (2 * tn + fn)) / 2
        harm = 1 - f1
        passed += ni.compare_scores(harm[0], harm[1:], margin, 0.05, n, n).passes
        superior += ni.compare_scores(-harm[0], -harm[1:], margin, 0.05, n, n).passes
    assert passed / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert superior / trials > 0.95


def macro_f1_of(rare, missed):
    """Macro-F1 of a model that misses a share of the class ``rare`` and is right elsewhere."""
    hit, lost, other = rare * (1 - missed), rare * missed, 1 - rare
    return (2 * hit / (2 * hit + lost) + 2 * other / (2 * other + lost)) / 2


def test_few_rows_that_differ_do_not_make_a_score_superior():
    """Three of 400 rows that only the old one has wrong: the bootstrap alone would be sure."""
    drawn = stream(5, "simulated").poisson([3, 20], (500, 2)) / -400
    assert np.quantile(drawn[:, 0], 0.95) < 0
    few, many = (ni.compare_scores(d.mean(), d, 0.05, 0.05, 400, 400).verdict for d in drawn.T)
    assert (few, many) == ("not inferior", "superior")
    assert ni.compare_scores(0.0, np.zeros(500), 0.01, 0.05, 200, 200).verdict == "inconclusive"
    assert ni.compare_scores(0.0, np.zeros(500), 0.01, 0.05, 400, 400).verdict == "not inferior"


def test_groups_keep_the_error_rate_where_rows_depend_on_each_other_in_simulation():
    rng = stream(1, "simulated")
    groups = np.repeat(np.arange(400), 8)
    grouped, alone = 0, 0
    for _ in range(400):
        new = np.repeat(rng.random(400) < 0.3, 8).astype(float)
        old = np.full(3200, 0.25)
        grouped += ni.compare(new, old, 0.05, 0.05, 1.0, groups=groups).passes
        alone += ni.compare(new, old, 0.05, 0.05, 1.0).passes
    assert 0.01 < grouped / 400 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert alone / 400 > 0.15


def test_a_group_counts_once_however_many_rows_it_has():
    new, old = np.zeros(300), np.zeros(300)
    new[:200] = 1.0  # one long document, on which the new one fails
    groups = np.concatenate([np.zeros(200), np.arange(1, 101)])
    found = ni.compare(new, old, 0.06, 0.05, 1.0, groups=groups)
    assert found.difference == pytest.approx(1 / 101)
    means = np.concatenate([[1.0], np.zeros(100)])
    alone = ni.compare(means, np.zeros(101), 0.06, 0.05, 1.0)
    assert (found.lower, found.upper) == pytest.approx((alone.lower, alone.upper))
    assert found.rows == 300


def test_the_four_verdicts():
    rng = stream(2, "t")
    noise = rng.normal(size=2000) * 0.1
    old = np.ones(2000)
    for worse, margin, word in (
        (-0.1, 0.05, "superior"),
        (0.0, 0.05, "not inferior"),
        (0.2, 0.05, "inferior"),
        (0.05, 0.05, "inconclusive"),
    ):
        new = 1 + noise - noise.mean() + worse
        found = ni.compare(new, old, margin, 0.05, 2.0)
        assert found.verdict == word, found
        assert found.passes == (word in ("superior", "not inferior"))
    few = ni.compare(noise[:20] + 1, 2 * old[:20], 0.05, 0.05, 2.0)
    assert few.verdict == "inconclusive" and "too few rows" in few.reason
    assert few.to_json()["upper"] is None
    same = ni.compare(noise + 1, noise + 1, 0.01, 0.05, 2.0)
    assert same.verdict == "not inferior" and 0 < same.upper < 0.01


def test_right_and_wrong_is_judged_where_few_rows_differ():
    old = np.zeros(450)
    for differing in (0, 1, 2, 3):
        new = (np.arange(450) < differing).astype(float)
        found = ni.compare(new, old, 0.02, 0.05, 1.0)
        assert found.verdict == "not inferior", (differing, found)
        exact = stats.beta.isf(0.05, differing + 1, 450 - differing)
        assert found.upper == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("shares", [(0.02, 0.0), (0.03, 0.01), (0.15, 0.13)])
def test_right_and_wrong_worse_by_the_margin_passes_at_most_alpha_of_the_time_in_simulation(shares):
    rng, n, trials = stream(9, "t", str(shares)), 300, 2000
    counts = rng.multinomial(n, (*shares, 1 - sum(shares)), size=trials)
    passed = np.mean(
        [
            chance_at(np.repeat((1.0, -1.0, 0.0), row), shares[0] - shares[1], 1.0) < 0.05
            for row in counts
        ]
    )
    assert passed < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_an_interval_below_0_is_superior_and_none_else():
    rng = stream(14, "t")
    for better in np.linspace(0, 0.2, 21):
        old = rng.random(300)
        new = (old - better + rng.normal(size=300) * 0.1).clip(0, 1)
        found = ni.compare(new, old, 0.0, 0.025, 1.0)
        assert (found.verdict == "superior") == (found.upper < 0)
        assert found.lower <= found.difference <= found.upper


def test_losses_beyond_their_largest_are_refused():
    new = np.abs(stream(12, "t").normal(size=200) * 0.01)
    new[:2] = 2.0
    found = ni.compare(new, np.zeros(200), 0.1, 0.05, 2.0)
    assert found.passes, found
    for losses, largest, told in (
        (new, 1.0, "from 0 to 1"),
        (new / 2 - 0.1, 1.0, "from -0.09"),
        (new, math.inf, "a largest loss of inf"),
    ):
        with pytest.raises(BadInput, match=told):
            ni.compare(losses, np.zeros(200), 0.1, 0.05, largest)
    with pytest.raises(BadInput, match="from 0 to 1"):
        ni.compare(np.zeros(200), new, 0.1, 0.05, 2.0, 1.0)


def test_what_is_no_comparison_is_refused():
    for new, old, margin, alpha in (
        (np.zeros(40), np.zeros(41), 0.1, 0.05),
        (np.zeros(40), np.zeros(40), -0.1, 0.05),
        (np.zeros(40), np.zeros(40), 0.1, 0.7),
        (np.full(40, np.nan), np.zeros(40), 0.1, 0.05),
    ):
        with pytest.raises(BadInput):
            ni.compare(new, old, margin, alpha, 1.0)


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
                (rng.random(300) < 0.1).astype(float),
                np.full(300, 0.05),
                0.05,
                ni.allowance(0.1, k),
                1.0,
            ).passes
            for k in range(5)
        )
    assert 0.01 < ever / 400 < 0.1 + 3 * math.sqrt(0.1 * 0.9 / 400)
