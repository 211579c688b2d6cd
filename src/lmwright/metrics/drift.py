"""How far apart two samples are: lengths, confidences, labels, vocabulary, embeddings.

Pure statistics, without a verdict; ``detectors`` knows how large each is by chance alone.
"""

from __future__ import annotations

import numpy as np
from scipy.special import rel_entr


def ks_distance(reference: np.ndarray, window: np.ndarray) -> float:
    """Kolmogorov and Smirnov's D: the largest gap between the two distribution functions, 0 to 1.

    Ties are handled exactly: the gap is looked at only after all equal values.
    """
    points = np.unique(np.concatenate([reference, window]))
    first = np.searchsorted(np.sort(reference), points, side="right") / len(reference)
    second = np.searchsorted(np.sort(window), points, side="right") / len(window)
    return float(np.abs(first - second).max())


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Divergence in bits, 0 (same) to 1 (disjoint), between counts or shares (..., k).

    JS(P, Q) = ½·KL(P‖M) + ½·KL(Q‖M) with M = ½(P + Q); Lin 1991, eq. 3.5. Finite whatever is
    unseen on one side. An empty side gives 0: nothing was seen that differs.
    """
    p, q = _shares(p), _shares(q)
    middle = (p + q) / 2
    bits = (rel_entr(p, middle) + rel_entr(q, middle)).sum(-1) / (2 * np.log(2))
    known = (p.sum(-1) > 0) & (q.sum(-1) > 0)
    return np.where(known, np.maximum(bits, 0.0), 0.0)


def population_stability(reference: np.ndarray, window: np.ndarray) -> float:
    """PSI of two count vectors (k,): Σ (q−p)·ln(q/p), half a count added to every cell.

    Customary reading: below 0.1 little, above 0.25 much (Siddiqi 2006); ``detectors`` uses
    Jensen and Shannon's measure instead, which needs no added half count.
    """
    p = (np.asarray(reference) + 0.5) / (np.sum(reference) + 0.5 * len(reference))
    q = (np.asarray(window) + 0.5) / (np.sum(window) + 0.5 * len(window))
    return float(((q - p) * np.log(q / p)).sum())


def shrunk_precision(sample: np.ndarray) -> np.ndarray:
    """Inverse covariance (d, d) of ``sample`` (n, d), the covariance shrunk to its mean variance.

    Σ = (1−s)·S + s·(tr S/d)·I with Ledoit and Wolf's s (2004, eq. 14), so that it inverts even
    where n is near d. A constant sample gives zeros: no distance can be told.
    """
    n, d = sample.shape
    centred = sample - sample.mean(0)
    covariance = centred.T @ centred / n
    scale = np.trace(covariance) / d
    if scale <= 0:
        return np.zeros((d, d))
    spread = np.square(covariance - scale * np.eye(d)).sum()
    fourth = np.square(np.square(centred).sum(1)).sum() / n - np.square(covariance).sum()
    shrink = 1.0 if spread <= 0 else min(1.0, max(0.0, fourth / n / spread))
    shrunk = (1 - shrink) * covariance + shrink * scale * np.eye(d)
    return np.linalg.inv(shrunk + 1e-12 * scale * np.eye(d))


def mean_shift(
    reference_mean: np.ndarray, window_mean: np.ndarray, precision: np.ndarray
) -> np.ndarray:
    """Mahalanobis distance between means (..., d): in standard deviations of one row.

    Hotelling's T² (1931) is this, squared, times the number of rows (harmonic, of both sides).
    """
    gap = window_mean - reference_mean
    return np.sqrt(np.maximum(np.einsum("...i,ij,...j->...", gap, precision, gap), 0.0))


def _shares(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum(-1, keepdims=True)
    return counts / np.where(total > 0, total, 1.0)
