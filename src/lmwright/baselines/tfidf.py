"""The TF-IDF baseline of labels: words and word pairs, with logistic regression."""

from __future__ import annotations

from typing import ClassVar, cast

import numpy as np
import pyarrow as pa
from scipy import sparse

from lmwright.baselines.linear_terms import LinearTerms
from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.core.task import LabelTask, Task

STRENGTHS = (1.0, 3.0, 10.0, 30.0)
FOLDS = 3
ROWS_FOR_CHOICE = 5000


class Tfidf(LinearTerms):
    """Logits of the labels; one of them is right."""

    kind: ClassVar[str] = "tfidf"

    @classmethod
    def outputs(cls, task: Task) -> int:
        """A logit a label."""
        return len(cast(LabelTask, task).labels)

    @classmethod
    def learn(
        cls, task: Task, rows: pa.Table, x: sparse.csr_matrix, seed: int
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """The strength C is chosen by cross-validated log-loss on these rows.

        The choice is made on at most ``ROWS_FOR_CHOICE`` rows, the final fit on all of them.
        """
        labelled = cast(LabelTask, task)
        y = labelled.codes(rows)
        if len(np.unique(y)) < 2:
            raise BadInput(f"{len(y)} rows with {len(np.unique(y))} labels", "rows of two labels")
        strength = choose_strength(x, y, seed)
        return *regress(x, y, strength, len(labelled.labels)), strength


def choose_strength(x: sparse.csr_matrix, y: np.ndarray, seed: int) -> float:
    """The C with the least log-loss over stratified folds; a middle one where rows are too few."""
    from sklearn.model_selection import StratifiedKFold

    rows = np.sort(stream(seed, "tfidf", "rows").permutation(len(y))[:ROWS_FOR_CHOICE])
    x, y = x[rows], y[rows]
    seen, numbers = np.unique(y, return_inverse=True)
    folds = min(FOLDS, int(np.bincount(numbers).min()))
    if folds < 2:
        return STRENGTHS[1]
    order = stream(seed, "tfidf", "folds").permutation(len(y))
    x, numbers = x[order], numbers[order]
    losses = np.zeros(len(STRENGTHS))
    for train, held in StratifiedKFold(folds).split(x, numbers):
        for i, strength in enumerate(STRENGTHS):
            coef, intercept = regress(x[train], numbers[train], strength, len(seen))
            z = np.asarray(x[held] @ coef.T) + intercept
            z -= z.max(1, keepdims=True)
            chosen = z[np.arange(len(held)), numbers[held]]
            losses[i] += np.sum(np.log(np.exp(z).sum(1)) - chosen)
    return STRENGTHS[int(losses.argmin())]


def regress(
    x: sparse.csr_matrix, y: np.ndarray, strength: float, labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (k, V) and intercepts (k,) of a ridge-penalised multinomial regression.

    A label without rows gets an intercept as if it had occurred once in all rows and one more.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=strength, max_iter=2000).fit(x, y)
    coef, intercept = np.zeros((labels, x.shape[1])), np.zeros(labels)
    if len(fitted.classes_) == 2:
        coef[fitted.classes_[1]] = fitted.coef_[0]
        intercept[fitted.classes_[1]] = fitted.intercept_[0]
    else:
        coef[fitted.classes_], intercept[fitted.classes_] = fitted.coef_, fitted.intercept_
    absent = np.setdiff1d(np.arange(labels), fitted.classes_)
    intercept[absent] = intercept[fitted.classes_].min() - np.log(len(y) + 1)
    return coef, intercept
