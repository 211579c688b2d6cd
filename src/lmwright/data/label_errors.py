"""Labels that are probably wrong: what a cheap cross-fitted model contradicts with confidence.

Northcutt, Jiang, Chuang 2021, *Confident Learning*, equations 1 to 2: the threshold of a class
is the mean out-of-fold probability of that class among the rows that carry its label; a row
whose probability for another class reaches that class's threshold, and is the highest of those
that do, counts as that class in the confident joint. Suspects are the rows off its diagonal,
ranked by normalised margin.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CHARACTERS = 1500
"""Of each text, so many characters are read: enough to contradict a label, and bounded."""


@dataclass(frozen=True)
class LabelErrors:
    """What the cross-fitted model says.

    ``probability``  out-of-fold probabilities, float64 (rows, classes).
    ``rows``         suspected rows, the worst first.
    ``margin``       probability of the given label minus the best other one, for all rows.
    ``better``       the class that each row looks like, for all rows.
    """

    probability: np.ndarray
    rows: np.ndarray
    margin: np.ndarray
    better: np.ndarray


def find_label_errors(
    texts: Sequence[str], labels: np.ndarray, folds: np.ndarray, classes: int
) -> LabelErrors:
    """Suspected label errors among ``texts`` with class numbers ``labels`` (rows,).

    ``folds`` (rows,) says which rows are predicted together by a model trained on the rest;
    near duplicates belong into one fold. A class that a training part lacks gets probability 0.
    """
    probability = cross_fit(texts, labels, folds, classes)
    thresholds = np.array(
        [probability[labels == c, c].mean() if (labels == c).any() else 1.0 for c in range(classes)]
    )
    rows = np.arange(len(labels))
    confident = np.where(probability >= thresholds, probability, -1.0)
    counted = np.where(confident.max(1) < 0, labels, confident.argmax(1))
    others = probability.copy()
    others[rows, labels] = -1.0
    margin = probability[rows, labels] - others.max(1)
    suspected = np.flatnonzero((counted != labels) & (margin < 0))
    worst = suspected[np.argsort(margin[suspected], kind="stable")]
    return LabelErrors(probability, worst, margin, others.argmax(1))


def cross_fit(
    texts: Sequence[str], labels: np.ndarray, folds: np.ndarray, classes: int
) -> np.ndarray:
    """Out-of-fold probabilities of TF-IDF with logistic regression: float64 (rows, classes).

    Words and pairs of words; what occurs in one row only cannot help another and is left out.
    The columns are fewer where classes are many, so that memory stays below 300 MB.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # One thread: the sums are short, and their order must not depend on the machine's cores.
    width = min(1 << 18, (1 << 20) // classes)
    counts = HashingVectorizer(
        n_features=width, ngram_range=(1, 2), alternate_sign=False, norm=None, dtype=np.float32
    ).transform([text[:CHARACTERS] for text in texts])
    counts = counts[:, counts.getnnz(axis=0) >= min(2, len(texts))]
    features = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    probability = np.zeros((len(labels), classes))
    for fold in np.unique(folds):
        inside = folds == fold
        seen = np.unique(labels[~inside])
        if len(seen) == 1:
            probability[np.ix_(inside, seen)] = 1.0
        if len(seen) < 2:
            continue
        model = LogisticRegression(C=4.0, tol=1e-3, max_iter=60)
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features[~inside], labels[~inside])
        probability[np.ix_(inside, seen)] = model.predict_proba(features[inside])
    return probability
