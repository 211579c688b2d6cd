"""The section data: what was read, kept, repeated, rejected, suspected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.data.split import SPLITS
from lmwright.draw import charts
from lmwright.report.evidence import Evidence


def data_section(evidence: Evidence) -> dict[str, Any] | None:
    """The quality of the rows: what was read, kept, repeated, rejected, suspected."""
    quality = evidence.load(evidence.run.giving("rows"), "rows", "quality.json")
    if quality is None:
        return None
    return {
        "quality": quality,
        "splits": {name: quality["splits"][name] for name in SPLITS},
        "sources": [
            {
                "name": name,
                **source,
                "lengths": charts.columns(
                    [
                        (label.removeprefix("<="), float(rows))
                        for label, rows in by_bound(source["lengths"]["words"]["histogram"])
                    ],
                    f"Words a text in {name}",
                    "words, at most",
                    "rows",
                ),
                "mean_words": source["lengths"]["words"]["mean"],
            }
            for name, source in quality["sources"].items()
        ],
        "labels": [
            {
                "name": label,
                "rows": rows,
                "share": quality["balance"]["shares"].get(label),
                "bar": charts.bar(quality["balance"]["shares"].get(label, 0.0), f"{label}: {rows}"),
            }
            for label, rows in quality["labels"].items()
            if label  # a task without strata has one that has no name
        ],
    }


def by_bound(histogram: Mapping[str, int]) -> list[tuple[str, int]]:
    """A histogram's bins in the order of their bounds (JSON sorted them as words)."""
    return sorted(histogram.items(), key=lambda entry: int(entry[0].removeprefix("<=")))
