"""What ``lmwright predict`` reads: every table as strictly as a recipe's, and answers or errors."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from lmwright.baselines.majority import Majority
from lmwright.cli.main import main
from lmwright.cli.predict import FileRow, read_rows
from lmwright.core.columns import Column
from lmwright.core.errors import BadInput
from lmwright.metrics.calibration import Calibration
from lmwright.serve.rows import Loaded
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.token_classification import TokenClassification

TEXTS = ["one, and more", "two"]
TASK = TextClassification(labels=("bad", "good"))


def texts_of(path: Path, *columns: str, encoding: str = "utf-8") -> list[str]:
    """The texts of a file whose rows are all good."""
    rows = list(read_rows(path, TASK, columns, encoding=encoding))
    assert not [row.fault for row in rows if row.fault]
    return [row.inputs["text"] for row in rows]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.csv", 'text,x\n"one, and more",1\ntwo,2\n'),
        ("A.CSV", 'text,x\n"one, and more",1\ntwo,2\n'),
        ("a[1].csv", 'text,x\n"one, and more",1\ntwo,2\n'),
        ("a.tsv", "x\ttext\n1\tone, and more\n2\ttwo\n"),
        ("a.jsonl", '{"text": "one, and more"}\n\n{"text": "two"}\n'),
        ("a.ndjson", '{"text": "one, and more"}\n{"text": "two"}\n'),
        ("a.json", '[{"text": "one, and more"}, {"text": "two"}]'),
        ("a.txt", "\ufeffone, and more\r\n\r\ntwo\r\n"),
        ("A.TXT", "one, and more\ntwo"),
    ],
)
def test_texts_are_read_by_the_suffix(tmp_path: Path, name: str, body: str) -> None:
    (tmp_path / name).write_bytes(body.encode())
    assert texts_of(tmp_path / name) == TEXTS


def test_parquet_and_stdin_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.parquet") == TEXTS
    monkeypatch.setattr(sys, "stdin", io.StringIO("one, and more\n\ntwo\n"))
    assert texts_of(Path("-")) == TEXTS


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("a.csv", b'text\none\n"two\nthree\n', "quote opened at line 3"),
        ("a.csv", b"txet\none\n", "did you mean 'txet'"),
        ("a.xlsx", b"PK", "no table that is known"),
        ("a", b"one\n", "no table that is known"),
    ],
)
def test_what_is_no_table_of_texts_is_refused(
    tmp_path: Path, name: str, body: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(BadInput) as told:
        list(read_rows(tmp_path / name, TASK))
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("name", "body", "place", "said"),
    [
        ("a.csv", b"text,x\none,1\ntwo\nlast,2\n", "a.csv:2", "wrong number of fields"),
        ("a.csv", b'text,x\n"one\n\nof three lines",1\n ,2\nlast,3\n', "a.csv:2", "no text"),
        ("a.csv", b"text,x\none,1\n<br>,2\nlast,3\n", "a.csv:2", "no text"),
        ("a.csv", b"text\none\n\xff\nlast\n", "a.csv:2", "not utf-8"),
        (
            "a.jsonl",
            b'{"text": "one"}\n{"text": "\\ud800"}\n{"text": "last"}',
            "a.jsonl:2",
            "not utf-8",
        ),
        ("a.jsonl", b'{"text": "one"}\n{"text": 3}\n{"text": "last"}', "a.jsonl:2", "wrong type"),
        ("a.jsonl", b'{"text": "one"}\n{"text": \n{"text": "last"}', "a.jsonl:2", "not JSON"),
        ("a.jsonl", b'{"text": "one"}\n{"x": 1}\n{"text": "last"}', "a.jsonl:2", "missing key"),
        ("a.txt", b"one\n\xff\nlast\n", "a.txt:2", "undecoded bytes"),
    ],
)  # fmt: skip
def test_a_bad_row_has_an_error_and_the_rest_goes_on(
    tmp_path: Path, name: str, body: bytes, place: str, said: str
) -> None:
    (tmp_path / name).write_bytes(body)
    first, bad, last = read_rows(tmp_path / name, TASK)
    assert not first.fault and (last.inputs["text"], last.fault) == ("last", "")
    assert bad.origin == place and bad.fault.startswith(said) and not bad.inputs


def test_stdin_with_half_a_character_has_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\udcff\n"))
    one, bad = read_rows(Path("-"), TASK)
    assert one == FileRow("stdin:1", {"text": "one"})
    assert bad.origin == "stdin:2" and bad.fault.startswith("undecoded bytes")
    raw = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n\xffone\ntwo\n"), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", raw)
    assert [bool(row.fault) for row in read_rows(Path("-"), TASK)] == [True, True, False]
    raw = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", raw)
    assert texts_of(Path("-"), encoding="latin-1") == ["café"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("none.txt", "none.csv"):
        with pytest.raises(BadInput, match=name):
            list(read_rows(tmp_path / name, TASK))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.csv", "cp1252"), ("a.csv", "utf-16"), ("a.txt", "cp1252"), ("a.txt", "utf-16")],
)
def test_an_encoding_is_noticed_and_said(tmp_path: Path, capsys, name: str, codec: str) -> None:
    texts = [f"Größe {number} ist gut" for number in range(20)]
    head = ["text"] if name == "a.csv" else []
    (tmp_path / name).write_bytes("\r\n".join([*head, *texts]).encode(codec))
    assert texts_of(tmp_path / name) == texts
    assert f"{name} is not utf-8; it is read as {codec}" in capsys.readouterr().err


def test_the_cure_that_is_printed_can_be_followed(tmp_path: Path, capsys) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text\r\nдень\r\nночь\r\n".encode("cp1251"))
    assert all("--encoding" in row.fault for row in read_rows(path, TASK))
    assert texts_of(path, encoding="cp1251") == ["день", "ночь"]
    assert not capsys.readouterr().err
    (tmp_path / "b[1].csv").write_text("text\none\n")
    assert texts_of(tmp_path / "b[1].csv") == ["one"]


def test_a_column_of_another_name_is_named_and_never_the_target(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("label,remark\nbad,one\n")
    with pytest.raises(BadInput) as told:
        list(read_rows(path, TASK))
    assert told.value.cure == "name it with --column: choose one of remark"
    assert texts_of(path, "remark") == texts_of(path, "text=remark") == ["one"]
    path.write_text("a=b\none\n")
    assert texts_of(path, "a=b") == texts_of(path, "text=a=b") == ["one"]
    with pytest.raises(BadInput, match="name it with --id"):
        list(read_rows(path, TASK, ["a=b"], ["number"]))


@dataclass(frozen=True, kw_only=True)
class Pairs(TextClassification):
    """A task with two inputs."""

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("text_pair", "text", "input"), *super().columns)


def test_every_input_of_a_task_is_read(tmp_path: Path) -> None:
    task = Pairs(labels=("no", "yes"))
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": "one", "other": "two"}\n{"text": "one", "other": null}\n'
        '{"text": "one", "other": " "}\n'
    )
    good, bad, empty = read_rows(path, task, ["text_pair=other"])
    assert empty.fault == "empty text_pair"
    assert good.inputs == {"text_pair": "two", "text": "one"}
    assert bad.fault == "no text_pair: null"
    with pytest.raises(BadInput, match=r"INPUT=COLUMN.*text_pair, text"):
        list(read_rows(path, task, ["other"]))
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.raises(BadInput, match="a table with the columns text_pair, text"):
        list(read_rows(tmp_path / "a.txt", task))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """A version that the verb finds under any name."""
    found = Loaded("0123456789abcdef", Majority(TASK, [2, 5]), Calibration())
    monkeypatch.setattr("lmwright.cli.predict.existing_store", lambda folder: None)
    monkeypatch.setattr(
        "lmwright.cli.predict.load_version", lambda store, name, device, precision, report: found
    )
    return found


def printed(capsys: pytest.CaptureFixture[str], words: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of the verb, which must end well."""
    assert main(["predict", "--model", "m@production", *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_device_and_a_precision_reach_what_loads_the_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loaded: Loaded, monkeypatch
) -> None:
    (tmp_path / "a.txt").write_text("play jazz\n")
    given: list[tuple[str, str]] = []

    def load(store: object, name: str, device: str, precision: str, report: Any) -> Loaded:
        given.append((device, precision))
        return loaded

    monkeypatch.setattr("lmwright.cli.predict.load_version", load)
    printed(capsys, [str(tmp_path / "a.txt"), "--device", "cpu", "--precision", "bf16"])
    printed(capsys, [str(tmp_path / "a.txt")])
    assert given == [("cpu", "bf16"), ("auto", "auto")]


def test_a_line_has_the_ids_the_inputs_the_answer_and_the_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loaded: Loaded
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,when,text\n7,monday,play jazz\n8,,\n9,friday,stop\n")
    lines = printed(capsys, [str(path), "--id", "id", "--id", "when"])
    assert lines[0] == {
        "id": "7",
        "when": "monday",
        "text": "play jazz",
        "label": "good",
        "unsure": False,
        "probabilities": {"bad": pytest.approx(3 / 9), "good": pytest.approx(6 / 9)},
        "version": loaded.version,
    }
    assert lines[1] == {
        "row": "a.csv:2",
        "id": "8",
        "when": "",
        "error": "no text: nothing is left after cleaning",
    }
    assert (lines[2]["id"], lines[2]["label"]) == ("9", "good")


def test_values_that_json_has_not_pass_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loaded: Loaded
) -> None:
    numbers = pa.array([1.5, float("nan"), None])
    exact = pa.array([Decimal("1.0"), Decimal("2.5"), Decimal("3.0")])
    days = pa.array([0, 1, 2], pa.date32())
    table = pa.table({"text": ["a", "b", "c"], "x": numbers, "y": exact, "z": days})
    parquet.write_table(table, tmp_path / "a.parquet")
    words = [str(tmp_path / "a.parquet"), *("--id", "x", "--id", "y", "--id", "z")]
    lines = printed(capsys, words)
    assert [line["x"] for line in lines] == [1.5, None, None]
    assert [line["y"] for line in lines] == ["1", "2.5", "3"]
    assert lines[1]["z"] == "1970-01-02"


def test_many_rows_are_answered_in_their_order_and_errors_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loaded: Loaded
) -> None:
    rows = [f"{n},{'' if n % 100 == 7 else f'text {n}'}" for n in range(700)]
    (tmp_path / "a.csv").write_text("\n".join(["n,text", *rows]))
    assert main(["predict", str(tmp_path / "a.csv"), "--model", "m@production", "--id", "n"]) == 0
    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert [line["n"] for line in lines] == [str(n) for n in range(700)]
    assert [int(line["n"]) for line in lines if "error" in line] == list(range(7, 700, 100))
    assert "7 of 700 rows have an error" in told.err


@pytest.mark.parametrize("name", ["text", "label", "probabilities", "unsure", "version", "error"])
def test_an_id_that_would_hide_a_key_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.csv").write_text(f"{name},x\none,1\n")
    with pytest.raises(BadInput, match="every line has a key of that name"):
        list(read_rows(tmp_path / "a.csv", TASK, ["x"], [name]))


def test_columns_with_a_default_are_read_where_the_file_has_them(tmp_path):
    task = TokenClassification(labels=("PER",), context=8)
    with_context, without = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    with_context.write_text('{"text": "He spoke", "before": "Peter came ."}\n')
    without.write_text('{"text": "He spoke"}\n')
    (plain := tmp_path / "c.txt").write_text("He spoke\n")
    found = [next(read_rows(path, task)).inputs for path in (with_context, without, plain)]
    assert found == [
        {"text": "He spoke", "before": before, "after": ""} for before in ("Peter came .", "", "")
    ]
