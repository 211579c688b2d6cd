"""Scores of sets of labels under weights, and thresholds with the best F1."""

from __future__ import annotations

import numpy as np


def f1_of(both: np.ndarray, said: np.ndarray, true: np.ndarray) -> np.ndarray:
    """F1 of counts of the same shape; 0 where there is nothing to find and nothing said."""
    whole = said + true
    return np.divide(2 * both, whole, out=np.zeros_like(whole, dtype=np.float64), where=whole > 0)


def sample_f1(truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    """F1 of each row's labels (n,), of tables (n, k) of 0 and 1; 1 where both sets are empty."""
    found = f1_of((truth * said).sum(1), said.sum(1), truth.sum(1))
    return np.where((truth.sum(1) + said.sum(1)) == 0, 1.0, found)


def counts(truth: np.ndarray, said: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """For each label the weighted numbers (draws, k) of rows: ``both``, ``said`` and ``true``."""
    parts = {"both": truth * said, "said": said, "true": truth}
    return {name: weights @ table.astype(np.float64) for name, table in parts.items()}


def binary_log_losses(truth: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The mean over the labels of each row's binary log-losses (n,), in nats."""
    tiny = 1e-15
    p = np.clip(p, tiny, 1 - tiny)
    return -(truth * np.log(p) + (1 - truth) * np.log1p(-p)).mean(1)


def best_threshold(truth: np.ndarray, p: np.ndarray) -> float:
    """The threshold of p (n,) with the greatest F1 against truth (n,); of equal ones the highest.

    It lies in the middle of two probabilities that it parts (Lipton et al. 2014).
    """
    order = np.argsort(-p, kind="stable")
    hits = np.cumsum(truth[order])
    said = np.arange(1, len(p) + 1)
    # Only between two probabilities that differ can a threshold stand.
    ends = np.append(p[order][1:] < p[order][:-1], True)
    f1 = np.where(ends, 2 * hits / (said + truth.sum()), -1.0)
    best = int(f1.argmax())
    above = p[order][best]
    below = p[order][best + 1] if best + 1 < len(p) else 0.0
    return float((above + below) / 2)


def thresholds(truth: np.ndarray, p: np.ndarray, fewest: int) -> np.ndarray:
    """The best threshold of each label (k,); that of all labels together for a label that fewer
    than ``fewest`` rows have."""
    shared = best_threshold(truth.ravel(), p.ravel())
    return np.array(
        [
            best_threshold(truth[:, k], p[:, k]) if truth[:, k].sum() >= fewest else shared
            for k in range(truth.shape[1])
        ]
    )
