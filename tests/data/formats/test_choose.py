"""The content of a file decides how it is read; its first lines may be those of real exports."""

import gzip
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from lmwright.core.errors import BadInput
from lmwright.data.formats.choose import read_table
from lmwright.data.formats.record import Fault, Table

ROWS = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(3)]
CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)
LINES = "\n".join(map(json.dumps, ROWS))
COLUMNS = {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ("text", "label")}
LISTS = {name: [row[name] for row in ROWS] for name in ("text", "label")}
INDEX = {f"row {n}": row for n, row in enumerate(ROWS)}
SPLIT = {"columns": ["text", "label"], "index": [0, 1, 2], "data": [list(r.values()) for r in ROWS]}
DATA = {"version": "1.0", "data": ROWS}
SCHEMA = {"schema": {"fields": [{"name": "text"}], "pandas_version": "1"}, "data": ROWS}


def table(tmp_path, data, name):
    """A file with this content under this name."""
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return Table(f"source 's': {name}", name, path)


def records(tmp_path, data, name, columns=("text", "label")):
    """Records without where they were found; there must be no faults."""
    found = list(read_table(table(tmp_path, data, name), list(columns)))
    assert not [each for each in found if isinstance(each, Fault)], found
    return [record for _, record in found]


def packed_table():
    """The rows as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


CONTENTS = {
    "csv": CSV,
    "tabs": CSV.replace(",", "\t"),
    "semicolons": CSV.replace(",", ";"),
    "lines": LINES,
    "lines between empty ones": "\n\n" + LINES.replace("\n", "\n\n") + "\n\n",
    "list": json.dumps(ROWS),
    "indented list": json.dumps(ROWS, indent=2),
    "columns": json.dumps(COLUMNS),
    "indented columns": json.dumps(COLUMNS, indent=2),
    "lists": json.dumps(LISTS),
    "index": json.dumps(INDEX),
    "split": json.dumps(SPLIT),
    "data": json.dumps(DATA),
    "indented data": json.dumps(DATA, indent=1),
    "schema": json.dumps(SCHEMA),
    "indented objects": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "packed": gzip.compress(LINES.encode()),
    "utf-16": LINES.encode("utf-16"),
    "parquet": packed_table(),
}


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.csv", "t.tsv", "t.dat"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_the_content_decides_and_not_the_suffix(tmp_path, kind, name):
    assert records(tmp_path, CONTENTS[kind], name) == ROWS


@pytest.mark.parametrize("kind", CONTENTS)
def test_all_columns_are_read_where_none_is_asked_for(tmp_path, kind):
    assert records(tmp_path, CONTENTS[kind], "t.json", ()) == ROWS


def test_one_object_is_one_row(tmp_path):
    for row in (ROWS[0], {"text": "a", "label": ["x"]}, {"text": "a", "label": {"is": "x"}}):
        for text in (json.dumps(row), json.dumps(row, indent=2)):
            assert records(tmp_path, text, "t.json") == [row]


def test_a_broken_first_line_is_a_fault_and_the_others_are_read(tmp_path):
    for name in ("t.json", "t.jsonl"):
        found = list(read_table(table(tmp_path, '{"text": "a"\n' + LINES, name), ["text"]))
        assert isinstance(found[0], Fault) and found[0].origin == f"{name}:1"
        assert [record["text"] for _, record in found[1:]] == ["text 0", "text 1", "text 2"]


def test_a_header_that_begins_with_a_bracket_is_no_json(tmp_path):
    text = "[text],{label}\na b,1\n"
    found = records(tmp_path, text, "t.csv", ("[text]", "{label}"))
    assert found == [{"[text]": "a b", "{label}": "1"}]


@pytest.mark.parametrize(
    "text",
    [
        "\n\n" + CSV,
        "\r\n" + CSV,
        " \n" + CSV,
        "sep=,\n" + CSV,
        "sep=;\r\n" + CSV.replace(",", ";"),
        '"sep=;"\r\n' + CSV.replace(",", ";"),
        "SEP=\t\n" + CSV.replace(",", "\t"),
        "\ufeffsep=|\n" + CSV.replace(",", "|"),
        CSV.replace("text,label", "text,label,notes,notes")
        .replace(",a", ",a,,")
        .replace(",b", ",b,,"),
        CSV.replace(",", ";")
        .replace("text;", '"Comment, as typed";text;')
        .replace("\ntext", "\n-;text"),
        CSV.replace(",", ";")
        .replace("text;label", "text;label;price, net")
        .replace(";a", ";a;1")
        .replace(";b", ";b;1"),
    ],
)
def test_first_lines_of_real_exports(tmp_path, text):
    assert records(tmp_path, text, "t.csv") == ROWS


def test_line_numbers_count_the_lines_that_were_passed_over(tmp_path):
    broken = "\nsep=,\n" + CSV + '"open,1\n'
    with pytest.raises(BadInput, match="line 7 is not closed"):
        records(tmp_path, broken, "t.csv")


@pytest.mark.parametrize(
    ("data", "name", "told"),
    [
        (b"PK\x03\x04" + bytes(100), "t.csv", "save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "t.dat", "save it as CSV"),
        ("one word", "t", "no table that is known"),
        (bytes(1000), "t.bin", "no table that is known"),
        ("not parquet", "t.parquet", "cannot be read as Parquet"),
        ('{"a": [1, 2}', "t.json", "not JSON"),
        ("[1, 2", "t.json", "not JSON"),
        ("[" * 100_000, "t.json", "not JSON"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, data, name, told):
    with pytest.raises(BadInput, match=told):
        records(tmp_path, data, name)


def test_encodings_are_noticed(tmp_path):
    rows = [{"text": f"Größe {n}", "label": "ab"[n % 2]} for n in range(3)]
    text = "text;label\r\n" + "".join(f"{r['text']};{r['label']}\r\n" for r in rows)
    for codec in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"):
        assert records(tmp_path, text.encode(codec), "t.csv") == rows, codec
        assert records(tmp_path, gzip.compress(text.encode(codec)), "t.csv.gz") == rows, codec


def test_bytes_of_no_western_language_are_left_for_who_knows_it(tmp_path):
    text = "text;label\nдень;a\nночь;b\n".encode("cp1251")
    found = records(tmp_path, text, "t.csv")
    assert found[0]["text"].encode("utf-8", "surrogateescape") == "день".encode("cp1251")
