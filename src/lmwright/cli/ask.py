"""``lmwright predict``: label the texts of a file without a server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from lmwright.cli.open import STORE, StoreOption, existing_store
from lmwright.core.errors import BadInput
from lmwright.data.sources import Fault, Source, read_source, valid
from lmwright.serve.load import TEXTS_AT_ONCE, classify, load_version


def predict(
    file: Annotated[Path, typer.Argument(help="A table, or .txt with a text a line; - is stdin.")],
    model: Annotated[str, typer.Option(help="NAME@ALIAS or a version's hash.")],
    column: Annotated[str, typer.Option(help="The column that holds the texts.")] = "text",
    store: StoreOption = STORE,
) -> None:
    """Write one JSON line a text: label (null where unsure), probabilities, version."""
    loaded = load_version(existing_store(store), model)
    texts = read_texts(file, column)
    while piece := list(islice(texts, TEXTS_AT_ONCE)):
        for text, one in zip(piece, classify(loaded, piece), strict=True):
            numbers = dict(zip(loaded.model.labels, map(float, one.probabilities), strict=True))
            line = {"label": one.label, "probabilities": numbers, "version": loaded.version}
            print(json.dumps({"text": text, **line}, ensure_ascii=False))


def read_texts(file: Path, column: str) -> Iterator[str]:
    """The texts of a file, one after another: a table's column, or the lines of plain text.

    Tables are read as strictly as those of a recipe. BadInput names the row that has no text.
    """
    if str(file) == "-":
        yield from plain_texts(sys.stdin, "stdin")
    elif file.suffix.lower() == ".txt":
        try:
            with file.open(encoding="utf-8-sig") as lines:
                yield from plain_texts(lines, file.name)
        except OSError as error:
            raise BadInput(f"{file} cannot be read: {error.strerror}", "a file of texts") from None
    else:
        yield from table_texts(file, column)


def plain_texts(lines: Iterable[str], name: str) -> Iterator[str]:
    """One text a line; empty lines hold none."""
    try:
        for number, line in enumerate(lines, 1):
            if not valid(line):
                raise BadInput(f"{name}, line {number}: not UTF-8, or a NUL", "text in UTF-8")
            if line.strip():
                yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} is not UTF-8: {error}", "text in UTF-8") from None


def table_texts(file: Path, column: str) -> Iterator[str]:
    """The column of a table whose suffix says how it is read."""
    source = Source(name=file.name, path=escape(str(file)), text=column, constant_label="none")
    for found in read_source(source):
        if isinstance(found, Fault):
            raise BadInput(
                f"{found.origin}: {found.reason} {found.detail}".rstrip(),
                "a text in every row",
                "mend the row, or take it out",
            )
        if not found.text.strip():
            raise BadInput(f"{found.origin}: {column} is empty", "a text in every row")
        yield found.text
