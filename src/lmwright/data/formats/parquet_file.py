"""Parquet, read in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.data.formats.opener import refuse_bomb
from lmwright.data.formats.record import Fault, Record, Table, asked_columns, need_columns


def read_parquet(table: Table, columns: list[str]) -> Iterator[Record | Fault]:
    """Records of a Parquet file; of all its columns where none is asked for."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(table.path) as file:
            names = list(file.schema_arrow.names)
            columns = asked_columns(table, names, columns)
            need_columns(table, names, columns)
            refuse_bomb(table.about, unpacked_bytes(file), table.path.stat().st_size)
            number = 0
            for batch in file.iter_batches(128, columns=columns):
                for record in records_of(batch):
                    number += 1
                    yield f"{table.name}:{number}", record
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise BadInput(
            f"{table.about} cannot be read as Parquet: {reason}",
            "a whole Parquet file",
            "copy or export it again",
        ) from None


def records_of(batch: Any) -> list[dict[str, Any]]:
    """A batch's rows; bytes that are not UTF-8 come as lone surrogates, as from other files."""
    import pyarrow as pa

    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        pass
    columns = []
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            raw = column.cast(pa.large_binary()).to_pylist()
            columns.append([b if b is None else b.decode("utf-8", "surrogateescape") for b in raw])
        else:
            columns.append(column.to_pylist())
    names = batch.schema.names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def unpacked_bytes(file: Any) -> int:
    """Bytes that a Parquet file says it unpacks to."""
    groups = range(file.metadata.num_row_groups)
    return sum(file.metadata.row_group(group).total_byte_size for group in groups)
