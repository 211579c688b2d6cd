"""The panel of sentence similarity in a report: where the right passages stand."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

EDGES = (1, 2, 4, 11, 101)
"""Ranks at which a column begins."""
BINS = 10


def panel(
    split: str, scored: Mapping[str, Any], table: pa.Table, draw: ModuleType
) -> list[tuple[str, Markup]]:
    """The share of rows by rank where rows were ranked, and the scores that were given."""
    found = []
    if "loss.rank_error" in table.column_names and scored["positives"] == table.num_rows:
        ranks = np.rint(1 / (1 - np.array(table.column("loss.rank_error"))))
        counts, _ = np.histogram(ranks, (*EDGES, np.inf))
        names = [
            str(low) if high == low + 1 else f"{low}–{high - 1}" for low, high in pairwise(EDGES)
        ]
        shares = zip([*names, f"from {EDGES[-1]}"], counts / len(ranks), strict=True)
        title = f"Ranks on {split}, among {scored['passages']:,} passages"
        found.append(
            (
                "Where the right passage stands",
                draw.columns([*shares], title, "rank", "share of rows"),
            )
        )
    scores = np.array(table.column("score"))
    counts, edges = np.histogram(scores, BINS)
    names = [f"{edge:.2g}" for edge in edges[:-1]]
    chart = draw.columns(
        [*zip(names, counts / len(scores), strict=True)],
        f"Scores on {split}",
        "score, from",
        "share of rows",
    )
    return [*found, ("Scores", chart)]
