"""Where rows come from: CSV, JSON Lines, JSON and Parquet, read as a stream of rows and faults.

A bad row becomes a :class:`Fault` with its file, row number and reason; nothing is dropped in
silence. A fault of a whole file (missing, cut short, a bomb) raises BadInput.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmwright.core.assets import asset_file, asset_hash, is_asset
from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_file, hash_json
from lmwright.core.random import stream
from lmwright.core.stage import Settings
from lmwright.data.formats.choose import read_table
from lmwright.data.formats.opener import ANOTHER
from lmwright.data.formats.record import Fault, Record, Table


@dataclass(frozen=True, kw_only=True)
class Source(Settings):
    """One origin of rows and how to read it.

    ``name``            of letters, digits, - and _; reports, lineage and withdrawals go by it.
    ``path``            a file, a pattern with stars, or ``asset:NAME/path/inside``.
    ``text``            the column (key in JSON) that holds the text.
    ``label``           the column that holds the label.
    ``constant_label``  the label of every row, where no column holds one.
    ``id``              a column that must not repeat; rows that repeat it are rejected.
    ``where``           column -> value: only rows that agree are read.
    ``labels``          label in the file -> label wanted; a label that is not among them is
                        a fault of its row. Empty: labels are taken as they are.
    ``format``          ``mail``: the text is a raw mail; subject and readable body are taken.
    ``encoding``        of text files. Where it is ``utf-8``, files that are plainly UTF-16 or
                        cp1252 (Windows in western Europe) are read as that.
    ``licence``         stands beside every row.
    ``role``            ``train``: rows to be split; ``test``: kept whole for evaluation.
    ``limit``           at most so many rows, drawn at random; 0 means all.
    """

    name: str
    path: str
    text: str = "text"
    label: str = "label"
    constant_label: str = ""
    id: str = ""
    where: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    format: Literal["text", "mail"] = "text"
    encoding: str = "utf-8"
    licence: str = "unknown"
    role: Literal["train", "test"] = "train"
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it stands in its file: text and label as strings, and where it was found."""

    text: str
    label: str
    id: str
    origin: str


UNDECODED = f"bytes that it does not know: {ANOTHER}"


def read_source(source: Source, seed: int = 0) -> Iterator[Row | Fault]:
    """The rows of a source in the order of its files, and a Fault for each that is unfit.

    With a limit, the rows are drawn without replacement under ``seed`` and read in order.
    Raises BadInput for a fault of a whole file.
    """
    chosen = choose(source, seed) if source.limit else None
    for ordinal, found in enumerate(records_where(source)):
        if chosen is None or (ordinal < len(chosen) and chosen[ordinal]):
            yield found if isinstance(found, Fault) else as_row(source, *found)


def source_files(source: Source) -> list[tuple[str, Path]]:
    """The files of a source in order: a name that is the same on every machine, and the path."""
    path = asset_file(source.path) if is_asset(source.path) else Path(source.path).expanduser()
    if path.exists() or not glob.has_magic(str(path)):
        return [(printable(path.name), checked(path, source))]
    root = Path(*path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])
    paths = sorted(root.glob(path.relative_to(root).as_posix()))
    files = [(found.relative_to(root).as_posix(), found) for found in paths if found.is_file()]
    if not files:
        raise BadInput(
            f"source {source.name!r}: no file matches {source.path}",
            "at least one file",
            "check the folder and the pattern",
        )
    return [(printable(name), checked(found, source)) for name, found in files]


def printable(name: str) -> str:
    """A file's name with bytes that are not UTF-8 as escapes, so that tables can hold it."""
    return name.encode("utf-8", "backslashreplace").decode()


def source_hash(source: Source) -> str:
    """A hash of the content of the source's files; of an asset, its pinned hash."""
    if is_asset(source.path):
        return asset_hash(source.path)
    return hash_json({name: hash_file(path) for name, path in source_files(source)})


def checked(path: Path, source: Source) -> Path:
    """The path, if a file with something in it stands there."""
    about = f"source {source.name!r}: {path}"
    if path.is_dir():
        raise BadInput(f"{about} is a directory", "a file", f"write a pattern: {path.name}/*.csv")
    if not path.exists():
        raise BadInput(
            f"{about} does not exist",
            "a file",
            "check the path"
            if path.is_absolute()
            else f"run where it is, or write the whole path: this one is taken from {Path.cwd()}",
        )
    if not path.is_file():
        raise BadInput(f"{about} is a device, pipe or socket", "a file", "copy it to a file first")
    if path.stat().st_size == 0:
        raise BadInput(f"{about} is empty", "at least a header and a row", "export the file again")
    return path


def choose(source: Source, seed: int) -> np.ndarray:
    """Which of the matching records are read under the limit: bool (records,)."""
    count = sum(1 for _ in records_where(source))
    drawn = stream(seed, "limit", source.name).permutation(count)[: source.limit]
    mask = np.zeros(count, bool)
    mask[drawn] = True
    return mask


def records_where(source: Source) -> Iterator[Record | Fault]:
    """Records of all files that agree with ``where``; faults too, since they might have."""
    wanted = {column: as_label(value) for column, value in source.where.items()}
    for found in records(source, columns_of(source)):
        if isinstance(found, Fault) or all(
            as_label(found[1].get(column)) == value for column, value in wanted.items()
        ):
            yield found


def records(source: Source, columns: list[str]) -> Iterator[Record | Fault]:
    """(origin, columns) of every record in every file: those asked for, or all that it has."""
    for name, path in source_files(source):
        about = f"source {source.name!r}: {name}"
        yield from read_table(Table(about, name, path, source.encoding), columns)


def columns_of(source: Source) -> list[str]:
    """The columns that are read, in order and once each."""
    label = [] if source.constant_label else [source.label]
    every = [source.text, *label, *([source.id] if source.id else []), *source.where]
    return list(dict.fromkeys(every))


def as_row(source: Source, origin: str, record: dict[str, Any]) -> Row | Fault:
    """The row that a record holds, or the reason why it cannot be used."""
    text = record[source.text]
    if not isinstance(text, str):
        return Fault(origin, *typed("text", text))
    if "\0" in text:
        return Fault(origin, "NUL in text", f"at character {text.index(chr(0))}")
    if not valid(text):
        return Fault(origin, "not " + source.encoding, UNDECODED)
    label = source.constant_label or as_label(record[source.label])
    if label is None:
        return Fault(origin, *typed("label", record[source.label]))
    if not label.strip() or not valid(label) or len(label) > 200:
        return Fault(origin, "unusable label", repr(label[:80]))
    renamed = {as_label(name): wanted for name, wanted in source.labels.items()}
    if renamed and label not in renamed:
        return Fault(origin, "unknown label", f"{label!r}; known: {sorted(source.labels)[:20]}")
    key = as_label(record[source.id]) if source.id else ""
    if key is None:
        return Fault(origin, *typed("id", record[source.id]))
    return Row(text, renamed.get(label, label), key, origin)


def valid(text: str) -> bool:
    """Whether the text holds whole characters only: no lone surrogates, no NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def typed(what: str, value: Any) -> tuple[str, str]:
    """Reason and detail for a value of the wrong type."""
    if value is None:
        return f"no {what}", "null"
    return "wrong type", f"{what} is {type(value).__name__}, not text"


def as_label(value: Any) -> str | None:
    """A label or id as a string, the same from every format; None for what can be none.

    Numbers are written as short as can be (4.5, and 1 for 1.0), also where they stand as text, as
    in a CSV; true and false in small letters; a list of one value is that value.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        return as_label(value[0])
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        return shortest(value) if math.isfinite(value) else None
    if isinstance(value, str):
        if WHOLE.fullmatch(value):
            return value.partition(".")[0]
        return value.lower() if value in ("True", "False") else value
    return str(value) if isinstance(value, int) else None


WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)\.0+")
"""A whole number as a column of floats has it."""


def shortest(value: float | Decimal) -> str:
    """A finite number without zeros at its end, and without an exponent."""
    if value == int(value):
        return str(int(value))
    text = f"{Decimal(repr(value)) if isinstance(value, float) else value:f}"
    return text.rstrip("0")
