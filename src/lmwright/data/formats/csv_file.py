"""CSV and its kin: a header, and rows of fields between commas, semicolons, tabs or bars.

The first lines may be those of real exports: empty ones, and ``sep=;`` of a spreadsheet.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.data.formats.opener import LINE_LIMIT, bounded_lines, open_text
from lmwright.data.formats.record import Fault, Record, Table, asked_columns, need_columns

SIGNS = ",;\t|"
"""What may separate columns; the first of those that fit as well."""
TRIED_LINES = 50
"""Lines by which the sign is chosen where the header has several."""
DECLARED = re.compile(r'\s*"?sep=(.)"?\s*', re.IGNORECASE)


def read_csv(table: Table, columns: list[str]) -> Iterator[Record | Fault]:
    """Records of a file with a header; of all columns whose names differ where none is asked for.

    Quoting is strict: a row that breaks it is a fault, an unclosed quote is BadInput.
    """
    with open_text(table, newline="") as lines:
        header, rows = csv_rows(bounded_lines(lines, table), table)
        columns = asked_columns(table, header, columns)
        need_columns(table, header, columns)
        places = {column: header.index(column) for column in columns}
        for number, found in enumerate(rows, start=1):
            origin = f"{table.name}:{number}"
            if isinstance(found, Fault):
                yield Fault(origin, found.reason, found.detail)
            elif found and len(found) != len(header):
                detail = f"{len(found)} fields, the header has {len(header)}"
                yield Fault(origin, "wrong number of fields", detail)
            elif found:
                yield origin, {column: found[place] for column, place in places.items()}


def csv_rows(lines: Iterator[str], table: Table) -> tuple[list[str], Iterator[list[str] | Fault]]:
    """The header of a CSV file, and its rows and faults."""
    csv.field_size_limit(LINE_LIMIT)
    skipped = 0
    first = next(lines, "")
    while first and not first.strip():
        skipped, first = skipped + 1, next(lines, "")
    if declared := DECLARED.fullmatch(first):
        sign, first, skipped = declared[1], next(lines, ""), skipped + 1
        ahead: list[str] = []
    else:
        ahead = list(islice(lines, TRIED_LINES))
        sign = separator(first, ahead)
    reader = csv.reader(chain([first], ahead, lines), delimiter=sign, strict=True)
    rows = strictly(reader, table, skipped)
    header = next(rows, None)
    if not header or isinstance(header, Fault):
        raise BadInput(f"{table.about} has no header", "names of columns")
    return header, rows


def separator(first: str, ahead: Iterable[str]) -> str:
    """What separates the columns: the sign outside of quotes that splits the next lines alike."""
    bare = re.sub(r'"(?:[^"]|"")*"', "", first)
    found = [sign for sign in SIGNS if sign in bare]
    if len(found) < 2:
        return found[0] if found else ","
    lines = [first, *ahead]
    return max(found, key=lambda sign: alike(lines, sign))


def alike(lines: list[str], sign: str) -> float:
    """The share of rows that have as many fields as the header when split at ``sign``."""
    try:
        rows = [row for row in csv.reader(lines, delimiter=sign) if row]
    except csv.Error:
        return 0.0
    if len(rows) < 2:
        return 0.0
    return sum(len(row) == len(rows[0]) for row in rows[1:]) / (len(rows) - 1)


def strictly(reader: Any, table: Table, skipped: int) -> Iterator[list[str] | Fault]:
    """Rows of a csv reader; its errors as faults, except those that swallow the file's rest."""
    while True:
        line = reader.line_num + skipped + 1
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error) or "field limit" in str(error):
                raise BadInput(
                    f"{table.name}: a quote opened at line {line} is not closed",
                    "quotes in pairs (two for one inside a field)",
                    f"mend line {line}",
                ) from None
            detail = f"lines {line} to {reader.line_num + skipped}: {error}"
            yield Fault("", "broken quoting", detail)
