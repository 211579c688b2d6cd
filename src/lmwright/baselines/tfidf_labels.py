"""The TF-IDF baseline of several labels a text: one logistic regression a label."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
from scipy import sparse

from lmwright.baselines.linear_terms import LinearTerms
from lmwright.core.task import Task

STRENGTH = 10.0


class TfidfLabels(LinearTerms):
    """A logit of each label, which are independent of one another."""

    kind: ClassVar[str] = "tfidf-labels"

    @classmethod
    def outputs(cls, task: Task) -> int:
        """A logit a label."""
        return len(cast(Any, task).labels)

    @classmethod
    def learn(
        cls, task: Task, rows: pa.Table, x: sparse.csr_matrix, seed: int
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """A label that no row or every row has gets its smoothed frequency alone."""
        from sklearn.linear_model import LogisticRegression

        table = cast(Any, task).table(rows)
        coef, intercept = np.zeros((table.shape[1], x.shape[1])), np.zeros(table.shape[1])
        for place, column in enumerate(table.T):
            count = column.sum()
            if 0 < count < len(column):
                fitted = LogisticRegression(C=STRENGTH, max_iter=1000).fit(x, column)
                coef[place], intercept[place] = fitted.coef_[0], fitted.intercept_[0]
            else:
                intercept[place] = np.log((count + 1) / (len(column) - count + 1))
        return coef, intercept, STRENGTH
