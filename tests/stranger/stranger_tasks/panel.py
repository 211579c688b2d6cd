"""The panel of a report: hierarchical F1 of every label."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pyarrow as pa
from markupsafe import Markup


def panel(
    split: str, scored: Mapping[str, Any], table: pa.Table, draw: ModuleType
) -> list[tuple[str, Markup]]:
    """One chart: F1 by the place of the label in the hierarchy."""
    found = [2 * both / max(said + true, 1e-9) for both, said, true in scored["per_label"]]
    values = [(str(place), value) for place, value in enumerate(found)]
    return [("Labels", draw.columns(values, f"F1 of labels on {split}", "label", "F1"))]
