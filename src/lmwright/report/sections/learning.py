"""The section learning: the curves of each training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmwright.draw import charts
from lmwright.draw.charts import Line
from lmwright.report.evidence import Evidence
from lmwright.report.metrics import called

PREFIX = "validation_"
CURVES = {
    "log_loss": "log-loss on the validation split",
    "scaled_log_loss": "the same at its best temperature",
}
"""Scores on the validation split that are drawn beside the loss, which has their unit."""
MONITORED = {"scaled_log_loss": "log-loss, at its best temperature,"}


def curves_section(evidence: Evidence) -> list[dict[str, Any]]:
    """Learning curves of each training: loss, scores on the validation split, learning rate."""
    found = []
    for run in evidence.runs:
        result = run.giving("model")
        curves = evidence.load(result, "model", "curves.json")
        if result is None or not curves:
            continue
        monitor = monitored(result.facts)
        found.append(
            {
                "run": run.name,
                "retrained": run.retrained,
                "facts": result.facts,
                "monitored": monitor and MONITORED.get(monitor, called(monitor)),
                "best": result.facts.get(PREFIX + monitor),
                "samples": sampled(curves),
                "forgetting": forgotten(result.facts.get("forgetting") or {}),
                **drawn(curves, monitor),
            }
        )
    return found


def forgotten(facts: Mapping[str, float]) -> str:
    """What a tuned model forgot of its start, in a sentence; "" where that is not known."""
    if "kl" in facts:
        return (
            f"On {facts['tokens']:,} tokens of general text it is {facts['kl']:.3f} nats a token "
            f"(KL) from its start; bits per byte {facts['bits_per_byte_before']:.3f} before and "
            f"{facts['bits_per_byte_after']:.3f} after."
        )
    if "cosine" in facts:
        return (
            f"On {facts['texts']:,} general texts its vectors have a cosine of "
            f"{facts['cosine']:.3f} with those of its start."
        )
    return ""


def sampled(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Answers of the model while it learnt: of each row shown its input, its target, and what was
    written after so many steps."""
    found: dict[int, dict[str, Any]] = {}
    for point in curves:
        for place, each in enumerate(point.get("samples", ())):
            row = found.setdefault(place, {**each, "written": []})
            written = {"step": each["version"], "text": each["written"], "ended": each["ended"]}
            row["written"].append(written)
    return list(found.values())


def drawn(curves: Sequence[Mapping[str, Any]], monitor: str) -> dict[str, Any]:
    """The loss with the scores on the validation split, and the learning rate, by step."""
    raw = [(p["step"], p["loss"]) for p in curves if "loss" in p]
    scores = validated(curves, monitor)
    series = [
        Line("loss of each step", thinned(raw), "faint"),
        Line("loss, smoothed", thinned(smoothed(raw)), "s1"),
        *scores,
    ]
    rate = Line("learning rate", thinned([(p["step"], p["lr"]) for p in curves if "lr" in p]), "s3")
    return {
        "legend": [(line.style, line.name) for line in scores],
        "loss": charts.lines(series, "Loss by step", "step", "loss"),
        "rate": charts.lines([rate], "Learning rate by step", "step", "learning rate"),
    }


def monitored(facts: Mapping[str, Any]) -> str:
    """The score on the validation split that training stopped by, or ""."""
    found = [name.removeprefix(PREFIX) for name in facts if name.startswith(PREFIX)]
    return next((name for name in found if name != "rows"), "")


def validated(curves: Sequence[Mapping[str, Any]], monitor: str) -> list[Line]:
    """The curves of the scores on the validation split: those of ``CURVES``, else the monitored."""
    known = {name.removeprefix(PREFIX) for p in curves for name in p if name.startswith(PREFIX)}
    names = [name for name in CURVES if name in known] or [monitor] * (monitor in known)
    found = []
    for name, style in zip(names, ("s2", "s4"), strict=False):
        points = [(p["step"], p[PREFIX + name]) for p in curves if PREFIX + name in p]
        words = CURVES.get(name, f"{called(name)} on the validation split")
        found.append(Line(words, points, style, dots=True))
    return found


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """An exponential mean over about a thirtieth of the points, corrected for its start."""
    keep = 1 - 1 / max(len(points) / 30, 2)
    value, weight, found = 0.0, 0.0, []
    for x, y in points:
        value, weight = keep * value + (1 - keep) * y, keep * weight + (1 - keep)
        found.append((x, value / weight))
    return found


def thinned(points: Sequence[tuple[float, float]], most: int = 400) -> list[tuple[float, float]]:
    """At most so many points, evenly drawn, the last among them."""
    if len(points) <= most:
        return list(points)
    places = np.linspace(0, len(points) - 1, most).round().astype(int)
    return [points[place] for place in places]
