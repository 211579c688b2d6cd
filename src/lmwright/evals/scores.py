"""Every score of a classifier on a set of rows, by name, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmwright.metrics import calibration_error as ce
from lmwright.metrics import classification as c
from lmwright.metrics.intervals import (
    Interval,
    bootstrap_draws,
    draw_weights,
    mean_interval,
    quantiles,
    wilson,
)

LOWER_IS_BETTER = ("log_loss", "brier", "calibration_error")


def score(
    truth: np.ndarray,
    probabilities: np.ndarray,
    unsure: np.ndarray,
    labels: Sequence[str],
    draws: int,
    rng: np.random.Generator,
    level: float = 0.95,
    floor: float = 0.0,
) -> dict[str, Any]:
    """Intervals by name (``accuracy``, ``log_loss``, ``f1.LABEL`` …) and the confusion table.

    ``truth`` (n,) ids, ``probabilities`` (n, k) from ``floor`` on, ``unsure`` (n,). Shares of
    rows (accuracy, recall, precision, coverage, accuracy among the answered) have Wilson's
    interval, log-loss and Brier score that of the mean of bounded values, the calibration error
    one from a bootstrap round its plug-in value, all others the percentile bootstrap over rows.
    """
    points = estimates(truth, probabilities, unsure, labels)
    found = _bootstrapped(truth, probabilities, labels, points, draws, rng, level)
    found |= _shares(truth, probabilities, unsure, labels, level)
    found |= _means(truth, probabilities, floor, level)
    found["calibration_error"] = _calibration(truth, probabilities, draws, rng, level)
    table = c.confusion(truth, probabilities.argmax(1), len(labels))
    return {
        "rows": len(truth),
        "metrics": {name: found[name].to_json() for name in sorted(found)},
        "confusion": table.astype(int).tolist(),
        "plain_calibration_error": ce.plain_error(*_confidence(truth, probabilities)),
    }


def estimates(
    truth: np.ndarray, probabilities: np.ndarray, unsure: np.ndarray, labels: Sequence[str]
) -> dict[str, float]:
    """Every score's value by name, without intervals; NaN where it has none."""
    names, values = _values(truth, probabilities, labels, np.ones((1, len(truth))))
    found = dict(zip(names, values[0].tolist(), strict=True))
    right = probabilities.argmax(1) == truth
    found["calibration_error"] = ce.debiased_error(*_confidence(truth, probabilities))
    found["coverage"] = float((~unsure).mean())
    found["accuracy_answered"] = float(right[~unsure].mean()) if (~unsure).any() else np.nan
    return found


def _values(
    truth: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], weights: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Names (m,) and values (draws, m) under ``weights`` (draws, n)."""
    table = c.confusion(truth, probabilities.argmax(1), len(labels), weights)
    if len(labels) == 2:  # the two areas are one and the same
        area = c.roc_auc(truth == 1, probabilities[:, 1], weights)
        areas = np.stack([area, area], axis=-1)
    else:
        areas = c.roc_aucs(truth, probabilities, weights)
    per_class = {"precision": c.precision(table), "recall": c.recall(table)}
    per_class |= {"f1": c.f1(table), "roc_auc": areas}
    columns = {
        "accuracy": c.accuracy(table),
        "micro_f1": c.micro_f1(table),
        "log_loss": c.mean(c.log_losses(truth, probabilities), weights),
        "brier": c.mean(c.brier_scores(truth, probabilities), weights),
    }
    for name, values in per_class.items():
        columns[f"macro_{name}"] = c.macro(values)
        columns |= {f"{name}.{label}": values[:, k] for k, label in enumerate(labels)}
    return list(columns), np.stack(list(columns.values()), axis=1)


def _bootstrapped(
    truth: np.ndarray,
    probabilities: np.ndarray,
    labels: Sequence[str],
    points: dict[str, float],
    draws: int,
    rng: np.random.Generator,
    level: float,
) -> dict[str, Interval]:
    names: list[str] = []
    parts = []
    for weights in draw_weights(len(truth), draws, rng):
        names, values = _values(truth, probabilities, labels, weights)
        parts.append(values)
    low, high = quantiles(np.concatenate(parts), np.array([0.5 - level / 2, 0.5 + level / 2]))
    return {
        name: Interval(points[name], float(low[m]), float(high[m]), level)
        for m, name in enumerate(names)
    }


def _shares(
    truth: np.ndarray,
    probabilities: np.ndarray,
    unsure: np.ndarray,
    labels: Sequence[str],
    level: float,
) -> dict[str, Interval]:
    chosen = probabilities.argmax(1)
    right, answered = chosen == truth, ~unsure
    found = {
        "accuracy": wilson(right.sum(), len(right), level),
        "micro_f1": wilson(right.sum(), len(right), level),
        "coverage": wilson(answered.sum(), len(answered), level),
        "accuracy_answered": wilson((right & answered).sum(), answered.sum(), level),
    }
    for k, label in enumerate(labels):
        hits = int((right & (truth == k)).sum())
        found[f"recall.{label}"] = wilson(hits, int((truth == k).sum()), level)
        if (chosen == k).any():
            found[f"precision.{label}"] = wilson(hits, int((chosen == k).sum()), level)
    return found


def _means(
    truth: np.ndarray, probabilities: np.ndarray, floor: float, level: float
) -> dict[str, Interval]:
    losses = c.log_losses(truth, probabilities)
    return {
        "log_loss": mean_interval(losses, 0.0, c.largest_log_loss(floor), level),
        "brier": mean_interval(c.brier_scores(truth, probabilities), 0.0, 2.0, level),
    }


def _calibration(
    truth: np.ndarray,
    probabilities: np.ndarray,
    draws: int,
    rng: np.random.Generator,
    level: float,
) -> Interval:
    """The basic (reversed) bootstrap on the squared scale, where the estimate is unbiased.

    A resample comes from a world whose true squared error is the plug-in value, so what is read
    off is how far estimates fall from it.
    """
    pair = _confidence(truth, probabilities)
    values = bootstrap_draws(lambda w: ce.debiased_square(*pair, w), len(truth), draws, rng)
    low, high = quantiles(values, np.array([0.5 - level / 2, 0.5 + level / 2]))
    square, centre = float(ce.debiased_square(*pair)), ce.plug_in_square(*pair)
    bounds = [square - (high - centre), square - (low - centre)]
    middle, low, high = (float(np.sqrt(max(0.0, value))) for value in (square, *bounds))
    return Interval(middle, low, high, level)


def _confidence(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return probabilities.max(1), probabilities.argmax(1) == truth
