"""The rows artifact: what is written is read, found by id, and the same bits."""

import pyarrow as pa
import pytest

from lmwright.core.errors import BadInput, Corrupt
from lmwright.data.corpus import (
    COLUMNS,
    GROUP_ROWS,
    find_row,
    ids_of_source,
    read_rows,
    splits_of,
    stream_rows,
    write_rows,
)

COUNT = 3 * GROUP_ROWS + 17


def table(start, stop):
    """Made-up rows with even numbers as ids."""
    numbers = range(start, stop)
    columns = [[f"{2 * n:032x}" for n in numbers], [f"text {n}" for n in numbers]]
    columns += [[str(n % 2) for n in numbers], ["ab"[n % 3 == 0] for n in numbers]]
    columns += [["free" for _ in numbers], [f"f:{n}" for n in numbers]]
    return pa.table(dict(zip(COLUMNS, columns, strict=True)))


@pytest.fixture
def folder(tmp_path):
    write_rows(tmp_path / "train.parquet", [table(0, 5000), table(5000, COUNT)])
    write_rows(tmp_path / "test-x.parquet", [table(COUNT, COUNT + 10)])
    return tmp_path


def test_read_equals_written(folder):
    rows = read_rows(folder / "train.parquet")
    assert len(rows) == COUNT and rows.ids == sorted(rows.ids)
    assert rows.texts[5001] == "text 5001" and rows.origins[7] == "f:7"
    parts = list(stream_rows(folder / "train.parquet", 1000))
    assert [text for part in parts for text in part.texts] == rows.texts
    assert max(map(len, parts)) <= 1000
    assert splits_of(folder) == ["test-x", "train"]


def test_every_row_is_found_and_no_other(folder):
    for number in [0, 1, GROUP_ROWS - 1, GROUP_ROWS, 5000, COUNT - 1]:
        found = find_row(folder, f"{2 * number:032x}")
        assert (found["split"], found["text"]) == ("train", f"text {number}")
        assert find_row(folder, f"{2 * number + 1:032x}") is None
    assert find_row(folder, f"{2 * COUNT:032x}")["split"] == "test-x"
    assert find_row(folder, "f" * 32) is None


def test_ids_of_a_source(folder):
    found = ids_of_source(folder, "b")
    assert found["train"] == [f"{2 * n:032x}" for n in range(0, COUNT, 3)]
    assert set(found) == {"train", "test-x"}
    assert ids_of_source(folder, "c") == {}


def test_same_rows_same_bytes(folder):
    first = (folder / "train.parquet").read_bytes()
    write_rows(folder / "again.parquet", [table(0, 5000), table(5000, COUNT)])
    assert (folder / "again.parquet").read_bytes() == first


def test_missing_and_damaged_files(folder):
    with pytest.raises(BadInput, match="test-x, train"):
        read_rows(folder / "test.parquet")
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Corrupt, match=r"train\.parquet"):
        read_rows(path)
