import math

import numpy as np
import pytest
from scipy import optimize, stats

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


@pytest.mark.parametrize("n", [30, 60, 200, 1234])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.7404, -1 / 3, 1e9])
def test_differences_that_are_all_equal_are_their_own_bounds(n, value):
    bounds = ni.one_sided_bounds(np.full(n, value), 0.05, stream(0, "t"))
    assert bounds == (pytest.approx(value), pytest.approx(value))
    groups = np.arange(n) % 30
    assert ni.one_sided_bounds(np.full(n, value), 0.05, stream(0, "t"), 2000, groups) == bounds


@pytest.mark.parametrize("far", [1e3, 1e6, -1e9])
def test_bounds_move_with_the_differences(far):
    gaps = stream(6, "t").normal(size=300)
    near = np.array(ni.one_sided_bounds(gaps, 0.05, stream(7, "t")))
    away = np.array(ni.one_sided_bounds(gaps + far, 0.05, stream(7, "t")))
    np.testing.assert_allclose(away - far, near, atol=abs(far) * 1e-14 + 1e-12)


def score_by_search(worse, better, n, gap):
    """The score statistic for a difference, its likeliest shares found by search."""

    def unlikely(share):
        both = share + gap, share
        rest = 1 - sum(both)
        counts = worse, better, n - worse - better
        return -sum(k * math.log(p) for k, p in zip(counts, (*both, rest), strict=True) if k)

    ends = max(0.0, -gap) + 1e-12, (1 - gap) / 2 - 1e-12
    found = optimize.minimize_scalar(
        unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}
    )
    share = found.x
    return (worse - better - n * gap) / math.sqrt(n * (2 * share + gap - gap**2))


@pytest.mark.parametrize(
    ("worse", "better", "n"), [(1, 7, 21), (6, 16, 161), (1, 0, 44), (12, 3, 450), (0, 2, 450)]
)
def test_score_bounds_are_where_the_score_test_ends(worse, better, n):
    lower, upper = ni.score_bounds(worse, better, n, 0.05)
    z = stats.norm.isf(0.05)
    assert score_by_search(worse, better, n, upper) == pytest.approx(-z, abs=1e-4)
    assert score_by_search(worse, better, n, lower) == pytest.approx(z, abs=1e-4)
    assert ni.score_bounds(better, worse, n, 0.05) == (-upper, -lower)


def test_score_bounds_as_published():
    """Airway reactivity before and after stem cells, as in Fagerland, Lydersen and Laake 2014."""
    assert ni.score_bounds(1, 7, 21, 0.025) == (
        pytest.approx(-0.517, abs=5e-4),
        pytest.approx(-0.026, abs=5e-4),
    )


def test_right_and_wrong_is_judged_where_few_rows_differ():
    old = np.zeros(450)
    for differing in (0, 1, 2, 3):
        new = (np.arange(450) < differing).astype(float)
        found = ni.compare(new, old, 0.02, 0.05, stream(8, "t"))
        assert found.verdict == "not inferior", (differing, found)
        assert found.upper == pytest.approx((differing + 1.645**2 + 1) / 450, abs=0.005)
    for same in (0.0, 1.0):
        upper = ni.compare(np.full(30, same), np.full(30, same), 0.02, 0.05, stream(8, "t")).upper
        z = stats.norm.isf(0.05)
        assert upper == pytest.approx(z**2 / (30 + z**2), abs=1e-9)
    assert ni.score_bounds(30, 0, 30, 0.05)[1] == 1.0


@pytest.mark.parametrize("shares", [(0.02, 0.0), (0.03, 0.01), (0.15, 0.13)])
def test_right_and_wrong_worse_by_the_margin_passes_at_most_alpha_of_the_time_in_simulation(shares):
    rng, n, trials = stream(9, "t", str(shares)), 300, 4000
    counts = rng.multinomial(n, (*shares, 1 - sum(shares)), size=trials)
    uppers = [ni.score_bounds(int(w), int(b), n, 0.05)[1] for w, b, _ in counts]
    passed = np.mean(np.array(uppers) < 0.02)
    assert 0.005 < passed < 0.06  # an approximation, within a fifth of what is asked


def flips(rng, n):
    """Differences of which one in twenty is nearly as bad as can be; the others are small."""
    return np.where(rng.random(n) < 0.05, 1.9, rng.normal(size=n) * 0.01)


def swings(rng, n):
    """Differences both ways, a tenth of them large."""
    return np.where(rng.random(n) < 0.1, rng.choice([-1.5, 1.6], n), rng.normal(size=n) * 0.1)


@pytest.mark.parametrize(("draw", "mean"), [(flips, 0.095), (swings, 0.005)])
@pytest.mark.parametrize("n", [30, 90, 400])
def test_bounded_losses_worse_by_the_margin_pass_at_most_alpha_of_the_time_in_simulation(
    draw, mean, n
):
    rng, trials = stream(10, "t", draw.__name__, n), 1000
    passed = sum(
        ni.bounded_bounds(draw(rng, n), 2.0, 0.05, rng, 400)[1] < mean for _ in range(trials)
    )
    assert passed / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    if n == 400:  # with many rows it is not much shyer than it must be
        assert passed / trials > 0.01


@pytest.mark.parametrize(("ones", "n"), [(0, 40), (2, 200), (30, 90)])
def test_bounds_of_two_values_are_those_of_clopper_and_pearson(ones, n):
    values = np.where(np.arange(n) < ones, 2.0, -2.0)
    lower, upper = ni.bounded_bounds(values, 2.0, 0.05, stream(11, "t"), 100_000)
    assert (upper + 2) / 4 == pytest.approx(stats.beta.isf(0.05, ones + 1, n - ones), abs=2e-3)
    assert (lower + 2) / 4 == pytest.approx(
        stats.beta.ppf(0.05, ones, n - ones + 1) if ones else 0.0, abs=2e-3
    )


def test_few_large_differences_have_a_bound_if_losses_are_bounded():
    rng = stream(12, "t")
    new = np.abs(rng.normal(size=200) * 0.01)
    new[:2] = 2.0
    for largest, passes in ((2.0, True), (math.inf, False)):
        found = ni.compare(new, np.zeros(200), 0.1, 0.05, stream(13, "t"), largest=largest)
        assert found.passes == passes, found
    for losses, told in ((new, "from 0 to 2"), (new / 2 - 0.1, "from -0.09")):
        with pytest.raises(BadInput, match=told):
            ni.compare(losses, np.zeros(200), 0.1, 0.05, rng, largest=1.0)


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
