"""Model card and data card: what the artifacts say, gathered in one place; nobody types it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lmwright.audit.check import PASSED
from lmwright.core.bases import bases_of, with_bases
from lmwright.core.hashing import hash_file
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.old_format import description_of, quality_of


def model_card(
    folder: Path, scores: Mapping[str, Any], name: str, rows: Path, audit: Mapping[str, Any]
) -> dict[str, Any]:
    """What the model is, what it learnt from, how good it is and where its limits were measured.

    ``folder`` is the model's, ``scores`` the content of ``scores.json``, ``name`` the model's in
    it, ``rows`` the artifact of rows, ``audit`` the verdicts by check.
    """
    described = description_of(read_json_object(folder / DESCRIPTION))
    learnt = trained_on(folder)
    return {
        "task": scores["task"],
        "model": {
            "kind": described["kind"],
            "files": {p.name: hash_file(p) for p in sorted(folder.iterdir()) if p.is_file()},
            "bytes": sum(
                path.stat().st_size
                for each in with_bases(folder)
                for path in each.rglob("*")
                if path.is_file()
            ),
            **({"stands_on": bases} if (bases := bases_of(folder)) else {}),
        },
        "training": {"rows": sum(learnt.values()) or None, "sources": learnt} | last(folder),
        "licences": {source["name"]: source["licence"] for source in sources(rows)},
        "calibration": scores["calibration"][name],
        "scores": {
            split: {
                "rows": found["rows"],
                "losses": found["losses"],
                "metrics": overall(found["models"][name]["metrics"]),
            }
            for split, found in scores["splits"].items()
        },
        "compared": scores["headline"],
        "audit": {check: entry["verdict"] for check, entry in audit.items()},
        "limits": {
            check: entry["reason"] for check, entry in audit.items() if entry["verdict"] != PASSED
        },
    }


def overall(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of all rows, without those of one label each (``f1.LABEL``)."""
    return {name: value for name, value in metrics.items() if "." not in name}


def data_card(rows: Path) -> dict[str, Any]:
    """Sources with their licences and content hashes, and what was found in their rows."""
    quality = quality_of(json.loads((rows / "quality.json").read_bytes()))
    kept = ("rows", "labels", "balance", "splits", "test_sets", "near_duplicates", "label_errors")
    facts = {name: quality[name] for name in kept if name in quality}
    if "label_errors" in facts:
        facts["label_errors"] = {k: v for k, v in facts["label_errors"].items() if k != "worst"}
    return {
        **facts,
        "sources": [
            {
                "name": source["name"],
                "role": source["role"],
                "licence": source["licence"],
                "path": source["path"],
                "content": source["content"],
                **{
                    name: quality["sources"][source["name"]].get(name)
                    for name in ("rows", "completeness", "lengths", "language", "personal")
                },
            }
            for source in sources(rows)
        ],
    }


def sources(rows: Path) -> list[dict[str, Any]]:
    """The sources of an artifact of rows."""
    found: list[dict[str, Any]] = json.loads((rows / "sources.json").read_bytes())
    return found


def trained_on(folder: Path) -> dict[str, int]:
    """Source -> rows of it that the model was trained on; empty if the model does not list them."""
    path = folder / "rows.parquet"
    if not path.is_file():
        return {}
    counts: dict[str, int] = {}
    for source in pq.read_table(path, columns=["source"]).column("source").to_pylist():
        counts[source] = counts.get(source, 0) + 1
    return dict(sorted(counts.items()))


def last(folder: Path) -> dict[str, Any]:
    """Steps and tokens at the end of the learning curves, if the model has any."""
    path = folder / "curves.json"
    curves = json.loads(path.read_bytes()) if path.is_file() else []
    return {"steps": curves[-1]["step"], "tokens": curves[-1]["tokens"]} if curves else {}
