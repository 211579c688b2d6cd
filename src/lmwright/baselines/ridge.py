"""The TF-IDF baseline of numbers: words and word pairs, with ridge regression."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
from scipy import sparse

from lmwright.baselines.linear_terms import LinearTerms
from lmwright.core.task import Task

STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)


class Ridge(LinearTerms):
    """The standardised number of a text."""

    kind: ClassVar[str] = "ridge"

    @classmethod
    def outputs(cls, task: Task) -> int:
        """One."""
        return 1

    @classmethod
    def learn(
        cls, task: Task, rows: pa.Table, x: sparse.csr_matrix, seed: int
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """The penalty is chosen by five-fold cross-validated squared error on these rows."""
        from sklearn.linear_model import Ridge as Fitted
        from sklearn.model_selection import KFold, cross_val_score

        known = cast(Any, task)
        y = (np.asarray(rows.column("label"), dtype=np.float64) - known.mean) / known.scale
        folds = KFold(min(5, len(y)), shuffle=True, random_state=seed)
        losses = [
            -cross_val_score(
                Fitted(alpha=each), x, y, cv=folds, scoring="neg_mean_squared_error"
            ).mean()
            for each in STRENGTHS
        ]
        strength = STRENGTHS[int(np.argmin(losses))]
        fitted = Fitted(alpha=strength).fit(x, y)
        return fitted.coef_[None], np.array([float(fitted.intercept_)]), strength
