"""The stage ``corpus``: the rows to learn from as shards of tokens, for training at scale."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from lmwright.core.durable import TEMPORARY, sweep, sync_file, sync_folder
from lmwright.core.errors import BadInput, LmwrightError
from lmwright.core.stage import RowStatistics, Stage, Work, WorkEstimate, inert
from lmwright.data.corpus import (
    count_rows,
    read_task_of,
    row_keys,
    task_modules,
)
from lmwright.data.shards import TOKENIZER, Part, document_table, write_shards
from lmwright.machine.quota import granted_threads
from lmwright.text.tokenizer import Tokenizer, read_tokenizer

PART_BYTES = 8 << 20
"""Bytes of text that one worker is given at a time; what is held grows with it and the workers."""
SPLIT = "train"


@dataclass(frozen=True, kw_only=True)
class Corpus(Stage):
    """Write the texts of ``rows/train`` as the ids of ``tokenizer``, packed into shards.

    The documents stand in the order of their rows' ids, which are hashes: no source comes first.
    Each begins and ends with the tokens that are for that, and the shards know the row and the
    source of each. ``shard_tokens`` are those after which another shard begins. ``workers``
    processes tokenise (0: as many as this machine grants threads); the shards are the same for any
    number of them, and after a kill what was tokenised is not done again.
    """

    shard_tokens: int = 1 << 26
    workers: int = inert(0)

    def needs(self) -> tuple[str, ...]:
        """The rows and the tokenizer."""
        return ("rows", "tokenizer")

    def gives(self) -> tuple[str, ...]:
        """The artifact ``shards``: see :mod:`lmwright.data.shards`."""
        return ("shards",)

    def asks(self) -> tuple[str, ...]:
        """The rows to learn from."""
        return (f"rows/{SPLIT}",)

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The task of the rows."""
        return task_modules(inputs["rows"])

    def check(self) -> None:
        """BadInput for numbers out of range."""
        if self.shard_tokens < 1 or not 0 <= self.workers <= 1024:
            raise BadInput(
                f"shard_tokens is {self.shard_tokens}, workers {self.workers}",
                "at least 1 token, and from 0 to 1,024 workers",
            )

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """The rows to learn from."""
        return WorkEstimate(rows=known.rows(f"rows/{SPLIT}"))

    def run(self, work: Work) -> dict[str, Any]:
        """Tokenise the parts of the rows, and write them as shards."""
        out, folder = work.out("shards"), work.inputs["tokenizer"]
        tokenizer = read_tokenizer(folder)
        if not tokenizer.end_ids:
            raise BadInput(
                "a tokenizer without a token that ends a document", "one with eos", "train another"
            )
        shutil.copytree(folder, out / TOKENIZER)
        parts = scratch_parts(work)
        rows = count_rows(work.inputs["rows"] / f"{SPLIT}.parquet")

        def told() -> Iterator[Part]:
            done = 0
            for part in self.parts(work, parts):
                done += part.documents.num_rows
                work.progress(done, rows, "documents")
                yield part

        found = write_shards(out, told(), tokenizer.size(), self.shard_tokens)
        if not found["tokens"]:
            raise BadInput("rows/train has no rows", "one row at least", "loosen the data stage")
        shutil.rmtree(parts)
        per_token = found["bytes"] / found["tokens"]
        line = f"{found['documents']:,} documents, {found['tokens']:,} tokens"
        return {
            **found,
            "headline": f"{line} of {per_token:.2f} bytes",
            "bytes_per_token": per_token,
        }

    def parts(self, work: Work, folder: Path) -> Iterator[Part]:
        """The parts in their order; those that are there from before a kill are read."""
        rows, tokenizer = work.inputs["rows"], work.inputs["tokenizer"]
        every = [(rows, tokenizer, folder, *bound) for bound in bounds(rows)]
        workers = min(self.workers or granted_threads(), len(every))
        if workers <= 1:
            yield from (read_part(tokenised(*given)) for given in every)
            return
        waiting: deque[Future[Path]] = deque()
        with ProcessPoolExecutor(workers, get_context("spawn"), one_thread) as pool:
            try:
                for given in every:
                    waiting.append(pool.submit(tokenised, *given))
                    if len(waiting) > 2 * workers:
                        yield read_part(waiting.popleft().result())
                while waiting:
                    yield read_part(waiting.popleft().result())
            except BrokenProcessPool:
                raise LmwrightError(
                    "a process that tokenises has died",
                    "memory for all of them",
                    "set corpus.workers to 1, and run again: finished parts are kept",
                ) from None


def one_thread() -> None:
    """Keep the library of a worker to one thread, as each has a core of its own."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def scratch_parts(work: Work) -> Path:
    """The folder of finished parts, without what a kill left half done."""
    folder = work.scratch / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    return folder


def bounds(rows: Path) -> Iterator[tuple[int, int, int]]:
    """The parts of the rows: number, first row group and the one behind the last.

    They follow from the file alone, so they are the same for any number of workers.
    """
    about = parquet.ParquetFile(rows / f"{SPLIT}.parquet").metadata
    number = start = size = 0
    for group in range(about.num_row_groups):
        size += about.row_group(group).total_byte_size
        if size >= PART_BYTES or group + 1 == about.num_row_groups:
            yield number, start, group + 1
            number, start, size = number + 1, group + 1, 0


def tokenised(rows: Path, tokenizer: Path, folder: Path, number: int, start: int, end: int) -> Path:
    """The folder's file of one part, made where it is not there yet: whole, or not at all."""
    path = folder / f"{number:06d}.part"
    if path.exists():
        return path
    part = encoded(rows, loaded(tokenizer), start, end)
    beside = folder / f"{TEMPORARY}{number:06d}.part"
    with beside.open("wb") as file:
        np.save(file, part.ids)
        with pa.ipc.new_stream(file, part.documents.schema) as writer:
            writer.write_table(part.documents)
    sync_file(beside)
    beside.rename(path)
    sync_folder(folder)
    return path


def read_part(path: Path) -> Part:
    """A part that :func:`tokenised` wrote."""
    with path.open("rb") as file:
        ids = np.load(file)
        return Part(ids, pa.ipc.open_stream(file).read_all())


@lru_cache(maxsize=1)
def loaded(folder: Path) -> Tokenizer:
    """The tokenizer of a worker, read once."""
    return read_tokenizer(folder)


def encoded(rows: Path, tokenizer: Tokenizer, start: int, end: int) -> Part:
    """The documents of some row groups."""
    task = read_task_of(rows)
    tables, ids = [], []
    file = parquet.ParquetFile(rows / f"{SPLIT}.parquet")
    for batch in file.iter_batches(1024, row_groups=list(range(start, end))):
        table = pa.Table.from_batches([batch])
        texts = [task.text(row) for row in table.to_pylist()]
        found = tokenizer.documents(texts)
        ids += found
        told = zip(
            table["id"].to_pylist(),
            table["source"].to_pylist(),
            row_keys(task, table),
            found,
            texts,
            strict=True,
        )
        tables += [
            {
                "id": row,
                "source": source,
                "key": key,
                "tokens": len(own),
                "bytes": len(text.encode("utf-8", "surrogatepass")),
            }
            for row, source, key, own, text in told
        ]
    return Part(np.concatenate([np.zeros(0, np.int32), *ids]), document_table(tables))
