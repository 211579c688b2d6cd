"""The baseline of several labels a text: how frequent each label is, whatever the text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa

from lmwright.baselines.words import Words, words_in
from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.errors import Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, Task, task_to_json


class Frequent:
    """Gives every text the share of the training rows that have each label."""

    kind: ClassVar[str] = "frequent"

    def __init__(self, task: Task, shares: Sequence[float]) -> None:
        self.task, self.shares = task, np.array(shares, dtype=np.float64)

    @classmethod
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Frequent:
        """Count the labels; one row more has each of them half (Krichevsky and Trofimov 1981)."""
        table = cast(Any, task).table(rows)
        return cls(task, ((table.sum(0) + 0.5) / (len(table) + 1)).tolist())

    def facts(self) -> dict[str, Any]:
        """Nothing: the shares are those of the rows."""
        return {}

    def prepare(self, rows: Sequence[Row]) -> list[Words]:
        """Each text's words."""
        return [words_in(self.task.text(row)) for row in rows]

    def answers(self, batch: Sequence[Words]) -> Answers:
        """The same logits (n, k) for every text."""
        logits = np.log(self.shares) - np.log1p(-self.shares)
        return Answers({"logits": np.tile(logits, (len(batch), 1))})

    def save(self, folder: Path) -> None:
        """Write ``model.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        described = {"task": task_to_json(self.task), "shares": self.shares.tolist()}
        write_json(folder / DESCRIPTION, {"kind": self.kind, **described})

    @classmethod
    def load(cls, folder: Path, task: Task) -> Frequent:
        """Read what :meth:`save` wrote; Corrupt if the shares are not those of the labels."""
        shares = read_json_object(folder / DESCRIPTION).get("shares")
        count = len(cast(Any, task).labels)
        whole = isinstance(shares, list) and all(
            isinstance(each, float) and 0 < each < 1 for each in shares
        )
        if not isinstance(shares, list) or not whole or len(shares) != count:
            raise Corrupt(f"{folder / DESCRIPTION}: shares are {shares!r}"[:200], f"{count} shares")
        return cls(task, shares)
