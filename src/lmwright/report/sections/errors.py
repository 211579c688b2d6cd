"""The section errors: the task's own panel, slices, and the rows with the largest losses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lmwright.core.errors import BadInput
from lmwright.core.task import read_task
from lmwright.draw import charts
from lmwright.evals.predictions import read_predictions
from lmwright.report.evidence import Evidence
from lmwright.report.metrics import called, model_order, written_as
from lmwright.report.strips import span
from lmwright.report.words import answered, told
from lmwright.tables import definition_at, resolve

MOST_ROWS = 12


def errors_section(
    evidence: Evidence, scores: Mapping[str, Any] | None
) -> list[dict[str, Any]] | None:
    """Where the first model is wrong on each split."""
    folder = evidence.folder(evidence.run.giving("scores"), "scores")
    if scores is None or folder is None:
        return None
    found = []
    for split, scored in scores["splits"].items():
        name = model_order(scored)[0]
        losses = list(scored["losses"])
        judged = scores["primary"] if scores["primary"] in losses else losses[0]
        found.append(
            {
                "split": split,
                "model": name,
                "panels": panels(folder, scores["task"], split, name, scored["models"][name]),
                "loss": called(judged),
                "other_losses": [
                    {"name": each, "words": called(each), "kind": written_as(each)}
                    for each in losses
                    if each != judged
                    and any(each in one.get("losses", ()) for one in scored["slices"])
                ],
                "slices": slices(scored["slices"], judged, scored["models"][name]["metrics"]),
                "worst": [
                    {**each, "answer": answered(each["answer"])}
                    for each in scored["worst"][:MOST_ROWS]
                ],
            }
        )
    return found


def panels(
    folder: Path, task: Mapping[str, Any], split: str, model: str, scored: Mapping[str, Any]
) -> list[tuple[str, Markup]]:
    """What the task shows of its own; nothing where the task is one that is not installed."""
    try:
        place = read_task(task, "scores.json", resolve).panel
    except BadInput:
        return []
    if not place:
        return []
    found: list[tuple[str, Markup]] = definition_at(place)(
        split, scored, read_predictions(folder, model, split), charts
    )
    return found


def slices(
    given: list[dict[str, Any]], judged: str, metrics: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The slices with the loss that they are sorted by drawn; a line marks all rows."""
    found = [dict(each) for each in given]
    low, high = span(each["losses"][judged] for each in found if not each["too_few"])
    whole = (metrics.get(judged) or {}).get("estimate")
    rules = [] if whole is None else [whole]
    for each in found:
        if not each["too_few"]:
            value = each["losses"][judged]
            words = f"{each['slice']}: {told(value, written_as(judged))}"
            each["strip"] = charts.strip(value, low, high, words, "s1", rules)
            each["value"], each["kind"] = value, written_as(judged)
    return found
