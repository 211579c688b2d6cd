"""The rows artifact: a Parquet file for each split and test set, sorted by id, same bits always.

A folder of rows holds ``train``, ``validation``, ``calibration``, ``gate`` and ``test`` as
``.parquet``, a ``test-NAME.parquet`` for each test set, ``task.json`` (the task with what was
fitted to the training rows), ``sources.json``, ``quality.json`` and ``rejected.jsonl``. A file has
the fixed frame (id, source, licence, origin), the task's inputs and targets, and the side columns
that some source has. An id is 32 hexadecimal characters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from lmwright.core.columns import Column, canonical
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.reading import read_json_object
from lmwright.core.task import Task, read_task, role_columns
from lmwright.data.sample import subset
from lmwright.old_format import old_place, place, task_of_labels
from lmwright.tables import module_at, module_of, resolve

FRAME = ("id", "source", "licence", "origin")
"""Columns that every row has, whatever the task."""
TASK = "task.json"

GROUP_ROWS = 2048
"""Rows of a row group: what is read to find one row."""


def schema_of(columns: Sequence[Column], side: Sequence[str] = ()) -> pa.Schema:
    """The schema of a file of rows: id, the task's columns, the rest of the frame, side columns.

    BadInput for a task whose column has a name of the frame.
    """
    if taken := [column.name for column in columns if column.name in FRAME]:
        raise BadInput(
            f"a task with a column {taken[0]!r}",
            f"columns of other names than {', '.join(FRAME)}, which every row has",
            "rename the task's column",
        )
    text = [pa.field(name, pa.string(), nullable=False) for name in FRAME]
    own = [pa.field(column.name, column.arrow, nullable=False) for column in columns]
    return pa.schema(
        [text[0], *own, *text[1:], *(pa.field(name, pa.string(), nullable=False) for name in side)]
    )


def is_rows(folder: Path) -> bool:
    """True for the folder of a rows artifact, of today's format or the first."""
    return (folder / "sources.json").is_file() and any(
        (folder / name).is_file() for name in (TASK, "labels.json")
    )


def read_task_of(folder: Path) -> Task:
    """The task of a rows artifact, with what was fitted to its training rows."""
    if (folder / TASK).is_file():
        return read_task(read_json_object(folder / TASK), str(folder / TASK), resolve)
    if (folder / "labels.json").is_file():
        labels = json.loads((folder / "labels.json").read_text("utf-8"))
        return read_task(task_of_labels(labels), str(folder / "labels.json"), resolve)
    raise BadInput(f"no {TASK} in {folder}", "an artifact of the stage data")


def read_split(folder: Path, split: str, limit: int = 0, seed: int = 0) -> pa.Table:
    """The rows of a split or test set, sorted by id.

    ``limit`` keeps a subset in which each stratum of the task keeps its share, of a task that
    ranks one of whole rankings (0: all rows).
    BadInput lists the splits when there is none of this name, Corrupt says what is wrong with it.
    """
    with opened(folder / f"{split}.parquet") as file:
        table = file.read()
    task = read_task_of(folder)
    own = [column.name for column in role_columns(task, "input", "target")]
    if missing := sorted(set(own) - set(table.column_names)):
        raise Corrupt(f"{split}.parquet lacks the columns {missing}", f"those of a {task.kind}")
    if not limit or limit >= table.num_rows:
        return table
    return subset(task, table, limit, seed)


def stream_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of one file, at most 1024 at a time, in the order of their ids."""
    with opened(path) as file:
        yield from file.iter_batches(1024, columns=None if columns is None else list(columns))


def count_rows(path: Path) -> int:
    """How many rows one file holds, read off its end."""
    with opened(path) as file:
        return int(file.metadata.num_rows)


def splits_of(folder: Path) -> list[str]:
    """Names of the files of rows in an artifact, without suffix, sorted."""
    return sorted(place(path.stem) for path in folder.glob("*.parquet"))


def row_keys(task: Task, rows: pa.Table) -> list[str]:
    """A key (16 hexadecimal digits) of each row's cleaned inputs: equal for rows that repeat each
    other, whatever their source."""
    inputs = role_columns(task, "input")
    found = []
    for row in rows.select([column.name for column in inputs]).to_pylist():
        cleaned = task.cleaned(row)
        text = " ".join(canonical(cleaned[column.name]) for column in inputs)
        folded = " ".join(text.casefold().split())
        found.append(hashlib.blake2b(folded.encode(), digest_size=8).hexdigest())
    return found


def write_used_rows(
    task: Task, rows: pa.Table, folder: Path, further: Sequence[tuple[Task, pa.Table]] = ()
) -> None:
    """Write ``rows.parquet`` beside a model: ids, sources and keys of the rows that made it.

    ``further`` are those of other tasks that it learnt from, too; they are told apart as
    ``beside``.
    """
    parts = []
    for number, (own, each) in enumerate(((task, rows), *further)):
        keys = pa.array(row_keys(own, each), pa.string())
        part = each.select(["id", "source"]).append_column("key", keys)
        if further:
            part = part.append_column("beside", pa.array([number > 0] * each.num_rows, pa.bool_()))
        parts.append(part)
    used = pa.concat_tables(parts).sort_by("id") if further else parts[0]
    parquet.write_table(used, folder / "rows.parquet")


def used_ids(path: Path) -> list[str]:
    """The ids of the rows of its own task that a model was trained on, by its ``rows.parquet``."""
    table = parquet.read_table(path)
    if "beside" in table.column_names:
        table = table.filter(pc.invert(table["beside"]))
    found: list[str] = table.column("id").to_pylist()
    return found


def find_row(folder: Path, row_id: str) -> dict[str, Any] | None:
    """The row with this id and its ``split``; None when the artifact does not hold it.

    Bisection: the bounds of the row groups, then the ids of one group.
    """
    for split in splits_of(folder):
        with opened(folder / f"{split}.parquet") as file:
            group = group_of(file, row_id)
            if group is None:
                continue
            table = file.read_row_group(group)
            ids = table.column("id").to_pylist()
            if row_id in ids:
                return {"split": split, **table.slice(ids.index(row_id), 1).to_pylist()[0]}
    return None


def write_rows(
    path: Path, schema: pa.Schema, tables: Iterable[pa.Table], repeated: Iterable[str] = ()
) -> int:
    """Write tables, sorted by id within and between them; returns the rows written.

    Of ``repeated`` columns, as of the source and licence, each value is kept once.
    """
    count = 0
    few = [*repeated, "source", "licence"]
    with parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=few) as writer:
        for table in tables:
            writer.write_table(table.select(schema.names).cast(schema), row_group_size=GROUP_ROWS)
            count += table.num_rows
    return count


def opened(path: Path) -> parquet.ParquetFile:
    """The file of rows at ``path``, with its columns checked."""
    asked = path.stem
    if not path.is_file():
        path = path.with_name(f"{old_place(asked)}.parquet")
    if not path.is_file():
        raise BadInput(
            f"{path.parent.name} holds no rows called {asked!r}",
            ", ".join(splits_of(path.parent)) or "an artifact of rows",
        )
    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(f"{path.name} is not a whole Parquet file: {error}") from None
    missing = set(FRAME) - set(file.schema_arrow.names)
    if missing:
        raise Corrupt(f"{path.name} lacks the columns {sorted(missing)}", ", ".join(FRAME))
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


def task_modules(folder: Path) -> tuple[str, ...]:
    """The module of the task of a rows artifact."""
    return (module_of("tasks", read_task_of(folder).kind),)


def text_model_modules(folder: Path) -> tuple[str, ...]:
    """The module by which a text model answers the task of a rows artifact; none where none can."""
    place = read_task_of(folder).text_model
    return (module_at(place),) if place else ()
