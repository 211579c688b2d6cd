"""``lmwright init``: a working recipe for a stranger's table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from lmwright.core.durable import write_bytes
from lmwright.core.errors import BadInput
from lmwright.core.recipe import make_recipe, parse_yaml
from lmwright.data.guess import guess_source
from lmwright.data.sources import Source
from lmwright.loop.detect import Detect
from lmwright.loop.gate import Slices
from lmwright.metrics.detectors import REFERENCE_WINDOWS
from lmwright.tables import SECTIONS, resolve

AFTER_DATA = ("train", "baselines", "evaluate", "audit", "detect", "promote")

MANY = 2500
"""From so many rows on the defaults fit: windows, gate and calibration have rows enough."""
LEAST_WATCHED = 30
"""Windows of fewer texts see only the grossest drift; then nothing is watched."""
KEPT = 0.85
"""Share of the rows that is counted on after repeats and near duplicates are moved."""

LOOP = """
# Until a section retrain is here and texts are kept (keep_text: true), the loop only watches:
# feedback is counted, and nothing is learnt from it. This one learns from it:
# retrain:
#   windows: 2
#   fewest: 200
#   new_labels: 600
#   stages:
#     train: {start_from: incumbent, epochs: 1, lr: 1.0e-4}
"""

UNWATCHED = """
# Without detectors nothing is watched, so nothing starts a retraining; feedback is only counted.
"""


def init(
    table: Annotated[Path, typer.Argument(help="CSV, JSON Lines or Parquet with labelled texts.")],
    text: Annotated[str, typer.Option(help="The column with the texts.")] = "",
    label: Annotated[str, typer.Option(help="The column with the labels.")] = "",
    out: Annotated[Path | None, typer.Option(help="Where to write; NAME.yaml by default.")] = None,
) -> None:
    """Look at a table, guess its columns, and write a recipe that runs as it is."""
    guess = guess_source(table, text, label)
    name = re.sub(r"[^a-z0-9_-]+", "-", table.stem.lower()).strip("-_") or "mine"
    path = out or Path(f"{name}.yaml")
    if path.exists():
        raise BadInput(f"{path} is there already", "a new file", "choose another with --out")
    found = guess.source
    source = {
        "name": found.name,
        "path": str(table.absolute()),
        "text": found.text,
        "label": found.label,
    }
    if found.encoding != Source.encoding:
        source["encoding"] = found.encoding
    stages: dict[str, Any] = {"data": {"sources": [source]}, **{kind: {} for kind in AFTER_DATA}}
    sized = fit_to(stages, guess.labels)
    recipe = {"name": name, "stages": stages, "watch": {"keep_text": False}}
    reasons = "".join(f"# {reason}\n" for reason in (*guess.reasons, *sized))
    body = reasons + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    body += LOOP if "detect" in stages else UNWATCHED
    make_recipe(parse_yaml(body, str(path)), str(path), resolve, SECTIONS)
    write_bytes(path, body.encode())
    print(f"{path} is written:\n\n{body}\nnext: lmwright run {path}")


def fit_to(stages: dict[str, Any], labels: dict[str, int]) -> list[str]:
    """Set what depends on the number of rows (label -> rows); returns what was set, and why."""
    rows = sum(labels.values())
    if rows >= MANY:
        return []
    few = rows < 500
    shares = {
        "train": 0.45 if few else 0.55,
        "validation": 0.05,
        "calibration": 0.15,
        "gate": 0.25 if few else 0.15,
        "test": 0.1,
    }
    stages["data"]["fractions"] = shares
    told = [f"{rows:,} rows are few: more of them calibrate and judge, fewer are learnt from"]
    unseen = sum(shares[name] for name in ("calibration", "gate", "test"))
    window = min(Detect.window, int(KEPT * rows * unseen) // REFERENCE_WINDOWS // 10 * 10)
    if window < LEAST_WATCHED:
        del stages["detect"]
        stages["promote"]["detectors"] = None
        told.append(
            "too few rows to watch the traffic by: with more, add detect and take "
            "detectors: null out of promote"
        )
    else:
        stages["detect"]["window"] = window
    if KEPT * min(labels.values()) * shares["gate"] < Slices.rows:
        stages["promote"]["gate"] = {"slices": None}
        told.append("too few rows for the gate to judge each label by itself: slices is null")
    return told
