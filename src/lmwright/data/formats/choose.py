"""The reader of a file, chosen by its content; the suffix decides only where content cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from lmwright.core.errors import BadInput
from lmwright.data.formats.chatterbot import read_chatterbot
from lmwright.data.formats.conll_file import looks_like_conll, read_conll
from lmwright.data.formats.csv_file import SIGNS, read_csv
from lmwright.data.formats.json_file import read_json
from lmwright.data.formats.opener import codec_of, encoding_of, first_bytes
from lmwright.data.formats.parquet_file import read_parquet
from lmwright.data.formats.record import Fault, Record, Table
from lmwright.data.formats.text_file import SUFFIXES, read_text

Reader = Callable[[Table, list[str]], Iterator[Record | Fault]]

READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".parquet": read_parquet,
    ".conll": read_conll,
}
"""The suffixes that tables usually have, and what usually stands in such files."""

CONVERSATIONS = {".yml", ".yaml"}
"""Suffixes of files that are no tables, unless a source names them."""
SHEETS = {".xlsx", ".xls", ".ods", ".numbers"}
SHEET_MARKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
"""How files of spreadsheet programs begin: those of today, and those of old."""
PARQUET_MARK = b"PAR1"
LOOKED_AT = 4096
"""Bytes from which the format is told."""


def read_table(table: Table, columns: list[str]) -> Iterator[Record | Fault]:
    """The records of a file with the columns asked for, or with all that it has."""
    return reader_of(table)(settled(table), columns)


def settled(table: Table) -> Table:
    """The file with the encoding that its bytes show; as it is where it is no text."""
    if reader_of(table) is read_parquet:
        return table
    return replace(table, encoding=encoding_of(table), settled=True)


def reader_of(table: Table) -> Reader:
    """The reader of a file; BadInput where its content is no table that can be read."""
    if table.files == "texts":
        return read_text
    start = first_bytes(table, LOOKED_AT)
    if start.startswith(PARQUET_MARK):
        return read_parquet
    if start.startswith(SHEET_MARKS) or table.suffix in SHEETS:
        raise unknown(table, "save it as CSV in UTF-8")
    if table.suffix == ".parquet":
        return read_parquet  # which says what is wrong with it
    codec = codec_of(start) or ("latin-1" if table.encoding == "utf-8" else table.encoding)
    text = decoded(start, codec).lstrip("\ufeff \t\r\n")
    if looks_like_json(text):
        return read_json
    if table.suffix == ".conll" or (table.suffix not in READERS and looks_like_conll(text)):
        return read_conll
    if table.suffix in CONVERSATIONS:
        return read_chatterbot
    usual = READERS.get(table.suffix)
    if usual is read_csv or (usual is read_json and text[:1] in ("{", "[")):
        return usual
    first, _, others = text.partition("\n")
    columns = "\0" not in first and any(sign in first for sign in SIGNS)
    if columns and not any(looks_like_json(line) for line in others.splitlines()):
        return read_csv
    if usual is not None:
        return usual
    cure = "rename or convert the file"
    if table.suffix in SUFFIXES:
        cure = "if each file is one document, set files: texts in its source"
    raise unknown(table, cure)


def decoded(start: bytes, codec: str) -> str:
    """The text of the first bytes; none of a codec that there is not, which the opener refuses."""
    try:
        return start.decode(codec, "replace")
    except LookupError:
        return ""


def looks_like_json(text: str) -> bool:
    """Whether a text begins as a JSON object or list does, and no header of a CSV."""
    if text[:1] not in ("{", "["):
        return False
    rest = text[1:].lstrip()
    return rest[:1] in (('"', "}") if text[0] == "{" else ("{", "[", "]", '"')) or not rest


def unknown(table: Table, cure: str) -> BadInput:
    """What is said of a file that is no table."""
    return BadInput(
        f"{table.about} is no table that is known by its content or suffix",
        "CSV, JSON, Parquet, CoNLL or ChatterBot's YAML: "
        + ", ".join(READERS)
        + " (the text formats also packed, .gz)",
        cure,
    )
