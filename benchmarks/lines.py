"""Cells of a benchmark that goes on cell by cell: a recipe each, and a line once it is finished."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmwright as lw

if TYPE_CHECKING:
    from lmwright.api.recipes import Finished


def run_settings(settings: Mapping[str, Any], store: Path) -> Finished:
    """Run the recipe of a cell; what has a result is not done again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cell.yaml"
        path.write_text(json.dumps(settings))
        return lw.run(path, store=store)


def add_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add the line of a finished cell to a file."""
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of finished cells in a file of JSON lines; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
