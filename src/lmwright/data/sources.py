"""Where rows come from: tables and text files, read as a stream of rows and faults.

A bad row becomes a :class:`Fault` with its file, row number and reason; nothing is dropped in
silence. A fault of a whole file (missing, cut short, a bomb) raises BadInput.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from lmwright.assets import asset_file, asset_hash, is_asset
from lmwright.core.columns import Column, Unfit, as_label, canonical, mistyped
from lmwright.core.errors import BadInput, nearest
from lmwright.core.hashing import hash_file, hash_json
from lmwright.core.random import stream
from lmwright.core.settings import Choice, kind_of, read_choice
from lmwright.core.stage import INERT, Settings
from lmwright.data.formats.choose import read_table
from lmwright.data.formats.opener import ANOTHER
from lmwright.data.formats.record import Fault, NoColumn, Record, Table
from lmwright.data.shape import COLUMN, Shape, fitting_shape, shape_of, shaped
from lmwright.tables import resolve

SIDE = ("cluster", "group", "time", "annotator", "weight")
"""Side columns: they stand beside a task's own, are no model input and no part of identity."""


@dataclass(frozen=True, kw_only=True)
class Source(Settings):
    """One origin of rows and how to read it.

    ``name``       of letters, digits, - and _; reports, lineage and withdrawals go by it.
    ``path``       a file, a pattern with stars, or ``asset:NAME/path/inside``; a relative one is
                   taken from the recipe's folder, and where nothing is there from the working one.
    ``files``      ``tables``, told apart by content; ``texts``: every file is one row, with
                   the columns ``text`` (the whole file), ``title`` (its first line that is not
                   blank), ``body`` (what follows), ``folder`` (that holds it) and ``file``.
    ``columns``    column of the task -> column (key in JSON) of the file; by default of its name.
    ``constants``  column of the task -> its value in every row, where no column holds one.
    ``values``     column of the task -> value in the file -> value wanted; a value that is not
                   among them is a fault of its row.
    ``side``       side column (group, time, annotator, weight) -> column of the file.
    ``id``         a column that must not repeat; rows that repeat it are rejected.
    ``where``      column -> value: only rows that agree are read.
    ``encoding``   of text files. Where it is ``utf-8``, files that are plainly UTF-16 or cp1252
                   (Windows in western Europe) are read as that.
    ``licence``    stands beside every row.
    ``role``       ``train``: rows to be split; ``test``: kept whole as a test set of its own.
    ``limit``      at most so many rows, drawn at random; 0 means all.
    ``shape``      how the file holds conversations, where it has no ``messages`` of ``role`` and
                   ``content``: an entry of the table of shapes, or a mapping with ``kind`` and
                   its settings. By default the rows tell.
    ``derive``     rows made of those that were read: an entry of the table of derivations, or a
                   mapping with ``kind`` and its settings.
    """

    name: str
    path: str = field(metadata=INERT)
    files: Literal["tables", "texts"] = "tables"
    columns: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    values: dict[str, dict[str, str]] = field(default_factory=dict)
    side: dict[Literal["cluster", "group", "time", "annotator", "weight"], str] = field(
        default_factory=dict
    )
    id: str = ""
    where: dict[str, str] = field(default_factory=dict)
    encoding: str = "utf-8"
    licence: str = "unknown"
    role: Literal["train", "test"] = "train"
    limit: int = 0
    shape: Choice | None = None
    derive: Choice | None = None

    def column(self, name: str) -> str:
        """The column of the file that holds a column of the task."""
        return self.columns.get(name, name)


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it stands in its file: values by the task's columns, and where it was found."""

    values: dict[str, Any]
    id: str
    origin: str
    side: dict[str, str]

    @property
    def characters(self) -> int:
        """Characters of its texts."""
        return sum(map(characters_of, self.values.values()))


def characters_of(value: Any) -> int:
    """Characters of all texts in a value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(characters_of, value.values()))
    return sum(map(characters_of, value)) if isinstance(value, list | tuple) else 0


class Derivation(Protocol):
    """How the rows of a source are made into others, which are synthetic.

    ``columns`` names the columns of the task that it reads or fills, ``side`` the side columns that
    it fills.
    """

    columns: ClassVar[tuple[str, ...]]
    side: ClassVar[tuple[str, ...]]

    def reads(self) -> tuple[str, ...]:
        """Columns of the file that it reads beside the task's; rows have them in ``side``, where
        lists and objects stand as JSON."""

    def rows(
        self, rows: Iterator[RawRow | Fault], rng: np.random.Generator
    ) -> Iterator[RawRow | Fault]:
        """The rows made of those that were read, of which faults go through."""


def derivation_of(source: Source) -> Derivation | None:
    """How a source's rows are derived, if they are; BadInput where ``side`` names the same."""
    if source.derive is None:
        return None
    where = f"source {source.name!r}: derive"
    found: Derivation = read_choice("derivations", source.derive, where, resolve)
    if twice := sorted({*found.side, *found.reads()} & set(source.side)):
        raise BadInput(
            f"source {source.name!r}: side has {twice[0]!r}, which derive fills or reads",
            "one of them",
            f"take {twice[0]} out of side",
        )
    return found


def side_of(source: Source) -> dict[str, str]:
    """Every column that stands beside the task's while rows are read -> column of the file."""
    derivation = derivation_of(source)
    read = derivation.reads() if derivation else ()
    found: dict[str, str] = dict(source.side.items())
    return found | {name: name for name in read}


UNDECODED = f"bytes that it does not know: {ANOTHER}"


def read_source(
    source: Source, columns: Sequence[Column], seed: int = 0
) -> Iterator[RawRow | Fault]:
    """The rows of a source in the order of its files, and a Fault for each that is unfit.

    ``columns`` are the task's inputs and targets.

    With a limit, the rows are drawn without replacement under ``seed`` and read in order.
    Raises BadInput for a fault of a whole file.
    """
    check_columns(source, columns)
    derivation = derivation_of(source)
    rows = chosen_rows(source, columns, seed)
    if derivation is None:
        return rows
    return derivation.rows(rows, stream(seed, "derive", source.name))


def chosen_rows(source: Source, columns: Sequence[Column], seed: int) -> Iterator[RawRow | Fault]:
    """The rows as they stand in the files, those that the limit leaves."""
    wanted, optional = columns_of(source, columns), optional_columns(source, columns)
    chosen = choose(source, wanted, seed) if source.limit else None
    side = side_of(source)
    for ordinal, found in enumerate(records_where(source, wanted, optional)):
        if chosen is None or (ordinal < len(chosen) and chosen[ordinal]):
            yield found if isinstance(found, Fault) else as_row(source, columns, side, *found)


def source_files(source: Source) -> list[tuple[str, Path]]:
    """The files of a source in order: a name that is the same on every machine, and the path.

    Names of text files begin with the folder that holds them, or in which the pattern begins; a
    link to a file beyond that folder is refused.
    """
    path = asset_file(source.path) if is_asset(source.path) else Path(source.path).expanduser()
    if path.exists() or not glob.has_magic(str(path)):
        holder = f"{path.resolve().parent.name}/" if source.files == "texts" else ""
        return [(printable(holder + path.name), checked(path, source))]
    root = Path(*path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])
    paths = sorted(root.glob(path.relative_to(root).as_posix()))
    refuse_dangling(paths, source)
    above = root
    if source.files == "texts":
        root = root.resolve()
        paths, above = [root / each.relative_to(above) for each in paths], root.parent
        refuse_links(paths, root, source)
    files = [(found.relative_to(above).as_posix(), found) for found in paths if found.is_file()]
    if not files:
        raise BadInput(
            f"source {source.name!r}: no file matches {source.path}",
            "at least one file",
            "check the folder and the pattern",
        )
    return [(printable(name), checked(found, source)) for name, found in files]


def refuse_dangling(paths: Sequence[Path], source: Source) -> None:
    """Raise BadInput where one of the files is a link to nothing, or to itself."""
    for path in paths:
        if path.is_symlink() and not path.exists():
            raise BadInput(
                f"source {source.name!r}: {path} is a link to {path.readlink()}",
                "a link to a file that is there",
                "remove the link, or bring the file back",
            )


def refuse_links(paths: Sequence[Path], root: Path, source: Source) -> None:
    """Raise BadInput where one of the files is a link to a file beyond the folder ``root``."""
    for path in paths:
        if not path.resolve().is_relative_to(root):
            raise BadInput(
                f"source {source.name!r}: {path} is a link to {path.resolve()}",
                f"files below {root}",
                "copy the file there, or remove the link",
            )


def printable(name: str) -> str:
    """A file's name with bytes that are not UTF-8 as escapes, so that tables can hold it."""
    return name.encode("utf-8", "backslashreplace").decode()


def located_source(raw: Any, folder: Path) -> Any:
    """The raw settings of a source with a relative path taken from ``folder``."""
    path = raw.get("path") if isinstance(raw, dict) else None
    if not isinstance(path, str) or is_asset(path) or Path(path).expanduser().is_absolute():
        return raw
    here = folder / path
    return raw if not is_there(here) and is_there(Path(path)) else {**raw, "path": str(here)}


def is_there(path: Path) -> bool:
    """Whether a file stands at a path, or one matches it as a pattern."""
    return path.exists() or any(glob.iglob(str(path)))  # noqa: PTH207 - of absolute patterns too


def place_of(source: Source) -> str:
    """The source's path without the folder that it lies in: what its rows' origins are told by."""
    if is_asset(source.path):
        return source.path
    path = Path(source.path)
    parts = path.parts if not path.exists() else path.parts[-1:]
    stars = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return printable("/".join(parts[stars:]))


def source_hash(source: Source) -> str:
    """A hash of the names and content of the source's files; of an asset, of its address and its
    pinned hash."""
    if is_asset(source.path):
        return hash_json({source.path: asset_hash(source.path)})
    return hash_json({name: hash_file(path) for name, path in source_files(source)})


def checked(path: Path, source: Source) -> Path:
    """The path, if a file with something in it stands there."""
    about = f"source {source.name!r}: {path}"
    if path.is_dir():
        pattern = "*/*.txt" if source.files == "texts" else "*.csv"
        raise BadInput(f"{about} is a directory", "a file", f"write a pattern: {path}/{pattern}")
    if not path.exists():
        raise BadInput(
            f"{about} does not exist",
            "a file",
            "check the path"
            if path.is_absolute()
            else f"write a path from the recipe's folder; this one is taken from {Path.cwd()}",
        )
    if not path.is_file():
        raise BadInput(f"{about} is a device, pipe or socket", "a file", "copy it to a file first")
    if path.stat().st_size == 0 and source.files != "texts":
        raise BadInput(f"{about} is empty", "at least a header and a row", "export the file again")
    return path


def check_columns(source: Source, columns: Sequence[Column]) -> None:
    """Raise BadInput where a source names a column that the task has not."""
    known = [column.name for column in columns]
    for setting in ("columns", "constants", "values"):
        for name in getattr(source, setting):
            if name not in known:
                raise BadInput(
                    f"source {source.name!r}: {setting} has {name!r}",
                    "a column of the task: " + ", ".join(known),
                    nearest(name, known),
                )
    if source.shape is not None and COLUMN not in known:
        raise BadInput(
            f"source {source.name!r}: shape is {kind_of(source.shape)}, and the task has the "
            f"columns {', '.join(known)}",
            "a task of conversations",
            "take shape out of the source, or set task to chat",
        )
    derivation = derivation_of(source)
    if derivation is not None and not {*derivation.columns} <= {*known}:
        kind = kind_of(source.derive or "")
        raise BadInput(
            f"source {source.name!r}: derive is {kind}, and the task has the columns "
            f"{', '.join(known)}",
            f"a task with the columns {', '.join(derivation.columns)}",
            "take derive out of the source, or set another task",
        )


def choose(source: Source, columns: list[str], seed: int) -> np.ndarray:
    """Which of the matching records are read under the limit: bool (records,)."""
    count = sum(1 for _ in records_where(source, columns))
    drawn = stream(seed, "limit", source.name).permutation(count)[: source.limit]
    mask = np.zeros(count, bool)
    mask[drawn] = True
    return mask


def records_where(
    source: Source, columns: list[str], optional: Sequence[str] = ()
) -> Iterator[Record | Fault]:
    """Records of all files that agree with ``where``; faults too, since they might have."""
    wanted = {column: as_label(value) for column, value in source.where.items()}
    for found in records(source, columns, optional):
        if isinstance(found, Fault) or all(
            as_label(found[1].get(column)) == value for column, value in wanted.items()
        ):
            yield found


def records(
    source: Source, columns: list[str], optional: Sequence[str] = ()
) -> Iterator[Record | Fault]:
    """(origin, columns) of every record in every file: those asked for and, where it has them, the
    ``optional`` ones; or all that it has."""
    for name, path in source_files(source):
        about = f"source {source.name!r}: {name}"
        own = tuple(optional)
        table = Table(about, name, path, source.encoding, optional=own, files=source.files)
        yield from table_records(source, table, columns)


def table_records(source: Source, table: Table, columns: list[str]) -> Iterator[Record | Fault]:
    """The records of one file; of one in another shape than ours, those that its shape makes."""
    if source.shape is not None:
        shape = shape_of(source.shape, f"source {source.name!r}: shape")
        return shaped_records(shape, table, columns)
    records = read_table(table, columns)
    if COLUMN not in columns:
        return records
    first: list[Record | Fault] = []
    try:
        first += islice(records, 1)
    except NoColumn:
        if not (name := fitting_shape(read_table(table, []))):
            raise
    else:
        lacking = any(isinstance(each, Fault) and each.reason == "missing key" for each in first)
        if not lacking or not (name := fitting_shape(read_table(table, []))):
            return chain(first, records)
    return shaped_records(shape_of(name, "shape"), table, columns)


def shaped_records(shape: Shape, table: Table, columns: list[str]) -> Iterator[Record | Fault]:
    """The records of a file in a shape: a shape gives whole conversations, so no column that may
    be left out is read."""
    for found in read_table(replace(table, optional=()), []):
        yield shaped(shape, found, columns)


def columns_of(source: Source, columns: Sequence[Column]) -> list[str]:
    """The columns of the file that are read, in order and once each."""
    own = [
        source.column(each.name)
        for each in columns
        if each.name not in source.constants
        and (each.default is None or each.name in source.columns)
    ]
    every = [*own, *side_of(source).values(), *([source.id] if source.id else []), *source.where]
    return list(dict.fromkeys(every))


def optional_columns(source: Source, columns: Sequence[Column]) -> list[str]:
    """The columns of the file that are read where it has them: those with a default that the
    source neither maps nor sets."""
    return [
        each.name
        for each in columns
        if each.default is not None
        and each.name not in source.constants
        and each.name not in source.columns
    ]


def as_row(
    source: Source,
    columns: Sequence[Column],
    beside: Mapping[str, str],
    origin: str,
    record: Mapping[str, Any],
) -> RawRow | Fault:
    """The row that a record holds, with the columns ``beside`` it, or why it cannot be used."""
    values: dict[str, Any] = {}
    for column in columns:
        given = source.constants.get(column.name, record.get(source.column(column.name)))
        try:
            value = column.read(given)
        except Unfit as unfit:
            if unfit.reason == "undecodable":
                return Fault(origin, "not " + source.encoding, UNDECODED)
            return Fault(origin, unfit.reason, unfit.detail)
        if mapped := source.values.get(column.name):
            wanted = {as_label(name): each for name, each in mapped.items()}
            if value not in wanted:
                detail = f"{value!r}; known: {sorted(mapped)[:20]}"
                return Fault(origin, f"unknown {column.name}", detail)
            value = wanted[value]
        values[column.name] = value
    key = as_label(record[source.id]) if source.id else ""
    if key is None:
        wrong = mistyped("id", record[source.id], "text")
        return Fault(origin, wrong.reason, wrong.detail)
    side: dict[str, str] = {}
    for name, place in beside.items():
        found = record[place]
        whole = isinstance(found, list | dict) and name not in source.side
        side[name] = canonical(found) if whole else as_label(found) or ""
    return RawRow(values, key, origin, side)
