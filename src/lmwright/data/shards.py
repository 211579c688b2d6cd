"""The shards artifact: documents as the ids of their tokens, one behind the other, in mapped files.

A folder of shards holds ``shard-00000.bin`` and so on (ids of 16 bits where the vocabulary fits,
else of 32, the least byte first; a document begins in the shard in which the last one ended, unless
that is full), ``documents.parquet`` (id and source of each document's row, the key of its inputs,
its tokens and its bytes, in the order of the shards), ``corpus.json`` and the tokenizer's files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from lmwright.core.durable import write_json
from lmwright.core.errors import Corrupt
from lmwright.core.hashing import hash_file
from lmwright.core.reading import read_json_object

ABOUT, DOCUMENTS, TOKENIZER = "corpus.json", "documents.parquet", "tokenizer"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
ROW_GROUP = 8192
AGAIN = "run the stage corpus again"


@dataclass(frozen=True)
class Part:
    """Some documents: all their ids (tokens,) in a row, and their table of :data:`SCHEMA`."""

    ids: np.ndarray
    documents: pa.Table


def width_of(vocabulary: int) -> str:
    """The numbers in which the ids of so many tokens are kept."""
    return "<u2" if vocabulary <= 1 << 16 else "<u4"


def write_shards(
    folder: Path, parts: Iterable[Part], vocabulary: int, shard_tokens: int
) -> dict[str, Any]:
    """Write the parts in their order, and what is known of them; a shard is full when it has
    ``shard_tokens`` tokens or more. Only one part is held."""
    numbers = np.dtype(width_of(vocabulary))
    shards: list[dict[str, Any]] = []
    totals = {"documents": 0, "tokens": 0, "bytes": 0}
    sources: dict[str, int] = {}
    file, held = None, 0
    with parquet.ParquetWriter(folder / DOCUMENTS, SCHEMA, use_dictionary=["source"]) as writer:
        for part in parts:
            lengths = part.documents["tokens"].to_numpy()
            for start, end in runs(lengths, held, shard_tokens):
                if file is None:
                    file = (folder / f"shard-{len(shards):05d}.bin").open("wb")
                file.write(part.ids[start:end].astype(numbers).tobytes())
                held += end - start
                if held >= shard_tokens:
                    shards.append(closed(file, held))
                    file, held = None, 0
            writer.write_table(part.documents, row_group_size=ROW_GROUP)
            totals["documents"] += part.documents.num_rows
            totals["tokens"] += len(part.ids)
            totals["bytes"] += int(part.documents["bytes"].to_numpy().sum())
            for name, count in zip(
                part.documents["source"].to_pylist(), lengths.tolist(), strict=True
            ):
                sources[name] = sources.get(name, 0) + count
    if file is not None:
        shards.append(closed(file, held))
    about = {**totals, "vocabulary": vocabulary, "ids": numbers.str, "shards": shards}
    write_json(folder / ABOUT, {**about, "tokens_of": sources})
    return {**totals, "shards": len(shards), "tokens_of": sources}


def runs(lengths: np.ndarray, held: int, most: int) -> Iterator[tuple[int, int]]:
    """Where a part's ids are cut, so that a shard which holds ``held`` ends with a document: the
    first id of each piece, and the one behind its last."""
    start = end = 0
    for length in lengths.tolist():
        end += length
        if held + end - start >= most:
            yield start, end
            start, held = end, 0
    if end > start:
        yield start, end


def closed(file: Any, tokens: int) -> dict[str, Any]:
    """The facts of a finished shard."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    path = Path(file.name)
    return {"name": path.name, "tokens": tokens, "sha256": hash_file(path)}


class Shards:
    """The documents of a folder of shards; ids are read through the page cache.

    Corrupt where a file is not what was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.about = folder, read_json_object(folder / ABOUT)
        try:
            self.parts = [self.mapped(each) for each in self.about["shards"]]
            self.vocabulary, self.bytes = int(self.about["vocabulary"]), int(self.about["bytes"])
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{ABOUT} does not tell of its shards ({error})", "", AGAIN) from None
        self.ends = np.cumsum([0, *(len(part) for part in self.parts)])

    def mapped(self, shard: dict[str, Any]) -> np.ndarray:
        """The ids of one shard."""
        path, count = self.folder / shard["name"], int(shard["tokens"])
        width = np.dtype(self.about["ids"])
        if not path.is_file() or path.stat().st_size != count * width.itemsize:
            raise Corrupt(f"{path.name} is not there as it was written", "its own bytes", AGAIN)
        return np.memmap(path, width, mode="r")

    def check(self) -> None:
        """Corrupt where the bytes of a shard are others than those that were written."""
        for each in self.about["shards"]:
            if hash_file(self.folder / each["name"]) != each["sha256"]:
                raise Corrupt(f"{each['name']} has other bytes than were written", "", AGAIN)

    def __len__(self) -> int:
        """The number of tokens of all shards."""
        return int(self.ends[-1])

    def ids(self, start: int, end: int) -> np.ndarray:
        """The ids (int64) from one place to another, as if all shards were one."""
        first = int(np.searchsorted(self.ends, start, side="right")) - 1
        found = []
        while start < end:
            base = int(self.ends[first])
            stop = min(end, int(self.ends[first + 1]))
            found.append(self.parts[first][start - base : stop - base])
            start, first = stop, first + 1
        return np.concatenate(found or [np.zeros(0)]).astype(np.int64)

    @cached_property
    def starts(self) -> np.ndarray:
        """The offsets of the documents (documents + 1,), with the end of the last one."""
        lengths = parquet.read_table(self.folder / DOCUMENTS, columns=["tokens"])["tokens"]
        found = np.concatenate([[0], np.cumsum(lengths.to_numpy())])
        if found[-1] != len(self):
            raise Corrupt(
                f"{DOCUMENTS} lists {found[-1]} tokens, the shards {len(self)}", "", AGAIN
            )
        return found

    def hash(self) -> str:
        """The names and hashes of the shards."""
        return " ".join(each["sha256"] for each in self.about["shards"])


def document_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Documents as a table of :data:`SCHEMA`."""
    return pa.Table.from_pylist(list(rows), SCHEMA)
