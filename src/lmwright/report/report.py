"""The report: one self-contained page on a recipe, made from what its runs left and nothing else.

Each section is a function from the evidence to what the template shows. A figure on the page
carries its full value and a key, so that whoever doubts it can recompute it.
"""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lmwright import __version__
from lmwright.core.durable import write_bytes
from lmwright.data.split import SPLITS
from lmwright.draw import charts
from lmwright.draw.charts import Line, Node
from lmwright.evals.predictions import Predictions, read_predictions
from lmwright.metrics.calibration_error import equal_mass_bins
from lmwright.metrics.detectors import NAMES
from lmwright.metrics.intervals import wilson
from lmwright.report.evidence import Evidence, Past, gather
from lmwright.store.store import Result, Store
from lmwright.store.versions import aliases, history, resolve_version

TEMPLATES = Path(__file__).with_name("templates")
STYLES = ("s1", "s2", "s3", "s4", "s5")
MOST_ROWS = 12


def write_report(store: Store, what: str, out: Path) -> Path:
    """Write the report on a recipe's newest run to ``out``; BadInput when it never ran, or for
    an alias behind which there is nothing.

    ``what`` is the recipe's name or NAME@ALIAS, whose traffic is then shown.
    """
    recipe, at, _ = what.partition("@")
    if at:
        resolve_version(store, what)
    page = render("report.html", sections(gather(store, recipe, what if at else "")))
    write_bytes(out.absolute(), page.encode())
    return out


def render(template: str, page: Mapping[str, Any]) -> str:
    """A page as HTML; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "share": share,
        "count": count,
        "moment": moment,
        "duration": duration,
        "size": size,
        "figure": figure,
        "ranged": ranged,
    }
    return environment.get_template(template).render(page)


def sections(evidence: Evidence) -> dict[str, Any]:
    """Everything that the page shows."""
    run = evidence.run
    scores = evidence.load(run.first("evaluate"), "scores", "scores.json")
    audited = evidence.load(run.first("audit"), "audit", "audit.json")
    log = evidence.decisions()
    parts: dict[str, Any] = {
        "name": evidence.recipe,
        "version": __version__,
        "made": time.time(),
        "run": {"name": run.name, "began": run.began, "state": run.state},
        "data": data_section(evidence),
        "curves": curves_section(evidence),
        "scores": scores_section(scores, run.first("evaluate")),
        "errors": errors_section(evidence, scores),
        "audit": audit_section(audited),
        "drift": drift_section(evidence),
        "replay": replay_section(evidence),
        "retrainings": [retraining(evidence, past) for past in evidence.retrainings],
        "gates": gate_section(evidence, log),
        "log": log_section(log),
        "lineage": lineage_section(evidence),
        "forecast": forecast_section(evidence),
        "cards": {
            name: evidence.load(run.first("audit"), "audit", f"{name}-card.json")
            for name in ("model", "data")
        },
        "settings": yaml.safe_dump(run.raw, sort_keys=False, allow_unicode=True),
        "environment": environment_section(run),
    }
    return parts | {"headline": headline(scores), "tiles": tiles(parts, scores)}


def headline(scores: Mapping[str, Any] | None) -> dict[str, str]:
    """The first line, parted into what it claims and the figures behind it."""
    if not scores:
        return {"claim": "This run was not evaluated", "figures": "", "state": "no comparison"}
    claim, _, figures = scores["headline"]["line"].rpartition(": ")
    return {"claim": claim, "figures": figures, "state": scores["headline"]["state"]}


def tiles(parts: Mapping[str, Any], scores: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The few figures at the top."""
    found: list[dict[str, Any]] = []
    if scores:
        split = scores["headline"]["split"]
        name = next(iter(parts["scores"]["splits"][0]["models"]))["name"]
        metrics = scores["splits"][split]["models"][name]["metrics"]
        for key, words, shown in (
            ("accuracy", f"accuracy on {split}", "share"),
            ("log_loss", "log-loss, lower is better", "number"),
            ("calibration_error", "calibration error", "share"),
            ("coverage", "answered; “unsure” elsewhere", "share"),
        ):
            found.append({"value": metrics[key], "words": words, "shown": shown})
    if parts["audit"]:
        found.append({"text": parts["audit"]["headline"], "words": "checks of the audit"})
    if parts["gates"]:
        last = parts["gates"][-1]
        said = {"promote": "passed", "refuse": "refused"}.get(last["action"], last["action"])
        found.append({"text": said, "words": f"the gate, decision {last['number']}"})
    return found


# Data


def data_section(evidence: Evidence) -> dict[str, Any] | None:
    """The quality of the rows: what was read, kept, repeated, rejected, suspected."""
    quality = evidence.load(evidence.run.first("data"), "rows", "quality.json")
    if quality is None:
        return None
    return {
        "quality": quality,
        "splits": {name: quality["splits"][name] for name in SPLITS},
        "sources": [
            {
                "name": name,
                **source,
                "lengths": charts.columns(
                    [
                        (label.removeprefix("<="), float(rows))
                        for label, rows in by_bound(source["lengths"]["words"]["histogram"])
                    ],
                    f"Words a text in {name}",
                    "words, at most",
                    "rows",
                ),
                "mean_words": source["lengths"]["words"]["mean"],
            }
            for name, source in quality["sources"].items()
        ],
        "labels": [
            {
                "name": label,
                "rows": rows,
                "share": quality["balance"]["shares"].get(label),
                "bar": charts.bar(quality["balance"]["shares"].get(label, 0.0), f"{label}: {rows}"),
            }
            for label, rows in quality["labels"].items()
        ],
    }


def by_bound(histogram: Mapping[str, int]) -> list[tuple[str, int]]:
    """A histogram's bins in the order of their bounds (JSON sorted them as words)."""
    return sorted(histogram.items(), key=lambda entry: int(entry[0].removeprefix("<=")))


# Learning


def curves_section(evidence: Evidence) -> list[dict[str, Any]]:
    """Learning curves of each training: loss, validation loss, learning rate."""
    found = []
    for run in evidence.runs:
        result = run.first("train")
        curves = evidence.load(result, "model", "curves.json")
        if result is None or not curves:
            continue
        stop, scaled = (
            [(p["step"], p[name]) for p in curves if name in p]
            for name in ("validation_log_loss", "validation_scaled_log_loss")
        )
        raw = [(p["step"], p["loss"]) for p in curves]
        series = [
            Line("loss of each step", thinned(raw), "faint"),
            Line("loss, smoothed", thinned(smoothed(raw)), "s1"),
            Line("log-loss on the validation split", stop, "s2", dots=True),
            Line("the same at its best temperature", scaled, "s4", dots=True),
        ]
        found.append(
            {
                "run": run.name,
                "retrained": run.retrained,
                "facts": result.facts,
                "loss": charts.lines(series, "Loss by step", "step", "loss (nats)"),
                "rate": charts.lines(
                    [Line("learning rate", thinned([(p["step"], p["lr"]) for p in curves]), "s3")],
                    "Learning rate by step",
                    "step",
                    "learning rate",
                ),
            }
        )
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


# Scores

SHOWN = (
    ("accuracy", "share", "accuracy"),
    ("log_loss", "number", "log-loss"),
    ("macro_f1", "share", "macro F1"),
    ("macro_roc_auc", "number", "area under the ROC curve"),
    ("brier", "number", "Brier score"),
    ("calibration_error", "share", "calibration error"),
    ("coverage", "share", "answered"),
    ("accuracy_answered", "share", "accuracy where answered"),
)
DRAWN = ("accuracy", "log_loss")


def scores_section(
    scores: Mapping[str, Any] | None, result: Result | None
) -> dict[str, Any] | None:
    """All models side by side on every split, with intervals."""
    if scores is None or result is None:
        return None
    level = result.parts["settings"].get("level")
    splits = sorted(scores["splits"], key=lambda name: name != scores["headline"]["split"])
    drawn = [split_scores(name, scores["splits"][name]) for name in splits]
    return {"level": level, "splits": drawn}


def split_scores(split: str, scored: Mapping[str, Any]) -> dict[str, Any]:
    """One split: dots with whiskers for the main scores, a table of the others, comparisons."""
    order = model_order(scored)
    panels = []
    for metric, kind, words in SHOWN:
        values = {name: scored["models"][name]["metrics"].get(metric) or {} for name in order}
        low, high = span(values.values())
        panels.append(
            {
                "metric": metric,
                "kind": kind,
                "words": words,
                "rows": [
                    {
                        "name": name,
                        "value": value,
                        "key": f"{split}/{name}/{metric}",
                        "strip": charts.strip(
                            value, low, high, f"{name}: {told(value, kind)}", STYLES[place % 5]
                        ),
                    }
                    for place, (name, value) in enumerate(values.items())
                ],
            }
        )
    first = order[0]
    per_class = [
        {
            "label": metric.partition(".")[2],
            "metric": metric.partition(".")[0].replace("_", " "),
            "key": f"{split}/{first}/{metric}",
            "value": value,
        }
        for metric, value in scored["models"][first]["metrics"].items()
        if "." in metric
    ]
    return {
        "name": split,
        "rows": scored["rows"],
        "models": [{"name": name} for name in order],
        "drawn": [panel for panel in panels if panel["metric"] in DRAWN],
        "others": [panel for panel in panels if panel["metric"] not in DRAWN],
        "per_class": per_class,
        "first": first,
        "comparisons": [
            {"name": name, "metric": metric.replace("_", "-"), **gap}
            for name, compared in scored["comparisons"].items()
            for metric, gap in compared.items()
        ],
    }


def model_order(scored: Mapping[str, Any]) -> list[str]:
    """The audited model first, then the others as they stand."""
    names = list(scored["models"])
    compared = list(scored["comparisons"])
    return [name for name in names if name not in compared] + compared


def span(values: Any) -> tuple[float, float]:
    """A range that holds all intervals, with some room."""
    ends = [v for value in values for v in value.values() if isinstance(v, int | float)]
    if not ends:
        return 0.0, 1.0
    room = (max(ends) - min(ends)) * 0.06 or 0.01
    return min(ends) - room, max(ends) + room


# Errors


def errors_section(
    evidence: Evidence, scores: Mapping[str, Any] | None
) -> list[dict[str, Any]] | None:
    """Confusion, reliability, slices and the worst rows of the first model on each split."""
    folder = evidence.folder(evidence.run.first("evaluate"), "scores")
    if scores is None or folder is None:
        return None
    found = []
    for split, scored in scores["splits"].items():
        name = model_order(scored)[0]
        table = scored["models"][name]["confusion"]
        slices = [dict(each) for each in scored["slices"]]
        low, high = span(each["accuracy"] for each in slices if not each["too_few"])
        whole = scored["models"][name]["metrics"]["accuracy"]["estimate"]
        for each in slices:
            if not each["too_few"]:
                words = f"{each['slice']}: {told(each['accuracy'], 'share')}"
                each["strip"] = charts.strip(each["accuracy"], low, high, words, "s1", [whole])
        bins = reliability_bins(read_predictions(folder, name, split))
        found.append(
            {
                "split": split,
                "model": name,
                "confusion": charts.confusion(table, scores["labels"], f"Confusion on {split}"),
                "reliability": charts.reliability(bins, f"Reliability on {split}"),
                "slices": slices,
                "worst": scored["worst"][:MOST_ROWS],
            }
        )
    return found


def reliability_bins(found: Predictions, most: int = 10) -> list[dict[str, float]]:
    """Bins of equal size by confidence: mean confidence, share right with its interval, rows."""
    confidence = found.probabilities.max(1)
    right = found.chosen == found.truth
    place = equal_mass_bins(confidence, most)
    bins = []
    for number in range(place.max(initial=-1) + 1):
        member = place == number
        value = wilson(int(right[member].sum()), int(member.sum()))
        bins.append(
            {
                "rows": float(member.sum()),
                "confidence": float(confidence[member].mean()),
                "right": value.estimate,
                "low": value.low,
                "high": value.high,
            }
        )
    return bins


# Audit


def audit_section(audited: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The verdicts with the figures behind each, drawn where there is an interval."""
    if audited is None:
        return None
    drawn = {"slices": gaps, "counterfactual": swaps, "perturbation": changes}
    return {
        "headline": audited["headline"],
        "model": audited["model"],
        "split": audited["split"],
        "checks": [
            {
                "name": name,
                **check,
                "rows": drawn[name](check["figures"]) if name in drawn else [],
            }
            for name, check in sorted(audited["checks"].items())
        ],
    }


def gaps(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Error rate of each slice less that of the other rows."""
    most = figures["most"]
    entries = [(each["slice"], each.get("error_gap"), each) for each in figures["slices"]]

    def note(each: Mapping[str, Any]) -> str:
        if "error_gap" in each:
            return f"{each['rows']} rows"
        return f"{each['rows']} rows, too few{'' if each['too_few'] else ' others'}"

    return striped(entries, [0.0, most], "points", note)


def swaps(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Mean change of each label's probability for each list of pairs.

    With two labels the two changes mirror each other, and one is shown.
    """
    entries = []
    for name, each in figures["lists"].items():
        by_label = each.get("probability_change") or {name: None}
        for label in list(by_label)[-1:] if len(by_label) <= 2 else by_label:
            words = name if by_label[label] is None else f"{name} → {label}"
            entries.append((words, by_label[label], each))
    most = figures["most"]
    return striped(
        entries,
        [-most, 0.0, most],
        "points",
        lambda each: (
            f"{each['rows']} texts"
            + (
                f", {each['flipped']} flipped; log-odds "
                + told(list(each["log_odds_change"].values())[-1], "signed")
                if "flipped" in each
                else ""
            )
        ),
    )


def changes(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Change of accuracy under each perturbation."""
    entries = [(name, each["accuracy_change"], each) for name, each in figures["changes"].items()]

    def note(each: Mapping[str, Any]) -> str:
        if each.get("alike") == figures["rows"]:
            return "every answer is the same"
        return f"{each['flipped']} flipped; log-loss {told(each['log_loss_change'], 'signed')}"

    return striped(entries, [-figures["most"], 0.0], "points", note)


def striped(
    entries: Sequence[tuple[str, Any, Mapping[str, Any]]],
    rules: Sequence[float],
    kind: str,
    note: Any,
) -> list[dict[str, Any]]:
    """Rows of a table with an interval drawn in each, all to one scale."""
    marks = {"low": min(rules), "high": max(rules)}
    low, high = span([value or {} for _, value, _ in entries] + [marks])
    return [
        {
            "name": name,
            "value": value,
            "kind": kind,
            "verdict": each["verdict"],
            "note": note(each),
            "strip": charts.strip(value, low, high, f"{name}: {told(value, kind)}", "s1", rules)
            if value
            else "",
        }
        for name, value, each in entries
    ]


# In service


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
    panels = [
        {"name": name, "chart": detector(name, seen, rules, swaps_at)}
        for name in NAMES
        if all(name in window["signs"] for window in seen)
    ]
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
    over = [any(window["signs"][name]["over"] for name in NAMES) for window in seen]
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


def detector(
    name: str,
    seen: Sequence[Mapping[str, Any]],
    limits: Sequence[tuple[float, float, float]],
    swaps_at: Sequence[tuple[float, str]],
) -> Markup:
    """One detector's scores in time; windows over its limit are loud."""
    signs = [window["signs"][name] for window in seen]
    titles = [
        f"window {number}, {moment(window['time'])}, version {window['version'][:8]}: score "
        f"{sign['score']:.2f}, in time {sign['smoothed']:.2f}, effect {sign['effect']:.3f}"
        + (", over" if sign["over"] else "")
        for number, (window, sign) in enumerate(zip(seen, signs, strict=True), 1)
    ]
    spots = [(float(number), sign["score"]) for number, sign in enumerate(signs, 1)]
    in_time = [(float(number), sign["smoothed"]) for number, sign in enumerate(signs, 1)]
    loud = [bool(sign["over"]) for sign in signs]
    series = [
        Line("in time (EWMA)", in_time, "faint"),
        Line("score", spots, "s1", dots=True, titles=titles, loud=loud),
    ]
    return charts.lines(series, f"Drift of {name}", "window", "score", limits, swaps_at, 190)


def replay_section(evidence: Evidence) -> dict[str, Any] | None:
    """What a replay of kept texts showed: accuracy by version."""
    played = evidence.replay()
    if not played:
        return None
    scored = list(played.get("scored", {}).items())
    low, high = span(each["accuracy"] for _, each in scored)
    rows = [
        {
            "version": version,
            "texts": each["texts"],
            "value": each["accuracy"],
            "strip": charts.strip(
                each["accuracy"], low, high, f"{version}: {told(each['accuracy'], 'share')}"
            ),
        }
        for version, each in scored
    ]
    return {**{key: played.get(key) for key in ("test", "sent", "lost", "fed_back")}, "rows": rows}


def retraining(evidence: Evidence, run: Past) -> dict[str, Any]:
    """A retraining: its scores beside those of the run before it."""
    old = evidence.load(evidence.run.first("evaluate"), "scores", "scores.json")
    new = evidence.load(run.first("evaluate"), "scores", "scores.json")
    rows = []
    for split, scored in (new or {"splits": {}})["splits"].items():
        name = model_order(scored)[0]
        before = ((old or {}).get("splits", {}).get(split, {}).get("models", {})).get(name)
        pair = {
            side: each["metrics"]["accuracy"]
            for side, each in (("before", before), ("after", scored["models"][name]))
            if each
        }
        low, high = span(pair.values())
        rows += [
            {
                "split": split,
                "side": side,
                "value": value,
                "key": f"{run.name}/{split}/{name}/{side}/accuracy",
                "strip": charts.strip(
                    value, low, high, f"{side}: {told(value, 'share')}", STYLES[side == "after"]
                ),
            }
            for side, value in pair.items()
        ]
    ended = [e["facts"] for e in run.events if e["event"] == "acted" and "decision" in e["facts"]]
    learnt = run.first("train")
    return {
        "run": run.name,
        "began": run.began,
        "state": run.state,
        "rows": rows,
        "learnt": learnt.facts if learnt else None,
        "decision": ended[-1]["decision"] if ended else None,
    }


# Decisions


def gate_section(evidence: Evidence, log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The gate's decisions on this recipe's aliases, with every condition and its evidence."""
    found = []
    for entry in log:
        facts = entry["facts"]
        conditions = facts.get("evidence", {}).get("conditions")
        if conditions and str(facts.get("alias", "")).partition("@")[0] == evidence.recipe:
            whole = [bounds(condition) for condition in conditions]
            low, high = span([each["value"] for each in whole if each["value"]])
            for each in whole:
                if each["value"]:
                    words = f"{each['name']}: {told(each['value'], 'signed')}"
                    each["strip"] = charts.strip(
                        each["value"], low, high, words, "s1", [0.0, each["margin"]]
                    )
            found.append({**entry, "conditions": whole})
    return found


def bounds(condition: Mapping[str, Any]) -> dict[str, Any]:
    """A condition with the interval that it was judged by, if it has one."""
    evidence = condition["evidence"]
    value = None
    if evidence.get("difference") is not None:
        value = {
            "estimate": evidence["difference"],
            "low": evidence.get("lower"),
            "high": evidence.get("upper"),
        }
    return {**condition, "value": value, "margin": evidence.get("margin", 0.0), "strip": ""}


def log_section(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The decision log of the store, newest first, and the hash of its head."""
    return {
        "head": log[-1]["hash"] if log else None,
        "entries": [
            {
                **{key: entry[key] for key in ("number", "time", "author", "action", "hash")},
                "about": entry["facts"].get("alias") or entry["facts"].get("source", ""),
                "version": str(entry["facts"].get("version", ""))[:16],
                "reason": entry["facts"].get("reason")
                or entry["facts"].get("evidence", {}).get("by_hand")
                or gate_words(entry["facts"].get("evidence", {}).get("conditions")),
            }
            for entry in reversed(log)
        ],
    }


def gate_words(conditions: Sequence[Mapping[str, Any]] | None) -> str:
    """How many of the gate's conditions held."""
    if not conditions:
        return ""
    held = sum(condition["passed"] for condition in conditions)
    return f"{held} of {len(conditions)} conditions hold"


# Lineage, forecast, environment


def lineage_section(evidence: Evidence) -> list[dict[str, Any]]:
    """For each run, its sources, stages, artifacts and aliases as a graph."""
    drawn = []
    for run in evidence.runs:
        nodes: dict[str, Node] = {}
        edges: list[tuple[str, str]] = []
        for step, result in run.results.items():
            add_result(nodes, edges, run, step, result)
        for alias, now in aliases(evidence.store).items():
            for version in history(evidence.store, alias):
                if version.hash in nodes:
                    key = f"{alias} {version.hash}"
                    below = "in service" if version.hash == now.hash else "formerly"
                    words = f"{alias}: decision {version.decision}"
                    nodes[key] = Node(key, alias, below, "alias", words)
                    edges.append((version.hash, key))
        graph = charts.graph(list(nodes.values()), edges, f"Lineage of {run.name}")
        drawn.append({"run": run.name, "graph": graph})
    return drawn


def add_result(
    nodes: dict[str, Node], edges: list[tuple[str, str]], run: Past, step: str, result: Result
) -> None:
    """A stage with what it read and gave."""
    seconds = result.measured.get("seconds")
    took = [] if step == result.kind else [result.kind]
    took += [duration(seconds)] if isinstance(seconds, int | float) else []
    nodes[result.stamp] = Node(
        result.stamp,
        step,
        " · ".join(took),
        "stage",
        f"{step} ({result.kind}), result {result.stamp[:16]}",
    )
    for name, content in result.parts.get("reads", {}).items():
        key = f"{name} {content}"
        label = name.removeprefix("source ").removeprefix("asset:")
        nodes.setdefault(key, Node(key, label, content[:8], "source", f"{name}: {content}"))
        edges.append((key, result.stamp))
    for name, content in result.inputs.items():
        nodes.setdefault(content, Node(content, name, content[:8], "artifact", content))
        edges.append((content, result.stamp))
    names: dict[str, list[str]] = {}
    for name, content in result.outputs.items():
        names.setdefault(content, []).append(run.renamed(step, name))
    for content, same in names.items():  # equal contents are one artifact, whatever their names
        shown = ", ".join(same)
        nodes[content] = Node(content, shown, content[:8], "artifact", f"{shown}: {content}")
        edges.append((result.stamp, content))


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


def environment_section(run: Past) -> dict[str, Any]:
    """The machine of the run and the versions of the libraries that can change bits."""
    began = next((event for event in run.events if event["event"] == "run began"), {})
    machine = {
        key: began[key] for key in ("machine", "processor", "system", "threads") if key in began
    }
    libraries: dict[str, str] = {}
    for result in run.results.values():
        libraries |= result.parts.get("libraries", {})
    steps = [
        {
            "step": step,
            "seconds": result.measured.get("seconds"),
            "peak": result.measured.get("peak_bytes"),
            "peak_of_stage": result.measured.get("peak_of_stage", False),
            "stamp": result.stamp,
        }
        for step, result in run.results.items()
    ]
    return {"machine": machine, "libraries": dict(sorted(libraries.items())), "steps": steps}


# How values are written


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def share(value: float | None, digits: int = 1) -> str:
    """A share in percent, or a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    return "–" if value is None else f"{100 * value:+.1f} pp"


def signed(value: float | None) -> str:
    """A difference with its sign."""
    return "–" if value is None else f"{value:+.3f}"


def count(value: float | None) -> str:
    """A whole number with thin spaces between thousands."""
    return "–" if value is None else f"{int(value):,}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """Seconds in a unit that people read."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(value: float | None) -> str:
    """Bytes in megabytes."""
    if value is None:
        return "–"
    return f"{value / 1e6:.0f} MB" if value >= 1e7 else f"{value / 1e6:.2g} MB"


def moment(value: float) -> str:
    """A time in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))


WRITTEN = {"share": share, "number": number, "points": points, "signed": signed}


def told(value: Mapping[str, float | None] | None, kind: str) -> str:
    """An interval as plain text."""
    if not value:
        return "–"
    write = WRITTEN[kind]
    return f"{write(value['estimate'])} [{write(value.get('low'))}, {write(value.get('high'))}]"


def figure(value: float | None, kind: str, key: str) -> Markup:
    """A figure with its full value and its key, for whoever wants to recompute it."""
    if value is None:
        return Markup("<data>–</data>")
    return Markup('<data value="{}" data-figure="{}">{}</data>').format(
        repr(float(value)), key, WRITTEN[kind](value)
    )


def ranged(value: Mapping[str, float | None] | None, kind: str, key: str = "") -> Markup:
    """An estimate with its interval behind it; the figure carries its full value."""
    if not value or value.get("estimate") is None:
        return Markup("–")
    write = WRITTEN[kind]
    shown = figure(value["estimate"], kind, key) if key else write(value["estimate"])
    if value.get("low") is None:
        return Markup("<b>{}</b>").format(shown)
    bare = [
        html.unescape(write(value[end])).replace(" %", "").replace(" pp", "")
        for end in ("low", "high")
    ]
    return Markup('<b>{}</b> <span class="range">[{}, {}]</span>').format(shown, *bare)
