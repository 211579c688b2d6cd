"""The rows that are evaluated: one split or test set of the artifact, limited if so wished."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from lmwright.data.corpus import opened
from lmwright.data.sample import same_rows

COLUMNS = ["id", "text", "label", "source"]


def read_split(folder: Path, split: str, limit: int = 0, seed: int = 0) -> pa.Table:
    """Id, text, label and source of a split (or ``test-NAME``), sorted by id.

    ``limit`` keeps a subset in which each label keeps its share (0: all rows). BadInput lists the
    splits when there is none of this name, Corrupt says what is wrong with the file.
    """
    with opened(folder / f"{split}.parquet") as file:
        return same_rows(file.read(columns=COLUMNS), limit, seed)
