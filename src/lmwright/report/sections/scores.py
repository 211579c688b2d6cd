"""The section scores: all models side by side on every split, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.draw import charts
from lmwright.report.metrics import called, drawn_of, in_order, model_order, written_as
from lmwright.report.strips import STYLES, span
from lmwright.report.words import told
from lmwright.store.store import Result


def scores_section(
    scores: Mapping[str, Any] | None, result: Result | None
) -> dict[str, Any] | None:
    """Every split, that of the headline first."""
    if scores is None or result is None:
        return None
    level = result.parts["settings"].get("level")
    splits = sorted(scores["splits"], key=lambda name: name != scores["headline"]["split"])
    drawn = [split_scores(name, scores["splits"][name], scores["primary"]) for name in splits]
    return {"level": level, "splits": drawn}


def split_scores(split: str, scored: Mapping[str, Any], primary: str) -> dict[str, Any]:
    """One split: dots with whiskers for the main scores, a table of the others, comparisons."""
    order = model_order(scored)
    first = order[0]
    metrics = {name: scored["models"][name]["metrics"] for name in order}
    drawn = drawn_of(metrics[first], primary)
    panels = [panel(split, metric, metrics) for metric in in_order(metrics[first])]
    return {
        "name": split,
        "rows": scored["rows"],
        "models": [{"name": name} for name in order],
        "drawn": [panel for panel in panels if panel["metric"] in drawn],
        "others": [panel for panel in panels if panel["metric"] not in drawn],
        "per_class": [
            {
                "label": metric.partition(".")[2],
                "metric": metric.partition(".")[0].replace("_", " "),
                "key": f"{split}/{first}/{metric}",
                "value": value,
            }
            for metric, value in metrics[first].items()
            if "." in metric
        ],
        "first": first,
        "comparisons": [
            {
                "name": name,
                "metric": called(metric),
                "better": "below" if metric in scored["losses"] else "above",
                **gap,
            }
            for name, compared in scored["comparisons"].items()
            for metric, gap in compared.items()
        ],
    }


def panel(split: str, metric: str, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One score of every model, drawn to one scale."""
    kind = written_as(metric)
    values = {name: each.get(metric) or {} for name, each in metrics.items()}
    low, high = span(values.values())
    return {
        "metric": metric,
        "kind": kind,
        "words": called(metric),
        "rows": [
            {
                "name": name,
                "value": value,
                "key": f"{split}/{name}/{metric}",
                "strip": charts.strip(
                    value, low, high, f"{name}: {told(value, kind)}", STYLES[place % len(STYLES)]
                ),
            }
            for place, (name, value) in enumerate(values.items())
        ],
    }
