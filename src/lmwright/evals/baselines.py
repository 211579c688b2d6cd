"""The stage ``baselines``: what a model must beat, fitted on the same rows and on all rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from lmwright.core.errors import BadInput
from lmwright.core.predictor import Predictor
from lmwright.core.stage import Feedback, RowStatistics, Stage, Work, WorkEstimate
from lmwright.core.task import Task
from lmwright.data.corpus import read_split, read_task_of, task_modules, used_ids
from lmwright.data.sample import subset
from lmwright.tables import definition_at, module_at


class Baseline(Protocol):
    """A kind of model that is fitted to rows without further settings."""

    @classmethod
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Predictor:
        """The model of these training rows."""

    def facts(self) -> dict[str, Any]:
        """What is worth telling of the fit."""


def baseline_names(task: Task) -> tuple[str, ...]:
    """The artifacts of a task's baselines: each by its name, the strongest (the last) fitted on
    all rows too."""
    names = tuple(task.baselines)
    return (*names, f"{names[-1]}_all") if names else ()


@dataclass(frozen=True, kw_only=True)
class Baselines(Stage):
    """Fit the baselines of the task on training rows.

    ``like`` names the model whose own list of rows says what "the same rows" are (all, where it was
    trained on none); empty, the limit ``rows`` draws them from the training split (0 is all).
    ``extra`` names artifacts whose training rows the model was trained on too.
    """

    task: Any = None
    like: str = "model"
    rows: int = 0
    extra: tuple[str, ...] = ()

    def needs(self) -> tuple[str, ...]:
        """The rows, the model that says which of them, and further rows."""
        return ("rows", *([self.like] if self.like else []), *self.extra)

    def gives(self) -> tuple[str, ...]:
        """Each baseline on the same rows, the strongest as ``NAME_all`` on all."""
        return baseline_names(self.task)

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The task of the rows, and its baselines."""
        own = map(module_at, self.task.baselines.values())
        return (*task_modules(inputs["rows"]), *own)

    @classmethod
    def retraining(cls, settings: Mapping[str, Any], feedback: Feedback) -> dict[str, Any]:
        """Fit to the feedback's training rows too."""
        return {"extra": [*settings.get("extra", ()), feedback.artifact]}

    def check(self) -> None:
        """BadInput where two settings say which rows."""
        if self.rows < 0 or (self.like and self.rows):
            raise BadInput(
                f"rows is {self.rows} and like is {self.like!r}",
                "one of them to say which rows are the same",
                'leave rows out, or set like to ""',
            )

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """Two fits on the training rows at most."""
        return WorkEstimate(fitted_rows=2 * known.rows("rows/train"), disk=20_000_000)

    def run(self, work: Work) -> dict[str, Any]:
        """Fit and save them, and say on how many rows and what each has to tell."""
        task = read_task_of(work.inputs["rows"])
        every = self._all_rows(work)
        same = self._same_rows(work, task, every)
        found: dict[str, Any] = {"same_rows": same.num_rows, "all_rows": every.num_rows}
        names = self.gives()
        fitted: Any = None
        for number, name in enumerate(names):
            whole = name not in task.baselines
            rows = every if whole else same
            work.progress(number, len(names), f"{name} on {rows.num_rows:,} rows")
            if not whole or same.num_rows != every.num_rows:
                fitted = kind_of(task, name.removesuffix("_all") if whole else name).fit(
                    task, rows, self.seed
                )
            fitted.save(work.out(name))
            pq.write_table(rows.select(["id", "source"]), work.out(name) / "rows.parquet")
            found[name] = fitted.facts()
        work.progress(len(names), len(names))
        return found

    def _all_rows(self, work: Work) -> pa.Table:
        """The training split and the further rows, each id once, sorted."""
        tables = [read_split(work.inputs["rows"], "train")]
        tables += [read_split(work.inputs[name], "train") for name in self.extra]
        joined = pa.concat_tables(tables, promote_options="default")
        seen: dict[str, int] = {}
        for place, row in enumerate(joined.column("id").to_pylist()):
            seen.setdefault(row, place)
        return joined.take(pa.array([seen[row] for row in sorted(seen)], type=pa.int64()))

    def _same_rows(self, work: Work, task: Task, every: pa.Table) -> pa.Table:
        """Those of the rows that the model was trained on; all, if it was trained on none."""
        if not self.like:
            return subset(task, every, self.rows, self.seed)
        path = work.inputs[self.like] / "rows.parquet"
        if not path.is_file():
            raise BadInput(
                f"the model {self.like} does not list its rows",
                "rows.parquet in its folder",
                'set like to "" and rows to a limit',
            )
        wanted = set(used_ids(path))
        if not wanted:
            return every
        kept = [row in wanted for row in every.column("id").to_pylist()]
        if sum(kept) != len(wanted):
            raise BadInput(
                f"{len(wanted) - sum(kept)} rows of the model {self.like} are not among the rows",
                "a model trained on these rows",
                "name the artifacts with its further rows in extra",
            )
        return every.filter(pa.array(kept))


def kind_of(task: Task, name: str) -> type[Baseline]:
    """The definition of one of the task's baselines."""
    found: type[Baseline] = definition_at(task.baselines[name])
    return found
