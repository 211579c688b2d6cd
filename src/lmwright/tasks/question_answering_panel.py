"""The panel of question answering in a report: confidence, and what is won by not answering."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from lmwright.metrics.calibration_error import reliability_bins


def panel(
    split: str, scored: Mapping[str, Any], table: pa.Table, draw: ModuleType
) -> list[tuple[str, Markup]]:
    """Stated confidence against the share of exact matches; scores of rows with and without an
    answer."""
    right = np.array(table.column("loss.error")) == 0
    bins = reliability_bins(np.array(table.column("confidence")), right)
    metrics = scored["metrics"]
    names = {
        "has_answer_exact_match": "exact match, answered",
        "has_answer_f1": "F1, answered",
        "no_answer_accuracy": "no answer, rightly",
    }
    values = [
        (shown, metrics[name]["estimate"])
        for name, shown in names.items()
        if metrics[name]["estimate"] is not None
    ]
    return [
        ("Stated confidence and share right", draw.reliability(bins, f"Reliability on {split}")),
        (
            "Questions with and without an answer",
            draw.columns(values, f"Scores on {split}", "rows", "share"),
        ),
    ]
