"""The rows that are evaluated: one split or world of the artifact, limited if so wished."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.data.sample import same_rows

COLUMNS = ["id", "text", "label", "source"]


def read_split(folder: Path, split: str, limit: int = 0, seed: int = 0) -> pa.Table:
    """Id, text, label and source of a split (or ``world-NAME``), sorted by id.

    ``limit`` keeps a subset in which each label keeps its share. BadInput names the nearest
    split when there is none of this name.
    """
    path = folder / f"{split}.parquet"
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.parquet")]
        raise BadInput(f"there are no rows called {split!r}", "a split", nearest(split, known))
    try:
        table = pq.read_table(path, columns=COLUMNS)
    except (pa.ArrowException, OSError, KeyError) as fault:
        raise Corrupt(f"{path.name} cannot be read ({fault})") from None
    return same_rows(table, limit, seed)


def read_labels(folder: Path) -> tuple[str, ...]:
    """The labels of the task, sorted."""
    try:
        return tuple(json.loads((folder / "labels.json").read_text()))
    except (OSError, ValueError) as fault:
        raise Corrupt(f"labels.json cannot be read ({fault})") from None
