"""Retraining: when it is worth it, on what, and the recipe that does it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmwright.core.durable import write_bytes
from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_bytes
from lmwright.core.random import stream
from lmwright.core.recipe import merge
from lmwright.core.stage import Settings
from lmwright.loop.detect import Detect
from lmwright.loop.traffic import PARTS
from lmwright.metrics.noninferiority import one_sided_bounds
from lmwright.store.store import Store
from lmwright.store.versions import read_version

FEWEST_LABELS = 30
DETECT = {"window": Detect.window, "reference": list(Detect.reference)}


@dataclass(frozen=True, kw_only=True)
class Retrain(Settings):
    """The trigger and the recipe of a retraining: the section ``retrain`` of a recipe.

    Drift alone is not harm. A retraining starts when drift was seen in ``windows`` of the last
    windows, at least ``fewest`` labelled texts wait to be learnt from and judged by, and one of
    these holds:

    ``new_labels``  so many labelled texts wait (0: no such reason);
    ``loss``        labelled log-loss is above the reference's by more than this, with one-sided
                    confidence 1 − ``alpha`` (needs 30 labels);
    ``confidence``  mean confidence, the model's own estimate of its accuracy, fell by more.

    ``stages`` is laid over the recipe's stages. The feedback is the artifact ``feedback``; the
    model in service is the artifact ``incumbent``.
    """

    windows: int = 2
    fewest: int = 200
    new_labels: int = 600
    loss: float = 0.1
    confidence: float = 0.05
    alpha: float = 0.05
    stages: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """BadInput for numbers outside their ranges."""
        if self.windows < 1 or self.new_labels < 0 or not 0 < self.alpha < 0.5:
            raise BadInput(
                f"retrain.windows {self.windows}, new_labels {self.new_labels}, alpha {self.alpha}",
                "at least one window, labels from 0, alpha above 0 and below 0.5",
            )
        if self.fewest < FEWEST_LABELS:
            raise BadInput(f"retrain.fewest is {self.fewest}", f"at least {FEWEST_LABELS}")


@dataclass(frozen=True)
class Harm:
    """Why a retraining is worth it, or ``reason`` empty when it is not; and the numbers."""

    reason: str
    evidence: dict[str, Any]


def harm(
    settings: Retrain,
    signs: list[dict[str, Any]],
    labelled: list[dict[str, Any]],
    reference_loss: float | None,
    reference_confidence: float,
) -> Harm:
    """Judge the last windows' ``signs`` and the ``labelled`` answers of the version in service."""
    recent = signs[-max(settings.windows * 2, 4) :]
    drifting = [window for window in recent if drifts(window)]
    evidence: dict[str, Any] = {"drifting_windows": len(drifting), "labels": len(labelled)}
    if len(drifting) < settings.windows or len(labelled) < settings.fewest:
        return Harm("", evidence)
    if settings.new_labels and len(labelled) >= settings.new_labels:
        return Harm(f"drift, and {len(labelled)} new labels to learn from", evidence)
    losses = np.array([loss_of(row) for row in labelled])
    if reference_loss is not None:
        rng = stream(0, "harm")
        lower, _ = one_sided_bounds(losses - reference_loss, settings.alpha, rng)
        evidence |= {"loss": float(losses.mean()), "loss_gap_at_least": lower}
        if lower > settings.loss:
            return Harm(f"drift, and labelled log-loss rose by {lower:.3f} or more", evidence)
    now = float(np.mean([window["confidence_mean"] for window in drifting]))
    evidence |= {"confidence": now, "reference_confidence": reference_confidence}
    if reference_confidence - now > settings.confidence:
        return Harm(f"drift, and confidence fell to {now:.3f}", evidence)
    return Harm("", evidence)


def drifts(window: dict[str, Any]) -> bool:
    """Whether any detector was over its limit."""
    return any(sign["over"] for sign in window.values() if isinstance(sign, dict))


def loss_of(row: dict[str, Any]) -> float:
    """The log-loss of a labelled answer, bounded as everywhere."""
    return -float(np.log(max(row["probabilities"].get(row["truth"], 0.0), 1e-12)))


def export(store: Store, labelled: list[dict[str, Any]]) -> dict[str, tuple[Path, int]]:
    """Write the labelled texts of each part into a file under its content; part -> file, rows.

    The same text stands once, with the label that was given last; texts that were not kept
    cannot be learnt from and are left out.
    """
    folder = store.folder / "feedback"
    found: dict[str, tuple[Path, int]] = {}
    for part in PARTS:
        rows = {
            row["text"]: {"text": row["text"], "label": row["truth"], "answer": row["id"]}
            for row in labelled
            if row["part"] == part and row["text"]
        }
        lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) for row in rows.values()]
        data = "".join(line + "\n" for line in sorted(lines)).encode()
        path = folder / f"{part}-{hash_bytes(data)[:24]}.jsonl"
        if not path.exists():
            write_bytes(path, data)
        found[part] = (path, len(rows))
    return found


def derive(
    raw: dict[str, Any],
    settings: Retrain,
    store: Store,
    version: str,
    files: dict[str, tuple[Path, int]],
) -> dict[str, Any]:
    """The recipe of a retraining: the old stages, the feedback beside them, the overlay on top.

    The feedback's training part is a source to learn from, its gate part a world that is kept
    whole. The gate judges on that world and asks that the old one is not forgotten. From then on
    drift is measured from the new world, as far as there are enough rows of it.
    """
    bound = read_version(store, version)
    sources = [
        {
            "name": f"feedback-{part}",
            "path": str(files[part][0]),
            "licence": "feedback of users",
            "role": "train" if part == "train" else "world",
        }
        for part in PARTS
    ]
    added: dict[str, Any] = {
        "feedback": {
            "stage": "data",
            "sources": sources,
            "suspect_rows": 0,
            "fractions": {
                "train": 0.7,
                "stop": 0.04,
                "calibration": 0.2,
                "gate": 0.03,
                "test": 0.03,
            },
            "writes": {"rows": "feedback"},
        }
    }
    fresh = "feedback/world-feedback-gate"
    old = str((raw["stages"].get("promote") or {}).get("gate", {}).get("fresh", "rows/gate"))
    detect = {**DETECT, **(raw["stages"].get("detect") or {})}
    enough = files["gate"][1] >= 3 * int(detect["window"])
    reference = [fresh] if enough else [*detect["reference"], fresh]
    overlay = {
        "train": {"extra": ["feedback"]},
        "baselines": {"extra": ["feedback"]},
        "evaluate": {"splits": ["test"], "extra": ["feedback"]},
        "audit": {"extra": ["feedback"]},
        "detect": {"reference": reference},
        "promote": {"gate": {"fresh": fresh, "kept": [old]}},
    }
    stages: dict[str, Any] = {}
    for name, value in raw["stages"].items():
        stages[name] = merge(value or {}, overlay.get(name, {}))
        if name == "data":
            stages.update(added)
    stages = merge(stages, settings.stages)
    return {**raw, "stages": stages, "artifacts": {"incumbent": bound["model"]}}


def write_recipe(store: Store, raw: dict[str, Any]) -> Path:
    """Put a derived recipe into the store under its content (JSON is YAML; stages keep order)."""
    data = json.dumps(raw, ensure_ascii=False, indent=1).encode() + b"\n"
    path = store.folder / "feedback" / f"retrain-{hash_bytes(data)[:24]}.yaml"
    write_bytes(path, data)
    return path
