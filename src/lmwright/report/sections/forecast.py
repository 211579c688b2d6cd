"""The section forecast: what was predicted before the run, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.draw import charts
from lmwright.report.evidence import Evidence
from lmwright.report.words import duration, size


def forecast_section(evidence: Evidence) -> list[dict[str, Any]]:
    """For each run with a forecast, the forecast for each stage beside what it took."""
    found = []
    for run in evidence.runs:
        predicted: dict[str, Any] = {}
        for event in run.events:
            if event["event"] == "forecast" and isinstance(event.get("stages"), dict):
                predicted |= event["stages"]
        ended = {event["step"]: event for event in run.events if event["event"] == "stage ended"}
        quantities = [
            forecast_beside_truth(evidence, predicted, ended, name)
            for name in ("seconds", "memory", "disk")
        ]
        if any(each["rows"] for each in quantities):
            found.append({"run": run.name, "quantities": [q for q in quantities if q["rows"]]})
    return found


def forecast_beside_truth(
    evidence: Evidence,
    predicted: Mapping[str, Any],
    ended: Mapping[str, Mapping[str, Any]],
    name: str,
) -> dict[str, Any]:
    """One quantity (seconds, memory or disk) of each stage: forecast, truth, both drawn."""
    write = duration if name == "seconds" else size
    spreads = {step: spread_of(each, name) for step, each in predicted.items()}
    truths = {step: true_amount(evidence, ended.get(step), name) for step in spreads}
    ends = [end for spread in spreads.values() for end in spread or ()]
    high = max([*ends, *(truth for truth in truths.values() if truth)], default=1.0) * 1.03
    rows = []
    for step, spread in spreads.items():
        if spread is None:
            continue
        low, expected, most = spread
        truth = truths[step]
        words = f"{step}: {write(low)} – {write(expected)} – {write(most)}"
        words += f", in truth {write(truth)}" if truth is not None else ""
        value = {"estimate": expected, "low": low, "high": most}
        rows.append(
            {
                "step": step,
                "shown": [write(end) for end in spread],
                "truth": None if truth is None else write(truth),
                "held": truth is not None and low <= truth <= most,
                "strip": charts.strip(value, 0.0, high, words, "s1", (), truth),
            }
        )
    called = {"seconds": "time", "memory": "peak memory", "disk": "disk"}[name]
    return {"name": called, "rows": rows}


def spread_of(predicted: Any, name: str) -> tuple[float, float, float] | None:
    """Low, expected and high of a stage's forecast, or None where it has none."""
    spread = predicted.get(name) if isinstance(predicted, dict) else None
    whole = isinstance(spread, list) and len(spread) == 3
    if not whole or not all(isinstance(end, int | float) for end in spread or ()):
        return None
    low, expected, high = map(float, spread or ())
    return low, expected, high


def true_amount(evidence: Evidence, event: Mapping[str, Any] | None, name: str) -> float | None:
    """What a stage took in truth, from the event of its end; None where it did not run."""
    if event is None:
        return None
    if name == "disk":
        return float(sum(map(evidence.bytes_of, event.get("outputs", {}).values())))
    value = event.get({"seconds": "seconds", "memory": "peak_bytes"}[name])
    return float(value) if isinstance(value, int | float) else None
