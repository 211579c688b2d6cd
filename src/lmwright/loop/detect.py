"""The stage ``detect``: drift detectors fitted to how a model sees rows it never learnt from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput
from lmwright.core.predictor import Predictor, answer_prepared
from lmwright.core.stage import Feedback, RowStatistics, Stage, Use, Work, WorkEstimate
from lmwright.core.task import Answers, asked_rows, feedback_loss
from lmwright.data.corpus import count_rows, read_split, task_modules
from lmwright.metrics.calibration import Calibration
from lmwright.metrics.detectors import (
    REFERENCE_WINDOWS,
    Detectors,
    Sample,
    refuse_few,
    refuse_settings,
)
from lmwright.models.load import load_predictor, modules_of


@dataclass(frozen=True, kw_only=True)
class Detect(Stage):
    """Fit a detector for each signal of the task, with one false-alarm rate for all together, to
    windows of ``window`` rows.

    ``reference`` names unseen rows as ``ARTIFACT/FILE``, at most ``rows`` of each (0: all);
    ``run_length`` is the number of windows in control between two false alarms of all detectors
    together; ``windows`` how many are drawn to set that. ``precision`` is that of the model's
    products: best that in which it will be served.
    """

    model: str = "model"
    reference: tuple[str, ...] = ("rows/calibration", "rows/gate", "rows/test")
    rows: int = 0
    window: int = 100
    run_length: float = 500.0
    windows: int = 10_000
    precision: Literal["fp32", "bf16", "int8", "int4"] = "fp32"

    def needs(self) -> tuple[str, ...]:
        """The model, its calibration (in scores) and the reference rows."""
        places = (place.partition("/")[0] for place in self.reference)
        return tuple(dict.fromkeys((self.model, "scores", *places)))

    def gives(self) -> tuple[str, ...]:
        """The detectors."""
        return ("detectors",)

    def holds(self) -> dict[str, tuple[str, ...]]:
        """Detectors for one model: they compare what it sees, and no other model sees that."""
        return {"detectors": (self.model,)}

    def asks(self) -> tuple[str, ...]:
        """The model's calibration and the reference rows."""
        return (f"scores/{self.model}", *self.reference)

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The kind of the model and its task."""
        rows = self.reference[0].partition("/")[0]
        return (*task_modules(inputs[rows]), *modules_of(inputs[self.model]))

    @classmethod
    def retraining(cls, settings: Mapping[str, Any], feedback: Feedback) -> dict[str, Any]:
        """Measure drift from the new traffic, as far as there are enough rows of it."""
        window = int(settings.get("window", cls.window))
        if feedback.fresh_rows >= REFERENCE_WINDOWS * window:
            return {"reference": [feedback.fresh]}
        return {"reference": [*settings.get("reference", cls.reference), feedback.fresh]}

    @classmethod
    def uses(cls, settings: Mapping[str, Any], place: str) -> tuple[Use, ...]:
        """Traffic is compared with the reference rows."""
        return (Use("compared", "detectors"),) if place in settings["reference"] else ()

    def check(self) -> None:
        """BadInput for reference rows that are not ARTIFACT/FILE and numbers out of range."""
        for place in self.reference:
            if place.count("/") != 1:
                raise BadInput(f"detect.reference has {place!r}", "ARTIFACT/FILE, as in rows/gate")
        if self.rows < 0:
            raise BadInput(f"detect.rows is {self.rows}", "a number of rows, or 0 for all")
        refuse_settings(self.window, self.run_length, self.windows)

    def foresee(self, inputs: Mapping[str, Path]) -> None:
        """BadInput when the reference rows are too few for the window."""
        places = [place.split("/") for place in self.reference]
        if all(artifact in inputs for artifact, _ in places):
            counts = [count_rows(inputs[a] / f"{s}.parquet") for a, s in places]
            refuse_few(sum(map(self.limited, counts)), self.window)

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """The reference rows, read once."""
        tokens = sum(
            self.limited(known.rows(place)) * known.tokens(place, 256) for place in self.reference
        )
        return WorkEstimate(read_tokens=tokens, disk=5_000_000)

    def limited(self, count: float) -> int:
        """The number of rows that are read of a reference of ``count`` rows."""
        return int(min(count, self.rows) if self.rows else count)

    def run(self, work: Work) -> dict[str, Any]:
        """Answer the reference with the model, and fit."""
        predictor = loaded_in(work.inputs[self.model], self.precision)
        calibration = Calibration.load(work.inputs["scores"] / self.model)
        places = [place.split("/") for place in self.reference]
        rows = pa.concat_tables(
            [
                read_split(work.inputs[artifact], split, self.rows, self.seed)
                for artifact, split in places
            ],
            promote_options="default",
        )
        sample, answers = signals_of(predictor, calibration, rows, work.progress)
        fitted = Detectors.fit(sample, self.window, self.run_length, self.seed, self.windows)
        fitted.save(work.out("detectors"))
        write_json(work.out("detectors") / "model.json", work.inputs[self.model].name)
        task = predictor.task
        known = pa.array([not task.fault(row) for row in rows.to_pylist()])
        places_known = [place for place, fine in enumerate(known.to_pylist()) if fine]
        losses = task.measures(rows.filter(known), answers.take(places_known)).losses
        confidence = task.confidence(answers)
        return {
            "reference_rows": rows.num_rows,
            "window": self.window,
            "run_length": self.run_length,
            "confidence": None if confidence is None else float(confidence.mean()),
            "loss": float(losses[feedback_loss(task)].values.mean()),
        }


def loaded_in(folder: Path, precision: str) -> Predictor:
    """A model whose products are computed in a precision; BadInput where it runs no network that
    could be."""
    found = load_predictor(folder)
    if precision != "fp32":
        from lmwright.models.placement import place_or_refuse  # who only looks needs no torch

        place_or_refuse(found, "cpu", precision, f"a {found.kind} model")
    return found


def refuse_other_model(folder: Path, model: str) -> None:
    """Raise BadInput unless the detectors in a folder were fitted to the model of this content."""
    fitted = json.loads((folder / "model.json").read_bytes())
    if fitted != model:
        raise BadInput(
            f"the detectors are for the model {fitted[:16]}, the one to promote is {model[:16]}",
            "detectors fitted to the model that they will watch",
            "name the same model in detect.model and promote.model",
        )


def signals_of(
    predictor: Predictor,
    calibration: Calibration,
    rows: pa.Table,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> tuple[Sample, Answers]:
    """The signals of rows as the detectors compare them, and the calibrated answers."""
    task = predictor.task
    prepared = predictor.prepare(asked_rows(task, rows))
    answers = calibration.apply(task, answer_prepared(predictor, prepared, progress))
    return task.signals(prepared, answers), answers
