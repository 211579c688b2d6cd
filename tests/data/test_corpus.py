"""The rows artifact: what is written is read, found by id, and the same bits."""

import pyarrow as pa
import pytest

from lmwright.core.columns import Column
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.data.corpus import (
    GROUP_ROWS,
    find_row,
    read_split,
    schema_of,
    splits_of,
    stream_rows,
    write_rows,
)

SCHEMA = schema_of((Column("text", "text", "input"), Column("label", "label", "target")))
COUNT = 3 * GROUP_ROWS + 17


def table(start, stop):
    """Made-up rows with even numbers as ids."""
    numbers = range(start, stop)
    columns = [[f"{2 * n:032x}" for n in numbers], [f"text {n}" for n in numbers]]
    columns += [[str(n % 2) for n in numbers], ["ab"[n % 3 == 0] for n in numbers]]
    columns += [["free" for _ in numbers], [f"f:{n}" for n in numbers]]
    return pa.table(dict(zip(SCHEMA.names, columns, strict=True)))


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "task.json", {"kind": "text-classification", "labels": ["0", "1"]})
    write_rows(tmp_path / "train.parquet", SCHEMA, [table(0, 5000), table(5000, COUNT)])
    write_rows(tmp_path / "test-x.parquet", SCHEMA, [table(COUNT, COUNT + 10)])
    return tmp_path


def test_read_equals_written(folder):
    rows = read_split(folder, "train").to_pydict()
    assert len(rows["id"]) == COUNT and rows["id"] == sorted(rows["id"])
    assert rows["text"][5001] == "text 5001" and rows["origin"][7] == "f:7"
    parts = list(stream_rows(folder / "train.parquet"))
    texts = [text for part in parts for text in part.column("text").to_pylist()]
    assert texts == rows["text"] and all(part.schema.names == SCHEMA.names for part in parts)
    assert max(map(len, parts)) <= 1024
    chosen = next(stream_rows(folder / "train.parquet", ["label", "id"]))
    assert set(chosen.schema.names) == {"id", "label"}
    assert splits_of(folder) == ["test-x", "train"]


def test_every_row_is_found_and_no_other(folder):
    for number in [0, 1, GROUP_ROWS - 1, GROUP_ROWS, 5000, COUNT - 1]:
        found = find_row(folder, f"{2 * number:032x}")
        assert (found["split"], found["text"]) == ("train", f"text {number}")
        assert find_row(folder, f"{2 * number + 1:032x}") is None
    assert find_row(folder, f"{2 * COUNT:032x}")["split"] == "test-x"
    assert find_row(folder, "f" * 32) is None


def test_same_rows_same_bytes(folder):
    first = (folder / "train.parquet").read_bytes()
    write_rows(folder / "again.parquet", SCHEMA, [table(0, 5000), table(5000, COUNT)])
    assert (folder / "again.parquet").read_bytes() == first


def test_missing_and_damaged_files(folder):
    with pytest.raises(BadInput, match="test-x, train"):
        read_split(folder, "test")
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Corrupt, match=r"train\.parquet"):
        read_split(folder, "train")


def test_a_column_that_every_row_has_is_no_tasks() -> None:
    with pytest.raises(BadInput, match="a task with a column 'origin'"):
        schema_of([Column("origin", "text", "input")])
