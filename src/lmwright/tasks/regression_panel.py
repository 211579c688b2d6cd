"""The panel of regression in a report: how large the errors are."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

BINS = 12


def panel(
    split: str, scored: Mapping[str, Any], table: pa.Table, draw: ModuleType
) -> list[tuple[str, Markup]]:
    """The share of rows by their absolute error."""
    errors = np.array(table.column("loss.absolute_error"))
    counts, edges = np.histogram(errors, BINS)
    shares = [
        (f"{edge:.3g}", count / len(errors)) for edge, count in zip(edges, counts, strict=False)
    ]
    chart = draw.columns(shares, f"Errors on {split}", "absolute error, from", "share of rows")
    return [("How large the errors are", chart)]
