"""The panel of multi-label classification in a report: the F1 of the most frequent labels."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pyarrow as pa
from markupsafe import Markup

MOST = 15


def panel(
    split: str, scored: Mapping[str, Any], table: pa.Table, draw: ModuleType
) -> list[tuple[str, Markup]]:
    """F1 of each of the labels that most rows have."""
    counts = sorted(scored["per_label"].items(), key=lambda each: (-each[1][0], each[0]))[:MOST]
    values = [(label, 2 * both / max(true + said, 1)) for label, (true, said, both) in counts]
    chart = draw.columns(values, f"F1 on {split}", "label", "F1")
    return [("F1 of the most frequent labels", chart)]
