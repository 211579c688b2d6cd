"""The panel of classification in a report: its confusion table and its reliability diagram."""

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
    """Truth against answers, and stated confidence against the share that is right."""
    bins = reliability_bins(
        np.array(table.column("confidence")), np.array(table.column("loss.error")) == 0
    )
    confusion = draw.confusion(scored["confusion"], scored["labels"], f"Confusion on {split}")
    return [
        ("Truth and answers", confusion),
        (
            "Stated confidence and share right",
            draw.reliability(bins, f"Reliability on {split}"),
        ),
    ]
