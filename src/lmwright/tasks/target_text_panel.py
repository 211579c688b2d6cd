"""The panel of texts that are written for others: how alike they are, row by row."""

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
    """The share of rows by how like the written text is the reference."""
    alike = 1.0 - np.array(table.column("loss.dissimilarity"))
    counts, _ = np.histogram(alike, BINS, (0.0, 1.0))
    shares = [(f"{place / BINS:.1f}", count / len(alike)) for place, count in enumerate(counts)]
    chart = draw.columns(
        shares, f"Likeness on {split}", "likeness to the reference, from", "share of rows"
    )
    return [("Likeness of what was written", chart)]
