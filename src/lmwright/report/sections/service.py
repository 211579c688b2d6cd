"""The section in service: drift, replay and retrainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from lmwright.draw import charts
from lmwright.draw.charts import Line
from lmwright.report.evidence import Evidence, Past
from lmwright.report.metrics import called, drawn_of, model_order, written_as
from lmwright.report.strips import STYLES, span
from lmwright.report.words import moment, told


def drift_section(evidence: Evidence) -> dict[str, Any] | None:
    """Each detector's score in every window against the limit, and where the version changed."""
    seen = evidence.seen()
    if not seen:
        return None
    changed = [
        (number, after)
        for number, (before, after) in enumerate(pairwise(seen), 2)
        if before["version"] != after["version"]
    ]
    swaps_at = [(number - 0.5, f"swap to {after['version'][:8]}") for number, after in changed]
    settings: dict[str, Any] = {}
    rules = []
    starts = [1, *(number for number, _ in changed)]
    for first, last in zip(starts, [*starts[1:], len(seen) + 1], strict=True):
        found = evidence.detectors_of(seen[first - 1]["version"])
        if found is not None:
            settings = found
            rules.append((first - 0.5, last - 0.5, float(found["limit"])))
    names = signals_of(seen)
    panels = [{"name": name, "chart": detector(name, seen, rules, swaps_at)} for name in names]
    confident = [
        (float(number), window["signs"]["confidence_mean"])
        for number, window in enumerate(seen, 1)
        if "confidence_mean" in window["signs"]
    ]
    if confident:
        line = Line("mean confidence", confident, "s3", dots=True)
        panels.append(
            {
                "name": "mean confidence",
                "chart": charts.lines(
                    [line], "Mean confidence", "window", "", marks=swaps_at, height=190
                ),
            }
        )
    over = [
        any(window["signs"][name]["over"] for name in names if name in window["signs"])
        for window in seen
    ]
    return {
        "windows": len(seen),
        "over": sum(over),
        "first": seen[0]["time"],
        "last": seen[-1]["time"],
        "swaps": [
            {"version": after["version"], "time": after["time"], "window": number}
            for number, after in changed
        ],
        "size": settings.get("window"),
        "run_length": settings.get("run_length"),
        "panels": panels,
    }


def signals_of(seen: Sequence[Mapping[str, Any]]) -> list[str]:
    """The signals that some window has a drift score of, in the order of the windows."""
    return list(
        dict.fromkeys(
            name
            for window in seen
            for name, score in window["signs"].items()
            if isinstance(score, Mapping)
        )
    )


def detector(
    name: str,
    seen: Sequence[Mapping[str, Any]],
    limits: Sequence[tuple[float, float, float]],
    swaps_at: Sequence[tuple[float, str]],
) -> Markup:
    """One detector's scores in time, where a window has one; those over the limit are loud."""
    scored = [
        (float(number), window, window["signs"][name])
        for number, window in enumerate(seen, 1)
        if name in window["signs"]
    ]
    titles = [
        f"window {number:.0f}, {moment(window['time'])}, version {window['version'][:8]}: score "
        f"{score['score']:.2f}, in time {score['smoothed']:.2f}, effect {score['effect']:.3f}"
        + (", over" if score["over"] else "")
        for number, window, score in scored
    ]
    spots = [(number, score["score"]) for number, _, score in scored]
    in_time = [(number, score["smoothed"]) for number, _, score in scored]
    loud = [bool(score["over"]) for _, _, score in scored]
    series = [
        Line("in time (EWMA)", in_time, "faint"),
        Line("score", spots, "s1", dots=True, titles=titles, loud=loud),
    ]
    return charts.lines(series, f"Drift of {name}", "window", "score", limits, swaps_at, 190)


def replay_section(evidence: Evidence) -> dict[str, Any] | None:
    """What a replay of kept rows showed: a score by version."""
    played = evidence.replay()
    if not played:
        return None
    scored = list(played.get("scored", {}).items())
    score = next((name for _, each in scored for name, v in each.items() if is_interval(v)), "")
    kind = written_as(score)
    low, high = span(each[score] for _, each in scored)
    rows = [
        {
            "version": version,
            "rows": each.get("rows", each.get("texts")),
            "value": each[score],
            "strip": charts.strip(each[score], low, high, f"{version}: {told(each[score], kind)}"),
        }
        for version, each in scored
    ]
    kept = {key: played.get(key) for key in ("test_sets", "sent", "lost", "fed_back")}
    return {**kept, "rows": rows, "score": called(score), "kind": kind}


def is_interval(value: Any) -> bool:
    """Whether a JSON value is an estimate with its bounds."""
    return isinstance(value, Mapping) and "estimate" in value


def retraining(evidence: Evidence, run: Past) -> dict[str, Any]:
    """A retraining: the first of its drawn scores beside that of the run before it."""
    old = evidence.load(evidence.run.giving("scores"), "scores", "scores.json")
    new = evidence.load(run.giving("scores"), "scores", "scores.json")
    rows = []
    for split, scored in (new or {"splits": {}})["splits"].items():
        name = model_order(scored)[0]
        before = ((old or {}).get("splits", {}).get(split, {}).get("models", {})).get(name)
        metric = drawn_of(scored["models"][name]["metrics"], new["primary"])[0]
        pair = {
            side: each["metrics"][metric]
            for side, each in (("before", before), ("after", scored["models"][name]))
            if each and metric in each["metrics"]
        }
        low, high = span(pair.values())
        kind = written_as(metric)
        rows += [
            {
                "split": split,
                "side": side,
                "score": called(metric),
                "kind": kind,
                "value": value,
                "key": f"{run.name}/{split}/{name}/{side}/{metric}",
                "strip": charts.strip(
                    value, low, high, f"{side}: {told(value, kind)}", STYLES[side == "after"]
                ),
            }
            for side, value in pair.items()
        ]
    ended = [e["facts"] for e in run.events if e["event"] == "acted" and "decision" in e["facts"]]
    learnt = run.giving("model")
    return {
        "run": run.name,
        "began": run.began,
        "state": run.state,
        "rows": rows,
        "learnt": learnt.facts if learnt else None,
        "decision": ended[-1]["decision"] if ended else None,
    }
