"""Two baselines: the shares of the labels whatever the text, and one-versus-rest on words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from stranger_tasks.labels import LabelTree

from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, Task, task_to_json
from lmwright.models.text_model import Tokens


class Frequent:
    """Every label's share of the training rows."""

    kind = "stranger-frequent"

    def __init__(self, task: Task, logits: Sequence[float]) -> None:
        self.task, self.logits = task, np.array(logits)

    @classmethod
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Frequent:
        shares = np.stack([each.mean(0) for each in cast(LabelTree, task).judged(rows)]).mean(0)
        shares = np.clip(shares, 1e-3, 1 - 1e-3)
        return cls(task, (np.log(shares) - np.log1p(-shares)).tolist())

    def facts(self) -> dict[str, Any]:
        return {}

    def prepare(self, rows: Sequence[Row]) -> list[Tokens]:
        return [Tokens(np.zeros(1, np.int64)) for _ in rows]

    def answers(self, batch: Sequence[Tokens]) -> Answers:
        return Answers({"logits": np.tile(self.logits, (len(batch), 1))})

    def save(self, folder: Path) -> None:
        described = {"kind": self.kind, "task": task_to_json(self.task)}
        write_json(folder / DESCRIPTION, {**described, "logits": self.logits.tolist()})

    @classmethod
    def load(cls, folder: Path, task: Task) -> Frequent:
        return cls(task, cast(Any, read_json_object(folder / DESCRIPTION)["logits"]))


class Words:
    """Logistic regression of each label on the TF-IDF of words."""

    kind = "stranger-words"

    def __init__(self, task: Task, terms: dict[str, int], idf: Any, coef: Any, bias: Any) -> None:
        self.task, self.terms = task, terms
        self.idf, self.coef, self.bias = (np.array(each) for each in (idf, coef, bias))
        self.words = TfidfVectorizer(vocabulary=terms, sublinear_tf=True)
        self.words.idf_ = self.idf

    @classmethod
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Words:
        words = TfidfVectorizer(sublinear_tf=True, min_df=2)
        x = words.fit_transform([task.text(row) for row in rows.to_pylist()])
        truth = np.stack([each.mean(0) for each in cast(LabelTree, task).judged(rows)]) >= 0.5
        coef, bias = np.zeros((truth.shape[1], x.shape[1])), np.full(truth.shape[1], -6.0)
        for place in np.flatnonzero(truth.any(0) & ~truth.all(0)):
            found = LogisticRegression(C=10.0, max_iter=500).fit(x, truth[:, place])
            coef[place], bias[place] = found.coef_[0], found.intercept_[0]
        terms = {term: int(place) for term, place in sorted(words.vocabulary_.items())}
        return cls(task, terms, words.idf_, coef, bias)

    def facts(self) -> dict[str, Any]:
        return {"terms": len(self.terms)}

    def prepare(self, rows: Sequence[Row]) -> list[Any]:
        return [Text(self.task.text(row), self.terms) for row in rows]

    def answers(self, batch: Sequence[Any]) -> Answers:
        x = self.words.transform([item.text for item in batch])
        return Answers({"logits": np.asarray(x @ self.coef.T) + self.bias})

    def save(self, folder: Path) -> None:
        arrays = {"idf": self.idf, "coef": self.coef, "bias": self.bias}
        described = {"kind": self.kind, "task": task_to_json(self.task), "terms": self.terms}
        write_json(
            folder / DESCRIPTION, described | {name: x.tolist() for name, x in arrays.items()}
        )

    @classmethod
    def load(cls, folder: Path, task: Task) -> Words:
        found: Any = read_json_object(folder / DESCRIPTION)
        return cls(task, *(found[name] for name in ("terms", "idf", "coef", "bias")))


class Text:
    """A text, and its known words by their places."""

    def __init__(self, text: str, terms: dict[str, int]) -> None:
        known = [terms[word] for word in text.lower().split() if word in terms]
        self.text, self.ids = text, np.array(known or [len(terms)])

    @property
    def cost(self) -> int:
        return len(self.ids)
