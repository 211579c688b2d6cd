"""Retraining: when it is worth it, on what, and the recipe that does it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmwright.core.durable import write_bytes
from lmwright.core.errors import BadInput, nearest
from lmwright.core.hashing import hash_bytes
from lmwright.core.random import stream
from lmwright.core.recipe import merge, read_settings
from lmwright.core.stage import Settings
from lmwright.loop.detect import Detect
from lmwright.loop.gate import Gate, lacking
from lmwright.loop.promote import Promote
from lmwright.loop.watch import Watch
from lmwright.metrics.classification import SMALLEST
from lmwright.metrics.noninferiority import FEWEST, allowance, one_sided_bounds
from lmwright.serve.traffic import PARTS, bare
from lmwright.store.store import Store

FEWEST_LEARNT = 70
"""Texts to learn from, at least: of fewer one of the splits may get none."""
PAST = "past"
"""Beside the parts of the feedback: what earlier gates judged by, now kept as a test set."""
FEEDBACK = "feedback"
"""The stage that a retraining has beside the recipe's, and its artifact."""
HELD = ["rows/validation", "rows/calibration", "rows/gate", "rows/test"]
DETECT = {"window": Detect.window, "reference": list(Detect.reference)}


@dataclass(frozen=True, kw_only=True)
class Retrain(Settings):
    """The trigger and the recipe of a retraining: the section ``retrain`` of a recipe.

    Drift alone is not harm. A retraining starts when drift was seen in ``windows`` of the last
    windows, at least ``fewest`` labelled texts wait to be learnt from and judged by, those to
    judge by are as many as the gate wants, and one of these holds:

    ``new_labels``  so many labelled texts wait (0: no such reason);
    ``loss``        labelled log-loss is above the reference's by more than this. The chance to
                    say so where it is not is at most ``alpha`` for all looks together: the first
                    is at ``fewest`` labels, each further one when their number has doubled;
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

    def check_in(self, raw: Mapping[str, Any], where: str, make: Callable[..., Any]) -> None:
        """BadInput where no retraining could begin, or no recipe of one be made of ``stages``."""
        self.check_means(raw, where)
        known = {*raw["stages"], FEEDBACK}
        for name in self.stages:
            if name not in known:
                raise BadInput(
                    f"{where}: retrain.stages.{name}", "a stage of the recipe", nearest(name, known)
                )
        files = {part: (Path(f"{part}.jsonl"), 1) for part in PARTS}
        derived = derive(raw, self, "", files, f"{raw['name']}@{Promote.alias}")
        stages = {name: derived[name] for name in ("name", "stages", "artifacts")}
        make(stages, f"{where}: retrain.stages")

    def check_means(self, raw: Mapping[str, Any], where: str) -> None:
        """BadInput without texts, drift to see, or rows enough to learn from and to judge by."""
        watch = read_settings(Watch, raw.get("watch") or {}, f"{where}: watch")
        if not watch.keep_text:
            raise BadInput(
                f"{where}: retrain, where texts are not kept",
                "texts to learn from",
                "set watch.keep_text: true, or take retrain out",
            )
        if (raw["stages"].get("promote") or {}).get("detectors", Promote.detectors) is None:
            raise BadInput(
                f"{where}: retrain, and promote.detectors: null",
                "detectors: a retraining waits for drift",
                "add the stage detect and take detectors: null out, or take retrain out",
            )
        judging = self.fewest * watch.gate_share
        if judging < FEWEST or self.fewest - judging < FEWEST_LEARNT:
            raise BadInput(
                f"{where}: retrain.fewest {self.fewest}, of which watch.gate_share leaves "
                f"about {judging:.0f} texts to judge by, {self.fewest - judging:.0f} to learn from",
                f"at least {FEWEST} and {FEWEST_LEARNT}",
                "raise retrain.fewest",
            )


@dataclass(frozen=True)
class Trigger:
    """Why a retraining is worth it, or ``reason`` empty when it is not; and the numbers.

    ``looks`` are the numbers of labels at which the loss has been tested so far.
    """

    reason: str
    evidence: dict[str, Any]
    looks: tuple[int, ...]


def find_trigger(
    settings: Retrain,
    signs: list[dict[str, Any]],
    labelled: list[dict[str, Any]],
    reference_loss: float | None,
    reference_confidence: float,
    looks: tuple[int, ...] = (),
) -> Trigger:
    """Judge the last windows' ``signs`` and the ``labelled`` answers of the version in service.

    ``looks`` are the earlier tests of the loss of these answers: each spends its part of alpha.
    """
    recent = signs[-max(settings.windows * 2, 4) :]
    drifting = [window for window in recent if drifts(window)]
    evidence: dict[str, Any] = {"drifting_windows": len(drifting), "labels": len(labelled)}
    if len(drifting) < settings.windows or len(labelled) < settings.fewest:
        return Trigger("", evidence, looks)
    if settings.new_labels and len(labelled) >= settings.new_labels:
        return Trigger(f"drift, and {len(labelled)} new labels to learn from", evidence, looks)
    if reference_loss is not None and (not looks or len(labelled) >= 2 * looks[-1]):
        losses = np.array([loss_of(row) for row in labelled])
        alpha = allowance(settings.alpha, len(looks))
        lower, _ = one_sided_bounds(losses - reference_loss, alpha, stream(0, "harm"))
        looks = (*looks, len(labelled))
        least = lower if np.isfinite(lower) else None
        evidence |= {"loss": float(losses.mean()), "loss_gap_at_least": least, "alpha": alpha}
        if lower > settings.loss:
            return Trigger(
                f"drift, and labelled log-loss rose by {lower:.3f} or more", evidence, looks
            )
    now = float(np.mean([window["confidence_mean"] for window in drifting]))
    evidence |= {"confidence": now, "reference_confidence": reference_confidence}
    if reference_confidence - now > settings.confidence:
        return Trigger(f"drift, and confidence fell to {now:.3f}", evidence, looks)
    return Trigger("", evidence, looks)


def drifts(window: dict[str, Any]) -> bool:
    """Whether any detector was over its limit."""
    return any(sign["over"] for sign in window.values() if isinstance(sign, dict))


def loss_of(row: dict[str, Any]) -> float:
    """The log-loss of a labelled answer, bounded as everywhere."""
    return -float(np.log(max(row["probabilities"].get(row["truth"], 0.0), SMALLEST)))


def parts(labelled: list[dict[str, Any]], judged: int = 0) -> dict[str, list[dict[str, str]]]:
    """The labelled texts of each part, as rows with text, label and the answer's id.

    The same text stands once, with the label that was given last; texts that were not kept
    cannot be learnt from and are left out. What an earlier gate may have judged by (texts with
    feedback of a number up to ``judged``) is no more of the gate's part; it is the past.
    """
    known = [row for row in labelled if row["text"]]
    stale = {bare(row["text"]) for row in known if row["number"] <= judged}
    found: dict[str, dict[str, dict[str, str]]] = {part: {} for part in (*PARTS, PAST)}
    for row in known:
        old = row["part"] == "gate" and bare(row["text"]) in stale
        found[PAST if old else row["part"]][row["text"]] = {
            "text": row["text"],
            "label": row["truth"],
            "answer": row["id"],
        }
    return {part: list(rows.values()) for part, rows in found.items()}


def missing(
    raw: Mapping[str, Any], found: Mapping[str, list[dict[str, str]]], labels: Sequence[str]
) -> str:
    """What the gate of ``raw``, a retraining's recipe, lacks in fresh rows; empty if nothing."""
    promote = raw["stages"].get("promote") or {}
    gate = read_settings(Gate, promote.get("gate") or {}, "promote.gate")
    fresh = found["gate"]
    columns = {name: [row[name] for row in fresh] for name in ("text", "label")}
    return lacking(gate, pa.table({**columns, "source": [FEEDBACK] * len(fresh)}), labels)


def export(store: Store, found: Mapping[str, list[dict[str, str]]]) -> dict[str, tuple[Path, int]]:
    """Write the rows of each part into a file under its content; part -> file, rows.

    A past of fewer rows than can be judged by is left out.
    """
    folder = store.folder / "feedback"
    files: dict[str, tuple[Path, int]] = {}
    for part, rows in found.items():
        if part == PAST and len(rows) < FEWEST:
            continue
        lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) for row in rows]
        data = "".join(line + "\n" for line in sorted(lines)).encode()
        path = folder / f"{part}-{hash_bytes(data)[:24]}.jsonl"
        if not path.exists():
            write_bytes(path, data)
        files[part] = (path, len(rows))
    return files


def derive(
    raw: Mapping[str, Any],
    settings: Retrain,
    model: str,
    files: dict[str, tuple[Path, int]],
    alias: str,
) -> dict[str, Any]:
    """The recipe of a retraining: the old stages, the feedback beside them, the overlay on top.

    ``model`` is the content of the model behind ``alias``, which the gate may move. The feedback's
    training part is a source to learn from, its gate part and its past are test sets that are kept
    whole; nothing is learnt from what is near a row of them or of the old splits that models are
    judged by. The gate judges on the gate part and asks that nothing is forgotten: the earlier
    test set, the past, and what the recipe's own gate kept. From then on drift is measured
    from the new traffic, as far as there are enough rows of it.
    """
    sources = [
        {
            "name": f"feedback-{part}",
            "path": str(path),
            "licence": "feedback of users",
            "role": "train" if part == "train" else "test",
        }
        for part, (path, _) in files.items()
    ]
    added: dict[str, Any] = {
        FEEDBACK: {
            "stage": "data",
            "sources": sources,
            "held": HELD,
            "label_error_rows": 0,
            "fractions": {
                "train": 0.7,
                "validation": 0.04,
                "calibration": 0.2,
                "gate": 0.03,
                "test": 0.03,
            },
            "writes": {"rows": FEEDBACK},
        }
    }
    fresh = f"{FEEDBACK}/test-feedback-gate"
    name, _, tail = alias.partition("@")
    gate = (raw["stages"].get("promote") or {}).get("gate") or {}
    past = [f"{FEEDBACK}/test-feedback-{PAST}"] if PAST in files else []
    kept = list(dict.fromkeys([gate.get("fresh", Gate.fresh), *gate.get("kept", ()), *past]))
    detect = {**DETECT, **(raw["stages"].get("detect") or {})}
    enough = files["gate"][1] >= 3 * int(detect["window"])
    reference = [fresh] if enough else [*detect["reference"], fresh]
    overlay = {
        "train": {"extra": [FEEDBACK]},
        "baselines": {"extra": [FEEDBACK]},
        "evaluate": {"splits": ["test"], "extra": [FEEDBACK]},
        "audit": {"extra": [FEEDBACK]},
        "detect": {"reference": reference},
        "promote": {"alias": tail, "gate": {"fresh": fresh, "kept": kept}},
    }
    stages: dict[str, Any] = {}
    for step, value in raw["stages"].items():
        stages[step] = merge(value or {}, overlay.get(step, {}))
        if step == "data":
            stages.update(added)
    stages = merge(stages, settings.stages)
    artifacts = {**(raw.get("artifacts") or {}), "incumbent": model}
    return {**raw, "name": name, "stages": stages, "artifacts": artifacts}


def write_recipe(store: Store, raw: dict[str, Any]) -> Path:
    """Put a derived recipe into the store under its content (JSON is YAML; stages keep order)."""
    data = json.dumps(raw, ensure_ascii=False, indent=1).encode() + b"\n"
    path = store.folder / "feedback" / f"retrain-{hash_bytes(data)[:24]}.yaml"
    write_bytes(path, data)
    return path
