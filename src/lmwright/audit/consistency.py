"""Check ``consistency``: answers that are translated back, against the texts they were written for.

A translation is translated back by the same model, and compared with the text that it began with
(round-trip translation; Somers 2005 tells what it can show and what not). Two errors may undo each
other, and a copied text comes back whole: the share of answers that are their own text stands
beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lmwright.audit.check import (
    FAILED,
    INCONCLUSIVE,
    Check,
    Subject,
    Verdict,
    Word,
    bounded,
    inputs_of,
)
from lmwright.core.errors import BadInput
from lmwright.core.task import ReturningTask
from lmwright.data.sample import same_rows
from lmwright.evals.predictions import clusters_of, known_loss
from lmwright.metrics.intervals import mean_interval


@dataclass(frozen=True, kw_only=True)
class Consistency(Check):
    """The mean loss of the round trip against the text that it began with is at most ``most``.

    ``loss`` is one of the task's, by default its primary one (of translations: 1 less chrF); a row
    for which nothing was written has the largest. ``most`` is in its unit; what may be asked
    depends on languages and texts, so it is to be set by what a trusted model reaches. With fewer
    than ``fewest`` rows it cannot be judged.
    """

    loss: str = ""
    most: float = 0.5
    fewest: int = 50

    def check_task(self, task: Any) -> None:
        """BadInput for a task without a way back."""
        if not isinstance(task, ReturningTask):
            raise BadInput(
                f"audit has the check consistency, and {task.kind} has no way back",
                "a task whose answers can be asked about in turn, such as translation",
                "take consistency out of audit.checks",
            )

    def judge(self, subject: Subject) -> Verdict:
        """The loss of the round trip over all rows and in each stratum (the direction)."""
        task = subject.task
        assert isinstance(task, ReturningTask)
        strata = [task.stratum(row) for row in subject.rows.to_pylist()]
        rows = same_rows(subject.rows, subject.limit, subject.seed, strata)
        asked = rows.to_pylist()
        name = known_loss(subject.found.measures, self.loss or task.primary)
        there = subject.answers(inputs_of(task, rows), "forward")[task.answer_column]
        back = [task.returned(row, text) for row, text in zip(asked, there, strict=True)]
        places = [place for place, text in enumerate(there) if text.strip()]
        largest = subject.found.measures.losses[name].largest
        values = np.full(len(asked), largest)
        if places:
            chosen = pa.Table.from_pylist([dict(back[place]) for place in places])
            told = subject.answers(inputs_of(task, chosen), "back")
            values[places] = task.measures(chosen, told).losses[name].values
        groups = clusters_of(task, rows)
        whole = mean_interval(values, 0.0, largest, subject.level, groups)
        word: Word = bounded(whole.low, whole.high, self.most)
        few = len(asked) < self.fewest
        if few and word != FAILED:
            word = INCONCLUSIVE
        ways = np.array([task.stratum(row) for row in asked])
        same = [
            task.text(row).strip() == text.strip() for row, text in zip(asked, there, strict=True)
        ]
        reason = (
            f"too few rows: {len(asked)}, {self.fewest} needed"
            if few
            else f"the mean {name} of the round trip is {whole.estimate:.3f} "
            f"[{whole.low:.3f}, {whole.high:.3f}], at most {self.most:g} wanted"
        )
        return Verdict(
            word,
            reason,
            {
                "loss": name,
                "most": self.most,
                "rows": len(asked),
                "unwritten": len(asked) - len(places),
                "copied": sum(same),
                "round_trip": whole.to_json(),
                "by_stratum": {
                    way: float(values[ways == way].mean()) for way in sorted({*ways.tolist()})
                },
            },
        )
