"""JSON: an object a line, or one document in the shapes in which tables are written.

A document may be a list of objects, one object, or what pandas calls ``columns``, ``list``,
``index``, ``split`` and ``table``, an object that holds a list of objects under one key, SQuAD's
articles of paragraphs with questions, a task of BIG-bench, or conversations of utterances.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.data.formats.bigbench import bigbench_rows, is_bigbench
from lmwright.data.formats.opener import (
    LINE_LIMIT,
    bounded_lines,
    open_text,
    read_all,
    read_line,
)
from lmwright.data.formats.record import Fault, Record, Table
from lmwright.data.formats.squad import is_squad, squad_rows
from lmwright.data.formats.utterances import is_utterances, utterance_rows

LINES = {".jsonl", ".ndjson"}
"""Suffixes of files that hold an object a line even where their first line is broken."""
DOCUMENT_LIMIT = 8 * LINE_LIMIT
"""Characters of one document, at most; all of it is in memory at once."""


def read_json(table: Table, columns: list[str]) -> Iterator[Record | Fault]:
    """Records of a JSON file; each with all its keys where no column is asked for."""
    return read_lines(table, columns) if is_lines(table) else read_document(table, columns)


def is_lines(table: Table) -> bool:
    """Whether a file holds a value a line: its first lines decide.

    One line that holds a whole table is a document, and so is a file whose first line is only the
    beginning of a value, unless the next line is an object by itself: then the first is broken.
    """
    with open_text(table) as lines:
        filled = (line for line in iter(lambda: read_line(lines, table), "") if line.strip())
        first, second = (*islice(filled, 2), "", "")[:2]
    if parsed(first) is not BROKEN:
        return bool(second)
    if isinstance(parsed(second), dict) and first.strip()[-1] not in "[{,:":
        return True
    return table.suffix in LINES and first.strip() not in ("[", "{")


def read_lines(table: Table, columns: list[str]) -> Iterator[Record | Fault]:
    """Records of a file with one object a line."""
    with open_text(table) as lines:
        for number, line in enumerate(bounded_lines(lines, table), start=1):
            if line.strip():
                yield parse(f"{table.name}:{number}", line, columns, table.optional)


def read_document(table: Table, columns: list[str]) -> Iterator[Record | Fault]:
    """Records of a file that is one JSON value, or of several that stand one after another."""
    with open_text(table) as lines:
        text = read_all(lines, table, DOCUMENT_LIMIT)
    if len(text) > DOCUMENT_LIMIT:
        raise BadInput(
            f"{table.about} is one JSON value of more than 64 MB",
            "a stream of rows",
            "convert it to JSON Lines: jq -c '.[]'",
        )
    try:
        values = list(values_of(text))
        rows = rows_of(values[0], columns) if len(values) == 1 else values
    except KeyTwice as twice:
        raise BadInput(
            f"{table.about}: {twice}", "names that differ in an object", "rename one of them"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{table.about} is not JSON: {error}", "JSON") from None
    for number, value in enumerate(rows, start=1):
        yield record_of(f"{table.name}:{number}", value, columns, table.optional)


def values_of(text: str) -> Iterator[Any]:
    """The JSON values of a text, one after another."""
    decoder, place = json.JSONDecoder(object_pairs_hook=single_keys), 0
    while place < len(text):
        rest = text[place:].lstrip() if place else text.lstrip()
        if not rest:
            return
        place = len(text) - len(rest)
        value, place = decoder.raw_decode(text, place)
        yield value


def rows_of(value: Any, columns: list[str]) -> list[Any]:
    """The rows of a document, by its shape; one row where it has no other."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not value or (columns and one_row(value, columns)):
        return [value]
    for is_form, rows_of_form in FORMS:
        if is_form(value):
            return rows_of_form(value)
    if is_split(value):
        return [single_keys([*zip(value["columns"], row, strict=True)]) for row in value["data"]]
    held = [each for each in value.values() if is_rows(each)]
    if len(held) == 1 and not (columns and set(columns) <= set(value)):
        return held[0]
    every = list(value.values())
    if all(isinstance(each, list) for each in every) and len({len(each) for each in every}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*every, strict=True)]
    if all(isinstance(each, dict) and each for each in every):
        return by_index(value) if is_index(value, columns) else by_column(value)
    return [value]


def one_row(value: dict[str, Any], columns: list[str]) -> bool:
    """Whether an object has the columns asked for, and in one of them what is no column."""
    return all(column in value for column in columns) and any(
        not isinstance(value[column], list | dict) for column in columns
    )


def is_rows(value: Any) -> bool:
    """Whether a value is a list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(e, dict) for e in value)


def is_split(value: dict[str, Any]) -> bool:
    """Whether an object is a table as names of columns and rows of values."""
    names, rows = value.get("columns"), value.get("data")
    return (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and isinstance(rows, list)
        and all(isinstance(row, list) and len(row) == len(names) for row in rows)
    )


def is_index(value: dict[str, dict[str, Any]], columns: list[str]) -> bool:
    """Whether an object of objects has a row, and not a column, under each key."""
    inner = set().union(*value.values())
    if columns:
        return not set(columns) <= set(value) and set(columns) <= inner
    return not all(name.isdigit() for name in inner) and len(value) > len(inner)


def by_index(value: dict[str, dict[str, Any]]) -> list[Any]:
    """The rows of a table that is written row by row under the rows' names."""
    return list(value.values())


def by_column(value: dict[str, dict[str, Any]]) -> list[Any]:
    """The rows of a table that is written column by column: name -> row's name -> value."""
    names = dict.fromkeys(name for column in value.values() for name in column)
    return [
        {column: cells[name] for column, cells in value.items() if name in cells} for name in names
    ]


FORMS: tuple[tuple[Callable[[Any], bool], Callable[[Any], list[Any]]], ...] = (
    (is_squad, squad_rows),
    (is_bigbench, bigbench_rows),
    (is_utterances, utterance_rows),
)
"""Documents of published data sets: how each is told, and its rows."""


class KeyTwice(ValueError):
    """An object in which a key stands twice: it is not clear which value is meant."""


def single_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its keys and values; KeyTwice where two keys are equal."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyTwice(
            f"{next(n for n in names if names.count(n) > 1)!r} stands twice in an object"
        )
    return found


BROKEN = object()
"""In place of a value: the text holds none."""


def parsed(text: str) -> Any:
    """The value of a line, or BROKEN."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return BROKEN


def parse(
    origin: str, text: str, columns: list[str], optional: Sequence[str] = ()
) -> Record | Fault:
    """The record that a JSON text holds."""
    try:
        value = json.loads(text, object_pairs_hook=single_keys)
    except RecursionError:
        return Fault(origin, "not JSON", "nested too deeply")
    except KeyTwice as twice:
        return Fault(origin, "a key twice", str(twice))
    except ValueError as error:
        return Fault(origin, "not JSON", str(error)[:200])
    return record_of(origin, value, columns, optional)


def record_of(
    origin: str, value: Any, columns: list[str], optional: Sequence[str] = ()
) -> Record | Fault:
    """The columns of a JSON object, of the ``optional`` ones those that it has; all of them when
    none is asked for."""
    if not isinstance(value, dict):
        return Fault(origin, "wrong type", f"a JSON {type(value).__name__}, not an object")
    for column in columns:
        if column not in value:
            return Fault(origin, "missing key", f"{column!r}; it has {sorted(value)[:10]}")
    asked = [*columns, *(each for each in optional if each in value)] if columns else value
    return origin, {column: value[column] for column in asked}
