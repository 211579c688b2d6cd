"""The baseline of texts that are written for others: the text itself, unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from lmwright.baselines.words import Words, words_in
from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.task import Answers, Task, role_columns, task_to_json


class Same:
    """Answers each row with its own text."""

    kind: ClassVar[str] = "same"

    def __init__(self, task: Task) -> None:
        self.task = task

    @classmethod
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Same:
        """Nothing is learnt."""
        return cls(task)

    def facts(self) -> dict[str, Any]:
        """None."""
        return {}

    def prepare(self, rows: Sequence[Row]) -> list[Words]:
        """Each text's words."""
        return [words_in(self.task.text(row)) for row in rows]

    def answers(self, batch: Sequence[Words]) -> Answers:
        """The texts."""
        (column, *_) = role_columns(self.task, "answer")
        return Answers({column.name: [each.text for each in batch]})

    def save(self, folder: Path) -> None:
        """Write ``model.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / DESCRIPTION, {"kind": self.kind, "task": task_to_json(self.task)})

    @classmethod
    def load(cls, folder: Path, task: Task) -> Same:
        """The baseline."""
        return cls(task)
