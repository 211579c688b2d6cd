"""A first look at a stranger's table: which column is the text, which the label, and why."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.data.formats.choose import settled
from lmwright.data.formats.opener import ANOTHER
from lmwright.data.formats.record import Fault, Table
from lmwright.data.sources import Source, as_label, read_source, records, source_files

LOOKED_AT = 200_000
"""Records that are looked at; tables are often sorted by label, so a head would not do."""

MOST_VALUES = 50
"""A column with more different values is not taken for the label unless it is named."""

MOST_FAULTY = 0.1
"""A table of which a larger share cannot be used is refused, as by the stage data."""

WHOLE = 64
"""Characters of a value that is kept as it is; of a longer one a hash is."""

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
            self.values[key_of(plain)] += 1

    @property
    def mean_words(self) -> float:
        """Words in a filled value."""
        return self.words / max(self.filled, 1)


def key_of(value: str) -> str:
    """A value, or a hash of all of it where it is long."""
    if len(value) <= WHOLE:
        return value
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Guess:
    """What to write into a recipe: the source, how often each label occurs, and the reasons."""

    source: Source
    labels: dict[str, int]
    reasons: tuple[str, ...]


def guess_source(path: Path, text: str = "", label: str = "", encoding: str = "") -> Guess:
    """A source for the table at ``path``; columns given as ``text`` or ``label`` are taken.

    Raises BadInput, naming the columns found, when no column or more than one could be meant, and
    for a table that the stage data would refuse.
    """
    name = "".join(sign if sign.isalnum() else "-" for sign in path.name.split(".")[0]).strip("-")
    source = Source(name=name or "table", path=str(path), encoding=encoding or Source.encoding)
    codec = codec_of(source)
    source = replace(source, encoding=codec)
    columns = look(source)
    for asked in filter(None, (text, label)):
        if asked not in columns:
            raise BadInput(f"{path.name} has no column {asked!r}", f"one of {list(columns)}")
    of_text, why_text = (columns[text], "as asked") if text else guess_text(columns, path)
    rest = {key: column for key, column in columns.items() if column is not of_text}
    of_label, why_label = (columns[label], "as asked") if label else guess_label(rest, path)
    found = replace(source, text=of_text.name, label=of_label.name)
    labels, skipped = count(found)
    refuse(path, found, labels, skipped)
    rows = labels.total() + skipped.total()
    reasons: tuple[str, ...] = (
        f"{rows:,} rows looked at",
        f"text is {of_text.name!r}: {why_text}, {of_text.mean_words:.0f} words on average",
        f"label is {of_label.name!r}: {why_label}, {len(labels)} different values",
    )
    if skipped:
        reasons += (f"{skipped.total():,} rows cannot be used: {listed(skipped)}",)
    if codec != Source.encoding and not encoding:
        reasons += (
            f"it is not UTF-8, so it is read as {codec}: look whether its letters are right",
        )
    return Guess(found, dict(sorted(labels.items())), reasons)


def codec_of(source: Source) -> str:
    """The encoding to be written into a recipe: what the bytes of a source's first file show."""
    name, path = source_files(source)[0]
    found = settled(Table(f"source {source.name!r}: {name}", name, path, source.encoding)).encoding
    return Source.encoding if found == "utf-8-sig" else found


def look(source: Source) -> dict[str, Column]:
    """Every column of the source's table, also one that only some rows have, with what was seen."""
    columns: dict[str, Column] = {}
    for found in islice(records(source, []), LOOKED_AT):
        if not isinstance(found, Fault):
            for name, value in found[1].items():
                columns.setdefault(name, Column(name)).see(value)
    if not columns:
        raise BadInput(f"{source.path} has no rows", "a header and rows under it")
    return columns


def count(source: Source) -> tuple[Counter[str], Counter[str]]:
    """How often each label stands beside a text, and the reasons why other rows are not used."""
    labels: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for row in islice(read_source(source), LOOKED_AT):
        if isinstance(row, Fault):
            skipped[row.reason] += 1
        elif not row.text.strip():
            skipped["no text"] += 1
        else:
            labels[row.label] += 1
    return labels, skipped


def refuse(path: Path, source: Source, labels: Counter[str], skipped: Counter[str]) -> None:
    """Raise BadInput for rows that no recipe could learn from."""
    rows, bad = labels.total() + skipped.total(), skipped.total()
    if not labels or bad > max(MOST_FAULTY * rows, 1):
        coded = any(reason.startswith("not ") for reason in skipped)
        raise BadInput(
            f"{path.name}: {bad:,} of {rows:,} rows cannot be used: {listed(skipped)}",
            f"texts in {source.text!r} and labels in {source.label!r}",
            ANOTHER if coded else "mend the table, or name other columns with --text and --label",
        )
    if len(labels) < 2 or labels.total() < 2 * len(labels):
        raise BadInput(
            f"{path.name}: column {source.label!r} has {len(labels):,} different values in "
            f"{labels.total():,} rows",
            "a column of labels: at least two, each on several rows",
            "name it with --label COLUMN",
        )


def listed(skipped: Counter[str]) -> str:
    """Reasons with how often each was met."""
    return ", ".join(f"{reason} ({number:,})" for reason, number in skipped.most_common())


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
