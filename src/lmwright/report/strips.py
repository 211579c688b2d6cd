"""Intervals drawn in the rows of a table, all to one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmwright.draw import charts
from lmwright.report.words import told

STYLES = ("s1", "s2", "s3", "s4", "s5")


def striped(
    entries: Sequence[tuple[str, Any, Mapping[str, Any]]],
    rules: Sequence[float],
    kind: str,
    note: Any,
) -> list[dict[str, Any]]:
    """Rows of a table with an interval drawn in each, all to one scale."""
    marks = {"low": min(rules), "high": max(rules)}
    low, high = span([value or {} for _, value, _ in entries] + [marks])
    return [
        {
            "name": name,
            "value": value,
            "kind": kind,
            "verdict": each["verdict"],
            "note": note(each),
            "strip": charts.strip(value, low, high, f"{name}: {told(value, kind)}", "s1", rules)
            if value
            else "",
        }
        for name, value, each in entries
    ]


def span(values: Any) -> tuple[float, float]:
    """A range that holds all intervals, with some room."""
    ends = [v for value in values for v in value.values() if isinstance(v, int | float)]
    if not ends:
        return 0.0, 1.0
    room = (max(ends) - min(ends)) * 0.06 or 0.01
    return min(ends) - room, max(ends) + room
