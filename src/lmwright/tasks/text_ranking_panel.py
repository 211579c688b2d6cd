"""The panel of text ranking in a report: how good the rankings are, and what scores are given."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

BINS = 10


def panel(
    split: str, scored: Mapping[str, Any], table: pa.Table, draw: ModuleType
) -> list[tuple[str, Markup]]:
    """The share of rows by the nDCG of their ranking, and by their score."""
    gains = 1 - np.array(table.column("loss.ndcg_error"))
    title = f"nDCG@10 of each row's ranking on {split}, of {scored['queries']:,} queries"
    parts = (
        ("How good the rankings are", title, "nDCG@10, from", gains),
        ("Scores", f"Scores on {split}", "score, from", np.array(table.column("score"))),
    )
    return [
        (name, draw.columns(shares(values), title, below, "share of rows"))
        for name, title, below, values in parts
    ]


def shares(values: np.ndarray) -> list[tuple[str, float]]:
    """The share of values (n,) from 0 to 1 in each of ten bins, by where it begins."""
    counts, _ = np.histogram(np.clip(values, 0, 1), BINS, (0.0, 1.0))
    return [(f"{place / BINS:.1f}", count / len(values)) for place, count in enumerate(counts)]
