"""The stage ``detect``: drift detectors fitted to how a model sees rows it never learnt from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput
from lmwright.core.stage import RowStatistics, Stage, Work, WorkEstimate
from lmwright.data.corpus import count_rows
from lmwright.evals.predictions import batches
from lmwright.evals.rows import read_split
from lmwright.metrics.classification import SMALLEST
from lmwright.metrics.detectors import Detectors, Seen, refuse_few, refuse_settings
from lmwright.models.calibration import Calibration
from lmwright.models.model import load_model
from lmwright.tables import MODELS


@dataclass(frozen=True, kw_only=True)
class Detect(Stage):
    """Fit five detectors with one false-alarm rate to windows of ``window`` texts.

    ``reference`` names unseen rows as ``ARTIFACT/FILE``; ``run_length`` is the number of windows
    in control between two false alarms of all detectors together; ``windows`` how many are drawn
    to set that.
    """

    model: str = "model"
    reference: tuple[str, ...] = ("rows/calibration", "rows/gate", "rows/test")
    window: int = 100
    run_length: float = 500.0
    windows: int = 10_000

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

    def reaches(self) -> tuple[str, ...]:
        """The modules of all kinds of models."""
        return tuple(sorted({entry.partition(":")[0] for entry in MODELS.values()}))

    def check(self) -> None:
        """BadInput for reference rows that are not ARTIFACT/FILE and numbers out of range."""
        for place in self.reference:
            if place.count("/") != 1:
                raise BadInput(f"detect.reference has {place!r}", "ARTIFACT/FILE, as in rows/gate")
        refuse_settings(self.window, self.run_length, self.windows)

    def foresee(self, inputs: Mapping[str, Path]) -> None:
        """BadInput when the reference rows are too few for the window."""
        places = [place.split("/") for place in self.reference]
        if all(artifact in inputs for artifact, _ in places):
            refuse_few(sum(count_rows(inputs[a] / f"{s}.parquet") for a, s in places), self.window)

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """The reference rows, read once."""
        tokens = sum(known.rows(place) * known.tokens(place, 256) for place in self.reference)
        return WorkEstimate(read_tokens=tokens, disk=5_000_000)

    def run(self, work: Work) -> dict[str, Any]:
        """See the reference with the model, and fit."""
        model = load_model(work.inputs[self.model])
        calibration = Calibration.load(work.inputs["scores"] / self.model)
        texts: list[str] = []
        truths: list[str] = []
        for place in self.reference:
            artifact, _, split = place.partition("/")
            rows = read_split(work.inputs[artifact], split)
            texts += rows.column("text").to_pylist()
            truths += rows.column("label").to_pylist()
        seen, probabilities = see(model, calibration, texts, work.progress)
        fitted = Detectors.fit(
            seen, len(model.labels), self.window, self.run_length, self.seed, self.windows
        )
        fitted.save(work.out("detectors"))
        write_json(work.out("detectors") / "model.json", work.inputs[self.model].name)
        return {
            "reference_rows": len(seen),
            "window": self.window,
            "run_length": self.run_length,
            "confidence": float(seen.confidence.mean()),
            "log_loss": log_loss(probabilities, model.labels, truths),
        }


def refuse_other_model(folder: Path, model: str) -> None:
    """Raise BadInput unless the detectors in a folder were fitted to the model of this content."""
    fitted = json.loads((folder / "model.json").read_bytes())
    if fitted != model:
        raise BadInput(
            f"the detectors are for the model {fitted[:16]}, the one to promote is {model[:16]}",
            "detectors fitted to the model that they will watch",
            "name the same model in detect.model and promote.model",
        )


def see(
    model: Any, calibration: Calibration, texts: Sequence[str], tell: Any = None
) -> tuple[Seen, np.ndarray]:
    """How a model sees texts: what the detectors compare, and the probabilities (n, k)."""
    prepared = model.prepare(texts)
    costs = np.array([item.cost for item in prepared])
    logits = np.empty((len(texts), len(model.labels)))
    vectors: np.ndarray | None = None
    done = 0
    for places in batches(costs):
        logits[places], found = model.look([prepared[place] for place in places])
        if vectors is None:
            vectors = np.empty((len(texts), found.shape[1]), dtype=np.float32)
        vectors[places] = found
        done += int(costs[places].sum())
        if tell is not None:
            tell(done, int(costs.sum()), "reading the reference")
    probabilities = calibration.probabilities(logits)
    return seen_of(probabilities, vectors, [item.ids for item in prepared]), probabilities


def log_loss(probabilities: np.ndarray, labels: Sequence[str], truths: Sequence[str]) -> float:
    """Mean log-loss of probabilities (n, k), bounded; an unknown label has probability 0."""
    place = {label: column for column, label in enumerate(labels)}
    right = [
        float(row[place[truth]]) if truth in place else 0.0
        for row, truth in zip(probabilities, truths, strict=True)
    ]
    return float(-np.log(np.clip(right, SMALLEST, 1.0)).mean())


def seen_of(probabilities: np.ndarray, vectors: Any, ids: Sequence[np.ndarray]) -> Seen:
    """A sample from probabilities (n, k), vectors (n, d) and each text's ids."""
    lengths = np.array([len(each) for each in ids])
    return Seen(
        lengths.astype(float),
        probabilities.max(1),
        probabilities.argmax(1),
        np.asarray(vectors),
        np.concatenate(list(ids)),
        np.concatenate([[0], np.cumsum(lengths)]),
    )
