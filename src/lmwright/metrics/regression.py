"""Scores of predicted numbers under weights, so that the bootstrap can draw rows."""

from __future__ import annotations

import numpy as np


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means (draws,) of values (n,)."""
    return (weights @ values) / weights.sum(-1)


def pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Correlations (draws,) of x and y, each (n,) or (draws, n); 0 where one is constant."""
    total = weights.sum(-1, keepdims=True)
    a, b = (each - (weights * each).sum(-1, keepdims=True) / total for each in (x, y))
    both = (weights * a * b).sum(-1)
    spread = np.sqrt((weights * a * a).sum(-1) * (weights * b * b).sum(-1))
    return np.divide(both, spread, out=np.zeros_like(both), where=spread > 1e-12)


def ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean ranks (draws, n) of values (n,) of which each counts as often as its weight says."""
    kinds, place = np.unique(values, return_inverse=True)
    counts = np.zeros((len(weights), len(kinds)))
    for draw, row in enumerate(weights):
        counts[draw] = np.bincount(place, row, len(kinds))
    upto = np.cumsum(counts, axis=1)
    return (upto - (counts - 1) / 2)[:, place]


def spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's rank correlations (draws,), ties with mean ranks."""
    return pearson(ranks(x, weights), ranks(y, weights), weights)


def r_squared(truth: np.ndarray, found: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Shares of the variance (draws,) that are explained; 0 where there is none to explain."""
    centre = mean(truth, weights)[:, None]
    whole = (weights * (truth - centre) ** 2).sum(-1)
    left = weights @ (truth - found) ** 2
    return np.where(whole > 1e-12, 1 - left / np.where(whole > 1e-12, whole, 1), 0.0)


def weighted_kappa(
    truth: np.ndarray, found: np.ndarray, levels: int, weights: np.ndarray
) -> np.ndarray:
    """Quadratically weighted kappas (draws,) of codes below ``levels`` (Cohen 1968)."""
    cost = (np.subtract.outer(np.arange(levels), np.arange(levels)) / max(levels - 1, 1)) ** 2
    kappas = np.zeros(len(weights))
    for draw, row in enumerate(weights):
        table = np.bincount(truth * levels + found, row, levels**2).reshape(levels, levels)
        chance = np.outer(table.sum(1), table.sum(0)) / max(table.sum(), 1e-12)
        below = (cost * chance).sum()
        kappas[draw] = 1 - (cost * table).sum() / below if below > 0 else 0.0
    return kappas


def conformal_quantile(residuals: np.ndarray, level: float) -> float:
    """The half-width that covers a new row with probability ``level`` (split conformal prediction,
    Lei et al. 2018, algorithm 2): the ceil((n + 1) · level)-th smallest residual; infinite for too
    few rows."""
    rank = int(np.ceil((len(residuals) + 1) * level))
    return float(np.sort(residuals)[rank - 1]) if rank <= len(residuals) else float("inf")
