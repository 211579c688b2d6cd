"""A predictor: whatever answers the rows of a task, and how it is kept in a folder.

Whatever is a predictor can be evaluated, audited, promoted, served, watched and retrained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from lmwright.core.columns import Row
from lmwright.core.errors import BadInput
from lmwright.core.reading import read_json_object
from lmwright.core.recipe import Resolve
from lmwright.core.task import Answers, Prepared, Task, joined, read_task

MOST_TOKENS = 8192
"""Tokens of one batch: enough to be fast, little enough to fit and to show progress."""
DESCRIPTION = "model.json"


class Predictor(Protocol):
    """A model bound to a task. ``kind`` is its name in the table of models."""

    kind: ClassVar[str]
    task: Task

    def prepare(self, rows: Sequence[Row]) -> list[Any]:
        """Make rows ready by their input columns (clean, tokenise); cheap beside answering."""

    def answers(self, batch: Sequence[Any]) -> Answers:
        """Answers to prepared rows, uncalibrated, with vectors where the model has any."""

    def save(self, folder: Path) -> None:
        """Write the predictor into an empty folder; the same predictor gives the same bytes."""

    @classmethod
    def load(cls, folder: Path, task: Task) -> Predictor:
        """Read what :meth:`save` wrote; BadInput or Corrupt says what is wrong with it."""


def load_predictor(folder: Path, resolve: Resolve) -> Predictor:
    """The predictor in a folder, of whichever kind its ``model.json`` names."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise BadInput(f"no {DESCRIPTION} in {folder}", "a model's folder as lmwright writes it")
    description = read_json_object(path)
    task = read_task(description.get("task"), str(path), resolve)
    found: Predictor = resolve("models", str(description.get("kind"))).load(folder, task)
    return found


def answer_all(
    predictor: Predictor,
    rows: Sequence[Row],
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> Answers:
    """Answers to rows in their order; rows of like cost are read together."""
    prepared = predictor.prepare(rows)
    return answer_prepared(predictor, prepared, progress)


def answer_prepared(
    predictor: Predictor,
    prepared: Sequence[Prepared],
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> Answers:
    """Answers to prepared rows in their order, in batches of bounded cost."""
    costs = np.array([item.cost for item in prepared], dtype=np.int64)
    if not len(costs):
        raise BadInput("no rows to answer", "one row at least")
    parts, done = [], 0
    groups = batches(costs)
    for places in groups:
        parts.append(predictor.answers([prepared[place] for place in places]))
        done += int(costs[places].sum())
        progress(done, int(costs.sum()))
    return joined(parts, np.concatenate(groups))


def batches(costs: np.ndarray, most: int = MOST_TOKENS) -> list[np.ndarray]:
    """Places of rows in batches of at most ``most`` tokens (or one row), shortest rows first."""
    order = np.argsort(costs, kind="stable")
    groups: list[np.ndarray] = []
    start, total = 0, 0
    for end, place in enumerate(order):
        if end > start and total + costs[place] > most:
            groups.append(order[start:end])
            start, total = end, 0
        total += int(costs[place])
    return groups + ([order[start:]] if len(order) else [])
