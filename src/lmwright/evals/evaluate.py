"""The stage ``evaluate``: how good each model is, with error bars, and which one is best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, nearest
from lmwright.core.random import stream
from lmwright.core.stage import RowStatistics, Stage, Work, WorkEstimate
from lmwright.data.corpus import read_labels
from lmwright.evals.predictions import (
    Predictions,
    judge,
    predict_logits,
    truth_of,
    write_predictions,
)
from lmwright.evals.rows import read_split
from lmwright.evals.scores import score
from lmwright.evals.slices import slice_scores, worst_rows
from lmwright.metrics.classification import brier_scores, log_losses
from lmwright.metrics.intervals import Interval, paired_difference
from lmwright.metrics.noninferiority import compare
from lmwright.models.calibration import Calibration
from lmwright.models.model import load_model
from lmwright.tables import MODELS

READ_TOKENS = 256
"""What a forecast takes as a model's cap; the cap itself is the model's own."""

PRIMARY = ("log_loss", "brier", "accuracy")

LARGEST = {"log_loss": math.inf, "brier": 2.0, "accuracy": 1.0}
"""The largest loss of a row, as :func:`row_losses` gives them."""

MAIN = (
    "accuracy",
    "macro_f1",
    "log_loss",
    "brier",
    "calibration_error",
    "macro_roc_auc",
    "coverage",
    "accuracy_answered",
)
"""The scores that become facts of the run; the others stand in ``scores.json``."""

SPARSE = 0.5
"""A model that answers fewer rows than this share is worth a word."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Stage):
    """Score models on splits and test sets; the first of ``models`` is compared with the others.

    ``splits`` are files of the rows artifact: ``test``, ``test-NAME``; ``rows`` limits each (0
    is all). ``extra`` names artifacts whose calibration rows join those of the rows artifact.
    ``risk`` is the share of errors allowed among answered texts, kept with ``confidence`` by
    answering "unsure" elsewhere. ``primary`` decides which model is best. ``draws`` are the
    bootstrap's; ``fewest`` is the least size of a slice; ``worst`` how many of the costliest rows
    are listed.
    """

    models: tuple[str, ...] = ("model", "majority", "tfidf", "tfidf_all")
    splits: tuple[str, ...] = ("test",)
    extra: tuple[str, ...] = ()
    rows: int = 0
    primary: str = "log_loss"
    risk: float = 0.1
    confidence: float = 0.9
    draws: int = 1000
    level: float = 0.95
    fewest: int = 50
    worst: int = 20

    def needs(self) -> tuple[str, ...]:
        """The rows, every model, and further calibration rows."""
        return ("rows", *self.models, *self.extra)

    def gives(self) -> tuple[str, ...]:
        """Calibrations, predictions and ``scores.json``."""
        return ("scores",)

    def holds(self) -> dict[str, tuple[str, ...]]:
        """The models' calibrations, and the splits that they were scored on."""
        return {"scores": (*self.models, *self.splits)}

    def asks(self) -> tuple[str, ...]:
        """The splits, and rows to calibrate by."""
        return tuple(f"rows/{split}" for split in ("calibration", *self.splits))

    def reaches(self) -> tuple[str, ...]:
        """The modules of all kinds of models."""
        return tuple(sorted({entry.partition(":")[0] for entry in MODELS.values()}))

    def check(self) -> None:
        """BadInput for settings outside their ranges."""
        if not self.models or len(set(self.models)) < len(self.models):
            raise BadInput(f"models are {list(self.models)}", "at least one, each once")
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise BadInput(f"splits are {list(self.splits)}", "at least one, each once")
        if self.primary not in PRIMARY:
            raise BadInput(
                f"primary is {self.primary!r}", "a score", nearest(self.primary, PRIMARY)
            )
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
        labels = read_labels(work.inputs["rows"])
        tables = {
            split: read_split(work.inputs["rows"], split, self.rows, self.seed)
            for split in self.splits
        }
        for split, table in tables.items():
            if not table.num_rows:
                raise BadInput(f"no rows in {split}", "rows to be scored")
        found, calibrations = self._predict(work, labels, tables)
        result: dict[str, Any] = {
            "primary": self.primary,
            "labels": list(labels),
            "calibration": {name: found.to_json() for name, found in calibrations.items()},
            "splits": {
                split: self._scored(split, table, found[split]) for split, table in tables.items()
            },
        }
        result["headline"] = headline(
            self.splits[0], result["splits"][self.splits[0]], self.models, self.primary, self.risk
        )
        write_json(work.out("scores") / "scores.json", result)
        return _facts(result)

    def _predict(
        self, work: Work, labels: tuple[str, ...], tables: Mapping[str, pa.Table]
    ) -> tuple[dict[str, dict[str, Predictions]], dict[str, Calibration]]:
        """Predictions by split and model, and each model's calibration; both are saved."""
        folder = work.out("scores")
        fitted_on = pa.concat_tables(
            read_split(work.inputs[name], "calibration") for name in ("rows", *self.extra)
        )
        sets = {"calibration": fitted_on, **tables}
        found: dict[str, dict[str, Predictions]] = {split: {} for split in tables}
        calibrations = {}
        for number, name in enumerate(self.models):
            model = load_model(work.inputs[name])
            logits = {}
            for place, (split, table) in enumerate(sets.items()):
                begun = number + place / len(sets)

                def tell(
                    done: float,
                    total: float,
                    begun: float = begun,
                    note: str = f"{name} on {split}",
                ) -> None:
                    part = begun + done / max(total, 1) / len(sets)
                    work.progress(part, len(self.models), note)

                texts = table.column("text").to_pylist()
                logits[split] = predict_logits(model, texts, labels, tell)
            truth = truth_of(fitted_on, labels)
            fitted = Calibration.fit(logits["calibration"], truth, self.risk, self.confidence)
            (folder / name).mkdir(parents=True, exist_ok=True)
            fitted.save(folder / name)
            calibrations[name] = fitted
            for split, table in tables.items():
                found[split][name] = judge(table, labels, logits[split], fitted)
                write_predictions(folder / name / f"{split}.parquet", found[split][name])
        return found, calibrations

    def _scored(self, split: str, table: pa.Table, found: dict[str, Predictions]) -> dict[str, Any]:
        """Scores of all models on a split, comparisons with the first, its slices and errors."""
        scores = {
            name: score(
                each.truth,
                each.probabilities,
                each.unsure,
                each.labels,
                self.draws,
                stream(self.seed, "evaluate", split, "rows"),
                self.level,
            )
            for name, each in found.items()
        }
        first = found[self.models[0]]
        rng = stream(self.seed, "evaluate", split, "slices")
        return {
            "rows": table.num_rows,
            "models": scores,
            "comparisons": {
                name: self._compared(split, first, found[name]) for name in self.models[1:]
            },
            "slices": slice_scores(table, first, self.fewest, self.draws, rng, self.level),
            "worst": worst_rows(table, first, self.worst),
        }

    def _compared(self, split: str, first: Predictions, other: Predictions) -> dict[str, Any]:
        """First less other, in pairs, on each primary score; below 0 is better for the first.

        Accuracy enters as the error rate, so that lower is better throughout.
        """
        entry: dict[str, Any] = {}
        for name in PRIMARY:
            rng = stream(self.seed, "evaluate", split, "compare", name)
            mine, its = row_losses(first, name), row_losses(other, name)
            gap: Interval = paired_difference(mine, its, self.draws, rng, self.level)
            alpha, largest = (1 - self.level) / 2, LARGEST[name]
            verdict = compare(mine, its, 0.0, alpha, rng, self.draws, largest=largest)
            word = {"superior": "better", "inferior": "worse"}.get(verdict.verdict, "inconclusive")
            key = "error" if name == "accuracy" else name
            entry[key] = gap.to_json() | {"verdict": word}
        return entry


def row_losses(found: Predictions, name: str) -> np.ndarray:
    """Per row (n,), lower is better: log-loss, Brier score, or 1 where wrong for accuracy."""
    if name == "accuracy":
        return (found.chosen != found.truth).astype(float)
    losses = log_losses if name == "log_loss" else brier_scores
    return losses(found.truth, found.probabilities)


def headline(
    split: str, scored: Mapping[str, Any], models: tuple[str, ...], primary: str, risk: float
) -> dict[str, Any]:
    """Which model is best on the primary score, and the first line of the report.

    If a baseline wins, or the first model's lead over one of them is not proven, the line begins
    by saying so. A model that is unsure of most rows at ``risk`` would surprise whoever serves
    it, so that is said too.
    """
    sign = -1 if primary == "accuracy" else 1
    value = {name: scored["models"][name]["metrics"][primary] for name in models}
    best = min(models, key=lambda name: (sign * value[name]["estimate"], models.index(name)))
    key = "error" if primary == "accuracy" else primary
    verdicts = {name: scored["comparisons"][name][key]["verdict"] for name in models[1:]}
    unproven = [name for name, verdict in verdicts.items() if verdict == "inconclusive"]
    losing = [name for name, verdict in verdicts.items() if verdict == "worse"]
    told = f"on {split} ({scored['rows']} rows) by {primary.replace('_', '-')}"
    shown = "; ".join(f"{name} {_figure(value[name])}" for name in models)
    if losing:
        state = "baseline wins"
        winner = min(losing, key=lambda name: sign * value[name]["estimate"])
        line = f"A baseline wins {told}: {winner} is better than {models[0]}"
    elif unproven:
        state = "inconclusive"
        line = f"Not proven {told}: {models[0]} may be no better than {' and '.join(unproven)}"
    elif verdicts:
        state, line = "model wins", f"{models[0]} is better than every baseline {told}"
    else:
        state, line = "no comparison", f"{models[0]} {told}, compared with nothing"
    answered = scored["models"][models[0]]["metrics"]["coverage"]["estimate"]
    if answered < SPARSE:
        line += f", and unsure of {1 - answered:.0%} of them at evaluate.risk {risk:g}"
    return {
        "best": best,
        "state": state,
        "split": split,
        "primary": primary,
        "verdicts": verdicts,
        "line": f"{line}: {shown}.",
    }


def _figure(value: Mapping[str, float | None]) -> str:
    shown = [
        "–" if value[name] is None else f"{value[name]:.3f}" for name in ("estimate", "low", "high")
    ]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth a line in a table: main scores and comparisons, without rows and texts."""
    return {
        "headline": result["headline"],
        "calibration": result["calibration"],
        "splits": {
            split: {
                "rows": scored["rows"],
                "models": {
                    name: {metric: each["metrics"][metric] for metric in MAIN}
                    for name, each in scored["models"].items()
                },
                "comparisons": scored["comparisons"],
            }
            for split, scored in result["splits"].items()
        },
    }
