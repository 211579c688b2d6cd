"""``lmwright predict``: label the texts of a file without a server."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, TextIO

import typer

from lmwright.cli.open import STORE, StoreOption, open_store
from lmwright.core.errors import BadInput, nearest
from lmwright.serve.load import TEXTS_AT_ONCE, classify, load_version


def predict(
    file: Annotated[Path, typer.Argument(help="CSV, JSON Lines, or a text a line; - is stdin.")],
    model: Annotated[str, typer.Option(help="NAME@ALIAS or a version's hash.")],
    column: Annotated[str, typer.Option(help="The column that holds the texts.")] = "text",
    store: StoreOption = STORE,
) -> None:
    """Write one JSON line a text: label (null where unsure), probabilities, version."""
    loaded = load_version(open_store(store), model)
    texts = read_texts(file, column)
    while piece := list(islice(texts, TEXTS_AT_ONCE)):
        for text, one in zip(piece, classify(loaded, piece), strict=True):
            numbers = dict(zip(loaded.model.labels, map(float, one.probabilities), strict=True))
            line = {"label": one.label, "probabilities": numbers, "version": loaded.version}
            print(json.dumps({"text": text, **line}, ensure_ascii=False))


def read_texts(file: Path, column: str) -> Iterator[str]:
    """The texts of a file, one after another. BadInput names the line that has none."""
    if str(file) == "-":
        yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
        return
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield from {".csv": csv_texts, ".jsonl": json_texts}.get(file.suffix, plain_texts)(
                stream, file, column
            )
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read: {error}", "a file of texts in UTF-8") from None


def plain_texts(stream: TextIO, file: Path, column: str) -> Iterator[str]:
    """One text a line; a column means nothing here."""
    yield from (line.rstrip("\r\n") for line in stream if line.strip())


def csv_texts(stream: TextIO, file: Path, column: str) -> Iterator[str]:
    """The column of a CSV file."""
    csv.field_size_limit(10_000_000)
    rows = csv.DictReader(stream)
    if column not in (rows.fieldnames or ()):
        known = rows.fieldnames or ["(none)"]
        raise BadInput(f"{file} has no column {column!r}", "a column", nearest(column, known))
    for number, row in enumerate(rows, 2):
        if not row[column]:
            raise BadInput(f"{file}, row {number}: {column} is empty", "a text in every row")
        yield row[column]


def json_texts(stream: TextIO, file: Path, column: str) -> Iterator[str]:
    """The key of a file of JSON lines."""
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[column]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise BadInput(f"{file}, line {number}: no string under {column!r}", "one a line")
        yield text
