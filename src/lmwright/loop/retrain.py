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
from lmwright.core.hashing import encoded, hash_bytes
from lmwright.core.recipe import Recipe, merge
from lmwright.core.settings import read_settings
from lmwright.core.stage import Feedback, Settings, Stage
from lmwright.core.task import Loss, MergingTask, Task, feedback_loss, role_columns
from lmwright.loop.promote import Promote
from lmwright.loop.watch import Watch
from lmwright.metrics.bounded_mean import mean_bounds
from lmwright.metrics.noninferiority import FEWEST, allowance
from lmwright.serve.traffic import PARTS, bare
from lmwright.store.store import Store
from lmwright.tables import resolve

FEWEST_LEARNT = 70
"""Texts to learn from, at least: of fewer one of the splits may get none."""
PAST = "past"
"""Beside the parts of the feedback: what earlier gates judged by, now kept as a test set."""
FEEDBACK = "feedback"
"""The stage that a retraining has beside the recipe's, and its artifact."""
INCUMBENT = "incumbent"
"""The artifact of a retraining's recipe that is the model in service."""


@dataclass(frozen=True, kw_only=True)
class Retrain(Settings):
    """The trigger and the recipe of a retraining: the section ``retrain`` of a recipe.

    Drift alone is not harm. A retraining starts when drift was seen in ``windows`` of the last
    windows, at least ``fewest`` labelled texts wait to be learnt from and judged by, those to
    judge by are as many as the gate wants, and one of these holds:

    ``new_labels``  so many labelled texts wait (0: no such reason);
    ``loss``        the primary loss of labelled answers is above the reference's by more. The
                    chance to say so where it is not is at most ``alpha`` for all looks
                    together: the first is at ``fewest`` labels, each further one when their
                    number has doubled;
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
        """BadInput where no retraining could begin, or no recipe of one be made of ``stages``.

        The recipe of a retraining is not itself retrained: nothing is asked of it.
        """
        if INCUMBENT in (raw.get("artifacts") or {}):
            return
        self.check_means(raw, where)
        known = {*raw["stages"], FEEDBACK}
        for name in self.stages:
            if name not in known:
                raise BadInput(
                    f"{where}: retrain.stages.{name}", "a stage of the recipe", nearest(name, known)
                )
        files = {part: (Path(f"{part}.jsonl"), 1) for part in PARTS}
        derived = derive(raw, self, "", files, f"{raw['name']}@{Promote.alias}")
        kept = ("name", "task", "stages", "artifacts")
        stages = {name: derived[name] for name in kept if name in derived}
        learns(make(stages, f"{where}: retrain.stages"), where)

    def check_means(self, raw: Mapping[str, Any], where: str) -> None:
        """BadInput without texts, drift to see, or rows enough to learn from and to judge by."""
        watch = read_settings(Watch, raw.get("watch") or {}, f"{where}: watch")
        if not watch.keep_text:
            raise BadInput(
                f"{where}: retrain, where texts are not kept",
                "texts to learn from",
                "set watch.keep_text: true, or take retrain out",
            )
        if promotion(raw).get("detectors", Promote.detectors) is None:
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


def learns(recipe: Recipe, where: str) -> None:
    """BadInput where the model that a retraining promotes is made of no row of the feedback.

    ``recipe`` is that of the retraining. A prompt or a zero-shot classifier, say, is made as it
    was before, so that at most its calibration would be another.
    """
    promoting = {
        step.name: step.reads.get(step.stage.model, step.stage.model)
        for step in recipe.steps
        if isinstance(step.stage, Promote)
    }
    if not promoting:
        raise BadInput(
            f"{where}: retrain, where no stage promotes",
            "a version to be put in place",
            "add the stage promote, or take retrain out",
        )
    name, model = next(iter(promoting.items()))
    reached = {FEEDBACK}
    for step in recipe.steps:
        if not reached.isdisjoint(step.needs().values()):
            reached.update(step.gives().values())
    if model not in reached:
        making = next((step for step in recipe.steps if model in step.gives().values()), None)
        made = f"the stage {making.name}" if making else "no stage"
        raise BadInput(
            f"{where}: retrain, where {name} promotes {model!r}, which {made} makes: "
            "it learns nothing from feedback",
            "a model that a retraining makes anew from feedback",
            "promote a model that is trained, or take retrain out",
        )


def promotion(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The raw settings of the recipe's stage that promotes; empty where it has none."""
    for step, value in raw["stages"].items():
        own: Mapping[str, Any] = value or {}
        if resolve("stages", own.get("stage", step)) is Promote:
            return own
    return {}


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
    task: Task,
    scores: list[dict[str, Any]],
    labelled: list[dict[str, Any]],
    reference_loss: float | None,
    reference_confidence: float | None,
    looks: tuple[int, ...] = (),
) -> Trigger:
    """Judge the last windows' ``scores`` and the ``labelled`` answers of the version in service.

    ``looks`` are the earlier tests of the loss of these answers: each spends its part of alpha.
    """
    recent = scores[-max(settings.windows * 2, 4) :]
    drifting = [window for window in recent if drifts(window)]
    evidence: dict[str, Any] = {"drifting_windows": len(drifting), "labels": len(labelled)}
    if len(drifting) < settings.windows or len(labelled) < settings.fewest:
        return Trigger("", evidence, looks)
    if settings.new_labels and len(labelled) >= settings.new_labels:
        return Trigger(f"drift, and {len(labelled)} new labels to learn from", evidence, looks)
    if reference_loss is not None and (not looks or len(labelled) >= 2 * looks[-1]):
        loss = loss_of(task, labelled)
        alpha = allowance(settings.alpha, len(looks))
        lower = mean_bounds(loss.values, 0.0, loss.largest, alpha)[0] - reference_loss
        looks = (*looks, len(labelled))
        evidence |= {"loss": float(loss.values.mean()), "loss_gap_at_least": lower, "alpha": alpha}
        if lower > settings.loss:
            return Trigger(
                f"drift, and the loss of labelled answers rose by {lower:.3f} or more",
                evidence,
                looks,
            )
    means = [window["confidence_mean"] for window in drifting if "confidence_mean" in window]
    if reference_confidence is None or not means:
        return Trigger("", evidence, looks)
    now = float(np.mean(means))
    evidence |= {"confidence": now, "reference_confidence": reference_confidence}
    if reference_confidence - now > settings.confidence:
        return Trigger(f"drift, and confidence fell to {now:.3f}", evidence, looks)
    return Trigger("", evidence, looks)


def drifts(window: dict[str, Any]) -> bool:
    """Whether any detector was over its limit."""
    return any(score["over"] for score in window.values() if isinstance(score, dict))


def loss_of(task: Task, labelled: Sequence[Mapping[str, Any]]) -> Loss:
    """The primary loss of answers with the targets that feedback gave."""
    answers = task.heard([row["answer"] for row in labelled])
    columns = {
        column.name: pa.array(
            [(row["inputs"] or {}).get(column.name) for row in labelled], column.arrow
        )
        for column in role_columns(task, "input")
    }
    columns |= {
        column.name: pa.array([row["target"][column.name] for row in labelled], column.arrow)
        for column in role_columns(task, "target")
    }
    return task.measures(pa.table(columns), answers).losses[feedback_loss(task)]


def parts(
    task: Task, labelled: list[dict[str, Any]], judged: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """The labelled rows of each part: inputs, targets and the answer's id.

    Equal inputs stand once, with the target that was given last, or with all that were given
    where the task merges them; inputs that were not kept cannot be learnt from and are left out.
    What an earlier gate may have judged by (rows with feedback of
    a number up to ``judged``) is no more of the gate's part; it is the past.
    """
    known = [row for row in labelled if row["inputs"]]
    stale = {bare(task, row["inputs"]) for row in known if row["number"] <= judged}
    found: dict[str, dict[str, dict[str, Any]]] = {part: {} for part in (*PARTS, PAST)}
    for row in known:
        old = row["part"] == "gate" and bare(task, row["inputs"]) in stale
        key = json.dumps(row["inputs"], sort_keys=True)
        entry = {**row["inputs"], **row["target"]}
        part = found[PAST if old else row["part"]]
        if key in part and isinstance(task, MergingTask):
            entry = dict(task.merged([part[key], entry]))
        part[key] = {**entry, "answer": row["id"]}
    return {part: list(rows.values()) for part, rows in found.items()}


def export(store: Store, found: Mapping[str, list[dict[str, Any]]]) -> dict[str, tuple[Path, int]]:
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
    """The recipe of a retraining: the old stages as each says that feedback extends it, the
    settings' overlay on top.

    ``model`` is the content of the model behind ``alias``, which the gate may move. The feedback's
    training part is a source to learn from, its gate part and its past are test sets that are kept
    whole.
    """
    sources = tuple(
        {
            "name": f"{FEEDBACK}-{part}",
            "path": str(path),
            "licence": "feedback of users",
            "role": "train" if part == "train" else "test",
        }
        for part, (path, _) in files.items()
    )
    feedback = Feedback(
        artifact=FEEDBACK,
        sources=sources,
        alias=alias,
        fresh=f"{FEEDBACK}/test-{FEEDBACK}-gate",
        fresh_rows=files["gate"][1],
        past=(f"{FEEDBACK}/test-{FEEDBACK}-{PAST}",) if PAST in files else (),
    )
    stages: dict[str, Any] = {}
    for step, value in raw["stages"].items():
        own = value or {}
        kind: type[Stage] = resolve("stages", own.get("stage", step))
        stages[step] = merge(own, kind.retraining(own, feedback))
        stages.update(kind.beside(own, feedback))
    stages = merge(stages, settings.stages)
    artifacts = {**(raw.get("artifacts") or {}), INCUMBENT: model}
    return {**raw, "name": alias.partition("@")[0], "stages": stages, "artifacts": artifacts}


def write_recipe(store: Store, raw: dict[str, Any]) -> Path:
    """Put a derived recipe into the store under its content (JSON is YAML; stages keep order)."""
    data = encoded(json.dumps(raw, ensure_ascii=False, indent=1)) + b"\n"
    path = store.folder / "feedback" / f"retrain-{hash_bytes(data)[:24]}.yaml"
    write_bytes(path, data)
    return path
