"""Error analysis: the rows with the largest losses, and the slices on which a model is worse."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa

from lmwright.core.task import Task
from lmwright.evals.predictions import Predictions
from lmwright.metrics.intervals import mean_interval
from lmwright.text.personal import mask_personal

NEGATION = re.compile(
    r"\b(?:no|not|never|nothing|nobody|none|neither|nor|hardly|barely|without|cannot)\b|n['’]t\b",
    re.IGNORECASE,
)
CONTRAST = re.compile(r"\b(?:but|although|though|however|despite|yet|while)\b", re.IGNORECASE)
EXCERPT = 240


def memberships(task: Task, rows: pa.Table) -> dict[str, np.ndarray]:
    """Slices by name, each a bool (n,): by length, source, stratum, group and kinds of words.

    The quartiles of length (in words) are of these rows; equal lengths share one.
    """
    found_rows = rows.to_pylist()
    texts = [task.text(row) for row in found_rows]
    words = np.array([len(text.split()) for text in texts])
    edges = np.quantile(words, [0.25, 0.5, 0.75])
    quarter = np.searchsorted(edges, words, side="left")
    found = {f"length: quarter {q + 1}": quarter == q for q in range(4)}
    values = {"source": [row["source"] for row in found_rows]}
    if task.strata:
        values[task.strata] = [task.stratum(row) for row in found_rows]
    if "group" in rows.column_names:
        values["group"] = [row["group"] for row in found_rows]
    for column, given in values.items():
        array = np.array(given, dtype=object)
        found |= {f"{column}: {name}": array == name for name in sorted(set(given))}
    for name, pattern in (("negation", NEGATION), ("contrast", CONTRAST), ("digit", r"\d")):
        has = np.array([re.search(pattern, text) is not None for text in texts], dtype=bool)
        found |= {f"{name}: with": has, f"{name}: without": ~has}
    return found


def slice_scores(
    task: Task, found: Predictions, fewest: int, level: float = 0.95
) -> list[dict[str, Any]]:
    """Every loss with its interval on every slice that is not all rows, worst first.

    A slice with fewer than ``fewest`` rows is listed with its size only: too few rows to judge.
    ``gap`` is the slice's mean of the primary loss less that of the other rows.
    """
    primary = found.loss(task.primary)
    judged: list[dict[str, Any]] = []
    small: list[dict[str, Any]] = []
    for name, member in memberships(task, found.rows).items():
        n = int(member.sum())
        if n == 0 or n == len(member):
            continue
        if n < fewest:
            small.append({"slice": name, "rows": n, "too_few": True})
            continue
        losses = {
            each: mean_interval(loss.values[member], 0.0, loss.largest, level).to_json()
            for each, loss in found.measures.losses.items()
        }
        gap = float(primary[member].mean() - primary[~member].mean())
        judged.append({"slice": name, "rows": n, "too_few": False, "losses": losses, "gap": gap})
    return sorted(judged, key=lambda entry: -entry["gap"]) + small


def worst_rows(task: Task, found: Predictions, count: int) -> list[dict[str, Any]]:
    """The ``count`` rows with the largest primary loss: id, target, answer and start of the text.

    Personal data in that start is masked: it goes into the scores and from there into reports.
    """
    losses, ids = found.loss(task.primary), found.ids
    order = np.lexsort((np.array(ids), -losses))[:count]
    rows = found.rows.take(pa.array(order)).to_pylist()
    return [
        {
            "id": row["id"],
            "source": row["source"],
            "target": task.target(row),
            "answer": task.told(found.answers, int(place)),
            "loss": float(losses[place]),
            "excerpt": excerpt(task.text(row)),
        }
        for row, place in zip(rows, order, strict=True)
    ]


def excerpt(text: str) -> str:
    # Masked before it is cut: half a number has no check digit and would stay.
    flat = " ".join(mask_personal(text).split())
    return flat if len(flat) <= EXCERPT else flat[: EXCERPT - 1] + "…"
