"""Where rows come from: CSV, JSON Lines, JSON and Parquet, read as a stream of rows and faults.

A bad row becomes a :class:`Fault` with its file, row number and reason; nothing is dropped in
silence. A fault of a whole file (missing, cut short, a bomb) raises BadInput.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmwright.core.assets import asset_file, asset_hash, is_asset
from lmwright.core.errors import BadInput, nearest
from lmwright.core.hashing import hash_file, hash_json
from lmwright.core.random import stream
from lmwright.core.stage import Settings


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
    ``encoding``        of text files: ``cp1252`` is what Windows writes in western Europe.
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


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that cannot be used: its place, a reason that can be counted, and the detail."""

    origin: str
    reason: str
    detail: str = ""


LINE_LIMIT = 8 << 20
"""Characters of one line, and of one CSV field, at most; what is longer is no row of text."""

UNDECODED = "bytes that it does not know; a text file may need encoding: cp1252 or latin-1"
SHEETS = {".xlsx", ".xls", ".ods", ".numbers"}

BOMB_BYTES, BOMB_RATIO = 64 << 20, 200
"""Past so many bytes, a file that unpacks to more than so many times its size is refused."""


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
    if not glob.has_magic(str(path)):
        return [(path.name, checked(path, source))]
    root = Path(*path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])
    paths = sorted(root.glob(path.relative_to(root).as_posix()))
    files = [(found.relative_to(root).as_posix(), found) for found in paths if found.is_file()]
    if not files:
        raise BadInput(
            f"source {source.name!r}: no file matches {source.path}",
            "at least one file",
            "check the folder and the pattern",
        )
    return [(name, checked(found, source)) for name, found in files]


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


Record = tuple[str, dict[str, Any]]


def records_where(source: Source) -> Iterator[Record | Fault]:
    """Records of all files that agree with ``where``; faults too, since they might have."""
    for found in records(source, columns_of(source)):
        if isinstance(found, Fault) or all(
            as_label(found[1].get(column)) == value for column, value in source.where.items()
        ):
            yield found


def records(source: Source, columns: list[str]) -> Iterator[Record | Fault]:
    """(origin, the columns asked for) of every record in every file."""
    for name, path in source_files(source):
        yield from READERS[kind_of(name, source)](name, path, source, columns)


def header_of(source: Source) -> list[str]:
    """Names of the columns of the source's first file; of its first object when it is JSON."""
    name, path = source_files(source)[0]
    kind = kind_of(name, source)
    if kind == ".parquet":
        return parquet_header(name, path, source)
    if kind in (".csv", ".tsv"):
        with open_text(name, path, source, newline="") as lines:
            return csv_rows(lines, name, source)[0]
    for found in READERS[kind](name, path, source, []):
        if not isinstance(found, Fault):
            return sorted(found[1])
    return []


def kind_of(name: str, source: Source) -> str:
    """The suffix that says how a file is read; BadInput when it has none."""
    plain = name.lower().removesuffix(".gz")
    kind = Path(plain).suffix
    if kind not in READERS or (kind == ".parquet" and plain != name.lower()):
        raise BadInput(
            f"source {source.name!r}: {name} has no suffix that says what it is",
            "one of " + ", ".join(READERS) + " (the text formats also with .gz)",
            "save it as CSV in UTF-8" if kind in SHEETS else "rename or convert the file",
        )
    return kind


def columns_of(source: Source) -> list[str]:
    """The columns that are read, in order and once each."""
    label = [] if source.constant_label else [source.label]
    every = [source.text, *label, *([source.id] if source.id else []), *source.where]
    return list(dict.fromkeys(every))


def need_columns(name: str, header: list[str], source: Source, columns: list[str]) -> None:
    """Raise BadInput unless the file has every one of the columns, once."""
    for column in columns:
        if column not in header:
            raise BadInput(
                f"source {source.name!r}: {name} has no column {column!r}, but {header[:20]}",
                f"the column {column!r}",
                nearest(column, header),
            )
        if header.count(column) > 1:
            raise BadInput(
                f"source {source.name!r}: {name} has {header.count(column)} columns {column!r}",
                "names that differ",
                "rename one of them",
            )


def read_csv(name: str, path: Path, source: Source, columns: list[str]) -> Iterator[Record | Fault]:
    """Records of a CSV file with a header; ``.tsv`` is split at tabs.

    Quoting is strict: a row that breaks it is a fault, an unclosed quote is BadInput.
    """
    with open_text(name, path, source, newline="") as lines:
        header, rows = csv_rows(lines, name, source)
        need_columns(name, header, source, columns)
        places = {column: header.index(column) for column in columns}
        for number, found in enumerate(rows, start=1):
            origin = f"{name}:{number}"
            if isinstance(found, Fault):
                yield Fault(origin, found.reason, found.detail)
            elif found and len(found) != len(header):
                detail = f"{len(found)} fields, the header has {len(header)}"
                yield Fault(origin, "wrong number of fields", detail)
            elif found:
                yield origin, {column: found[place] for column, place in places.items()}


def csv_rows(
    lines: io.TextIOBase, name: str, source: Source
) -> tuple[list[str], Iterator[list[str] | Fault]]:
    """The header of a CSV file, and its rows and faults."""
    csv.field_size_limit(LINE_LIMIT)
    rest = bounded(lines, name, source)
    first = next(rest, "")
    delimiter = "\t" if kind_of(name, source) == ".tsv" else separator(first)
    reader = csv.reader(chain([first], rest), delimiter=delimiter, strict=True)
    rows = strictly(reader, name)
    header = next(rows, None)
    if not header or isinstance(header, Fault):
        raise BadInput(f"source {source.name!r}: {name} has no header", "names of columns")
    return header, rows


def separator(header: str) -> str:
    """What separates the columns of a CSV: a comma, or what its header has in place of commas."""
    return "," if "," in header else next((sign for sign in ";\t|" if sign in header), ",")


def strictly(reader: Any, name: str) -> Iterator[list[str] | Fault]:
    """Rows of a csv reader; its errors as faults, except those that swallow the file's rest."""
    while True:
        line = reader.line_num + 1
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error) or "field limit" in str(error):
                raise BadInput(
                    f"{name}: a quote opened at line {line} is not closed",
                    "quotes in pairs (two for one inside a field)",
                    f"mend line {line}",
                ) from None
            detail = f"lines {line} to {reader.line_num}: {error}"
            yield Fault("", "broken quoting", detail)


def read_lines(
    name: str, path: Path, source: Source, columns: list[str]
) -> Iterator[Record | Fault]:
    """Records of a JSON Lines file: one object a line."""
    with open_text(name, path, source) as lines:
        for number, line in enumerate(bounded(lines, name, source), start=1):
            if line.strip():
                yield parse(f"{name}:{number}", line, columns)


def read_object(
    name: str, path: Path, source: Source, columns: list[str]
) -> Iterator[Record | Fault]:
    """The one record of a JSON file that holds one object, or those of a list of objects."""
    with open_text(name, path, source) as lines:
        text = piece_of(lines, -(8 * LINE_LIMIT + 1), name, source)
    if len(text) > 8 * LINE_LIMIT:
        raise BadInput(
            f"source {source.name!r}: {name} is one JSON value of more than 64 MB",
            "a stream of rows",
            "convert it to JSON Lines: jq -c '.[]'",
        )
    if not text.lstrip().startswith("["):
        yield parse(f"{name}:1", text, columns)
        return
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"source {source.name!r}: {name} is not JSON: {error}", "JSON") from None
    for number, value in enumerate(values, start=1):
        yield record_of(f"{name}:{number}", value, columns)


def parse(origin: str, text: str, columns: list[str]) -> Record | Fault:
    """The record that a JSON text holds."""
    try:
        value = json.loads(text)
    except RecursionError:
        return Fault(origin, "not JSON", "nested too deeply")
    except ValueError as error:
        return Fault(origin, "not JSON", str(error)[:200])
    return record_of(origin, value, columns)


def record_of(origin: str, value: Any, columns: list[str]) -> Record | Fault:
    """The columns of a JSON object; all of them when none is asked for."""
    if not isinstance(value, dict):
        return Fault(origin, "wrong type", f"a JSON {type(value).__name__}, not an object")
    for column in columns:
        if column not in value:
            return Fault(origin, "missing key", f"{column!r}; it has {sorted(value)[:10]}")
    return origin, {column: value[column] for column in columns or value}


def read_parquet(
    name: str, path: Path, source: Source, columns: list[str]
) -> Iterator[Record | Fault]:
    """Records of a Parquet file, read in batches."""
    import pyarrow as pa
    from pyarrow import parquet

    about = f"source {source.name!r}: {name}"
    try:
        with parquet.ParquetFile(path) as table:
            need_columns(name, table.schema_arrow.names, source, columns)
            refuse_bomb(about, parquet_bytes(table), path.stat().st_size)
            number = 0
            for batch in table.iter_batches(128, columns=columns):
                for record in records_of(batch):
                    number += 1
                    yield f"{name}:{number}", record
    except (pa.ArrowException, OSError) as error:
        raise not_parquet(about, error) from None


def records_of(batch: Any) -> list[dict[str, Any]]:
    """A batch's rows; bytes that are not UTF-8 come as lone surrogates, as from other files."""
    import pyarrow as pa

    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        pass
    columns = []
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            raw = column.cast(pa.large_binary()).to_pylist()
            columns.append([b if b is None else b.decode("utf-8", "surrogateescape") for b in raw])
        else:
            columns.append(column.to_pylist())
    names = batch.schema.names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def parquet_header(name: str, path: Path, source: Source) -> list[str]:
    """Names of the columns of a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return list(parquet.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise not_parquet(f"source {source.name!r}: {name}", error) from None


def not_parquet(about: str, error: Exception) -> BadInput:
    """What is said of a file that is no Parquet or only a piece of one."""
    reason = str(error).splitlines()[0][:200]
    return BadInput(
        f"{about} cannot be read as Parquet: {reason}",
        "a whole Parquet file",
        "copy or export it again",
    )


def parquet_bytes(table: Any) -> int:
    """Bytes that a Parquet file says it unpacks to."""
    groups = range(table.metadata.num_row_groups)
    return sum(table.metadata.row_group(group).total_byte_size for group in groups)


def refuse_bomb(about: str, unpacked: int, packed: int) -> None:
    """Raise BadInput when a file unpacks to far more than its size."""
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * packed:
        raise BadInput(
            f"{about} unpacks to more than {BOMB_RATIO} times its {packed:,} bytes",
            "text, which packs to a tenth",
            "unpack it by hand and look at it",
        )


class Unpacking(io.RawIOBase):
    """A gzip stream that refuses to become a bomb."""

    def __init__(self, path: Path, about: str) -> None:
        self.about, self.packed = about, path.stat().st_size
        self.inner, self.count = gzip.GzipFile(path, "rb"), 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; BadInput when the stream is broken, cut short or a bomb."""
        try:
            piece = self.inner.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise BadInput(
                f"{self.about} is not a whole gzip file: {error}", "gzip", "pack it again"
            ) from None
        self.count += len(piece)
        refuse_bomb(self.about, self.count, self.packed)
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Close the file beneath too."""
        self.inner.close()
        super().close()


def open_text(name: str, path: Path, source: Source, newline: str | None = None) -> io.TextIOBase:
    """A file as text, without byte-order mark; bytes that are not of the encoding stay visible.

    They come as lone surrogates, so that the row that holds them can be rejected.
    """
    about = f"source {source.name!r}: {name}"
    try:
        encoding = codecs.lookup(source.encoding).name
    except LookupError:
        cure = "write utf-8, cp1252, latin-1 …"
        raise BadInput(f"{about}: no encoding {source.encoding!r}", "a codec", cure) from None
    packed = path.suffix.lower() == ".gz"
    inner: io.RawIOBase = Unpacking(path, about) if packed else io.FileIO(path)
    raw = io.BufferedReader(inner, 1 << 18)
    if encoding == "utf-8":
        encoding = "utf-8-sig"
        if peek(raw) in (b"\xff\xfe", b"\xfe\xff"):
            raw.close()
            raise BadInput(f"{about} is UTF-16", "UTF-8", "set encoding: utf-16 for this source")
    return io.TextIOWrapper(raw, encoding, errors="surrogateescape", newline=newline)


def peek(raw: io.BufferedReader[Any]) -> bytes:
    """The first two bytes, left where they are; the file is closed when it cannot be read."""
    try:
        return raw.peek(2)[:2]
    except BadInput:
        raw.close()
        raise


def bounded(lines: io.TextIOBase, name: str, source: Source) -> Iterator[str]:
    """Lines, none longer than the limit: a file of one endless line must not fill the memory."""
    number = 0
    while line := piece_of(lines, LINE_LIMIT, name, source):
        number += 1
        if len(line) == LINE_LIMIT:
            raise BadInput(
                f"source {source.name!r}: {name}, line {number} has over {LINE_LIMIT:,} characters",
                "lines of text",
                "check that the file is what its suffix says",
            )
        yield line


def piece_of(lines: io.TextIOBase, limit: int, name: str, source: Source) -> str:
    """The next line of at most ``limit`` characters; of the whole text when it is negative."""
    try:
        return lines.readline(limit) if limit > 0 else lines.read(-limit)
    except UnicodeError as error:
        raise BadInput(
            f"source {source.name!r}: {name} is not {source.encoding}: {error}",
            f"text in {source.encoding}",
            "set the encoding of this source",
        ) from None


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
    if source.labels and label not in source.labels:
        return Fault(origin, "unknown label", f"{label!r}; known: {sorted(source.labels)[:20]}")
    key = as_label(record[source.id]) if source.id else ""
    if key is None:
        return Fault(origin, *typed("id", record[source.id]))
    return Row(text, source.labels.get(label, label), key, origin)


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
    """A label or id as a string: strings, integers, booleans, whole floats; else None."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, str | int) else None


READERS: dict[str, Callable[[str, Path, Source, list[str]], Iterator[Record | Fault]]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_lines,
    ".ndjson": read_lines,
    ".json": read_object,
    ".parquet": read_parquet,
}
"""How each kind of file is read, by its suffix."""
