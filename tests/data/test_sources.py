"""Every bad file that is known of gives a clear error or a row rejected, and good rows pass."""

import gzip
import json
import math
from decimal import Decimal

import pyarrow as pa
import pytest
from pyarrow import parquet

from lmwright.core.columns import Column, as_label
from lmwright.core.errors import BadInput
from lmwright.core.recipe import read_recipe
from lmwright.data.sources import Fault, RawRow, Source, read_source, source_hash
from lmwright.tables import resolve

COLUMNS = (Column("text", "text", "input"), Column("label", "label", "target"))
GOOD = [("a fine film", "1"), ("dull, and long", "0"), ('she said "no"', "0")]


def read(path, **settings):
    """Rows and faults of a file."""
    found = list(read_source(Source(name="s", path=str(path), **settings), COLUMNS))
    rows = [row for row in found if isinstance(row, RawRow)]
    return rows, [fault for fault in found if isinstance(fault, Fault)]


def put(tmp_path, data, name="f.csv"):
    """Write bytes or text to a file."""
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def refused(path, *words, **settings):
    """The error for a file, which must name the file and hold the words."""
    with pytest.raises(BadInput) as caught:
        read(path, **settings)
    for word in (path.name, *words):
        assert word in str(caught.value)
    return caught.value


CSV = 'text,label\na fine film,1\n"dull, and long",0\n"she said ""no""",0\n'


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "jsonl", "json", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, kind):
    path = tmp_path / f"rows.{kind}"
    objects = [{"text": text, "label": label, "other": 1} for text, label in GOOD]
    contents = {
        "csv": CSV.encode(),
        "csv.gz": gzip.compress(CSV.encode()),
        "tsv": b'text\tlabel\na fine film\t1\ndull, and long\t0\n"she said ""no"""\t0\n',
        "jsonl": "\n".join(map(json.dumps, objects)).encode(),
        "json": json.dumps(objects).encode(),
    }
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(objects), path)
    else:
        path.write_bytes(contents[kind])
    rows, faults = read(path)
    assert [(row.values["text"], row.values["label"]) for row in rows] == GOOD
    assert [row.origin for row in rows] == [f"rows.{kind}:{n}" for n in (1, 2, 3)]
    assert not faults


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
def test_a_column_with_a_default_is_read_where_it_is_there(tmp_path, kind):
    """By its own name, without being named; a row or a file without it has the default."""
    columns = [Column("text", "text", "input"), Column("score", "number", "target", 1.0)]
    whole = [{"text": "a", "score": 0.25}, {"text": "b", "score": 0.5}]
    for number, (objects, wanted) in enumerate(
        [(whole, [0.25, 0.5]), ([{"text": "a"}, {"text": "b"}], [1.0, 1.0])]
    ):
        path = tmp_path / f"rows{number}.{kind}"
        if kind == "parquet":
            parquet.write_table(pa.Table.from_pylist(objects), path)
        elif kind == "csv":
            lines = [",".join(objects[0]), *(",".join(map(str, o.values())) for o in objects)]
            path.write_text("\n".join(lines))
        else:
            path.write_text(
                json.dumps(objects) if kind == "json" else "\n".join(map(json.dumps, objects))
            )
        for settings, own in (({}, wanted), ({"constants": {"score": 0.75}}, [0.75, 0.75])):
            found = list(read_source(Source(name="s", path=str(path), **settings), columns))
            assert [row.values["score"] for row in found] == own
    some = tmp_path / "some.jsonl"
    some.write_text("\n".join(map(json.dumps, [{"text": "a"}, whole[1]])))
    found = list(read_source(Source(name="s", path=str(some)), columns))
    assert [row.values["score"] for row in found] == [1.0, 0.5]


def test_missing(tmp_path):
    refused(tmp_path / "none.csv", "does not exist")


def test_empty(tmp_path):
    refused(put(tmp_path, ""), "is empty")


def test_directory(tmp_path):
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "directory", "folder/*.csv")


def test_suffix_that_says_nothing(tmp_path):
    refused(put(tmp_path, "x", "f.xls"), ".parquet")


def test_pattern_without_files(tmp_path):
    refused(tmp_path / "*.csv", "no file matches")


def test_pattern_reads_files_in_order(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b", "a"):
        put(tmp_path, json.dumps({"text": name, "label": 1}), f"in/{name}.json")
    rows, _ = read(tmp_path / "*" / "*.json")
    assert [(row.values["text"], row.origin) for row in rows] == [
        ("a", "in/a.json:1"),
        ("b", "in/b.json:1"),
    ]


def test_row_that_is_not_utf8_is_rejected(tmp_path):
    lines = ["text,label", "caf\udce9,1", "good,0", "crème,1", "brûlée,1"]
    path = put(tmp_path, "\n".join(lines).encode("utf-8", "surrogateescape"))
    rows, faults = read(path)
    assert [row.values["text"] for row in rows] == ["good", "crème", "brûlée"]
    assert faults == [Fault("f.csv:1", "not utf-8", faults[0].detail)]
    rows, faults = read(tmp_path / "f.csv", encoding="latin-1")
    assert [row.values["text"] for row in rows][:2] == ["café", "good"] and not faults


def test_utf16_cut_in_a_character_is_refused_in_words_that_can_be_followed(tmp_path):
    path = put(tmp_path, CSV.encode("utf-16")[:-1])
    refused(path, "utf-16", "save the file as UTF-8")
    assert len(read(put(tmp_path, CSV.encode("utf-16")), encoding="utf-16")[0]) == 3


def test_unknown_encoding(tmp_path):
    refused(put(tmp_path, CSV), "utf-9", encoding="utf-9")


def test_byte_order_mark_and_crlf(tmp_path):
    rows, faults = read(put(tmp_path, b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode()))
    assert [(row.values["text"], row.values["label"]) for row in rows] == GOOD and not faults


def test_nul_is_rejected(tmp_path):
    rows, faults = read(put(tmp_path, b"text,label\na\0b,1\ngood,0\n"))
    assert [row.values["text"] for row in rows] == ["good"]
    assert (faults[0].origin, faults[0].reason) == ("f.csv:1", "NUL in text")


def test_ragged_rows_are_rejected_with_their_number(tmp_path):
    rows, faults = read(put(tmp_path, "text,label\na,1\nb\nc,1,2\nd,0\n"))
    assert [row.values["text"] for row in rows] == ["a", "d"]
    assert [(fault.origin, fault.reason) for fault in faults] == [
        ("f.csv:2", "wrong number of fields"),
        ("f.csv:3", "wrong number of fields"),
    ]
    assert "1 fields, the header has 2" in faults[0].detail


def test_column_that_is_missing_gives_the_nearest(tmp_path):
    error = refused(put(tmp_path, "text,lable\na,1\n"), "'label'")
    assert "lable" in error.cure


def test_column_that_is_there_twice(tmp_path):
    refused(put(tmp_path, "text,label,text\na,1,b\n"), "2 columns 'text'")


def test_broken_quoting_is_a_fault_and_the_next_row_is_read(tmp_path):
    rows, faults = read(put(tmp_path, 'text,label\n"a"b,1\ngood,0\n'))
    assert [row.values["text"] for row in rows] == ["good"]
    assert faults[0].reason == "broken quoting" and "line" in faults[0].detail


def test_quote_that_is_never_closed_names_its_line(tmp_path):
    refused(put(tmp_path, 'text,label\nfine,1\n"open,1\n' + "x,1\n" * 100), "line 3")


def test_header_alone_and_blank_lines(tmp_path):
    assert read(put(tmp_path, "text,label\n\n\n")) == ([], [])


def test_field_of_a_million_characters_is_read(tmp_path):
    rows, _ = read(put(tmp_path, "text,label\n" + "x" * 10**6 + ",1\n"))
    assert len(rows[0].values["text"]) == 10**6


def test_line_without_end_is_refused(tmp_path):
    refused(put(tmp_path, b'{"text": "' + b"x" * (9 << 20), "f.jsonl"), "line 1")


def test_unknown_label_is_rejected_and_known_ones_are_renamed(tmp_path):
    rows, faults = read(
        put(tmp_path, "text,label\na,1\nb,7\nc,\n"), values={"label": {"1": "positive"}}
    )
    assert [(row.values["text"], row.values["label"]) for row in rows] == [("a", "positive")]
    assert [fault.reason for fault in faults] == ["unknown label", "unusable label"]
    assert "'7'" in faults[0].detail


def test_where_and_constant_label(tmp_path):
    path = put(tmp_path, "text,kind\na,x\nb,y\nc,x\n")
    rows, _ = read(path, constants={"label": "spam"}, where={"kind": "x"})
    assert [(row.values["text"], row.values["label"]) for row in rows] == [
        ("a", "spam"),
        ("c", "spam"),
    ]


def test_json_of_a_wrong_type_in_row_100000(tmp_path):
    lines = ['{"text": "good", "label": 1}'] * (10**5 - 1)
    bad = ['{"text": ["a"], "label": 1}', '{"text": "a"}', "[1]", "{", '{"text": "a", "label": []}']
    rows, faults = read(put(tmp_path, "\n".join(lines + bad), "f.jsonl"))
    assert len(rows) == 10**5 - 1 and rows[0].values["label"] == "1"
    assert [(fault.origin, fault.reason) for fault in faults] == [
        ("f.jsonl:100000", "wrong type"),
        ("f.jsonl:100001", "missing key"),
        ("f.jsonl:100002", "wrong type"),
        ("f.jsonl:100003", "not JSON"),
        ("f.jsonl:100004", "wrong type"),
    ]


def test_json_of_great_depth_is_a_fault(tmp_path):
    _, faults = read(put(tmp_path, "[" * 10**5 + "\n", "f.jsonl"))
    assert faults[0].reason == "not JSON"


def test_labels_of_other_types(tmp_path):
    table = pa.table({"text": ["a", "b", "c"], "label": [1.0, 2.0, None]})
    parquet.write_table(table, tmp_path / "f.parquet")
    rows, faults = read(tmp_path / "f.parquet")
    assert [row.values["label"] for row in rows] == ["1", "2"]
    assert faults == [Fault("f.parquet:3", "no label", "null")]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), "dictionary"])
def test_a_row_of_parquet_that_is_not_utf_8_is_rejected(tmp_path, kind):
    raw = pa.array([b"fine", b"caf\xe9", b"caf\xc3\xa9"] * 100)
    text = raw.cast(pa.large_binary() if kind == pa.large_string() else pa.binary())
    texts = text.view(pa.string() if kind == "dictionary" else kind)
    if kind == "dictionary":
        texts = pa.DictionaryArray.from_arrays(pa.array(range(300), pa.int32()), texts)
    table = pa.table({"text": texts, "label": [1.0] * 300})
    parquet.write_table(table, tmp_path / "f.parquet")
    rows, faults = read(tmp_path / "f.parquet")
    assert [row.values["text"] for row in rows[:3]] == ["fine", "café", "fine"] and len(rows) == 200
    assert {row.values["label"] for row in rows} == {"1"}
    assert [fault.origin for fault in faults[:2]] == ["f.parquet:2", "f.parquet:5"]
    assert {fault.reason for fault in faults} == {"not utf-8"} and len(faults) == 100


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated_parquet(tmp_path, part):
    path = tmp_path / "f.parquet"
    parquet.write_table(pa.table({"text": ["a"] * 5000, "label": ["1"] * 5000}), path)
    put(tmp_path, path.read_bytes()[: int(path.stat().st_size * part)], "f.parquet")
    refused(path, "Parquet")


def test_damaged_page_of_parquet(tmp_path):
    path = tmp_path / "f.parquet"
    parquet.write_table(
        pa.table({"text": [str(n) for n in range(5000)], "label": ["1"] * 5000}), path
    )
    data = bytearray(path.read_bytes())
    data[20:400] = b"\xff" * 380
    path.write_bytes(data)
    refused(path, "Parquet")


def test_gzip_bomb_truncated_and_fake(tmp_path):
    line = b"text,label\n" + (b"a" * 65_000 + b",1\n") * 1200
    refused(put(tmp_path, gzip.compress(line, 9), "bomb.csv.gz"), "unpacks to more than 200 times")
    refused(put(tmp_path, gzip.compress(CSV.encode())[:-12], "cut.csv.gz"), "not a whole gzip")
    refused(put(tmp_path, CSV, "fake.csv.gz"), "not a whole gzip")


def test_limit_draws_at_random_the_same_rows_each_time(tmp_path):
    path = put(tmp_path, "text,label\n" + "".join(f"t{n},{n // 500}\n" for n in range(1000)))
    source = Source(name="s", path=str(path), limit=100)
    drawn = [row.values["text"] for row in read_source(source, COLUMNS, seed=3)]
    assert drawn == [row.values["text"] for row in read_source(source, COLUMNS, seed=3)]
    assert drawn != [row.values["text"] for row in read_source(source, COLUMNS, seed=4)]
    assert len(set(drawn)) == 100
    assert 25 < sum(int(text[1:]) >= 500 for text in drawn) < 75


def test_hash_is_of_the_content(tmp_path):
    one = put(tmp_path, CSV, "f.csv")
    before = source_hash(Source(name="s", path=str(one)))
    one.touch()
    assert source_hash(Source(name="other", path=str(one))) == before
    put(tmp_path, CSV + "x,1\n", "f.csv")
    assert source_hash(Source(name="s", path=str(one))) != before


@pytest.mark.parametrize("sign", [";", "\t", "|", ","])
def test_columns_are_separated_by_what_the_header_has(tmp_path, sign):
    lines = [f"text{sign}label", f'"good{sign} good"{sign}1', f"so so{sign}0"]
    rows, faults = read(put(tmp_path, "\n".join(lines)))
    assert [(row.values["text"], row.values["label"]) for row in rows] == [
        (f"good{sign} good", "1"),
        ("so so", "0"),
    ]
    assert not faults


def test_commas_in_texts_separate_nothing_under_another_header(tmp_path):
    rows, _ = read(put(tmp_path, "text;label\ngood, very good;1\n"))
    assert rows[0].values["text"] == "good, very good"


def test_a_sheet_is_to_be_saved_as_csv(tmp_path):
    path = tmp_path / "f.xlsx"
    path.write_bytes(b"PK")
    refused(path, "save it as CSV")


def test_a_row_in_another_encoding_names_the_setting(tmp_path):
    _, faults = read(put(tmp_path, "text,label\nдень,1\n".encode("cp1251")))
    assert "encoding: in a source" in faults[0].detail


def test_a_path_that_exists_is_no_pattern(tmp_path):
    path = put(tmp_path, CSV, "feedback[1].csv")
    rows, _ = read(path)
    assert rows[0].origin == "feedback[1].csv:1"
    put(tmp_path, "text,label\nanother,1\n", "feedback1.csv")
    assert len(read(path)[0]) == 3
    path.unlink()
    assert [row.values["text"] for row in read(path)[0]] == ["another"]


VALUES = [
    (1.0, "1"),
    (4.5, "4.5"),
    (-0.0, "0"),
    (1e20, "100000000000000000000"),
    (1e-7, "0.0000001"),
    (Decimal("4.50"), "4.5"),
    (Decimal("10.00"), "10"),
    (Decimal("1E+2"), "100"),
    (3, "3"),
    (True, "true"),
    ("1.0", "1"),
    ("True", "true"),
    ("1.10", "1.10"),
    ("007", "007"),
    ("007.0", "007.0"),
    (["a"], "a"),
    (("a",), "a"),
    ([2.0], "2"),
    ([], None),
    (["a", "b"], None),
    ({}, None),
    (None, None),
    (math.nan, None),
    (math.inf, None),
]


@pytest.mark.parametrize(("value", "label"), VALUES)
def test_labels_of_any_type(value, label):
    assert as_label(value) == label


@pytest.mark.parametrize(
    "labels", [[1.0, 4.5, 5.0], [1, 2, 3], ["a", "b", "c"], [True, False, True]]
)
def test_one_table_has_the_same_labels_in_every_format(tmp_path, labels):
    rows = [{"text": f"text {n}", "label": label} for n, label in enumerate(labels)]
    table = pa.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "t.parquet")
    pandas = "\n".join(["text,label", *(f"{row['text']},{row['label']}" for row in rows)])
    files = [
        tmp_path / "t.parquet",
        put(tmp_path, "\n".join(map(json.dumps, rows)), "t.jsonl"),
        put(tmp_path, json.dumps(rows), "t.json"),
        put(tmp_path, pandas, "t.csv"),
    ]
    if isinstance(labels[0], float):
        exact = pa.array(labels).cast(pa.decimal128(5, 2))
        parquet.write_table(table.set_column(1, "label", exact), tmp_path / "d.parquet")
        files.append(tmp_path / "d.parquet")
    read_labels = [[row.values["label"] for row in read(path)[0]] for path in files]
    assert all(found == read_labels[0] for found in read_labels), read_labels
    assert len(read_labels[0]) == 3


def test_where_and_labels_mean_values_as_they_are_read(tmp_path):
    path = put(tmp_path, "text,label,part\na,1.0,2.0\nb,2.0,3.0\n")
    rows, faults = read(path, where={"part": "2.0"}, values={"label": {"1.0": "good"}})
    assert [(row.values["text"], row.values["label"]) for row in rows] == [
        ("a", "good")
    ] and not faults
    assert read(path, where={"part": "2"}, values={"label": {"1": "good"}})[0] == rows


@pytest.mark.parametrize(
    "data",
    [
        '{"text": "a", "label": "x", "text": "b"}\n{"text": "c", "label": "y"}\n',
        '[{"text": "a", "label": "x", "text": "b"}]',
        '{"columns": ["text", "label", "text"], "data": [["a", "x", "b"]]}',
    ],
)
def test_a_key_of_json_that_is_there_twice(tmp_path, data):
    path = put(tmp_path, data, "rows.json" if data[0] == "[" or "columns" in data else "rows.jsonl")
    if path.suffix == ".json":
        refused(path, "'text' stands twice")
    else:
        rows, (fault,) = read(path)
        assert [row.values["text"] for row in rows] == ["c"]
        assert fault.reason == "a key twice" and "'text'" in fault.detail


def test_a_derivation_needs_the_columns_of_its_task(tmp_path):
    """Also where the recipe is read, before anything runs."""
    path = put(tmp_path, CSV)
    with pytest.raises(BadInput, match="a task with the columns text, target"):
        read(path, derive="grammar-errors")
    recipe = put(
        tmp_path,
        "name: x\ntask: text-classification\nstages:\n  data:\n"
        "    sources: [{name: s, path: f.csv, derive: hard-negatives}]\n",
        "x.yaml",
    )
    with pytest.raises(BadInput, match="derive is hard-negatives"):
        read_recipe(recipe, resolve, ())


def test_a_link_to_nothing_or_to_itself_is_refused(tmp_path):
    put(tmp_path, CSV, "a.csv")
    for target in ("b.csv", "nowhere"):
        link = tmp_path / "b.csv"
        link.symlink_to(target)
        with pytest.raises(BadInput, match=f"is a link to {target}"):
            read(tmp_path / "*.csv")
        link.unlink()
