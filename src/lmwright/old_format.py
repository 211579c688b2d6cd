"""Reader of what format 1 wrote: recipes, rows, curves and models under their names of today.

Format 1 is that of stores and recipes before 0.2. Artifacts are never rewritten: what is read of
them passes through here. Every function returns a value of today's format as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

KEYS = {
    "stop_rows": "validation_rows",
    "suspect_rows": "label_error_rows",
}
"""Settings of stages, by their old names."""
QUALITY = {
    "set_aside": "rejected",
    "suspects": "label_errors",
    "worlds": "test_sets",
    "rows_with_conflicting_labels": "rows_with_conflicting_targets",
}
"""Keys of ``quality.json``, at any depth but under labels and sources."""
KINDS = {"encoder": "text-model"}
"""Kinds of models."""
STAGES = {"ask": "zero-shot"}
"""Kinds of stages."""
CLASSIFICATION = "text-classification"
"""The one task that format 1 had."""
SIGNALS = {
    "length": "number",
    "vocabulary": "tokens",
    "embedding": "vector",
    "label": "category",
    "confidence": "number",
}
"""Signals of the drift detectors, by kind."""
ARRAYS = {
    "length": "length.sorted",
    "words": "vocabulary.words",
    "word_counts": "vocabulary.counts",
    "centre": "embedding.centre",
    "directions": "embedding.directions",
    "feature_scale": "embedding.scale",
    "precision": "embedding.precision",
    "feature_mean": "embedding.mean",
    "label_counts": "label.counts",
    "confidence": "confidence.sorted",
}
"""Arrays of the drift detectors."""
EVIDENCE = {
    "rival": "incumbent",
    "rival_seconds": "incumbent_seconds",
    "rival_accuracy": "incumbent_accuracy",
}
"""Keys of a decision's evidence and of its conditions' evidence."""
ZERO_SHOT = {"asked": "zero-shot", "asked-hosted": "zero-shot-hosted"}
"""Kinds of zero-shot classifiers."""
ZERO_SHOT_KEYS = {"question": "prompt", "way": "query"}
"""Keys of their ``model.json``."""
PLACES = ((re.compile(r"(^|/)stop$"), r"\1validation"), (re.compile(r"(^|/)world-"), r"\1test-"))
"""Files of rows, alone or as ARTIFACT/FILE."""


def recipe_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's raw values with today's keys and places."""
    value = {**raw}
    for section in ("stages", "retrain"):
        if isinstance(value.get(section), Mapping):
            value[section] = settings(value[section])
    if isinstance(value.get("stages"), Mapping):
        value["stages"] = {name: step_of(name, each) for name, each in value["stages"].items()}
    if "task" not in value and isinstance(value.get("stages"), Mapping):
        train = value["stages"].get("train")
        moved = {}
        if isinstance(train, dict) and "smoothing" in train:
            moved["smoothing"] = train.pop("smoothing")
        if any(each.get("format") == "mail" for each in old_sources(raw)):
            moved["clean"] = ["mail", "repair"]
        value["task"] = {"kind": CLASSIFICATION, **moved}
    return value


def step_of(name: str, value: Any) -> Any:
    """An entry under ``stages``: its kind by today's name, its own name as it was."""
    given = value or {}
    if not isinstance(given, Mapping):
        return value
    kind = given.get("stage", name)
    known = isinstance(kind, str) and kind in STAGES
    return {**given, "stage": STAGES[kind]} if known else value


def settings(value: Any) -> Any:
    """Settings of stages, to any depth."""
    if isinstance(value, Mapping):
        found = {KEYS.get(key, key): settings(each) for key, each in value.items()}
        if "warmup" in found and "kind" not in found:
            found["schedule"] = {"kind": "linear", "warmup": found.pop("warmup")}
        if "weight_decay" in found and "kind" not in found:
            found["optimizer"] = {"kind": "adamw", "weight_decay": found.pop("weight_decay")}
        if found.get("task") == "classify":
            del found["task"]
        if isinstance(found.get("sources"), list):
            found["sources"] = [source(each) for each in found["sources"]]
        if found.get("role") == "world":
            found["role"] = "test"
        if isinstance(found.get("fractions"), Mapping):
            shares = found["fractions"]
            found["fractions"] = {place(name): share for name, share in shares.items()}
        for name in ("metric", "primary"):
            if found.get(name) == "accuracy":
                found[name] = "error"
        for name in ("splits", "reference", "held", "kept", "fresh"):
            if name in found:
                found[name] = places(found[name])
        return found
    return [settings(each) for each in value] if isinstance(value, list) else value


def old_sources(raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All sources of a recipe's stages."""
    stages = [each for each in raw["stages"].values() if isinstance(each, Mapping)]
    listed = [each.get("sources") for each in stages]
    return [
        one for each in listed if isinstance(each, list) for one in each if isinstance(one, Mapping)
    ]


def source(value: Any) -> Any:
    """A source of rows: its columns by the task's names."""
    if not isinstance(value, Mapping):
        return value
    found = dict(value)
    columns = {name: found.pop(name) for name in ("text", "label") if name in found}
    if columns:
        found["columns"] = {**columns, **found.get("columns", {})}
    found.pop("format", None)  # what is done to texts is a setting of the task
    if label := found.pop("constant_label", ""):
        found["constants"] = {"label": label}
    if labels := found.pop("labels", None):
        found["values"] = {"label": labels}
    return found


def places(value: Any) -> Any:
    """Names of files of rows, one or a list."""
    if isinstance(value, list | tuple):
        return [places(each) for each in value]
    return place(value) if isinstance(value, str) else value


def place(name: str) -> str:
    """A file of rows (``test-imdb``, ``rows/validation``) under its name of today."""
    for old, new in PLACES:
        name = old.sub(new, name)
    return name


def old_place(name: str) -> str:
    """The name that format 1 gave to a file of rows."""
    return re.sub(r"^validation$", "stop", re.sub(r"^test-", "world-", name))


def quality_of(value: dict[str, Any]) -> dict[str, Any]:
    """The quality report of a rows artifact."""
    found = {QUALITY.get(key, key): each for key, each in value.items()}
    if "rows" in found:
        found["rows"] = {QUALITY.get(key, key): each for key, each in found["rows"].items()}
    if "splits" in found:
        found["splits"] = {place(name): each for name, each in found["splits"].items()}
    if "consistency" in found:
        consistency = found["consistency"]
        found["consistency"] = {QUALITY.get(key, key): v for key, v in consistency.items()}
    return found


def description_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """A model's ``model.json``: its kind, and its task where it had labels alone."""
    found = model_of(value)
    found["kind"] = KINDS.get(str(found.get("kind")), found.get("kind"))
    if "task" not in found:
        found["task"] = task_of_labels(value.get("labels"))
    return found


def task_of_labels(labels: Any) -> dict[str, Any]:
    """The task of rows and models that had a text and a label each."""
    return {"kind": CLASSIFICATION, "labels": labels}


def curves_of(value: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Learning curves."""
    return [{re.sub("^stop_", "validation_", k): v for k, v in each.items()} for each in value]


def facts_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a stage's result."""
    found = {re.sub("^stop_", "validation_", key): each for key, each in value.items()}
    if "reference_rows" in found and "log_loss" in found:  # of drift detectors
        found["loss"] = found.pop("log_loss")
    return found


def evidence_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """The evidence of a gate's decision, as the log keeps it."""
    found = {EVIDENCE.get(key, key): each for key, each in value.items()}
    if "conditions" in found:
        found["conditions"] = [
            {**each, "evidence": condition_of(each["evidence"])} for each in found["conditions"]
        ]
    return found


def condition_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """The evidence of one condition: both accuracies as mean losses."""
    found = {EVIDENCE.get(key, key): each for key, each in value.items()}
    right = [found.pop(name, None) for name in ("accuracy", "incumbent_accuracy")]
    if None not in right:
        found["losses"] = {"error": [1 - each for each in right]}
    return found


def replay_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """What a replay of kept rows sent and got."""
    return {"test_sets" if name == "world" else name: each for name, each in value.items()}


def detectors_of(
    settings: dict[str, Any], arrays: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Drift detectors: settings and arrays, which had five signals of fixed names."""
    if "signals" in settings:
        return settings, arrays
    floors = settings.get("floors", {})
    signals = {
        name: {
            "kind": kind,
            "categories": settings["labels"] if kind == "category" else 0,
            "floor": floors.get(name, 0.0),
        }
        for name, kind in SIGNALS.items()
    }
    named = {ARRAYS.get(name, name): values for name, values in arrays.items()}
    return {**settings, "signals": signals}, named


def traffic_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the traffic log's table of answers."""
    kept = {name: row[name] for name in ("id", "place", "time", "client", "version", "tokens")}
    answer = {
        "label": row["label"],
        "unsure": row["label"] is None,
        "probabilities": json.loads(row["probabilities"]),
    }
    inputs = None if row["text"] is None else json.dumps({"text": row["text"]}, ensure_ascii=False)
    return {**kept, "answer": json.dumps(answer, ensure_ascii=False), "inputs": inputs}


def traffic_feedback(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the traffic log's table of feedback."""
    kept = {name: each for name, each in row.items() if name != "label"}
    return {**kept, "target": json.dumps({"label": row["label"]}, ensure_ascii=False)}


def model_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """The ``model.json`` of a predictor."""
    if value.get("kind") not in ZERO_SHOT:
        return {**value}
    found = {ZERO_SHOT_KEYS.get(key, key): each for key, each in value.items()}
    return {**found, "kind": ZERO_SHOT[value["kind"]]}


def scores_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """``scores.json`` of the stage evaluate: the scores of a classifier."""
    if "task" in value:
        return dict(value)
    found = {name: each for name, each in value.items() if name != "labels"}
    labels = value["labels"]
    splits = {place(name): split_of(each, labels) for name, each in value["splits"].items()}
    headline = {**value["headline"], "split": place(value["headline"]["split"])}
    return {**found, "task": task_of_labels(labels), "headline": headline, "splits": splits}


def split_of(value: Mapping[str, Any], labels: list[str]) -> dict[str, Any]:
    """The scores on one split."""
    return {
        **value,
        "losses": ["log_loss", "brier", "error"],
        "models": {name: {**each, "labels": labels} for name, each in value["models"].items()},
        "slices": [slice_of(each) for each in value["slices"]],
        "worst": [worst_of(each) for each in value["worst"]],
    }


def slice_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """A slice of rows with the losses on it, in scores and audits."""
    found = {k: v for k, v in value.items() if k not in ("accuracy", "log_loss", "error_gap")}
    if "accuracy" in value:
        found["losses"] = {"log_loss": value["log_loss"], "error": mirrored(value["accuracy"], 1)}
    if "error_gap" in value:
        found["loss_gap"] = value["error_gap"]
    return found


def worst_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """A row with a large loss."""
    found = {name: value[name] for name in ("id", "source", "excerpt") if name in value}
    said = value["prediction"]
    answer = {"label": said, "probabilities": {said: value["confidence"]}}
    return {**found, "target": value["label"], "answer": answer, "loss": value["log_loss"]}


def mirrored(value: Mapping[str, Any], whole: float) -> dict[str, Any]:
    """``whole`` less an interval: a share of errors from one of right answers."""
    ends = {"estimate": "estimate", "low": "high", "high": "low"}
    taken = {name: value.get(other) for name, other in ends.items()}
    return {name: None if each is None else whole - each for name, each in taken.items()}


def predictions_of(table: Any) -> Any:
    """The Arrow table of a classifier's saved predictions, which had its targets and no losses."""
    if "prediction" not in table.column_names:
        return table
    # Large: a recipe is read without them.
    import numpy as np
    import pyarrow as pa

    probabilities = np.array(table.column("probabilities").to_pylist())
    said, target = (table.column(name).to_pylist() for name in ("prediction", "label"))
    wrong = [float(one != other) for one, other in zip(said, target, strict=True)]
    kept = {name: table.column(name) for name in ("id", "logits", "probabilities", "unsure")}
    added = {"confidence": probabilities.max(1), "floor": np.zeros(len(wrong))}
    return pa.table({**kept, "label": said, **added, "loss.error": wrong})


def audit_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """``audit.json`` of the stage audit: its checks knew accuracy and labels."""
    checks = {name: dict(check) for name, check in value["checks"].items()}
    for name, change in (
        ("slices", slices_figures),
        ("perturbation", perturbation_figures),
        ("counterfactual", counterfactual_figures),
    ):
        if name in checks:
            checks[name]["figures"] = change(checks[name]["figures"])
    return {**value, "split": place(value["split"]), "checks": checks}


def slices_figures(value: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the check ``slices``."""
    slices = [slice_of(each) for each in value["slices"]]
    return {"loss": "error", **value, "slices": slices}


def perturbation_figures(value: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the check ``perturbation``."""
    changes = {}
    for name, each in value["changes"].items():
        if "accuracy_change" in each:
            kept = {k: each[k] for k in ("flipped", "alike", "changed", "verdict") if k in each}
            moved = {
                "error": mirrored(each["accuracy_change"], 0),
                "log_loss": each["log_loss_change"],
            }
            each = {**kept, "losses": {"error": 1 - each["accuracy"]}, "loss_changes": moved}
        changes[name] = each
    return {"loss": "error", **value, "changes": changes}


def counterfactual_figures(value: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the check ``counterfactual``."""
    lists = {}
    for name, each in value["lists"].items():
        lists[name] = dict(each)
        if "largest" in each:
            lists[name]["largest"] = [
                {
                    **{k: v for k, v in one.items() if k != "label"},
                    "answer": {"label": one["label"]},
                }
                if "label" in one
                else one
                for one in each["largest"]
            ]
    return {**value, "lists": lists}


def model_card_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """A model card: its kind of model and its task."""
    if "task" in value:
        return dict(value)
    model = {name: each for name, each in value["model"].items() if name != "labels"}
    model["kind"] = KINDS.get(model["kind"], model["kind"])
    return {**value, "model": model, "task": task_of_labels(value["model"]["labels"])}


READERS: dict[str, Callable[[Any], Any]] = {
    "quality.json": quality_of,
    "curves.json": curves_of,
    "scores.json": scores_of,
    "audit.json": audit_of,
    "model-card.json": model_card_of,
    "data-card.json": quality_of,
}
"""File of an artifact -> the reader of its JSON value."""
