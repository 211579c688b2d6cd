import numpy as np
import pytest

from lmwright.core.random import stream
from lmwright.metrics.charts import Cusum, Ewma, cusum_run_length, ewma_run_length

# Lucas and Saccucci (1990), as in Montgomery, Introduction to Statistical Quality Control,
# table 9.11: rows are shifts, columns are charts (limit, weight).
EWMA_CHARTS = ((3.054, 0.40), (2.998, 0.25), (2.962, 0.20), (2.814, 0.10), (2.615, 0.05))
EWMA_TABLE = {
    0.00: (500, 500, 500, 500, 500),
    0.25: (224, 170, 150, 106, 84.1),
    0.50: (71.2, 48.2, 41.8, 31.3, 28.8),
    0.75: (28.4, 20.1, 18.2, 15.9, 16.4),
    1.00: (14.3, 11.1, 10.5, 10.3, 11.4),
}

# Montgomery table 9.3, two-sided CUSUM with k = 0.5: shift -> (h = 4, h = 5).
CUSUM_TABLE = {
    0.00: (168, 465),
    0.25: (74.2, 139),
    0.50: (26.6, 38.0),
    0.75: (13.3, 17.0),
    1.00: (8.38, 10.4),
    1.50: (4.75, 5.75),
    2.00: (3.34, 4.01),
    3.00: (2.19, 2.57),
}


@pytest.mark.parametrize("shift", EWMA_TABLE)
def test_ewma_run_lengths_are_the_published_ones(shift):
    found = [ewma_run_length(weight, limit, shift) for limit, weight in EWMA_CHARTS]
    np.testing.assert_allclose(found, EWMA_TABLE[shift], rtol=0.012)


def test_the_common_ewma_chart_alarms_once_in_370():
    assert ewma_run_length(0.2, 2.86) == pytest.approx(370, rel=0.01)
    # With weight 1 it is Shewhart's chart: 1 / P(|x| > 3).
    assert ewma_run_length(0.999, 3.0) == pytest.approx(370.4, rel=0.01)


@pytest.mark.parametrize("shift", CUSUM_TABLE)
def test_cusum_run_lengths_are_the_published_ones(shift):
    found = [cusum_run_length(0.5, limit, shift) for limit in (4, 5)]
    np.testing.assert_allclose(found, CUSUM_TABLE[shift], rtol=0.01)


def test_the_one_sided_cusum_alarms_once_in_930():
    assert cusum_run_length(0.5, 5, two_sided=False) == pytest.approx(930, rel=0.01)


def test_the_charts_behave_as_their_equations_say_in_simulation():
    rng = stream(0, "simulated")
    for start, expected in (
        (Ewma(0.2, 2.962), ewma_run_length(0.2, 2.962, 1.0)),
        (Cusum(0.5, 5), cusum_run_length(0.5, 5, 1.0)),
    ):
        lengths = []
        for _ in range(1500):
            chart, steps = start, 0
            while not chart.alarms:
                chart, steps = chart.follow(rng.normal() + 1), steps + 1
            lengths.append(steps)
        error = np.std(lengths) / np.sqrt(len(lengths))
        assert abs(np.mean(lengths) - expected) < 4 * error
