"""What ``lmwright predict`` takes for texts: every table as strictly as a recipe's, or nothing."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from lmwright.cli.ask import read_texts
from lmwright.core.errors import BadInput

TEXTS = ["one, and more", "two"]


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
    assert list(read_texts(tmp_path / name, "text")) == TEXTS


def test_parquet_and_stdin_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    assert list(read_texts(tmp_path / "a.parquet", "text")) == TEXTS
    monkeypatch.setattr(sys, "stdin", io.StringIO("one, and more\n\ntwo\n"))
    assert list(read_texts(Path("-"), "text")) == TEXTS


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("a.csv", b'text\none\n"two\nthree\n', "quote opened at line 3"),
        ("a.csv", b"text,x\none,1\ntwo\n", "a.csv:2: wrong number of fields"),
        ("a.csv", b"text\none\n \n", "a.csv:2: text is empty"),
        ("a.csv", b"txet\none\n", "did you mean 'txet'"),
        ("a.csv", b"text\n\xff\n", "a.csv:1: not utf-8"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "a.jsonl:1: not utf-8"),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl:1: wrong type"),
        ("a.jsonl", b'{"text": \n', "a.jsonl:1: not JSON"),
        ("a.txt", b"one\n\xff\n", "a.txt, line 2: undecoded bytes"),
        ("a.xlsx", b"PK", "no table that is known"),
        ("a", b"one\n", "no table that is known"),
    ],
)
def test_what_is_no_table_of_texts_is_refused(
    tmp_path: Path, name: str, body: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(BadInput) as told:
        list(read_texts(tmp_path / name, "text"))
    assert said in str(told.value)


def test_stdin_with_half_a_character_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\udcff\n"))
    with pytest.raises(BadInput, match="stdin, line 2"):
        list(read_texts(Path("-"), "text"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("none.txt", "none.csv"):
        with pytest.raises(BadInput, match=name):
            list(read_texts(tmp_path / name, "text"))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.csv", "cp1252"), ("a.csv", "utf-16"), ("a.txt", "cp1252"), ("a.txt", "utf-16")],
)
def test_an_encoding_is_noticed_and_said(tmp_path: Path, capsys, name: str, codec: str) -> None:
    texts = [f"Größe {number} ist gut" for number in range(20)]
    head = ["text"] if name == "a.csv" else []
    (tmp_path / name).write_bytes("\r\n".join([*head, *texts]).encode(codec))
    assert list(read_texts(tmp_path / name, "text")) == texts
    assert f"{name} is not utf-8; it is read as {codec}" in capsys.readouterr().err


def test_the_cure_that_is_printed_can_be_followed(tmp_path: Path, capsys) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text\r\nдень\r\nночь\r\n".encode("cp1251"))
    with pytest.raises(BadInput, match="--encoding"):
        list(read_texts(path, "text"))
    assert list(read_texts(path, "text", "cp1251")) == ["день", "ночь"]
    assert not capsys.readouterr().err
    (tmp_path / "b[1].csv").write_text("text\none\n")
    assert list(read_texts(tmp_path / "b[1].csv", "text")) == ["one"]
