"""The baseline of summaries: how a text begins, as long as summaries usually are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lmwright.baselines.words import Words, words_in
from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.errors import Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, Task, role_columns, task_to_json


class Lead:
    """The first words of a text; as many as the middle one of the training rows' targets has."""

    kind: ClassVar[str] = "lead"

    def __init__(self, task: Task, count: int) -> None:
        self.task, self.count = task, count

    @classmethod
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Lead:
        """Take the median length of the targets."""
        counts = [len(task.target(row).split()) for row in rows.to_pylist()]
        return cls(task, max(1, int(np.median(counts))))

    def facts(self) -> dict[str, Any]:
        """The number of words."""
        return {"words": self.count}

    def prepare(self, rows: Sequence[Row]) -> list[Words]:
        """Each text's words."""
        return [words_in(self.task.text(row)) for row in rows]

    def answers(self, batch: Sequence[Words]) -> Answers:
        """The beginnings."""
        (column, *_) = role_columns(self.task, "answer")
        return Answers({column.name: [" ".join(each.text.split()[: self.count]) for each in batch]})

    def save(self, folder: Path) -> None:
        """Write ``model.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / DESCRIPTION,
            {"kind": self.kind, "task": task_to_json(self.task), "words": self.count},
        )

    @classmethod
    def load(cls, folder: Path, task: Task) -> Lead:
        """The baseline that :meth:`save` wrote; Corrupt if it is not whole."""
        count = read_json_object(folder / DESCRIPTION).get("words")
        if not isinstance(count, int) or count < 1:
            raise Corrupt(f"{folder / DESCRIPTION}: words is {count!r}", "a number from 1")
        return cls(task, count)
