import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.random import stream
from lmwright.core.task import Answers
from lmwright.metrics.calibration import (
    Calibration,
    fit_temperature,
    fit_threshold,
    softmax,
    upper_error,
)
from lmwright.metrics.classification import largest_log_loss, log_losses
from lmwright.tasks.text_classification import TextClassification

TWO = TextClassification(labels=("no", "yes"))
THREE = TextClassification(labels=("a", "b", "c"))


def fitted_temperature(logits, truth):
    """The temperature with the least mean log-loss."""
    return fit_temperature(lambda t: log_losses(truth, softmax(logits / t)).mean())


def fit(task, logits, truth, **settings):
    """The calibration of logits of rows whose labels have these places."""
    rows = pa.table({"label": pa.array([task.labels[place] for place in truth], pa.string())})
    return Calibration.fit(task, rows, Answers({"logits": logits}), **settings)


def probabilities(task, fitted, logits):
    """The calibrated probabilities of logits."""
    return fitted.apply(task, Answers({"logits": logits}))["probabilities"]


def simulated(rng, n, temperature=1.0):
    """A simulation: answers drawn from softmax(logits), which are then sharpened."""
    logits = rng.normal(size=(n, 3)) * 2
    draws = (softmax(logits).cumsum(1) > rng.random((n, 1))).argmax(1)
    return logits * temperature, draws


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found_in_simulation(temperature):
    logits, truth = simulated(stream(0, "simulated"), 20000, temperature)
    assert fitted_temperature(logits, truth) == pytest.approx(temperature, rel=0.03)
    found = fit(THREE, logits, truth, risk=1.0).temperature
    assert found == fitted_temperature(logits, truth), "the task's primary loss decides"


def test_the_temperature_is_the_best_on_a_fine_grid():
    logits, truth = simulated(stream(1, "simulated"), 300, 2.0)

    def loss(t):
        return log_losses(truth, softmax(logits / t)).mean()

    grid = min(loss(t) for t in np.exp(np.linspace(np.log(0.05), np.log(20), 4000)))
    assert loss(fitted_temperature(logits, truth)) <= grid + 1e-9


def test_extremes_stay_within_bounds_and_change_no_prediction():
    logits = np.array([[4.0, 0.0], [0.0, 4.0]] * 30)
    right, wrong = np.array([0, 1] * 30), np.array([1, 0] * 30)
    assert fitted_temperature(logits, right) < 0.2
    assert fitted_temperature(logits, wrong) == pytest.approx(20, rel=1e-3)
    for truth in (right, wrong):
        fitted = fit(TWO, logits, truth, risk=1.0)
        p = probabilities(TWO, fitted, logits)
        np.testing.assert_array_equal(p.argmax(1), logits.argmax(1))
        np.testing.assert_allclose(p.sum(1), 1)


def test_the_upper_bound_is_clopper_and_pearsons():
    for wrong, answered in ((0, 22), (3, 100), (40, 41)):
        reference = stats.binomtest(wrong, answered, alternative="less")
        expected = reference.proportion_ci(0.9, method="exact").high
        assert upper_error(wrong, answered, 0.9) == pytest.approx(expected)
    assert upper_error(5, 5, 0.9) == 1.0


def test_the_promise_on_errors_holds_in_simulation():
    rng = stream(2, "simulated")
    broken, answered = 0, 0.0
    for _ in range(400):
        confidence = rng.beta(4, 1.5, 500)
        threshold = fit_threshold(confidence, rng.random(500) > confidence, 0.15, 0.9)
        fresh = rng.beta(4, 1.5, 20000)
        kept = fresh[fresh >= threshold]
        broken += len(kept) > 0 and (1 - kept).mean() > 0.15
        answered += len(kept) / 20000
    assert broken / 400 < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 400)
    assert answered / 400 > 0.3


def test_nothing_is_answered_where_nothing_is_safe_and_all_where_all_is():
    rng = stream(3, "t")
    confidence = rng.random(300)
    never = fit_threshold(confidence, np.ones(300, dtype=bool), 0.1, 0.9)
    always = fit_threshold(confidence, np.zeros(300, dtype=bool), 0.1, 0.9)
    assert never > 1 and always == 0
    few = fit_threshold(confidence[:20], np.zeros(20, dtype=bool), 0.1, 0.9)
    assert few > 1  # 20 rows without an error cannot show 10 % at 90 %


def test_answers_and_files(tmp_path):
    fitted = Calibration(temperature=2.0, threshold=0.8, thresholds=(-0.3,))
    answers = fitted.apply(TWO, Answers({"logits": np.array([[4.0, 0.0], [0.2, 0.0]])}))
    assert [TWO.told(answers, place)["label"] for place in (0, 1)] == ["no", None]
    assert [TWO.category(TWO.told(answers, place)) for place in (0, 1)] == ["no", "unsure"]
    np.testing.assert_array_equal(answers["unsure"], [False, True])
    fitted.save(tmp_path)
    assert Calibration.load(tmp_path) == fitted
    path = tmp_path / "calibration.json"
    path.write_text('{"temperature": 2.0}')
    assert Calibration.load(tmp_path).thresholds == (), "as it was written before there was one"
    for broken in ('{"temperature": 0}', '{"thresholds": [Infinity]}'):
        path.write_text(broken)
        with pytest.raises(Corrupt):
            Calibration.load(tmp_path)


def test_what_cannot_be_calibrated_is_refused():
    for logits, truth in (
        (np.zeros((0, 2)), np.zeros(0, dtype=int)),
        (np.zeros((3, 2)), np.zeros(2, dtype=int)),
        (np.full((3, 2), np.nan), np.zeros(3, dtype=int)),
    ):
        with pytest.raises(BadInput):
            fit(TWO, logits, truth)
    with pytest.raises(BadInput, match="between 0 and 1"):
        fit(TWO, np.zeros((3, 2)), np.zeros(3, dtype=int), risk=0.0)


def test_no_probability_is_below_the_floor_that_bounds_the_loss():
    logits = np.array([[60.0, 0.0, 0.0], [0.0, 60.0, 0.0]] * 50)
    truth = np.array([0, 1] * 49 + [2, 2])
    fitted = fit(THREE, logits, truth)
    assert fitted.smoothing == 1 / 101
    answers = fitted.apply(THREE, Answers({"logits": logits}))
    p, (floor,) = answers["probabilities"], set(answers["floor"])
    assert floor == pytest.approx(1 / 303)
    assert p.min() >= floor
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_array_equal(p.argmax(1), logits.argmax(1))
    rows = pa.table({"label": [THREE.labels[place] for place in truth]})
    largest = THREE.measures(rows, answers).losses["log_loss"].largest
    assert largest == largest_log_loss(floor)
    assert log_losses(truth, p).max() <= largest <= np.log(303) + 1e-12
    plain = Calibration().apply(THREE, Answers({"logits": logits}))
    assert plain["probabilities"].max() == pytest.approx(1, abs=1e-15)
    loss = THREE.measures(rows, plain).losses["log_loss"]
    assert loss.largest == pytest.approx(34.54, abs=0.01)


def test_an_early_error_does_not_end_the_search_for_a_threshold() -> None:
    """One row that is wrong with certainty stands above every threshold."""
    rng = np.random.default_rng(0)
    confidence = np.sort(rng.uniform(0.5, 1.0, 400))[::-1]
    wrong = np.zeros(400, bool)
    wrong[0] = True
    assert fit_threshold(confidence, wrong, 0.1, 0.9) == 0.0


def test_the_risk_is_kept_as_often_as_promised() -> None:
    """Confidence that says nothing, and an error rate just above the risk."""
    rng = np.random.default_rng(1)
    unsafe = sum(
        fit_threshold(rng.uniform(size=300), rng.uniform(size=300) < 0.105, 0.1, 0.9) < 2
        for _ in range(300)
    )
    assert unsafe <= 0.1 * 300 + 3 * np.sqrt(300 * 0.09)
