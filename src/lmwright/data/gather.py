"""The first pass: every row read, repaired and put on disk; a few numbers of each in memory."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from lmwright.core.errors import BadInput
from lmwright.data.dedup import NearDuplicates
from lmwright.data.mail import read_mail
from lmwright.data.sources import Fault, Row, Source, read_source
from lmwright.text.repair import repair

BATCH_ROWS, BATCH_CHARACTERS = 1024, 1 << 20
"""Rows, and characters of text, that are in memory at a time (and one row more)."""

STAGED = pa.schema([("text", pa.string()), ("origin", pa.string())])


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
    """What is known of every row that was read well, in the order of reading.

    ``ids`` uint64 (rows, 2), ``keys`` uint64, ``labels`` int16 into ``names``, ``sources``
    int16, ``characters`` and ``words`` int32, ``repeats_id`` bool: all (rows,). The texts are in
    ``path``. ``read`` counts records of each source, ``repaired`` those that repair changed.
    """

    path: Path
    names: list[str]
    read: list[int]
    repaired: list[int]
    ids: np.ndarray
    keys: np.ndarray
    labels: np.ndarray
    sources: np.ndarray
    characters: np.ndarray
    words: np.ndarray
    repeats_id: np.ndarray

    def staged(self) -> Iterator[tuple[int, list[str], list[str]]]:
        """(number of the first row, texts, origins) of each batch, as they were gathered."""
        first = 0
        with pa.OSFile(str(self.path)) as stream, pa.ipc.open_stream(stream) as reader:
            for batch in reader:
                yield first, batch.column(0).to_pylist(), batch.column(1).to_pylist()
                first += batch.num_rows


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a row or source may be at most before it is rejected or refused."""

    characters: int
    labels: int
    faulty: float


def gather(
    sources: Sequence[Source],
    folder: Path,
    near: NearDuplicates,
    rejected: Rejected,
    limits: Limits,
    seed: int,
    say: Callable[[int, str], None],
) -> Gathered:
    """Read all sources into ``folder`` and ``near``; bad rows go to ``rejected``.

    Raises BadInput for a file that cannot be read, a source of which more than the limit of
    rows is faulty or none is left, and for a label column that holds no labels.
    """
    path = folder / "staged.arrow"
    parts: list[tuple[np.ndarray, ...]] = []
    names: dict[str, int] = {}
    read, repaired = [0] * len(sources), [0] * len(sources)
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_stream(stream, STAGED) as writer:
        for number, source in enumerate(sources):
            first = len(parts)
            faults: list[Fault] = []
            for found in batches(read_source(source, seed)):
                read[number] += len(found)
                rows, bad, changed = clean(source, found, limits.characters)
                repaired[number] += changed
                faults += bad[: max(0, 3 - len(faults))]
                for fault in bad:
                    rejected.put(source.name, fault)
                if rows:
                    writer.write_batch(as_batch(rows))
                    near.add([row.text for row in rows])
                    parts.append(numbers(rows, source, number, names))
                    refuse_labels(source, names, limits.labels)
                say(sum(read), source.name)
            refuse_faulty(source, read[number], rejected, faults, limits.faulty)
            parts[first:] = [marked(parts[first:])] if parts[first:] else []
    return Gathered(
        path,
        list(names),
        read,
        repaired,
        *(np.concatenate(part) for part in zip(*parts, strict=True)),
    )


def batches(rows: Iterator[Row | Fault]) -> Iterator[list[Row | Fault]]:
    """The rows in lists that are bounded in number and in characters."""
    batch: list[Row | Fault] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row.text) if isinstance(row, Row) else 0
        if len(batch) == BATCH_ROWS or characters > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def clean(
    source: Source, found: Sequence[Row | Fault], longest: int
) -> tuple[list[Row], list[Fault], int]:
    """Rows with repaired text, the faults, and how many rows the repair changed."""
    rows, faults, changed = [], [], 0
    for row in found:
        if isinstance(row, Fault):
            faults.append(row)
            continue
        if len(row.text) > longest:
            detail = f"{len(row.text):,} characters, at most {longest:,}"
            faults.append(Fault(row.origin, "too long", detail))
            continue
        text = repair(read_mail(row.text) if source.format == "mail" else row.text)
        if not text:
            faults.append(Fault(row.origin, "no text", "nothing is left after cleaning"))
            continue
        changed += text != row.text
        rows.append(Row(text, row.label, row.id, row.origin))
    return rows, faults, changed


def as_batch(rows: Sequence[Row]) -> pa.RecordBatch:
    """Texts and origins as they are staged."""
    return pa.record_batch([[row.text for row in rows], [row.origin for row in rows]], STAGED)


def numbers(
    rows: Sequence[Row], source: Source, number: int, names: dict[str, int]
) -> tuple[np.ndarray, ...]:
    """The numbers kept of each row, in the order of Gathered's fields; new labels get a code."""
    ids = b"".join(digest(source.name + "\x1f" + row.text, 16) for row in rows)
    keys = b"".join(digest(" ".join(row.text.casefold().split()), 8) for row in rows)
    labels = [names.setdefault(row.label, len(names)) for row in rows]
    if source.id:
        given = np.frombuffer(b"".join(digest(row.id, 8) for row in rows), np.uint64)
    else:
        given = np.zeros(0, np.uint64)
    return (
        np.frombuffer(ids, ">u8").astype(np.uint64).reshape(-1, 2),
        np.frombuffer(keys, np.uint64),
        np.array(labels, np.int16),
        np.full(len(rows), number, np.int16),
        np.array([len(row.text) for row in rows], np.int32),
        np.array([row.text.count(" ") + row.text.count("\n") + 1 for row in rows], np.int32),
        given,
    )


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


def refuse_labels(source: Source, names: dict[str, int], most: int) -> None:
    """Raise BadInput when there are more labels than any sorting of texts has."""
    if len(names) > most:
        raise BadInput(
            f"source {source.name!r}: column {source.label!r} holds over {most} different labels",
            "a column of labels",
            "name another column, or raise max_labels",
        )


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
