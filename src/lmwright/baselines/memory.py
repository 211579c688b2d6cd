"""The baseline that remembers: the target of the training row whose text is most like a row's.

For translation it is a translation memory. Likeness is the cosine of TF-IDF vectors of words; only
rows with the same other inputs (languages, a prefix) are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from sklearn.feature_extraction.text import TfidfVectorizer

from lmwright.baselines.words import Words, words_in
from lmwright.core.columns import Row, canonical
from lmwright.core.durable import write_json
from lmwright.core.errors import Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, Task, role_columns, task_to_json

FILE = "memory.json"


@dataclass(frozen=True)
class Asked:
    """A text with the row's other inputs as one key."""

    words: Words
    others: str

    @property
    def ids(self) -> np.ndarray:
        """Hashes of its words."""
        return self.words.ids

    @property
    def cost(self) -> int:
        """Number of words."""
        return self.words.cost


class Memory:
    """The texts, other inputs and targets of the training rows, one after another."""

    kind: ClassVar[str] = "memory"

    def __init__(
        self, task: Task, texts: Sequence[str], others: Sequence[str], targets: Sequence[str]
    ) -> None:
        self.task = task
        self.texts, self.others, self.targets = list(texts), list(others), list(targets)

    @classmethod
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Memory:
        """Remember the rows."""
        found = rows.to_pylist()
        return cls(
            task,
            [task.text(row) for row in found],
            [others_of(task, row) for row in found],
            [task.target(row) for row in found],
        )

    def facts(self) -> dict[str, Any]:
        """The number of rows."""
        return {"rows": len(self.texts)}

    @cached_property
    def index(self) -> tuple[TfidfVectorizer, Any]:
        """The vectorizer, and the vectors of the texts at length 1 (rows, terms)."""
        vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"[^\W_]+")
        try:
            return vectorizer, vectorizer.fit_transform(self.texts)
        except ValueError:  # texts without any word
            vectorizer = TfidfVectorizer(analyzer="char")
            return vectorizer, vectorizer.fit_transform(self.texts)

    def prepare(self, rows: Sequence[Row]) -> list[Asked]:
        """Each text's words, and the row's other inputs."""
        return [Asked(words_in(self.task.text(row)), others_of(self.task, row)) for row in rows]

    def answers(self, batch: Sequence[Asked]) -> Answers:
        """The targets of the nearest rows, of equally near ones the first; "" where none is of the
        same kind."""
        vectorizer, known = self.index
        like = vectorizer.transform([each.words.text for each in batch]) @ known.T
        others, found = np.array(self.others), []
        for place, each in enumerate(batch):
            same = np.flatnonzero(others == each.others)
            row = like[place].toarray()[0, same]
            found.append(self.targets[same[row.argmax()]] if len(same) else "")
        (column, *_) = role_columns(self.task, "answer")
        return Answers({column.name: found})

    def save(self, folder: Path) -> None:
        """Write ``model.json`` and ``memory.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / DESCRIPTION, {"kind": self.kind, "task": task_to_json(self.task)})
        kept = {"texts": self.texts, "others": self.others, "targets": self.targets}
        write_json(folder / FILE, kept)

    @classmethod
    def load(cls, folder: Path, task: Task) -> Memory:
        """The baseline that :meth:`save` wrote; Corrupt if it is not whole."""
        kept = read_json_object(folder / FILE)
        lists = [kept.get(name) for name in ("texts", "others", "targets")]
        right = all(
            isinstance(each, list) and all(isinstance(one, str) for one in each) for each in lists
        )
        if not right or len({len(each or ()) for each in lists}) != 1 or not lists[0]:
            raise Corrupt(f"{folder / FILE} is not whole", "texts, others and targets of rows")
        return cls(task, *(each or () for each in lists))


def others_of(task: Task, row: Row) -> str:
    """A row's inputs that are no free texts, as one key."""
    columns = [column for column in role_columns(task, "input") if not column.free]
    return canonical([row.get(column.name, column.default) for column in columns])
