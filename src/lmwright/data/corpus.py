"""The rows artifact: a Parquet file for each split and test set, sorted by id, same bits always.

A folder of rows holds ``train``, ``validation``, ``calibration``, ``gate`` and ``test`` as
``.parquet``, a ``test-NAME.parquet`` for each test set, ``labels.json``, ``sources.json``,
``quality.json`` and ``rejected.jsonl``. An id is 32 hexadecimal characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from lmwright.core.errors import BadInput, Corrupt
from lmwright.old_format import old_place, place

COLUMNS = ("id", "text", "label", "source", "licence", "origin")
SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in COLUMNS])

GROUP_ROWS = 2048
"""Rows of a row group: what is read to find one row."""


@dataclass(frozen=True)
class Rows:
    """Columns of one file of rows, all of one length, in the order of their ids."""

    ids: list[str]
    texts: list[str]
    labels: list[str]
    sources: list[str]
    licences: list[str]
    origins: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def read_rows(path: Path) -> Rows:
    """Every row of one file; Corrupt when it is not a whole file of rows."""
    with opened(path) as file:
        table = file.read(columns=list(COLUMNS))
    return Rows(*(table.column(name).to_pylist() for name in COLUMNS))


def stream_rows(path: Path, batch: int = 1024) -> Iterator[Rows]:
    """The rows of one file, at most ``batch`` at a time, in the order of their ids."""
    with opened(path) as file:
        for part in file.iter_batches(batch, columns=list(COLUMNS)):
            yield Rows(*(part.column(name).to_pylist() for name in COLUMNS))


def read_labels(folder: Path) -> tuple[str, ...]:
    """The labels of an artifact, sorted: position = class number."""
    return tuple(json.loads((folder / "labels.json").read_text()))


def count_rows(path: Path) -> int:
    """How many rows one file holds, read off its end."""
    with opened(path) as file:
        return int(file.metadata.num_rows)


def splits_of(folder: Path) -> list[str]:
    """Names of the files of rows in an artifact, without suffix, sorted."""
    return sorted(place(path.stem) for path in folder.glob("*.parquet"))


def find_row(folder: Path, row_id: str) -> dict[str, str] | None:
    """The row with this id and its ``split``; None when the artifact does not hold it.

    Bisection: the bounds of the row groups, then the ids of one group.
    """
    for split in splits_of(folder):
        with opened(folder / f"{split}.parquet") as file:
            group = group_of(file, row_id)
            if group is None:
                continue
            table = file.read_row_group(group, columns=list(COLUMNS))
            place = table.column("id").to_pylist()
            if row_id in place:
                return {"split": split, **table.slice(place.index(row_id), 1).to_pylist()[0]}
    return None


def ids_of_source(folder: Path, source: str) -> dict[str, list[str]]:
    """Split -> ids of the rows in it that come from ``source``; splits without any are absent."""
    found = {}
    for split in splits_of(folder):
        with opened(folder / f"{split}.parquet") as file:
            ids = [
                row["id"]
                for part in file.iter_batches(8192, columns=["id", "source"])
                for row in part.to_pylist()
                if row["source"] == source
            ]
        if ids:
            found[split] = ids
    return found


def write_rows(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write tables of COLUMNS, sorted by id within and between them; returns the rows written."""
    count = 0
    with parquet.ParquetWriter(
        path, SCHEMA, compression="zstd", use_dictionary=["label", "source", "licence"]
    ) as writer:
        for table in tables:
            writer.write_table(table.select(COLUMNS).cast(SCHEMA), row_group_size=GROUP_ROWS)
            count += table.num_rows
    return count


def opened(path: Path) -> parquet.ParquetFile:
    """The file of rows at ``path``, with its columns checked."""
    if not path.is_file():
        path = path.with_name(f"{old_place(path.stem)}.parquet")
    if not path.is_file():
        raise BadInput(
            f"{path.parent.name} holds no rows called {path.stem!r}",
            ", ".join(splits_of(path.parent)) or "an artifact of rows",
        )
    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(f"{path.name} is not a whole Parquet file: {error}") from None
    missing = set(COLUMNS) - set(file.schema_arrow.names)
    if missing:
        raise Corrupt(f"{path.name} lacks the columns {sorted(missing)}", ", ".join(COLUMNS))
    return file


def group_of(file: parquet.ParquetFile, row_id: str) -> int | None:
    """The row group whose bounds enclose the id, by bisection."""
    low, high = 0, file.metadata.num_row_groups
    column = file.schema_arrow.names.index("id")
    while low < high:
        middle = (low + high) // 2
        bounds = file.metadata.row_group(middle).column(column).statistics
        if row_id < bounds.min:
            high = middle
        elif row_id > bounds.max:
            low = middle + 1
        else:
            return middle
    return None
