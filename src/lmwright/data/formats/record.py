"""Records and faults, which every format gives, and the file of a source that it is given."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput, nearest

Record = tuple[str, dict[str, Any]]
"""Where a record was found, and its columns."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that cannot be used: its place, a reason that can be counted, and the detail."""

    origin: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One file: what messages call it, its name in origins, its path and its encoding.

    The encoding is the declared one until it is ``settled``: read off the file's bytes. Whether
    ``files`` are ``tables``, told apart by content, or ``texts``, each one record, its source says.
    ``optional`` columns are read beside those that are asked for, where the file has them.
    """

    about: str
    name: str
    path: Path
    encoding: str = "utf-8"
    settled: bool = False
    optional: tuple[str, ...] = ()
    files: str = "tables"

    @property
    def suffix(self) -> str:
        """The last suffix of the name, in small letters, without that of packing."""
        return Path(self.name.lower().removesuffix(".gz")).suffix


class NoColumn(BadInput):
    """A file without a column that was asked for: the column, and those that it has."""

    def __init__(self, table: Table, column: str, header: list[str]) -> None:
        super().__init__(
            f"{table.about} has no column {column!r}, but {header[:20]}",
            f"the column {column!r}",
            nearest(column, header),
        )
        self.column, self.header = column, header


def single(header: list[str]) -> list[str]:
    """The columns that have a name which no other has."""
    return [name for name, count in Counter(header).items() if name and count == 1]


def asked_columns(table: Table, header: list[str], columns: list[str]) -> list[str]:
    """The columns to be read: those asked for and the optional ones that are there, or all whose
    names differ where none is asked for."""
    return [*columns, *(each for each in table.optional if each in header)] or single(header)


def need_columns(table: Table, header: list[str], columns: list[str]) -> None:
    """Raise BadInput unless the file has every one of the columns, once."""
    for column in columns:
        if column not in header:
            raise NoColumn(table, column, header)
        if header.count(column) > 1:
            raise BadInput(
                f"{table.about} has {header.count(column)} columns {column!r}",
                "names that differ",
                "rename one of them",
            )
