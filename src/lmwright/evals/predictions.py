"""Answers of a model to every row: asked for, kept as Parquet with their losses, read back.

Files lie in the scores artifact as ``MODEL/SPLIT.parquet`` beside ``MODEL/calibration.json``.
Whoever doubts a figure of a report recomputes it from them with ``recompute``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.core.predictor import Predictor, answer_all
from lmwright.core.task import Answers, Measures, Task, asked_rows
from lmwright.metrics.calibration import Calibration
from lmwright.old_format import old_place, predictions_of

LOSS = "loss."
"""Prefix of the columns with the losses."""
LARGEST = "largest."


@dataclass(frozen=True)
class Predictions:
    """Calibrated answers of one model to n rows with targets, and how good they are."""

    rows: pa.Table
    answers: Answers
    measures: Measures

    @property
    def ids(self) -> list[str]:
        """The rows' ids."""
        found: list[str] = self.rows.column("id").to_pylist()
        return found

    def loss(self, name: str) -> np.ndarray:
        """A loss of every row (n,); BadInput names the losses that the task has."""
        return self.measures.losses[known_loss(self.measures, name)].values

    def largest(self, name: str) -> float:
        """The largest that a loss can be."""
        return self.measures.losses[known_loss(self.measures, name)].largest


def known_loss(measures: Measures, name: str) -> str:
    """The name, if it is that of a loss."""
    if name not in measures.losses:
        raise BadInput(
            f"the task has no loss {name!r}",
            "one of " + ", ".join(measures.losses),
            nearest(name, measures.losses),
        )
    return name


def answers_to(
    predictor: Predictor,
    task: Task,
    rows: pa.Table,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> Answers:
    """Uncalibrated answers to rows in their order. BadInput if the model's task is another."""
    if not predictor.task.comparable(task):
        raise BadInput(f"a model for {predictor.task}", f"one for the task of the rows: {task}")
    return answer_all(predictor, asked_rows(task, rows), progress)


def judge(task: Task, rows: pa.Table, answers: Answers, calibration: Calibration) -> Predictions:
    """Predictions from uncalibrated answers."""
    calibrated = calibration.apply(task, answers)
    return Predictions(rows, calibrated, task.measures(rows, calibrated))


def clusters_of(task: Task, rows: pa.Table) -> np.ndarray | None:
    """Groups (n,) of rows that are resampled together; None where every row stands for itself."""
    names = [task.cluster(row) for row in rows.to_pylist()]
    if "cluster" in rows.column_names:
        side = rows.column("cluster").to_pylist()
        names = [name or cluster for name, cluster in zip(names, side, strict=True)]
    if not any(names):
        return None
    ids = rows.column("id").to_pylist()
    return np.unique([n or i for n, i in zip(names, ids, strict=True)], return_inverse=True)[1]


def write_predictions(path: Path, found: Predictions, task: Task) -> None:
    """One Parquet file: ids, answers, confidence and losses."""
    columns: dict[str, pa.Array] = {"id": pa.array(found.ids, pa.string())}
    for name, values in found.answers.columns.items():
        columns[name] = as_array(values)
    confidence = task.confidence(found.answers)
    if confidence is not None:
        columns["confidence"] = pa.array(confidence)
    known = {}
    for name, loss in found.measures.losses.items():
        columns[LOSS + name] = pa.array(loss.values)
        known[LARGEST + name] = repr(loss.largest)
    schema = pa.schema([pa.field(n, c.type) for n, c in columns.items()], metadata=known)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")


def as_array(values: Any) -> pa.Array:
    """Answers of one column as Arrow has them: a matrix is a list a row."""
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return pa.array(list(values))
    if len(values) and isinstance(values[0], np.ndarray):
        return pa.array([each.tolist() for each in values])
    return pa.array(values)


def read_predictions(scores: Path, model: str, split: str) -> pa.Table:
    """The table that ``write_predictions`` wrote for a model and split of a scores artifact."""
    path = scores / model / f"{split}.parquet"
    if not path.is_file():
        path = path.with_name(f"{old_place(split)}.parquet")
    if not path.is_file():
        raise BadInput(f"no predictions of {model!r} on {split!r}", "a model and split of the run")
    try:
        return predictions_of(pq.read_table(path))
    except (pa.ArrowException, OSError) as fault:
        raise Corrupt(f"{path.name} cannot be read ({fault})") from fault


def judge_saved(task: Task, rows: pa.Table, table: pa.Table) -> Predictions:
    """Predictions from a table of saved ones, with those of ``rows`` that they answer.

    BadInput if a row of theirs is not among ``rows``.
    """
    place = {row: number for number, row in enumerate(rows.column("id").to_pylist())}
    ids = table.column("id").to_pylist()
    if any(row not in place for row in ids):
        raise BadInput("the scores are of other rows", "scores and rows of one run")
    own = rows.take(pa.array([place[row] for row in ids], pa.int64()))
    columns: dict[str, Any] = {}
    for name in table.column_names:
        values = table.column(name).to_pylist()
        kept = pa.types.is_string(table.schema.field(name).type)
        try:
            columns[name] = values if kept else np.array(values)
        except ValueError:  # lists of different lengths
            columns[name] = values
    answers = Answers(columns)
    return Predictions(own, answers, task.measures(own, answers))


def recompute(scores: Path, task: Task, rows: pa.Table, model: str, split: str) -> dict[str, float]:
    """Every score of a model on a split, from its saved answers, the rows and nothing else."""
    found = judge_saved(task, rows, read_predictions(scores, model, split))
    return estimates(found.measures, len(found.ids))


def estimates(measures: Measures, rows: int) -> dict[str, float]:
    """Every score's value by name, without intervals; NaN where it has none."""
    ones = np.ones((1, rows))
    found = {name: float(values[0]) for name, values in measures.scores(ones).items()}
    for name, share in measures.shares.items():
        among = share.among.sum()
        found[name] = float(share.hits.sum() / among) if among else float("nan")
    rng = np.random.default_rng(0)
    return found | {name: give(2, rng, 0.95).value for name, give in measures.special.items()}
