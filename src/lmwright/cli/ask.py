"""``lmwright predict``: label the texts of a file without a server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from lmwright.cli.open import STORE, StoreOption, existing_store
from lmwright.core.errors import BadInput
from lmwright.data.formats.choose import settled
from lmwright.data.formats.opener import ANOTHER, encoding_of, open_text
from lmwright.data.formats.record import Fault, Table
from lmwright.data.sources import Source, read_source, source_files, valid
from lmwright.serve.load import TEXTS_AT_ONCE, classify, load_version


def predict(
    file: Annotated[Path, typer.Argument(help="A table, or .txt with a text a line; - is stdin.")],
    model: Annotated[str, typer.Option(help="NAME@ALIAS or a version's hash.")],
    column: Annotated[str, typer.Option(help="The column that holds the texts.")] = "text",
    encoding: Annotated[str, typer.Option(help="Of a text file; noticed by default.")] = "utf-8",
    store: StoreOption = STORE,
) -> None:
    """Write one JSON line a text: label (null where unsure), probabilities, version."""
    loaded = load_version(existing_store(store), model)
    texts = read_texts(file, column, encoding)
    while piece := list(islice(texts, TEXTS_AT_ONCE)):
        for text, one in zip(piece, classify(loaded, piece), strict=True):
            numbers = dict(zip(loaded.model.labels, map(float, one.probabilities), strict=True))
            line = {"label": one.label, "probabilities": numbers, "version": loaded.version}
            print(json.dumps({"text": text, **line}, ensure_ascii=False))


def read_texts(file: Path, column: str, encoding: str = "utf-8") -> Iterator[str]:
    """The texts of a file, one after another: a table's column, or the lines of plain text.

    Tables are read as strictly as those of a recipe. BadInput names the row that has no text.
    """
    if str(file) == "-":
        yield from plain_texts(sys.stdin, "stdin")
        return
    source = Source(
        name=file.name, path=str(file), text=column, constant_label="none", encoding=encoding
    )
    for name, path in source_files(source):
        table = Table(name, name, path, encoding)
        plain = path.suffix.lower() == ".txt"
        codec = encoding_of(table) if plain else settled(table).encoding
        if codec not in (encoding, "utf-8", "utf-8-sig"):
            print(f"lmwright: {name} is not {encoding}; it is read as {codec}", file=sys.stderr)
        if plain:
            with open_text(table) as lines:
                yield from plain_texts(lines, name)
        else:
            yield from table_texts(replace(source, path=str(path)))


def plain_texts(lines: Iterable[str], name: str) -> Iterator[str]:
    """One text a line; empty lines hold none."""
    try:
        for number, line in enumerate(lines, 1):
            if not valid(line):
                raise BadInput(f"{name}, line {number}: undecoded bytes, or a NUL", "text", ANOTHER)
            if line.strip():
                yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} cannot be decoded: {error}", "text", ANOTHER) from None


def table_texts(source: Source) -> Iterator[str]:
    """The column of a table whose content says how it is read."""
    for found in read_source(source):
        if isinstance(found, Fault):
            raise BadInput(
                f"{found.origin}: {found.reason} {found.detail}".rstrip(),
                "a text in every row",
                "mend the row, or take it out",
            )
        if not found.text.strip():
            raise BadInput(f"{found.origin}: {source.text} is empty", "a text in every row")
        yield found.text
