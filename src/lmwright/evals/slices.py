"""Error analysis: the rows that cost most, and the kinds of rows on which a model is worse."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa

from lmwright.evals.predictions import Predictions
from lmwright.metrics.classification import largest_log_loss, log_losses
from lmwright.metrics.intervals import mean_interval, wilson
from lmwright.text.personal import mask_personal

NEGATION = re.compile(
    r"\b(?:no|not|never|nothing|nobody|none|neither|nor|hardly|barely|without|cannot)\b|n['’]t\b",
    re.IGNORECASE,
)
CONTRAST = re.compile(r"\b(?:but|although|though|however|despite|yet|while)\b", re.IGNORECASE)
EXCERPT = 240


def memberships(rows: pa.Table) -> dict[str, np.ndarray]:
    """Slices by name, each a bool (n,): by length, source, label and kinds of words.

    Rows need text, label and source. The quartiles of length (in words) are of these rows; equal
    lengths share one.
    """
    texts = rows.column("text").to_pylist()
    words = np.array([len(text.split()) for text in texts])
    edges = np.quantile(words, [0.25, 0.5, 0.75])
    quarter = np.searchsorted(edges, words, side="left")
    found = {f"length: quarter {q + 1}": quarter == q for q in range(4)}
    for column in ("source", "label"):
        values = np.array(rows.column(column).to_pylist(), dtype=object)
        found |= {f"{column}: {name}": values == name for name in sorted(set(values))}
    for name, pattern in (("negation", NEGATION), ("contrast", CONTRAST), ("digit", r"\d")):
        has = np.array([re.search(pattern, text) is not None for text in texts], dtype=bool)
        found |= {f"{name}: with": has, f"{name}: without": ~has}
    return found


def slice_scores(
    rows: pa.Table,
    found: Predictions,
    fewest: int,
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """Accuracy and log-loss with intervals on every slice that is not all rows, worst first.

    A slice with fewer than ``fewest`` rows is listed with its size only: too few rows to judge.
    ``gap`` is the slice's mean log-loss less that of the other rows.
    """
    right = found.chosen == found.truth
    losses = log_losses(found.truth, found.probabilities)
    judged: list[dict[str, Any]] = []
    small: list[dict[str, Any]] = []
    for name, member in memberships(rows).items():
        n = int(member.sum())
        if n == 0 or n == len(member):
            continue
        if n < fewest:
            small.append({"slice": name, "rows": n, "too_few": True})
            continue
        own = losses[member]
        loss = mean_interval(own, 0.0, largest_log_loss(found.floor), level)
        judged.append(
            {
                "slice": name,
                "rows": n,
                "too_few": False,
                "accuracy": wilson(int(right[member].sum()), n, level).to_json(),
                "log_loss": loss.to_json(),
                "gap": float(own.mean() - losses[~member].mean()),
            }
        )
    return sorted(judged, key=lambda entry: -entry["gap"]) + small


def worst_rows(rows: pa.Table, found: Predictions, count: int) -> list[dict[str, Any]]:
    """The ``count`` rows with the largest log-loss: id, both labels, loss and start of the text.

    Personal data in that start is masked: it goes into the scores and from there into reports.
    """
    losses = log_losses(found.truth, found.probabilities)
    order = np.lexsort((np.array(found.ids), -losses))[:count]
    texts, sources = rows.column("text").to_pylist(), rows.column("source").to_pylist()
    return [
        {
            "id": found.ids[place],
            "source": sources[place],
            "label": found.labels[found.truth[place]],
            "prediction": found.labels[found.chosen[place]],
            "confidence": float(found.probabilities[place].max()),
            "log_loss": float(losses[place]),
            "excerpt": _excerpt(texts[place]),
        }
        for place in order
    ]


def _excerpt(text: str) -> str:
    # Masked before it is cut: half a number has no check digit and would stay.
    flat = " ".join(mask_personal(text).split())
    return flat if len(flat) <= EXCERPT else flat[: EXCERPT - 1] + "…"
