"""The first pass: every row read, repaired and put on disk; a few numbers of each in memory."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row, blank, canonical
from lmwright.core.errors import BadInput
from lmwright.core.task import Task, role_columns, text_of_its_own
from lmwright.data.dedup import NearDuplicates
from lmwright.data.sources import SIDE, Fault, RawRow, Source, derivation_of, read_source

BATCH_ROWS, BATCH_CHARACTERS = 1024, 1 << 20
"""Rows, and characters of text, that are in memory at a time (and one row more)."""


@dataclass
class Rejected:
    """Rows that are not used: each written with its place and reason, counted by reason."""

    path: Path
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.file = self.path.open("w", encoding="utf-8")

    def put(self, source: str, fault: Fault) -> None:
        """Write one row down and count it."""
        self.counts.setdefault(source, Counter())[fault.reason] += 1
        name, _, row = fault.origin.rpartition(":")
        entry = {"source": source, "file": name, "row": int(row), "reason": fault.reason}
        line = json.dumps({**entry, "detail": fault.detail}, ensure_ascii=True)
        self.file.write(line + "\n")

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


@dataclass
class Gathered:
    """Numbers of every row that was read well, in the order of reading.

    ``ids`` uint64 (rows, 2) of source, inputs and targets, ``keys`` uint64 of the inputs,
    ``targets`` uint64 of the targets,
    ``strata`` int32 into ``names``, ``clusters`` uint64 (0: none), ``sources`` int16,
    ``characters`` and ``words`` int32, ``repeats_id`` bool: all (rows,). The values are in
    ``path``. ``read`` counts records of each source, ``repaired`` those that cleaning changed,
    ``merged`` rows that went into others (data/merge.py).
    """

    path: Path
    names: list[str]
    read: list[int]
    repaired: list[int]
    ids: np.ndarray
    keys: np.ndarray
    targets: np.ndarray
    strata: np.ndarray
    clusters: np.ndarray
    sources: np.ndarray
    characters: np.ndarray
    words: np.ndarray
    repeats_id: np.ndarray
    merged: int = 0

    def staged(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(number of the first row, rows) of each batch, as they were gathered."""
        first = 0
        with pa.OSFile(str(self.path)) as stream, pa.ipc.open_stream(stream) as reader:
            for batch in reader:
                yield first, batch
                first += batch.num_rows


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a row or source may be at most before it is rejected or refused."""

    characters: int
    faulty: float


def gather(
    task: Task,
    sources: Sequence[Source],
    folder: Path,
    near: NearDuplicates,
    rejected: Rejected,
    limits: Limits,
    seed: int,
    say: Callable[[int, str], None],
) -> Gathered:
    """Read all sources into ``folder`` and ``near``; bad rows go to ``rejected``.

    Raises BadInput for a file that cannot be read, and for a source of which more than the limit
    of rows is faulty or none is left.
    """
    path = folder / "staged.arrow"
    columns = role_columns(task, "input", "target")
    schema = staged_schema(columns, side_columns(sources))
    parts: list[tuple[np.ndarray, ...]] = []
    names: dict[str, int] = {}
    read, repaired = [0] * len(sources), [0] * len(sources)
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_stream(stream, schema) as writer:
        for number, source in enumerate(sources):
            first = len(parts)
            faults: list[Fault] = []
            for found in batches(read_source(source, columns, seed)):
                read[number] += len(found)
                rows, bad, changed = clean(task, found, limits.characters)
                repaired[number] += changed
                faults += bad[: max(0, 3 - len(faults))]
                for fault in bad:
                    rejected.put(source.name, fault)
                if rows:
                    writer.write_batch(as_batch(rows, schema))
                    near.add([text_of_its_own(task, row.values) for row in rows])
                    parts.append(numbers(task, rows, source, number, names))
                say(sum(read), source.name)
            refuse_faulty(source, read[number], rejected, faults, limits.faulty)
            parts[first:] = [marked(parts[first:])] if parts[first:] else []
    arrays: Iterator[Any] = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Gathered(path, list(names), read, repaired, *arrays)


def staged_schema(columns: Sequence[Column], side: Sequence[str]) -> pa.Schema:
    """The task's columns, where each row was found, and the side columns."""
    own = [(column.name, column.arrow) for column in columns]
    return pa.schema([*own, ("origin", pa.string()), *((name, pa.string()) for name in side)])


def side_columns(sources: Sequence[Source]) -> list[str]:
    """The side columns that some source has or derives, in their order."""
    derived = [each.side for each in map(derivation_of, sources) if each is not None]
    named = {name for each in (*derived, *(source.side for source in sources)) for name in each}
    return [name for name in SIDE if name in named]


def batches(rows: Iterator[RawRow | Fault]) -> Iterator[list[RawRow | Fault]]:
    """The rows in lists that are bounded in number and in characters."""
    batch: list[RawRow | Fault] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += row.characters if isinstance(row, RawRow) else 0
        if len(batch) == BATCH_ROWS or characters > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def clean(
    task: Task, found: Sequence[RawRow | Fault], longest: int
) -> tuple[list[RawRow], list[Fault], int]:
    """Rows cleaned as the task's models clean them, the faults, and how many rows were changed."""
    rows, faults, changed = [], [], 0
    for row in found:
        if isinstance(row, Fault):
            faults.append(row)
            continue
        if row.characters > longest:
            detail = f"{row.characters:,} characters, at most {longest:,}"
            faults.append(Fault(row.origin, "too long", detail))
            continue
        values = dict(task.cleaned(row.values))
        if blank(task.text(values)):
            faults.append(Fault(row.origin, "no text", "nothing is left after cleaning"))
            continue
        if reason := task.fault(values):
            faults.append(Fault(row.origin, reason))
            continue
        changed += values != row.values
        rows.append(replace(row, values=values))
    return rows, faults, changed


def as_batch(rows: Sequence[RawRow], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as they are staged; a side column that only other sources have is empty."""
    side = {name: "" for name in SIDE if name in schema.names}
    return pa.RecordBatch.from_pylist(
        [{**row.values, "origin": row.origin, **side, **row.side} for row in rows], schema
    )


def numbers(
    task: Task, rows: Sequence[RawRow], source: Source, number: int, names: dict[str, int]
) -> tuple[np.ndarray, ...]:
    """The numbers kept of each row, in the order of Gathered's fields; new strata get a code."""
    texts = [task.text(row.values) for row in rows]
    inputs = [parts_of(row.values, role_columns(task, "input")) for row in rows]
    targets = [parts_of(row.values, role_columns(task, "target")) for row in rows]
    whole = zip(inputs, targets, strict=True)
    ids = b"".join(digest("\x1f".join((source.name, *each)), 16) for each in whole)
    keys = b"".join(digest(" ".join(each.casefold().split()), 8) for each in inputs)
    strata = [names.setdefault(task.stratum(row.values), len(names)) for row in rows]
    clusters = [task.cluster(row.values) or row.side.get("cluster", "") for row in rows]
    if source.id:
        given = np.frombuffer(b"".join(digest(row.id, 8) for row in rows), np.uint64)
    else:
        given = np.zeros(0, np.uint64)
    return (
        np.frombuffer(ids, ">u8").astype(np.uint64).reshape(-1, 2),
        np.frombuffer(keys, np.uint64),
        np.frombuffer(b"".join(digest(each, 8) for each in targets), np.uint64),
        np.array(strata, np.int32),
        np.frombuffer(b"".join(digest(c, 8) if c else bytes(8) for c in clusters), np.uint64),
        np.full(len(rows), number, np.int16),
        np.array([len(text) for text in texts], np.int32),
        np.array([text.count(" ") + text.count("\n") + 1 for text in texts], np.int32),
        given,
    )


def parts_of(values: Row, columns: Sequence[Column]) -> str:
    """The values of some columns as one text that is hashed."""
    return "\x1f".join(canonical(values[column.name]) for column in columns)


def digest(text: str, size: int) -> bytes:
    """A BLAKE2b hash of ``size`` bytes."""
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def marked(parts: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """One source's parts as one, its hashed ids replaced by whether each came before: bool."""
    *columns, given = (np.concatenate(column) for column in zip(*parts, strict=True))
    repeats = np.zeros(len(columns[0]), bool)
    if len(given):
        repeats[:] = True
        repeats[np.unique(given, return_index=True)[1]] = False
    return (*columns, repeats)


def refuse_faulty(
    source: Source, read: int, rejected: Rejected, faults: Sequence[Fault], most: float
) -> None:
    """Raise BadInput when a source gave nothing, or more than its share of faults."""
    counts = rejected.counts.get(source.name, Counter())
    if read == 0:
        where = f" where {source.where}" if source.where else ""
        raise BadInput(f"source {source.name!r}: {source.path} has no rows{where}", "rows")
    bad = counts.total()
    if bad == read or bad > max(most * read, 1):
        shown = "; ".join(f"{f.origin} {f.reason} ({f.detail})" for f in faults)
        raise BadInput(
            f"source {source.name!r}: {bad} of {read} rows are unfit: "
            f"{dict(counts.most_common())}, first {shown}",
            f"at most {most:.0%} unfit rows",
            "mend the file or the settings of the source; max_faulty raises the limit",
        )
