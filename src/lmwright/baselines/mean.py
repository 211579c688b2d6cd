"""The baseline of numbers: the mean of the training rows, whatever the text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lmwright.baselines.words import Words, words_in
from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.task import Answers, Task, task_to_json


class Mean:
    """Answers every row with the mean of the training rows' numbers, which the task knows."""

    kind: ClassVar[str] = "mean"

    def __init__(self, task: Task) -> None:
        self.task = task

    @classmethod
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Mean:
        """Nothing is learnt beyond what was fitted to the task."""
        return cls(task)

    def facts(self) -> dict[str, Any]:
        """None."""
        return {}

    def prepare(self, rows: Sequence[Row]) -> list[Words]:
        """Each text's words."""
        return [words_in(self.task.text(row)) for row in rows]

    def answers(self, batch: Sequence[Words]) -> Answers:
        """Standardised outputs (n, 1) of 0."""
        return Answers({"logits": np.zeros((len(batch), 1))})

    def save(self, folder: Path) -> None:
        """Write ``model.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / DESCRIPTION, {"kind": self.kind, "task": task_to_json(self.task)})

    @classmethod
    def load(cls, folder: Path, task: Task) -> Mean:
        """The baseline."""
        return cls(task)
