"""What a check of the audit is given, and what it says: passed, failed or inconclusive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Row, with_texts
from lmwright.core.predictor import Predictor, batches
from lmwright.core.stage import Settings
from lmwright.core.task import Answers, Task, joined, role_columns
from lmwright.evals.predictions import Predictions
from lmwright.metrics.calibration import Calibration

Word = Literal["passed", "failed", "inconclusive"]
PASSED: Word = "passed"
FAILED: Word = "failed"
INCONCLUSIVE: Word = "inconclusive"


@dataclass(frozen=True)
class Verdict:
    """A check's word, the reason in a sentence, and the figures behind it (JSON values)."""

    verdict: Word
    reason: str
    figures: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"verdict": self.verdict, "reason": self.reason, "figures": self.figures}


@dataclass(frozen=True, kw_only=True)
class Check(Settings):
    """One kind of audit; a subclass adds its limits as fields and says its verdict."""

    def check_task(self, task: Any) -> None:
        """BadInput for a task that this check says nothing of; by default there is none."""

    def judge(self, subject: Subject) -> Verdict:
        """The verdict on a model."""
        raise TypeError(f"{type(self).__name__} has no judge")


@dataclass
class Subject:
    """The model under audit with the rows it is audited on.

    ``rows`` are those it was scored on, ``found`` what it answered and how good that was;
    ``training`` holds id -> text of the rows it learnt from, of which ``training_rows`` are
    listed. ``limit`` is the most rows that a check may ask the model about.
    """

    task: Task
    predictor: Predictor
    calibration: Calibration
    rows: pa.Table
    found: Predictions
    training: dict[str, str]
    training_rows: int
    limit: int
    draws: int
    level: float
    seed: int
    tell: Callable[[int, str], None] = lambda done, note: None
    known: dict[bytes, Answers] = field(default_factory=dict)
    read: int = 0

    def answers(self, rows: Sequence[Row], note: str = "") -> Answers:
        """Calibrated answers to rows (their input columns) in their order.

        Rows that the model reads as the same ids are asked once, so that a change which the
        model cannot see (case, to one that folds it) costs nothing and changes exactly nothing.
        """
        prepared = self.predictor.prepare(rows)
        keys = [np.ascontiguousarray(item.ids).tobytes() for item in prepared]
        fresh = {key: place for place, key in enumerate(keys) if key not in self.known}
        places = np.array(sorted(fresh.values()), dtype=np.int64)
        costs = np.array([prepared[place].cost for place in places], dtype=np.int64)
        for batch in batches(costs):
            answers = self.predictor.answers([prepared[place] for place in places[batch]])
            calibrated = self.calibration.apply(self.task, answers)
            for number, place in enumerate(places[batch]):
                self.known[keys[place]] = calibrated.take([number])
            self.read += int(costs[batch].sum())
            self.tell(self.read, note)
        return joined([self.known[key] for key in keys], np.arange(len(keys)))

    def told_apart(self, rows: Sequence[Row], others: Sequence[Row]) -> np.ndarray:
        """Where (n,) the model reads different ids: a change may lie beyond what it reads."""
        pairs = zip(self.predictor.prepare(rows), self.predictor.prepare(others), strict=True)
        return np.array([not np.array_equal(one.ids, two.ids) for one, two in pairs], dtype=bool)

    def loss(self, name: str) -> str:
        """The loss that a check judges by: the one named, or the task's own."""
        return name or self.task.abstains_by or self.task.primary


def inputs_of(task: Task, rows: pa.Table) -> list[dict[str, Any]]:
    """The input columns of rows."""
    found: list[dict[str, Any]] = rows.select(
        [column.name for column in role_columns(task, "input")]
    ).to_pylist()
    return found


def rewritten(task: Task, row: Row, change: Callable[[str], str]) -> dict[str, Any]:
    """The row with every text of its input columns changed."""
    found = dict(row)
    for column in role_columns(task, "input"):
        found[column.name] = with_texts(column, row[column.name], change)
    return found


def answer_columns(task: Task, answers: Answers) -> tuple[list[str], list[str]]:
    """Names of the answers' columns that say what is answered, and of all of them.

    A column that says how sure the model is is left out of the first where there is any other.
    """
    every = [each for each in role_columns(task, "answer") if each.name in answers.columns]
    names = [each.name for each in every]
    return [each.name for each in every if not each.graded] or names, names


def differ(one: Answers, other: Answers, names: Sequence[str]) -> np.ndarray:
    """Where (n,) bool the answers differ in some column of ``names``."""
    return np.array(
        [
            any(not same(one[name][place], other[name][place]) for name in names)
            for place in range(len(one))
        ],
        dtype=bool,
    )


def same(one: Any, other: Any) -> bool:
    """Whether two values of one column are equal."""
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)


def worst(words: Sequence[Word]) -> Word:
    """The word for all together: one failure fails, one open question leaves it open."""
    for word in (FAILED, INCONCLUSIVE):
        if word in words:
            return word
    return PASSED if words else INCONCLUSIVE


def bounded(low: float, high: float, most: float) -> Word:
    """Whether a value with an interval is at most ``most``: proven, disproven or open."""
    if high <= most:
        return PASSED
    return FAILED if low > most else INCONCLUSIVE


def sentence(judged: dict[str, Word], fine: str) -> str:
    """A reason that names what is over a limit and what is open, or ``fine`` if nothing is."""
    told = {FAILED: "over the limit", INCONCLUSIVE: "not to be told from these rows"}
    parts = [
        f"{words}: " + ", ".join(name for name, given in judged.items() if given == word)
        for word, words in told.items()
        if word in judged.values()
    ]
    return "; ".join(parts) or fine
