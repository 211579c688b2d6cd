"""``lmwright predict``: answer the rows of a file without a server."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from lmwright.cli.open import STORE, StoreOption
from lmwright.core.columns import Row, as_label, blank, blank_column, whole
from lmwright.core.errors import BadInput, nearest
from lmwright.core.task import Task, refusal_of, role_columns
from lmwright.data.formats.choose import settled
from lmwright.data.formats.opener import ANOTHER, encoding_of, open_text
from lmwright.data.formats.record import Fault, NoColumn, Table
from lmwright.data.sources import (
    Source,
    as_row,
    columns_of,
    optional_columns,
    records,
    source_files,
)
from lmwright.serve.load import ROWS_AT_ONCE, answer_rows, load_version
from lmwright.store.open import existing_store

OWN = ("version", "row", "error")
"""Keys of a line beside the columns of the file and of the task."""


def predict(
    file: Annotated[Path, typer.Argument(help="A table, or .txt with a text a line; - is stdin.")],
    model: Annotated[str, typer.Option(help="NAME@ALIAS or a version's hash.")],
    column: Annotated[
        list[str],
        typer.Option(help="Where the file names an input otherwise: COLUMN, or INPUT=COLUMN."),
    ] = [],  # noqa: B006
    id: Annotated[
        list[str], typer.Option(help="A column of the file that is passed through.")
    ] = [],  # noqa: B006
    encoding: Annotated[str, typer.Option(help="Of a text file; noticed by default.")] = "utf-8",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, int8 or int4.")] = "auto",
    store: StoreOption = STORE,
) -> None:
    """Write one JSON line a row: the answer and the version, or the error of a bad row."""
    loaded = load_version(existing_store(store), model, device, precision, report=say)
    rows = read_rows(file, loaded.task, column, id, encoding)
    count = failed = 0
    while piece := list(islice(rows, ROWS_AT_ONCE)):
        answers = iter(answer_rows(loaded, [row.inputs for row in piece if not row.fault]))
        for row in piece:
            if row.fault:
                line = {"row": row.origin, **row.ids, "error": row.fault}
            else:
                line = {**row.ids, **row.inputs, **next(answers), "version": loaded.version}
            print(json.dumps(line, ensure_ascii=False))
        count, failed = count + len(piece), failed + sum(bool(row.fault) for row in piece)
    if failed:
        print(f"lmwright: {failed:,} of {count:,} rows have an error, no answer", file=sys.stderr)


def say(line: str) -> None:
    """Print a line on stderr, beside the answers."""
    print(line, file=sys.stderr)


@dataclass(frozen=True)
class FileRow:
    """A row of a file: its place, its id columns, and its inputs or the reason for none."""

    origin: str
    inputs: Row = field(default_factory=dict)
    ids: dict[str, Any] = field(default_factory=dict)
    fault: str = ""


def read_rows(
    file: Path,
    task: Task,
    columns: Sequence[str] = (),
    ids: Sequence[str] = (),
    encoding: str = "utf-8",
) -> Iterator[FileRow]:
    """The rows of a table, or the lines of plain text, by the task's inputs.

    Tables are read as strictly as those of a recipe; a bad row says so and the next one is read.
    BadInput for a fault of the whole file.
    """
    refuse_ids(task, ids)
    named = named_columns(task, columns)
    source = Source(name=file.name, path=str(file), columns=named, encoding=encoding)
    if str(file) == "-":
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding=encoding, errors="surrogateescape")
        yield from plain_rows(task, sys.stdin, "stdin", ids)
        return
    for name, path in source_files(source):
        table = Table(name, name, path, encoding)
        plain = path.suffix.lower() == ".txt"
        codec = encoding_of(table) if plain else settled(table).encoding
        if codec not in (encoding, "utf-8", "utf-8-sig"):
            print(f"lmwright: {name} is not {encoding}; it is read as {codec}", file=sys.stderr)
        if plain:
            with open_text(table) as lines:
                yield from plain_rows(task, lines, name, ids)
        else:
            yield from table_rows(task, replace(source, path=str(path)), ids)


def refuse_ids(task: Task, ids: Sequence[str]) -> None:
    """Raise BadInput for an id column whose name another key of a line has."""
    taken = {*OWN, "unsure", *(column.name for column in role_columns(task, "input", "answer"))}
    for name in ids:
        if name in taken:
            raise BadInput(
                f"--id {name}: every line has a key of that name already",
                "a column of another name",
                "rename the column in the file",
            )


def named_columns(task: Task, columns: Sequence[str]) -> dict[str, str]:
    """Input of the task -> column of the file, as they were given."""
    inputs = [column.name for column in role_columns(task, "input")]
    named = {}
    for given in columns:
        name, equals, column = given.partition("=")
        if equals and column and name in inputs:
            named[name] = column
        elif len(inputs) == 1:
            named[inputs[0]] = given
        else:
            raise BadInput(
                f"--column {given}",
                "INPUT=COLUMN with an input of the model: " + ", ".join(inputs),
                nearest(name, inputs),
            )
    return named


def plain_rows(
    task: Task, lines: Iterable[str], name: str, ids: Sequence[str]
) -> Iterator[FileRow]:
    """One text a line; empty lines hold none."""
    inputs = role_columns(task, "input")
    needed = [column for column in inputs if column.default is None]
    if len(needed) != 1 or needed[0].type != "text" or ids:
        wanted = "a table with the columns " + ", ".join([*(c.name for c in inputs), *ids])
        raise BadInput(f"{name} holds lines of plain text", wanted, "write CSV or JSON Lines")
    defaults = {column.name: column.default for column in inputs if column.default is not None}
    try:
        for number, line in enumerate(lines, 1):
            text, origin = line.rstrip("\r\n"), f"{name}:{number}"
            if not whole(text):
                yield FileRow(origin, fault=f"undecoded bytes, or a NUL: {ANOTHER}")
            elif text.strip():
                yield checked(task, FileRow(origin, {**defaults, needed[0].name: text}))
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} cannot be decoded: {error}", "text", ANOTHER) from None


def table_rows(task: Task, source: Source, ids: Sequence[str]) -> Iterator[FileRow]:
    """The rows of a table whose content says how it is read."""
    inputs = role_columns(task, "input")
    wanted = list(dict.fromkeys([*columns_of(source, inputs), *ids]))
    try:
        for found in records(source, wanted, optional_columns(source, inputs)):
            if isinstance(found, Fault):
                yield FileRow(found.origin, fault=described(found))
                continue
            origin, record = found
            row = as_row(source, inputs, {}, origin, record)
            passed = {name: plain_value(record.get(name)) for name in ids}
            if isinstance(row, Fault):
                yield FileRow(origin, ids=passed, fault=described(row))
            else:
                yield checked(task, FileRow(origin, row.values, passed))
    except NoColumn as error:
        targets = {column.name for column in role_columns(task, "target")}
        own = {source.column(column.name) for column in inputs}
        choices = [name for name in error.header if name not in targets - own]
        option = "--id" if error.column in ids else "--column"
        cure = f"name it with {option}: {nearest(error.column, choices)}"
        raise BadInput(error.found, error.wanted, cure) from None


def checked(task: Task, row: FileRow) -> FileRow:
    """The row, or its fault where a model would be given no text, or nothing to answer."""
    reason = refusal_of(task, row.inputs)
    if blank(task.text(row.inputs)):
        reason = "no text: nothing is left after cleaning"
    elif name := blank_column(role_columns(task, "input"), row.inputs):
        reason = f"empty {name}"
    return replace(row, inputs={}, fault=reason) if reason else row


def described(fault: Fault) -> str:
    """A row's fault in words."""
    return f"{fault.reason}: {fault.detail}" if fault.detail else fault.reason


def plain_value(value: Any) -> Any:
    """A value of any column as JSON has it."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    text = value if isinstance(value, str) else as_label(value) or str(value)
    return text if whole(text) else text.encode("utf-8", "backslashreplace").decode()
