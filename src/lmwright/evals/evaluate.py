"""The stage ``evaluate``: how good each model is, with error bars, and which one is best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, nearest
from lmwright.core.random import stream
from lmwright.core.stage import Feedback, RowStatistics, Stage, Use, Work, WorkEstimate
from lmwright.core.task import (
    Answers,
    NamedMeasures,
    Task,
    ThresholdTask,
    refuse_measure,
    task_to_json,
)
from lmwright.data.corpus import read_split, read_task_of, task_modules
from lmwright.evals.baselines import baseline_names
from lmwright.evals.predictions import (
    Predictions,
    answers_to,
    clusters_of,
    judge,
    write_predictions,
)
from lmwright.evals.scores import score, score_differences
from lmwright.evals.slices import slice_scores, worst_rows
from lmwright.metrics.calibration import Calibration
from lmwright.metrics.intervals import Interval
from lmwright.metrics.noninferiority import compare
from lmwright.models.core.device import (
    PACKED,
    Device,
    Placement,
    Precision,
    describe_placement,
    resolve_placement,
)
from lmwright.models.load import load_predictor, modules_of
from lmwright.models.placement import place_networks, refuse_unplaced

READ_TOKENS = 256
"""What a forecast takes as a model's cap; the cap itself is the model's own."""

MAIN = 2
"""Scores that are shown beside the headline."""
SPARSE = 0.5
"""A model that answers fewer rows than this share is worth a word."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Stage):
    """Score models on splits and test sets; the first of ``models`` is compared with the others.

    ``models`` are by default the artifact ``model`` and the baselines of the recipe's ``task``.
    ``splits`` are files of the rows artifact: ``test``, ``test-NAME``; ``rows`` limits each (0
    is all). ``extra`` names artifacts whose calibration rows join those of the rows artifact.
    ``risk`` is the share of errors allowed among answered texts, kept with ``confidence`` by
    answering "unsure" elsewhere. ``primary`` is the loss or score that decides which model is
    best, by default the task's. ``draws`` are the bootstrap's; ``fewest`` is the least size of a
    slice; ``worst`` how many of the costliest rows are listed. ``device`` (auto: a CUDA device if
    there is one) and ``precision`` (auto: bf16 on a CUDA device that multiplies in it, else fp32)
    are those of the models' networks.
    """

    task: Any = None
    models: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("test",)
    extra: tuple[str, ...] = ()
    rows: int = 0
    primary: str = ""
    risk: float = 0.1
    confidence: float = 0.9
    draws: int = 1000
    level: float = 0.95
    fewest: int = 50
    worst: int = 20
    device: Device = "auto"
    precision: Precision = "auto"

    @property
    def scored(self) -> tuple[str, ...]:
        """The models that are scored."""
        return self.models or ("model", *baseline_names(self.task))

    def needs(self) -> tuple[str, ...]:
        """The rows, every model, and further calibration rows."""
        return ("rows", *self.scored, *self.extra)

    def gives(self) -> tuple[str, ...]:
        """Calibrations, predictions and ``scores.json``."""
        return ("scores",)

    def resolved(self) -> dict[str, Any]:
        """The device and the precision."""
        return resolve_placement(self.device, self.precision).to_json()

    def foresee(self, inputs: Mapping[str, Path]) -> None:
        """BadInput for a device that is not here."""
        resolve_placement(self.device, self.precision)

    def holds(self) -> dict[str, tuple[str, ...]]:
        """The models' calibrations, and the splits that they were scored on."""
        return {"scores": (*self.scored, *self.splits)}

    def asks(self) -> tuple[str, ...]:
        """The splits, and rows to calibrate by."""
        return tuple(f"rows/{split}" for split in ("calibration", *self.splits))

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The task of the rows, and the kinds of the models."""
        kinds = (module for name in self.scored for module in modules_of(inputs[name]))
        return (*task_modules(inputs["rows"]), *kinds)

    @classmethod
    def retraining(cls, settings: Mapping[str, Any], feedback: Feedback) -> dict[str, Any]:
        """Calibrate by the feedback too; score the test split alone."""
        return {"splits": ["test"], "extra": [*settings.get("extra", ()), feedback.artifact]}

    @classmethod
    def uses(cls, settings: Mapping[str, Any], place: str) -> tuple[Use, ...]:
        """Calibration rows calibrate, the rows of a split are judged by."""
        split = place.partition("/")[2]
        if split == "calibration":
            return (Use("calibrated", "scores"),)
        if place != f"rows/{split}" or split not in settings["splits"]:
            return ()
        first = next(iter(settings["models"] or ("model",)))
        return (Use("judged", "scores", f"{first}/{split}.parquet"),)

    def check(self) -> None:
        """BadInput for settings outside their ranges."""
        if len(set(self.models)) < len(self.models):
            raise BadInput(f"models are {list(self.models)}", "each once")
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise BadInput(f"splits are {list(self.splits)}", "at least one, each once")
        if not (0 < self.risk <= 1 and 0 < self.confidence < 1 and 0 < self.level < 1):
            raise BadInput(
                f"risk {self.risk}, confidence {self.confidence}, level {self.level}",
                "each above 0 and below 1 (risk 1 is allowed: never unsure)",
            )
        if self.draws < 100 or self.rows < 0 or self.fewest < 1 or self.worst < 0:
            raise BadInput(
                f"draws {self.draws}, rows {self.rows}, fewest {self.fewest}, worst {self.worst}",
                "at least 100 draws, a slice of at least 1 row, and nothing negative",
            )

    def check_task(self, task: Any) -> None:
        """BadInput for a primary measure that the task has not."""
        refuse_measure(task, self.primary, "evaluate.primary")

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """The calibration rows and the splits, read by the first model: the others are small."""
        counted = [("rows/calibration", known.rows("rows/calibration"))]
        for split in self.splits:
            rows = known.rows(f"rows/{split}")
            counted.append((f"rows/{split}", min(rows, self.rows) if self.rows else rows))
        tokens = sum(rows * known.tokens(place, READ_TOKENS) for place, rows in counted)
        return WorkEstimate(read_tokens=tokens, disk=500 * sum(rows for _, rows in counted))

    def run(self, work: Work) -> dict[str, Any]:
        """Predict, calibrate, score, compare; write all of it and return what matters most."""
        task = read_task_of(work.inputs["rows"])
        tables = {
            split: read_split(work.inputs["rows"], split, self.rows, self.seed)
            for split in self.splits
        }
        for split, table in tables.items():
            if not table.num_rows:
                raise BadInput(f"no rows in {split}", "rows to be scored")
        found, calibrations = self._predict(work, task, tables)
        primary = self.primary or task.primary
        result: dict[str, Any] = {
            "primary": primary,
            "task": task_to_json(task),
            "calibration": {name: found.to_json() for name, found in calibrations.items()},
            "splits": {split: self._scored(task, split, found[split]) for split in tables},
        }
        first = result["splits"][self.splits[0]]
        result["headline"] = headline(self.splits[0], first, self.scored, primary, self.risk)
        result["headline"]["scores"] = main_scores(task, first["models"][self.scored[0]])
        write_json(work.out("scores") / "scores.json", result)
        return facts_of(result)

    def _predict(
        self, work: Work, task: Task, tables: Mapping[str, pa.Table]
    ) -> tuple[dict[str, dict[str, Predictions]], dict[str, Calibration]]:
        """Predictions by split and model, and each model's calibration; both are saved."""
        folder = work.out("scores")
        fitted_on = pa.concat_tables(
            [read_split(work.inputs[name], "calibration") for name in ("rows", *self.extra)],
            promote_options="default",
        )
        found: dict[str, dict[str, Predictions]] = {split: {} for split in tables}
        calibrations = {}
        placed, placement = False, resolve_placement(self.device, self.precision)
        work.record("placed", **describe_placement(placement))
        for number, name in enumerate(self.scored):
            model = load_predictor(work.inputs[name])
            placed |= place_networks(model, placement)
            if placement.precision in PACKED:
                record_cost(work, name, model, placement)
            answers: dict[str, Answers] = {}
            # To write a text for every row takes long, and without confidence nothing is fitted.
            probe = answers_to(model, task, fitted_on.slice(0, 1))
            fits = task.confidence(probe) is not None or isinstance(task, ThresholdTask)
            sets = {**({"calibration": fitted_on} if fits else {}), **tables}
            for place, (split, table) in enumerate(sets.items()):
                begun = number + place / len(sets)

                def tell(
                    done: float,
                    total: float,
                    begun: float = begun,
                    note: str = f"{name} on {split}",
                    parts: int = len(sets),
                ) -> None:
                    part = begun + done / max(total, 1) / parts
                    work.progress(part, len(self.scored), note)

                answers[split] = answers_to(model, task, table, tell)
            fitted = Calibration(
                risk=self.risk, confidence=self.confidence, rows=fitted_on.num_rows
            )
            if fits:
                fitted = Calibration.fit(
                    task, fitted_on, answers["calibration"], self.risk, self.confidence
                )
            (folder / name).mkdir(parents=True, exist_ok=True)
            fitted.save(folder / name)
            calibrations[name] = fitted
            for split, table in tables.items():
                found[split][name] = judge(task, table, answers[split], fitted)
                write_predictions(folder / name / f"{split}.parquet", found[split][name], task)
        if not placed:
            refuse_unplaced(self.device, self.precision, f"the models {', '.join(self.scored)}")
        return found, calibrations

    def _scored(self, task: Task, split: str, found: dict[str, Predictions]) -> dict[str, Any]:
        """Scores of all models on a split, comparisons with the first, its slices and errors."""
        first = found[self.scored[0]]
        groups = clusters_of(task, first.rows)
        scores = {
            name: score(
                each.measures,
                len(each.rows),
                self.draws,
                stream(self.seed, "evaluate", split, "rows"),
                self.level,
                groups,
            )
            for name, each in found.items()
        }
        return {
            "rows": len(first.rows),
            "losses": list(first.measures.losses),
            "lower": sorted({*first.measures.losses, *first.measures.lower}),
            "models": scores,
            "comparisons": {
                name: self._compared(split, first, found[name], groups) for name in self.scored[1:]
            },
            "slices": slice_scores(task, first, self.fewest, self.level),
            "worst": worst_rows(task, first, self.worst),
        }

    def _compared(
        self, split: str, first: Predictions, other: Predictions, groups: np.ndarray | None
    ) -> dict[str, Any]:
        """First less other, in pairs: on each loss, below 0 is better for the first; on each other
        score, above 0. An interval's ends are the bounds that its verdict is read off.
        """
        entry: dict[str, Any] = {}
        for name, mine in first.measures.losses.items():
            if name not in other.measures.losses:
                continue  # a model without probabilities has no log-loss
            its = other.measures.losses[name]
            alpha = (1 - self.level) / 2
            verdict = compare(
                mine.values, its.values, 0.0, alpha, mine.largest, its.largest, groups
            )
            gap = Interval(verdict.difference, verdict.lower, verdict.upper, self.level)
            word = {"superior": "better", "inferior": "worse"}.get(verdict.verdict, "inconclusive")
            entry[name] = gap.to_json() | {"verdict": word}
        rng = stream(self.seed, "evaluate", split, "compare")
        return entry | score_differences(
            first.measures,
            other.measures,
            len(first.rows),
            self.draws,
            rng,
            self.level,
            groups,
            self.primary,
        )


def record_cost(work: Work, name: str, model: object, placement: Placement) -> None:
    """Record what the fewer bits of a placement cost a model that has a network."""
    from lmwright.models.answering import cost_of  # which takes torch; to plan needs none

    if (found := cost_of(model, placement)) is not None:
        work.record("parity", model=name, **found.to_json())


def headline(
    split: str, scored: Mapping[str, Any], models: tuple[str, ...], primary: str, risk: float
) -> dict[str, Any]:
    """Which model is best on the primary score, and the first line of the report.

    If a baseline wins, or the first model's lead over one of them is not proven, the line begins
    by saying so; it names the other scores on which a baseline is better. A model that is unsure
    of most rows at ``risk`` would surprise whoever serves it, so that is said too.
    """
    metrics = {name: scored["models"][name]["metrics"] for name in models}
    known = sorted({*metrics[models[0]], *scored["lower"]} - {"calibration_error"})
    if primary not in known:
        raise BadInput(f"primary is {primary!r}", "a score", nearest(primary, known))
    shown_as = primary if primary in metrics[models[0]] else "accuracy"  # the error is its rest
    sign = 1 if shown_as in scored["lower"] else -1
    value = {name: metrics[name][shown_as] for name in models if shown_as in metrics[name]}
    order = [name for name in value if value[name]["estimate"] is not None] or [models[0]]
    best = min(order, key=lambda name: (sign * (value[name]["estimate"] or 0), models.index(name)))
    compared = {name: scored["comparisons"][name] for name in models[1:]}
    verdicts = {
        name: each[primary]["verdict"] for name, each in compared.items() if primary in each
    }
    unproven = [name for name, verdict in verdicts.items() if verdict == "inconclusive"]
    losing = [name for name, verdict in verdicts.items() if verdict == "worse"]
    told = f"on {split} ({scored['rows']} rows) by {shown_as.replace('_', '-')}"
    shown = "; ".join(f"{name} {_figure(value[name])}" for name in value)
    if losing:
        state = "baseline wins"
        winner = min(losing, key=lambda name: sign * value[name]["estimate"])
        line = f"A baseline wins {told}: {winner} is better than {models[0]}"
    elif unproven:
        state = "inconclusive"
        line = f"Not proven {told}: {models[0]} may be no better than {' and '.join(unproven)}"
    elif verdicts:
        state = "model wins"
        beaten = "every baseline" if len(verdicts) == len(compared) else " and ".join(verdicts)
        line = f"{models[0]} is better than {beaten} {told}"
    else:
        state, line = "no comparison", f"{models[0]} {told}, compared with nothing"
    line += caveats(compared, primary, metrics[models[0]], risk)
    return {
        "best": best,
        "state": state,
        "split": split,
        "primary": primary,
        "verdicts": verdicts,
        "line": f"{line}: {shown}.",
    }


def main_scores(task: Task, scored: Mapping[str, Any]) -> str:
    """The first scores of a task with their intervals, for the console."""
    names = task.score_names if isinstance(task, NamedMeasures) else sorted(scored["metrics"])
    shown = [name for name in names if name in scored["metrics"] and "." not in name][:MAIN]
    return "; ".join(
        f"{name.replace('_', '-')} {_figure(scored['metrics'][name])}" for name in shown
    )


def caveats(compared: Mapping[str, Any], primary: str, own: Mapping[str, Any], risk: float) -> str:
    """What the first model's lead leaves out: scores on which another is better, models that have
    no primary score, rows of which it is unsure."""
    found = ""
    worse = sorted(
        f"{score.replace('_', '-')} ({name})"
        for name, each in compared.items()
        for score, gap in each.items()
        if gap["verdict"] == "worse" and score != primary
    )
    if worse:
        found += f", but worse by {', '.join(worse)}"
    for name, each in compared.items():
        if primary not in each:
            found += f"; {name} has no {primary.replace('_', '-')}"
    answered = own.get("coverage", {}).get("estimate")
    if answered is not None and answered < SPARSE:
        found += f", and unsure of {1 - answered:.0%} of them at evaluate.risk {risk:g}"
    return found


def _figure(value: Mapping[str, float | None]) -> str:
    shown = [
        "–" if value[name] is None else f"{value[name]:.3f}" for name in ("estimate", "low", "high")
    ]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def facts_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of all rows and the comparisons, without rows and texts."""
    return {
        "headline": result["headline"],
        "calibration": result["calibration"],
        "splits": {
            split: {
                "rows": scored["rows"],
                "models": {
                    name: {m: value for m, value in each["metrics"].items() if "." not in m}
                    for name, each in scored["models"].items()
                },
                "comparisons": scored["comparisons"],
            }
            for split, scored in result["splits"].items()
        },
    }
