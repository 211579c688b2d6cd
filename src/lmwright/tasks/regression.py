"""Regression: a number for every text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row, Unfit, read_number
from lmwright.core.errors import BadInput
from lmwright.core.task import Answers, Loss, Measures, Prepared, Share, Signal, Task, text_signals
from lmwright.metrics import regression as r
from lmwright.tasks.one_text import OneText

MOST_LEVELS = 50


LARGEST = 1e100
"""The largest number, whichever its sign, that is learnt from."""
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
"""A number as a text has it."""


@dataclass(frozen=True, kw_only=True)
class Regression(OneText):
    """A ``label`` that is a number for every ``text``; the answer is ``value``.

    ``clean``     steps of text/cleaning.py that a text passes before it is read.
    ``ordinal``   whether the numbers are grades: answers are then rounded to one of them, and
                  accuracy and the quadratically weighted kappa stand beside the other scores.
    ``level``     the share of new texts whose number the ``interval`` holds (split conformal).
    ``low``, ``high``, ``mean``, ``scale``, ``levels``   fitted to the training rows. Answers stay
                  between low and high, and no error counts more than their distance.
    """

    kind: ClassVar[str] = "regression"
    one_answer: ClassVar[bool] = False
    teacher_forced: ClassVar[bool] = False
    strata: ClassVar[str] = ""
    text_model: ClassVar[str] = "lmwright.tasks.regression_model:TextRegressor"
    panel: ClassVar[str] = "lmwright.tasks.regression_panel:panel"
    primary: ClassVar[str] = "absolute_error"
    calibrates: ClassVar[str] = "absolute_error"
    gate_loss: ClassVar[str] = "absolute_error"
    abstains_by: ClassVar[str] = ""
    loss_names: ClassVar[Mapping[str, float]] = {"absolute_error": np.nan, "squared_error": np.nan}
    score_names: ClassVar[tuple[str, ...]] = (
        *("mae", "rmse", "r2", "pearson", "spearman", "interval_coverage", "interval_width"),
        *("accuracy", "weighted_kappa"),
    )
    contracts: ClassVar[tuple[str, ...]] = ()
    baselines: ClassVar[Mapping[str, str]] = {
        "mean": "lmwright.baselines.mean:Mean",
        "ridge": "lmwright.baselines.ridge:Ridge",
    }

    ordinal: bool = False
    level: float = 0.9
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    scale: float = 1.0
    levels: tuple[float, ...] = ()

    def check(self) -> None:
        """BadInput for settings out of range."""
        super().check()
        if not 0 < self.level < 1:
            raise BadInput(f"level is {self.level}", "between 0 and 1")

    @property
    def classes(self) -> tuple[str, ...]:
        """There are none."""
        return ()

    @property
    def range(self) -> float:
        """The largest error that counts."""
        return self.high - self.low

    # Rows

    @property
    def columns(self) -> tuple[Column, ...]:
        """A text, its number, and what a model says of it."""
        return (
            Column("text", "text", "input"),
            Column("label", "number", "target"),
            Column("value", "number", "answer"),
            Column("interval", "scores", "answer"),
        )

    def fitted(self, rows: Iterable[pa.RecordBatch]) -> Regression:
        """The task with the range, mean and spread of the training rows' numbers."""
        count, middle, squares = 0, 0.0, 0.0
        low, high, levels = np.inf, -np.inf, set[float]()
        for batch in rows:
            values = np.asarray(batch.column("label"), dtype=np.float64)
            if not len(values):
                continue
            # Squares about the mean, joined batch by batch (Chan et al. 1983, equation 2.1);
            # those of the numbers themselves would lose a small spread of large numbers.
            own, ahead = values.mean(), count / (count + len(values))
            squares += ((values - own) ** 2).sum() + (own - middle) ** 2 * len(values) * ahead
            middle, count = middle * ahead + own * (1 - ahead), count + len(values)
            low, high = min(low, values.min()), max(high, values.max())
            if self.ordinal and len(levels) <= MOST_LEVELS:
                levels.update(values.tolist())
        if count < 2 or low == high:
            raise BadInput(
                "the training rows have one number alone", "numbers that differ", "check the column"
            )
        if len(levels) > MOST_LEVELS:
            raise BadInput(
                f"ordinal, and the training rows have more than {MOST_LEVELS} numbers",
                "grades",
                "set ordinal to false",
            )
        spread = float(np.sqrt(squares / count))
        return replace(
            self,
            low=float(low),
            high=float(high),
            mean=float(middle),
            scale=spread,
            levels=tuple(sorted(levels)),
        )

    def comparable(self, other: Task) -> bool:
        """The same range, and the same grades."""
        return isinstance(other, Regression) and (self.low, self.high, self.ordinal) == (
            other.low,
            other.high,
            other.ordinal,
        )

    def fault(self, row: Row) -> str:
        """A number whose square is not finite: no mean or spread can be told of it."""
        return "" if abs(row["label"]) <= LARGEST else "label too large"

    def target(self, row: Row) -> str:
        """The number."""
        return f"{row['label']:g}"

    # Answers

    def calibrated(self, answers: Answers, temperature: float, smoothing: float) -> Answers:
        """Values (n,) from the standardised outputs (n, 1), within the range of the numbers."""
        if "logits" not in answers.columns:
            return answers
        raw = self.mean + self.scale * np.asarray(answers["logits"], dtype=np.float64)[:, 0]
        values = np.clip(raw, self.low, self.high)
        if self.levels:
            grades = np.array(self.levels)
            values = grades[np.abs(values[:, None] - grades).argmin(1)]
        return answers.with_columns(value=values)

    def parsed(self, completions: Sequence[Sequence[str]], rows: Sequence[Row]) -> Answers:
        """Standardised outputs (n, 1): the median of the first numbers of the samples, the mean of
        the training rows where no sample has one."""
        found = np.full((len(completions), 1), self.mean)
        for place, said in enumerate(completions):
            numbers = [float(each[0]) for text in said if (each := NUMBER.findall(text))]
            if numbers:
                found[place] = np.median(np.clip(numbers, self.low, self.high))
        return Answers({"logits": (found - self.mean) / self.scale})

    def tuned(self, rows: pa.Table, answers: Answers) -> tuple[float, ...]:
        """The half-width of the intervals, from the errors on these rows."""
        truth = np.asarray(rows.column("label"), dtype=np.float64)
        width = r.conformal_quantile(np.abs(truth - answers["value"]), self.level)
        return (min(width, self.range),)

    def decided(self, answers: Answers, thresholds: Sequence[float]) -> Answers:
        """The answers with their intervals, within the range of the numbers."""
        value = answers["value"]
        width = thresholds[0] if thresholds else self.range
        ends = (np.maximum(value - width, self.low), np.minimum(value + width, self.high))
        return answers.with_columns(interval=np.stack(ends, axis=1))

    def pooled(self, parts: Sequence[Answers]) -> Answers:
        """Outputs of the mean values."""
        values = np.mean([each["value"] for each in parts], axis=0)
        return Answers({"logits": ((values - self.mean) / self.scale)[:, None]})

    def confidence(self, answers: Answers) -> np.ndarray | None:
        """A number has none; its interval says how sure it is."""
        return None

    def measures(self, rows: pa.Table, answers: Answers) -> Measures:
        """Absolute and squared errors, none larger than the range; correlations; intervals."""
        truth = np.asarray(rows.column("label"), dtype=np.float64)
        value = np.asarray(answers["value"], dtype=np.float64)
        error = np.minimum(np.abs(truth - value), self.range)
        losses = {
            "absolute_error": Loss(error, self.range),
            "squared_error": Loss(error**2, self.range**2),
        }
        shares = {}
        width: np.ndarray | None = None
        if "interval" in answers.columns:
            ends = np.asarray(answers["interval"], dtype=np.float64).reshape(len(truth), 2)
            held = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
            width = ends[:, 1] - ends[:, 0]
            shares["interval_coverage"] = Share(held, np.ones(len(truth), bool))
        if self.levels:
            shares["accuracy"] = Share(truth == value, np.ones(len(truth), bool))

        def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
            found = {name: r.mean(loss.values, weights) for name, loss in losses.items()}
            found["mae"] = r.mean(np.abs(truth - value), weights)
            found["rmse"] = np.sqrt(r.mean((truth - value) ** 2, weights))
            found["r2"] = r.r_squared(truth, value, weights)
            found["pearson"] = r.pearson(truth, value, weights)
            found["spearman"] = r.spearman(truth, value, weights)
            if width is not None:
                found["interval_width"] = r.mean(width, weights)
            if self.levels:
                grades = np.array(self.levels)
                true, told = (np.abs(x[:, None] - grades).argmin(1) for x in (truth, value))
                found["weighted_kappa"] = r.weighted_kappa(true, told, len(grades), weights)
            return found

        return Measures(losses, scores, shares, lower=frozenset({"mae", "rmse", "interval_width"}))

    def signals(self, prepared: Sequence[Prepared], answers: Answers) -> dict[str, Signal]:
        """Lengths, words and vectors of the texts; the values."""
        found = text_signals(prepared, answers)
        found["value"] = Signal("number", np.asarray(answers["value"], dtype=np.float64))
        return found

    def told(self, answers: Answers, place: int) -> dict[str, Any]:
        """The value and its interval."""
        found: dict[str, Any] = {"value": float(answers["value"][place])}
        if "interval" in answers.columns:
            found["interval"] = [float(each) for each in answers["interval"][place]]
        return found

    def heard(self, told: Sequence[Mapping[str, Any]]) -> Answers:
        """What was told."""
        columns: dict[str, Any] = {"value": np.array([float(each["value"]) for each in told])}
        if all("interval" in each for each in told):
            ends = [[float(end) for end in each["interval"]] for each in told]
            columns["interval"] = np.array(ends).reshape(len(told), 2)
        return Answers(columns)

    def category(self, told: Mapping[str, Any]) -> str:
        """Which fifth of the range the value is in."""
        share = (told["value"] - self.low) / (self.range or 1.0)
        return f"fifth {min(5, 1 + int(5 * share))}"

    def corrected(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The number that was given as the right one."""
        try:
            found = {"label": read_number("label", given.get("label"))}
        except Unfit as fault:
            raise BadInput(f"label: {fault}", "a number") from None
        if self.fault(found):
            raise BadInput(f"label: {found['label']:g}", f"a number of at most {LARGEST:g}")
        return found
