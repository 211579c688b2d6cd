"""The baseline of texts that are written: the most frequent target, whatever is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from lmwright.baselines.words import Words, words_in
from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.errors import Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, Task, role_columns, task_to_json


class Commonest:
    """Answers each row with the target that most training rows have."""

    kind: ClassVar[str] = "commonest"

    def __init__(self, task: Task, target: str, rows: int) -> None:
        self.task, self.target, self.rows = task, target, rows

    @classmethod
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Commonest:
        """Count the targets, without the white space round them; of equally frequent ones the
        first in the alphabet."""
        counts = Counter(task.target(row).strip() for row in rows.to_pylist())
        target = min(counts, key=lambda text: (-counts[text], text))
        return cls(task, target, counts[target])

    def facts(self) -> dict[str, Any]:
        """The target, and how many rows have it."""
        return {"target": self.target, "rows": self.rows}

    def prepare(self, rows: Sequence[Row]) -> list[Words]:
        """Each text's words."""
        return [words_in(self.task.text(row)) for row in rows]

    def answers(self, batch: Sequence[Words]) -> Answers:
        """The same text for all."""
        (column, *_) = role_columns(self.task, "answer")
        return Answers({column.name: [self.target] * len(batch)})

    def save(self, folder: Path) -> None:
        """Write ``model.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        said = {"task": task_to_json(self.task), "target": self.target, "rows": self.rows}
        write_json(folder / DESCRIPTION, {"kind": self.kind, **said})

    @classmethod
    def load(cls, folder: Path, task: Task) -> Commonest:
        """The baseline in a folder that :meth:`save` wrote; Corrupt where it has no target."""
        said = read_json_object(folder / DESCRIPTION)
        target, rows = said.get("target"), said.get("rows")
        if not isinstance(target, str) or not isinstance(rows, int):
            raise Corrupt(f"{folder / DESCRIPTION}: the target is {target!r}", "a text, and rows")
        return cls(task, target, rows)
