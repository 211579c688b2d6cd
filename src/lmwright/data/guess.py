"""A first look at a stranger's table: which column is the text, which the label, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.data.sources import Fault, Source, as_label, header_of, records, valid

LOOKED_AT = 200_000
"""Records that are looked at; tables are often sorted by label, so a head would not do."""

OTHER = "cp1252"
"""How a text file that is not UTF-8 is read: Windows writes so in western Europe."""

MOST_VALUES = 50
"""A column with more different values is no label."""

TEXT_NAMES = frozenset(
    (
        "text",
        "review",
        "content",
        "message",
        "body",
        "comment",
        "sentence",
        "document",
        "question",
        "utterance",
    )
)
LABEL_NAMES = frozenset(
    (
        "label",
        "labels",
        "class",
        "category",
        "sentiment",
        "target",
        "intent",
        "topic",
        "tag",
        "rating",
        "stars",
        "y",
    )
)


@dataclass
class Column:
    """What was seen of one column: counts, never the texts."""

    name: str
    filled: int = 0
    strings: int = 0
    words: int = 0
    values: Counter[str] = field(default_factory=Counter)

    def see(self, value: Any) -> None:
        """Count one value."""
        plain = as_label(value)
        if plain is None or not plain.strip():
            return
        self.filled += 1
        self.strings += isinstance(value, str)
        self.words += len(plain.split())
        if len(self.values) <= MOST_VALUES:
            self.values[plain[:200]] += 1

    @property
    def mean_words(self) -> float:
        """Words in a filled value."""
        return self.words / max(self.filled, 1)


@dataclass(frozen=True)
class Guess:
    """What to write into a recipe: the source, how often each label occurs, and the reasons."""

    source: Source
    labels: dict[str, int]
    reasons: tuple[str, ...]


def guess_source(path: Path, text: str = "", label: str = "") -> Guess:
    """A source for the table at ``path``; columns given as ``text`` or ``label`` are taken.

    Raises BadInput, naming the columns found, when no column or more than one could be meant.
    """
    name = "".join(sign if sign.isalnum() else "-" for sign in path.name.split(".")[0]).strip("-")
    source = Source(name=name or "table", path=str(path))
    columns, rows, broken = look(source)
    if broken:
        source = replace(source, encoding=OTHER)
        columns, rows, _ = look(source)
    for asked in filter(None, (text, label)):
        if asked not in columns:
            raise BadInput(f"{path.name} has no column {asked!r}", f"one of {list(columns)}")
    of_text, why_text = (columns[text], "as asked") if text else guess_text(columns, path)
    rest = {key: column for key, column in columns.items() if column is not of_text}
    of_label, why_label = (columns[label], "as asked") if label else guess_label(rest, path)
    if len(of_label.values) > MOST_VALUES:
        raise BadInput(
            f"{path.name}: column {of_label.name!r} has over {MOST_VALUES} different values",
            "a column of labels",
        )
    found = replace(source, text=of_text.name, label=of_label.name)
    reasons: tuple[str, ...] = (
        f"{rows:,} rows looked at",
        f"text is {of_text.name!r}: {why_text}, {of_text.mean_words:.0f} words on average",
        f"label is {of_label.name!r}: {why_label}, {len(of_label.values)} different values",
    )
    if broken:
        reasons += (
            f"it is not UTF-8, so it is read as {OTHER}: look whether its letters are right",
        )
    return Guess(found, dict(sorted(of_label.values.items())), reasons)


def look(source: Source) -> tuple[dict[str, Column], int, bool]:
    """Every column of the source's table with what was seen in it, the rows looked at, and whether
    the encoding is another: more rows have bytes that it does not know than have other letters than
    ASCII's that it knows.
    """
    header = header_of(source)
    columns = {name: Column(name) for name in header if name}
    rows, beyond, unknown = 0, 0, 0
    for found in islice(records(source, list(columns)), LOOKED_AT):
        if isinstance(found, Fault):
            continue
        rows += 1
        for name, value in found[1].items():
            columns[name].see(value)
        read = "".join(value for value in found[1].values() if isinstance(value, str))
        beyond += not read.isascii()
        unknown += not valid(read)
    if not rows:
        raise BadInput(f"{source.path} has no rows", "a header and rows under it")
    return columns, rows, 2 * unknown > beyond


def guess_text(columns: dict[str, Column], path: Path) -> tuple[Column, str]:
    """The column of texts: one with a usual name that holds prose, or that with most words."""
    prose = [c for c in columns.values() if c.strings and c.mean_words >= 2 and len(c.values) > 2]
    named = [c for c in prose if c.name.strip().lower() in TEXT_NAMES]
    if not prose:
        raise unclear(columns, path, "holds texts of several words", "text")
    best = max(named or prose, key=lambda column: column.mean_words)
    return best, "its name says so" if named else "no other column has longer texts"


def guess_label(columns: dict[str, Column], path: Path) -> tuple[Column, str]:
    """The column of labels: few values, each on several rows; a usual name decides."""
    few = [
        column
        for column in columns.values()
        if 2 <= len(column.values) <= MOST_VALUES and column.filled >= 2 * len(column.values)
    ]
    named = [column for column in few if column.name.strip().lower() in LABEL_NAMES]
    if len(named or few) != 1:
        raise unclear(columns, path, "alone looks like labels", "label")
    return (named or few)[0], "its name says so" if named else "no other has few values"


def unclear(columns: dict[str, Column], path: Path, what: str, which: str) -> BadInput:
    """What is said when no column, or more than one, can be the one that is sought."""
    seen = ", ".join(
        f"{column.name!r} ({len(column.values)}{'+' * (len(column.values) > MOST_VALUES)} values, "
        f"{column.mean_words:.0f} words)"
        for column in columns.values()
    )
    return BadInput(
        f"{path.name}: no column {what}; it has {seen or 'no other column'}",
        f"a column for the {which}",
        f"name it with --{which} COLUMN",
    )
