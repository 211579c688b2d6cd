"""Rows of one source with equal inputs as one row, where the task can merge them.

Such rows are judgements of one row by several annotators. They are scattered over parts on disk
by their inputs, so that a part of them is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Row
from lmwright.core.task import MergingTask, role_columns
from lmwright.data.gather import Gathered, as_batch, numbers
from lmwright.data.sources import SIDE, RawRow, Source

PART_CHARACTERS = 8 << 20
"""Characters of text of the rows that are in memory at a time, if no more parts are needed."""
MOST_PARTS = 64
"""Files that are open at once."""


def merge_judgements(
    task: MergingTask, gathered: Gathered, sources: Sequence[Source], folder: Path
) -> tuple[Gathered, np.ndarray]:
    """The rows after merging, and the place (rows,) in ``gathered`` of the first of each.

    Rows that stand alone come first, in their order. A row that repeats an id of its source is no
    judgement. Of side columns each different value is kept, in the order of reading.
    """
    pairs = np.stack([gathered.sources.astype(np.uint64), gathered.keys], axis=1)
    fresh = np.flatnonzero(~gathered.repeats_id)
    _, group, counts = np.unique(pairs[fresh], axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    several = counts[group] > 1
    if not several.any():
        return gathered, np.arange(len(gathered.keys))
    characters = int(gathered.characters[fresh[several]].sum(dtype=np.int64))
    parts = min(MOST_PARTS, characters // PART_CHARACTERS + 1)
    names = {name: number for number, name in enumerate(gathered.names)}
    part = np.full(len(gathered.keys), -1)
    part[fresh[several]] = group[several] % parts
    schema = scatter(gathered, part, parts, folder)
    leaders: list[int] = []
    fields: list[tuple[np.ndarray, ...]] = []
    with ExitStack() as files:
        writer = written(folder / "merged.arrow", schema, files)
        for batch in read(folder / "part--1.arrow"):
            writer.write_batch(batch)
        for number in range(parts):
            rows: dict[tuple[int, int], list[tuple[int, dict[str, Any]]]] = {}
            places = iter(np.flatnonzero(part == number).tolist())
            for batch in read(folder / f"part-{number}.arrow"):
                for row, place in zip(batch.to_pylist(), places, strict=False):
                    pair = (int(gathered.sources[place]), int(gathered.keys[place]))
                    rows.setdefault(pair, []).append((place, row))
            found = [merged(task, [row for _, row in each]) for each in rows.values()]
            if found:
                writer.write_batch(as_batch(found, schema))
            leaders += [each[0][0] for each in rows.values()]
            fields += [
                numbers(task, [row], sources[source], source, names)
                for row, (source, _) in zip(found, rows, strict=True)
            ]
    kept = np.concatenate([np.flatnonzero(part < 0), np.array(leaders, dtype=np.int64)])
    return renumbered(gathered, folder / "merged.arrow", part < 0, fields, names), kept


def scatter(gathered: Gathered, part: np.ndarray, parts: int, folder: Path) -> pa.Schema:
    """Write the rows of each part (rows,), -1 among them, into a file; their schema."""
    with ExitStack() as files:
        writers: dict[int, pa.RecordBatchWriter] = {}
        for first, batch in gathered.staged():
            own = part[first : first + batch.num_rows]
            for number in range(-1, parts):
                if number not in writers:
                    path = folder / f"part-{number}.arrow"
                    writers[number] = written(path, batch.schema, files)
                writers[number].write_batch(batch.filter(pa.array(own == number)))
    return cast(pa.Schema, batch.schema)


def written(path: Path, schema: pa.Schema, files: ExitStack) -> pa.RecordBatchWriter:
    """A stream of batches into a file, closed with ``files``."""
    return files.enter_context(
        pa.ipc.new_stream(files.enter_context(pa.OSFile(str(path), "wb")), schema)
    )


def read(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a file, which goes afterwards."""
    with pa.OSFile(str(path)) as stream, pa.ipc.open_stream(stream) as reader:
        yield from reader
    path.unlink()


def merged(task: MergingTask, rows: Sequence[Mapping[str, Any]]) -> RawRow:
    """Several staged rows as one."""
    given: Row = task.merged(rows)
    columns = role_columns(task, "input", "target")
    side = {
        name: ", ".join(dict.fromkeys(str(row[name]) for row in rows))
        for name in SIDE
        if name in rows[0]
    }
    return RawRow({each.name: given[each.name] for each in columns}, "", rows[0]["origin"], side)


def renumbered(
    gathered: Gathered,
    path: Path,
    alone: np.ndarray,
    fields: Sequence[tuple[np.ndarray, ...]],
    names: Mapping[str, int],
) -> Gathered:
    """The numbers of the rows ``alone`` (rows,), then those of the merged ones."""
    order = (
        "ids", "keys", "targets", "strata", "clusters", "sources", "characters", "words",
    )  # fmt: skip
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(gathered, name)[alone], *(each[place] for each in fields)])
        for place, name in enumerate(order)
    }
    repeats = np.concatenate([gathered.repeats_id[alone], np.zeros(len(fields), bool)])
    return replace(
        gathered,
        path=path,
        names=list(names),
        repeats_id=repeats,
        merged=len(alone) - len(repeats),
        **columns,
    )
