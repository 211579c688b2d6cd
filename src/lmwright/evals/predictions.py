"""What a model said of every row: asked for, kept as Parquet, read back, scored again.

Files lie in the scores artifact as ``MODEL/SPLIT.parquet`` beside ``MODEL/calibration.json``.
Whoever doubts a figure of a report recomputes it from them with ``recompute``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmwright.core.errors import BadInput, Corrupt
from lmwright.evals.scores import estimates
from lmwright.models.calibration import Calibration
from lmwright.models.model import Model

MOST_TOKENS = 8192
"""Tokens of one batch: enough to be fast, little enough to fit and to show progress."""


@dataclass(frozen=True)
class Predictions:
    """What one model says of n rows with k labels (``labels``: their names, sorted).

    ``truth`` and ``chosen`` (n,) label ids; ``logits`` and calibrated ``probabilities`` (n, k);
    ``unsure`` (n,) bool; ``floor`` is the least probability that the model gives any label.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    truth: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    unsure: np.ndarray
    floor: float = 0.0

    @property
    def chosen(self) -> np.ndarray:
        """The most probable label of every row."""
        return self.probabilities.argmax(1)


def predict_logits(
    model: Model,
    texts: Sequence[str],
    labels: Sequence[str],
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> np.ndarray:
    """Logits (n, k) in the order of ``texts`` and ``labels``, like lengths being read together.

    BadInput if the model's labels are others.
    """
    if sorted(model.labels) != sorted(labels):
        raise BadInput(
            f"a model of the labels {list(model.labels)}", f"one of the labels {list(labels)}"
        )
    prepared = model.prepare(texts)
    costs = np.array([row.cost for row in prepared], dtype=np.int64)
    found = np.empty((len(texts), len(labels)))
    columns = [model.labels.index(label) for label in labels]
    done = 0
    for places in batches(costs):
        found[places] = model.logits([prepared[place] for place in places])[:, columns]
        done += int(costs[places].sum())
        progress(done, int(costs.sum()))
    return found


def batches(costs: np.ndarray, most: int = MOST_TOKENS) -> list[np.ndarray]:
    """Places of rows in batches of at most ``most`` tokens (or one row), shortest rows first."""
    order = np.argsort(costs, kind="stable")
    groups: list[np.ndarray] = []
    start, total = 0, 0
    for end, place in enumerate(order):
        if end > start and total + costs[place] > most:
            groups.append(order[start:end])
            start, total = end, 0
        total += int(costs[place])
    return groups + ([order[start:]] if len(order) else [])


def judge(
    rows: pa.Table, labels: Sequence[str], logits: np.ndarray, calibration: Calibration
) -> Predictions:
    """Predictions from the logits (n, k) of ``rows`` under a calibration."""
    p = calibration.probabilities(logits)
    ids = tuple(rows.column("id").to_pylist())
    return Predictions(
        ids,
        tuple(labels),
        truth_of(rows, labels),
        logits,
        p,
        calibration.unsure(p),
        calibration.floor(len(labels)),
    )


def truth_of(rows: pa.Table, labels: Sequence[str]) -> np.ndarray:
    """Label ids (n,) of rows; BadInput for a label that the task does not have."""
    place = {label: number for number, label in enumerate(labels)}
    given = rows.column("label").to_pylist()
    if unknown := sorted(set(given) - set(place)):
        raise BadInput(f"rows with the labels {unknown}", f"among {list(labels)}")
    return np.array([place[label] for label in given], dtype=np.int64)


def write_predictions(path: Path, found: Predictions) -> None:
    """One Parquet file; the label names are in its schema's metadata."""
    names = np.array(found.labels, dtype=object)
    columns = {
        "id": pa.array(found.ids, pa.string()),
        "label": pa.array(names[found.truth], pa.string()),
        "logits": pa.array(list(found.logits), pa.list_(pa.float64())),
        "probabilities": pa.array(list(found.probabilities), pa.list_(pa.float64())),
        "prediction": pa.array(names[found.chosen], pa.string()),
        "unsure": pa.array(found.unsure, pa.bool_()),
    }
    fields = [pa.field(name, column.type) for name, column in columns.items()]
    known = {f"label.{number}": label for number, label in enumerate(found.labels)}
    known["floor"] = repr(found.floor)
    schema = pa.schema(fields, metadata=known)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")


def read_predictions(scores: Path, model: str, split: str) -> Predictions:
    """What ``write_predictions`` wrote for a model and split of a scores artifact."""
    path = scores / model / f"{split}.parquet"
    if not path.is_file():
        raise BadInput(f"no predictions of {model!r} on {split!r}", "a model and split of the run")
    try:
        table = pq.read_table(path)
        known = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        labels = [known[f"label.{n}"] for n in range(sum(k.startswith("label.") for k in known))]
        return Predictions(
            ids=tuple(table.column("id").to_pylist()),
            labels=tuple(labels),
            truth=truth_of(table, labels),
            logits=np.array(table.column("logits").to_pylist()).reshape(-1, len(labels)),
            probabilities=np.array(table.column("probabilities").to_pylist()).reshape(
                -1, len(labels)
            ),
            unsure=np.array(table.column("unsure").to_pylist(), dtype=bool),
            floor=float(known.get("floor", 0.0)),
        )
    except (pa.ArrowException, KeyError, ValueError) as fault:
        raise Corrupt(f"{path.name} cannot be read ({fault})") from fault


def recompute(scores: Path, model: str, split: str) -> dict[str, float]:
    """Every estimate of a model on a split, from its saved predictions and nothing else."""
    found = read_predictions(scores, model, split)
    return estimates(found.truth, found.probabilities, found.unsure, found.labels)
