"""Reader of what format 1 wrote: recipes, rows, curves and models under their names of today.

Format 1 is that of stores and recipes before 0.2. Artifacts are never rewritten: what is read of
them passes through here. Every function returns a value of today's format as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

KEYS = {
    "stop_rows": "validation_rows",
    "suspect_rows": "label_error_rows",
}
"""Settings of stages, by their old names."""
QUALITY = {"set_aside": "rejected", "suspects": "label_errors", "worlds": "test_sets"}
"""Keys of ``quality.json``, at any depth but under labels and sources."""
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
    return value


def settings(value: Any) -> Any:
    """Settings of stages, to any depth."""
    if isinstance(value, Mapping):
        found = {KEYS.get(key, key): settings(each) for key, each in value.items()}
        if found.get("role") == "world":
            found["role"] = "test"
        if isinstance(found.get("fractions"), Mapping):
            shares = found["fractions"]
            found["fractions"] = {place(name): share for name, share in shares.items()}
        for name in ("splits", "reference", "held", "kept", "fresh"):
            if name in found:
                found[name] = places(found[name])
        return found
    return [settings(each) for each in value] if isinstance(value, list) else value


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
    return found


def curves_of(value: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Learning curves."""
    return [{re.sub("^stop_", "validation_", k): v for k, v in each.items()} for each in value]


def facts_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a stage's result."""
    return {re.sub("^stop_", "validation_", key): each for key, each in value.items()}


def evidence_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """The evidence of a gate's decision, as the log keeps it."""
    found = {EVIDENCE.get(key, key): each for key, each in value.items()}
    if "conditions" in found:
        found["conditions"] = [
            {**each, "evidence": {EVIDENCE.get(k, k): v for k, v in each["evidence"].items()}}
            for each in found["conditions"]
        ]
    return found


def model_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """The ``model.json`` of a predictor."""
    if value.get("kind") not in ZERO_SHOT:
        return {**value}
    found = {ZERO_SHOT_KEYS.get(key, key): each for key, each in value.items()}
    return {**found, "kind": ZERO_SHOT[value["kind"]]}


READERS: dict[str, Callable[[Any], Any]] = {"quality.json": quality_of, "curves.json": curves_of}
"""File of an artifact -> the reader of its JSON value."""
