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
from lmwright.tables import SECTIONS, resolve

AFTER_DATA = ("train", "baselines", "evaluate", "audit", "detect", "promote")


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
    stages: dict[str, Any] = {"data": {"sources": [source]}, **{kind: {} for kind in AFTER_DATA}}
    recipe = {"name": name, "stages": stages, "watch": {"keep_text": False}}
    reasons = "".join(f"# {reason}\n" for reason in guess.reasons)
    body = reasons + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    make_recipe(parse_yaml(body, str(path)), str(path), resolve, SECTIONS)
    write_bytes(path, body.encode())
    print(f"{path} is written:\n\n{body}\nnext: lmwright run {path}")
