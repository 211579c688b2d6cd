"""The majority baseline: label frequencies, whatever the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.errors import Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, LabelTask, Task, task_to_json


@dataclass(frozen=True)
class UnreadText:
    """The placeholder of a text, which this baseline does not read."""

    cost: int = 1

    @property
    def ids(self) -> np.ndarray:
        """One token that is the same for all texts."""
        return np.zeros(1, dtype=np.int64)


class Majority:
    """Gives every text the shares of the labels in the training rows."""

    kind: ClassVar[str] = "majority"

    def __init__(self, task: LabelTask, counts: Sequence[int]) -> None:
        self.task: Task = task
        self.counts = tuple(int(count) for count in counts)
        # One added to each count (Laplace), so that an unseen label stays possible.
        smoothed = np.array(self.counts, dtype=np.float64) + 1
        self._logits = np.log(smoothed / (sum(counts) + len(task.labels)))

    @classmethod
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Majority:
        """Count the labels of the training rows; nothing is drawn."""
        labelled = cast(LabelTask, task)
        counts = np.bincount(labelled.codes(rows), minlength=len(labelled.labels))
        return cls(labelled, counts.tolist())

    def facts(self) -> dict[str, Any]:
        """Nothing: the counts are those of the rows."""
        return {}

    def prepare(self, rows: Sequence[Row]) -> list[UnreadText]:
        """One placeholder a row."""
        return [UnreadText() for _ in rows]

    def answers(self, batch: Sequence[UnreadText]) -> Answers:
        """The same log shares (n, k) for every text, and vectors that tell none from another."""
        logits = np.tile(self._logits, (len(batch), 1))
        return Answers({"logits": logits}, np.zeros((len(batch), 1), dtype=np.float32))

    def save(self, folder: Path) -> None:
        """Write ``model.json``."""
        description = {"task": task_to_json(self.task), "counts": list(self.counts)}
        write_json(folder / DESCRIPTION, {"kind": self.kind, **description})

    @classmethod
    def load(cls, folder: Path, task: Task) -> Majority:
        """Read what :meth:`save` wrote; Corrupt if the counts are not those of the labels."""
        labelled = cast(LabelTask, task)
        counts = read_json_object(folder / DESCRIPTION).get("counts")
        whole = isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts)
        if not isinstance(counts, list) or not whole or len(counts) != len(labelled.labels):
            wanted = f"{len(labelled.labels)} whole numbers, one a label"
            raise Corrupt(f"{folder / DESCRIPTION}: counts are {counts!r}", wanted)
        return cls(labelled, counts)
