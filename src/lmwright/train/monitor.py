"""What says which weights of a training are best: the task model's own score, or a measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from lmwright.core.errors import BadInput, nearest
from lmwright.core.predictor import answer_all
from lmwright.core.task import asked_rows
from lmwright.metrics.calibration import Calibration
from lmwright.models.text_model import TextModel, TextPredictor
from lmwright.train.batches import Example
from lmwright.train.task_model import TrainedTaskModel


@dataclass(frozen=True)
class Judgement:
    """Scores of the held-out rows by name, and the one that decides.

    ``loss`` is that one turned so that lower is better: what weights are compared by.
    """

    scores: dict[str, float]
    value: float
    loss: float


@dataclass(frozen=True)
class Monitor:
    """The held-out rows, as ``examples`` and as ``rows``, and the score that decides by them.

    ``measure`` is a loss or a score of the task, whose answers to the rows are then asked for
    (uncalibrated, and without thresholds); "" is the score that the task model monitors. ``beside``
    are those of other tasks, by name; their scores are told as ``NAME.score``.
    """

    task_model: TrainedTaskModel
    model: TextModel
    examples: Sequence[Example]
    rows: pa.Table
    measure: str = ""
    beside: Mapping[str, Monitor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the score that decides."""
        return self.measure or self.task_model.monitor

    def judge(self) -> Judgement:
        """The scores of the network as it is; BadInput for a measure that the task has not."""
        scores = self.task_model.score(self.model.network, self.examples)
        own = scores[self.task_model.monitor]
        for name, each in self.beside.items():
            scores |= {f"{name}.{what}": found for what, found in each.judge().scores.items()}
        if not self.measure:
            return Judgement(scores, own, own)
        value, lower = self.measured()
        return Judgement({**scores, self.measure: value}, value, value if lower else -value)

    def measured(self) -> tuple[float, bool]:
        """The measure of the answers to the rows, and whether lower is better."""
        task = self.task_model.task
        answers = answer_all(TextPredictor(task, self.model), asked_rows(task, self.rows))
        found = task.measures(self.rows, Calibration().apply(task, answers))
        if self.measure in found.losses:
            return float(found.losses[self.measure].values.mean()), True
        scores = found.scores(np.ones((1, self.rows.num_rows)))
        if self.measure in found.shares:
            share = found.shares[self.measure]
            among = int(share.among.sum())
            scores[self.measure] = np.array([share.hits.sum() / among if among else np.nan])
        if self.measure not in scores:
            known = sorted({*found.losses, *scores})
            raise BadInput(
                f"train.monitor is {self.measure!r}",
                "one of " + ", ".join(known),
                nearest(self.measure, known),
            )
        return float(scores[self.measure][0]), self.measure in found.lower
