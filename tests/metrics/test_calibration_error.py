import numpy as np

from lmwright.metrics.calibration_error import (
    debiased_error,
    debiased_square,
    equal_mass_bins,
    plain_error,
    plug_in_square,
)


def simulated(rng, n, gap=0.0):
    """A simulation: confidences of a sure-ish model, right with chance confidence − gap."""
    confidence = rng.beta(8, 2, n)
    return confidence, rng.random(n) < confidence - gap


def test_a_perfect_predictor_scores_zero_on_average_in_simulation_where_the_plain_error_does_not():
    rng = np.random.default_rng(0)
    squares, plain = [], []
    for _ in range(2000):
        confidence, correct = simulated(rng, 300)
        squares.append(debiased_square(confidence, correct))
        plain.append(plain_error(confidence, correct))
    error = np.std(squares) / np.sqrt(len(squares))
    assert abs(np.mean(squares)) < 3.5 * error
    assert np.mean(plain) > 0.05


def test_a_known_gap_is_found_without_bias_in_simulation():
    rng = np.random.default_rng(1)
    squares = [debiased_square(*simulated(rng, 300, gap=0.1)) for _ in range(2000)]
    assert abs(np.mean(squares) - 0.01) < 3.5 * np.std(squares) / np.sqrt(2000) + 1e-4


def test_the_equation_against_the_sum_over_pairs():
    rng = np.random.default_rng(2)
    confidence, correct = simulated(rng, 60)
    place, residual = equal_mass_bins(confidence), correct - confidence
    total = 0.0
    for b in np.unique(place):
        r = residual[place == b]
        pairs = np.outer(r, r)
        total += len(r) / 60 * (pairs.sum() - np.trace(pairs)) / (len(r) * (len(r) - 1))
    np.testing.assert_allclose(debiased_square(confidence, correct), total)
    np.testing.assert_allclose(debiased_error(confidence, correct), np.sqrt(max(0, total)))


def test_bins_hold_equal_numbers_and_equal_values_share_one():
    rng = np.random.default_rng(3)
    assert np.bincount(equal_mass_bins(rng.random(1500))).tolist() == [100] * 15
    tied = np.repeat([0.5, 0.9], [700, 300])
    assert len(np.unique(equal_mass_bins(tied)[:700])) == 1
    shuffled = rng.permutation(1000)
    np.testing.assert_array_equal(equal_mass_bins(tied[shuffled]), equal_mass_bins(tied)[shuffled])


def test_weights_equal_repeating_rows_and_draws_scatter_about_the_plug_in_value():
    rng = np.random.default_rng(4)
    confidence, correct = simulated(rng, 400, gap=0.05)
    weights = rng.multinomial(400, np.full(400, 1 / 400), size=3000).astype(float)
    draws = debiased_square(confidence, correct, weights)
    assert abs(draws.mean() - plug_in_square(confidence, correct)) < 4 * draws.std() / np.sqrt(3000)
