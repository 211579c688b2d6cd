"""A first look at a stranger's table: which column is the text, which the label, and why."""

from __future__ import annotations

import ast
import glob
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lmwright.core.columns import as_label
from lmwright.core.errors import BadInput, nearest
from lmwright.core.task import Task, role_columns
from lmwright.data.formats.choose import settled
from lmwright.data.formats.opener import ANOTHER
from lmwright.data.formats.record import Fault, NoColumn, Table
from lmwright.data.formats.text_file import SUFFIXES
from lmwright.data.gather import batches, clean, digest, parts_of
from lmwright.data.prepare import Data
from lmwright.data.shape import COLUMN, fitting_shape
from lmwright.data.sources import SIDE, Source, read_source, records, source_files
from lmwright.tables import entries, resolve

TASK = "text-classification"
"""The task for which columns are guessed."""

LOOKED_AT = 200_000
"""Records that are looked at; tables are often sorted by label, so a head would not do."""

MOST_VALUES = 50
"""A column with more different values is not taken for the label unless it is named."""

MOST_NUMBERS = 20
"""More different numbers, fractions among them, are amounts and no labels."""

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


TARGET_NAMES = LABEL_NAMES | {
    "tags", "topics", "categories", "intents", "entities", "spans", "ner_tags", "score", "answers",
}  # fmt: skip
"""Usual names of targets of any task."""

PAIRS = {
    ("sentence1", "sentence2", "score"): "sentence-similarity",
    ("query", "document"): "text-ranking",
    ("premise", "hypothesis"): "text-pair-classification",
    ("sentence1", "sentence2"): "text-pair-classification",
    ("sentence_1", "sentence_2"): "text-pair-classification",
    ("sentence_a", "sentence_b"): "text-pair-classification",
    ("question1", "question2"): "text-pair-classification",
    ("text1", "text2"): "text-pair-classification",
    ("text_a", "text_b"): "text-pair-classification",
    ("text", "text_pair"): "text-pair-classification",
    ("context", "question"): "question-answering",
}
"""Usual names of two texts that make one row (and of their target, where it tells the task), and
the task that such rows are for."""

SHAPES = {
    "labels": ("lists of labels", "multi-label-classification"),
    "spans": ("spans of characters with a label", "token-classification"),
    "scores": ("lists of fractions", ""),
    "records": ("objects", ""),
}
"""Shape of a target -> its name in words, and the task that it fits."""

NUMBER = re.compile(r"[+-]?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?")


@dataclass
class Column:
    """Counts of the values of one column, never the texts.

    ``shapes`` counts values that are no label: lists, spans, objects.
    """

    name: str
    filled: int = 0
    strings: int = 0
    words: int = 0
    numbers: int = 0
    fractions: int = 0
    values: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)

    def see(self, value: Any) -> None:
        """Count one value."""
        if shape := shape_of(value):
            self.shapes[shape] += 1
            return
        plain = as_label(value)
        if plain is None or not plain.strip():
            return
        self.filled += 1
        self.strings += isinstance(value, str)
        self.words += len(plain.split())
        if NUMBER.fullmatch(plain.strip()):
            self.numbers += 1
            self.fractions += not float(plain).is_integer()
        if len(self.values) <= MOST_VALUES:
            self.values[key_of(plain)] += 1

    @property
    def mean_words(self) -> float:
        """Words in a filled value."""
        return self.words / max(self.filled, 1)

    @property
    def shape(self) -> str:
        """The commonest shape of its values that are no label; "" where these are rare faults."""
        count = self.shapes.total()
        if count <= MOST_FAULTY * (self.filled + count):
            return ""
        return self.shapes.most_common(1)[0][0]

    @property
    def amounts(self) -> bool:
        """True for numbers, fractions among them, with many values."""
        common = self.numbers >= (1 - MOST_FAULTY) * max(self.filled, 1)
        return common and self.fractions > 0 and len(self.values) > MOST_NUMBERS


def shape_of(value: Any) -> str:
    """The shape of a value that is no label, also of a list written as text; else ""."""
    if isinstance(value, str):
        if not (value.startswith("[") and value.endswith("]")):
            return ""
        value = list_in(value)
    elif isinstance(value, list | tuple) and len(value) == 1 and as_label(value) is not None:
        return ""  # one label, as every format reads it
    if isinstance(value, Mapping):
        return "records"
    if not isinstance(value, list | tuple):
        return ""
    if value and all(isinstance(each, Mapping) for each in value):
        return "spans" if {"start", "end"} <= set(value[0]) else "records"
    if any(isinstance(each, float) and not each.is_integer() for each in value):
        return "scores"
    return "labels"


def list_in(text: str) -> Any:
    """The list that a text in brackets is, in JSON or as Python prints it; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def key_of(value: str) -> str:
    """A value, or a hash of all of it where it is long."""
    if len(value) <= WHOLE:
        return value
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Guess:
    """The source for a recipe, its rows by label (or stratum) without repeats, and the reasons."""

    source: Source
    labels: dict[str, int]
    reasons: tuple[str, ...]


@dataclass
class Counts:
    """Rows by label, all and without repeats; unusable rows by reason; repeats, contradictions."""

    given: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    conflicts: int = 0

    @property
    def rows(self) -> int:
        """All rows that were looked at."""
        return self.given.total() + self.skipped.total()


def guess_table(
    table: Path, text: str, label: str, task: str, columns: Sequence[str], encoding: str
) -> Guess:
    """The source in a table: guessed for text-classification, else by the names of its columns
    (NAME=COLUMN, where the table names one otherwise)."""
    if task == TASK:
        if columns:
            raise BadInput("--column without --task", "--text or --label", "name both columns so")
        return guess_source(table, text, label, encoding)
    if text or label:
        cure = "say --column NAME=COLUMN"
        raise BadInput(f"--text or --label with --task {task}", "columns of that task", cure)
    given = dict(each.partition("=")[::2] for each in columns)
    if not all(given.values()):
        raise BadInput(f"--column {' '.join(columns)}", "NAME=COLUMN", "name both")
    return named_source(table, resolve("tasks", task)(), given, encoding)


def source_settings(source: Source, place: str) -> dict[str, Any]:
    """What a recipe says of a source whose files are at ``place``."""
    found: dict[str, Any] = {"name": source.name, "path": place}
    if source.files != Source.files:
        found["files"] = source.files
    if source.columns:
        found["columns"] = source.columns
    if source.side:
        found["side"] = dict(source.side)
    if source.encoding != Source.encoding:
        found["encoding"] = source.encoding
    return found


def guess_source(path: Path, text: str = "", label: str = "", encoding: str = "") -> Guess:
    """A source for the table at ``path``; columns given as ``text`` or ``label`` are taken.

    Of a folder with a folder of text files for each label the texts are whole files. Raises
    BadInput, naming the columns found, when no column or more than one could be meant; for targets
    of another task, which it names; and for a table that the stage data would refuse.
    """
    source = bare_source(path, encoding)
    codec = source.encoding
    columns = look(source)
    asked_text = asked_label = "as asked"
    if source.files == "texts":
        if not label and len(columns["folder"].values) < 2:
            raise BadInput(
                f"the text files below {path} are all in one folder",
                "a folder for each label, with its texts as .txt files",
                "sort the files into folders, or name another task with --task",
            )
        asked_text = asked_text if text else "every file is one text"
        asked_label = asked_label if label else "the folders that hold the files"
        text, label = text or "text", label or "folder"
    for asked in filter(None, (text, label)):
        if asked not in columns:
            refuse_twice(source, [asked])
            raise BadInput(f"{path.name} has no column {asked!r}", f"one of {list(columns)}")
    if not text:
        refuse_pairs(columns, path)
    try:
        of_text, why_text = (columns[text], asked_text) if text else guess_text(columns, path)
        rest = {key: column for key, column in columns.items() if column is not of_text}
        of_label, why_label = (columns[label], asked_label) if label else guess_label(rest, path)
    except BadInput:
        refuse_twice(source, {*TEXT_NAMES, *LABEL_NAMES} - {*columns})
        raise
    doubt = refuse_other_targets(of_label, path)
    named = {"text": of_text.name, "label": of_label.name}
    found = replace(source, columns={key: own for key, own in named.items() if key != own})
    counts = count(found, resolve("tasks", TASK)())
    refuse(path, found, counts)
    reasons: tuple[str, ...] = (
        f"{counts.rows:,} rows looked at",
        f"text is {of_text.name!r}: {why_text}, {of_text.mean_words:.0f} words on average",
        f"label is {of_label.name!r}: {why_label}, {len(counts.labels)} different values",
        *doubt,
    )
    if counts.repeats:
        reasons += (f"{counts.repeats:,} rows repeat others and are left out",)
    if counts.conflicts:
        reasons += (f"{counts.conflicts:,} rows have a text with several labels and are left out",)
    if counts.skipped:
        number = counts.skipped.total()
        reasons += (f"{number:,} rows cannot be used: {listed(counts.skipped)}",)
    if codec != Source.encoding and not encoding:
        reasons += (
            f"it is not UTF-8, so it is read as {codec}: look whether its letters are right",
        )
    return Guess(found, dict(sorted(counts.labels.items())), reasons)


def named_source(path: Path, task: Task, given: Mapping[str, str], encoding: str = "") -> Guess:
    """A source of rows for ``task`` from a table whose columns are called as the task's are.

    ``given`` maps columns of the task to those of the table that are called otherwise. Side
    columns are taken where the table has one of that name. The guess counts rows by the task's
    strata. BadInput, naming the columns found, where one is not there.
    """
    wanted = role_columns(task, "input", "target")
    source = bare_source(path, encoding)
    columns = look(source)
    for name in given:
        if name not in [each.name for each in wanted]:
            known = [each.name for each in wanted]
            raise BadInput(
                f"--column {name}={given[name]}: the task has no column {name!r}",
                "one of " + ", ".join(known),
                nearest(name, known),
            )
    shape = "" if COLUMN in given else shape_in(source, [each.name for each in wanted])
    for each in wanted:
        place = given.get(each.name, each.name)
        if shape and place == COLUMN:
            continue
        if place not in columns:
            refuse_twice(source, [place])
        if place not in columns and (each.default is None or each.name in given):
            raise BadInput(
                f"{path.name} has no column {place!r} for {each.name}; it has {list(columns)}",
                "a column of that name",
                f"name another with --column {each.name}=COLUMN",
            )
    side: dict[Any, str] = {
        name: name for name in SIDE if name in columns and name not in given.values()
    }
    renamed = {name: own for name, own in given.items() if name != own}
    found = replace(source, columns=renamed, side=side)
    strata, skipped = count_strata(found, task)
    rows, bad = strata.total() + skipped.total(), skipped.total()
    if not strata or bad > max(MOST_FAULTY * rows, 1):
        raise BadInput(
            f"{path.name}: {bad:,} of {rows:,} rows cannot be used: {listed(skipped)}",
            f"rows for the task {task.kind}",
            "mend the table, or name other columns with --column",
        )
    reasons = [f"{rows:,} rows with different inputs looked at, for the task {task.kind}"]
    if shape:
        reasons.append(f"its rows have the shape {shape}, and are read as conversations")
    if skipped:
        reasons.append(f"{bad:,} rows cannot be used: {listed(skipped)}")
    return Guess(found, dict(sorted(strata.items())), tuple(reasons))


def shape_in(source: Source, columns: Iterable[str]) -> str:
    """The shape in which a table holds conversations, where the task has them; "" for none."""
    return fitting_shape(records(source, [])) if COLUMN in columns else ""


def count_strata(source: Source, task: Task) -> tuple[Counter[str], Counter[str]]:
    """Rows with different inputs by their stratum, and unusable ones by reason."""
    strata, skipped = Counter[str](), Counter[str]()
    inputs, seen = role_columns(task, "input"), set[bytes]()
    rows = read_source(source, role_columns(task, "input", "target"))
    for batch in batches(islice(rows, LOOKED_AT)):
        good, faults, _ = clean(task, batch, Data.max_characters)
        skipped.update(fault.reason for fault in faults)
        for row in good:
            key = digest(" ".join(parts_of(row.values, inputs).casefold().split()), 16)
            if key not in seen:
                seen.add(key)
                strata[task.stratum(row.values)] += 1
    return strata, skipped


def bare_source(path: Path, encoding: str) -> Source:
    """A source for a table or a folder of text files, called as it is, in the encoding that its
    bytes (those of the first file) show."""
    own = path.resolve().name if path.is_dir() else path.name.split(".")[0]
    name = "".join(sign if sign.isalnum() else "-" for sign in own).strip("-")
    source = Source(name=name or "table", path=str(path), encoding=encoding or Source.encoding)
    if path.is_dir():
        pattern = f"{glob.escape(str(path))}/{text_pattern(path)}"
        return replace(source, path=pattern, files="texts")
    return replace(source, encoding=codec_of(source))


def text_pattern(folder: Path) -> str:
    """The pattern of the text files of a folder: those of its folders, else its own."""
    for above in ("*/", ""):
        found = [suffix for suffix in SUFFIXES if any(folder.glob(f"{above}*{suffix}"))]
        if found:
            return f"{above}*{found[0] if len(found) == 1 else '.t*xt'}"
    raise BadInput(
        f"{folder} is a folder without text files",
        "a folder of folders of .txt files, or a table",
        f"write the path of a table, or of the folder that holds {' or '.join(SUFFIXES)} files",
    )


def codec_of(source: Source) -> str:
    """The encoding to be written into a recipe: what the bytes of a source's first file show."""
    name, path = source_files(source)[0]
    about = f"source {source.name!r}: {name}"
    table = Table(about, name, path, source.encoding, files=source.files)
    found = settled(table).encoding
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


def refuse_twice(source: Source, names: Iterable[str]) -> None:
    """Raise BadInput for a column of these names that stands in the table twice: where all columns
    are looked at, such ones are passed over."""
    for name in names:
        with suppress(NoColumn):
            next(records(source, [name]), None)


def count(source: Source, task: Task) -> Counts:
    """The rows as the stage data counts them: cleaned, and each text once."""
    found, inputs = Counts(), role_columns(task, "input")
    columns = role_columns(task, "input", "target")
    first: dict[bytes, str] = {}
    rows: Counter[bytes] = Counter()
    conflicts: set[bytes] = set()
    for batch in batches(islice(read_source(source, columns), LOOKED_AT)):
        good, faults, _ = clean(task, batch, Data.max_characters)
        found.skipped.update(fault.reason for fault in faults)
        for row in good:
            key = digest(" ".join(parts_of(row.values, inputs).casefold().split()), 16)
            label = task.target(row.values)
            rows[key] += 1
            found.given[label] += 1
            if first.setdefault(key, label) != label:
                conflicts.add(key)
    found.labels.update(label for key, label in first.items() if key not in conflicts)
    found.conflicts = sum(rows[key] for key in conflicts)
    found.repeats = rows.total() - len(first) - found.conflicts + len(conflicts)
    return found


def refuse(path: Path, source: Source, counts: Counts) -> None:
    """Raise BadInput for rows that no recipe could learn from."""
    rows, bad, labels = counts.rows, counts.skipped.total(), counts.labels
    text, label = source.column("text"), source.column("label")
    if bad == rows or bad > max(MOST_FAULTY * rows, 1):
        coded = any(reason.startswith("not ") for reason in counts.skipped)
        raise BadInput(
            f"{path.name}: {bad:,} of {rows:,} rows cannot be used: {listed(counts.skipped)}",
            f"texts in {text!r} and labels in {label!r}",
            ANOTHER if coded else "mend the table, or name other columns with --text and --label",
        )
    for each, rest in ((counts.given, ""), (labels, left_out(counts))):
        if len(each) < 2 or each.total() < 2 * len(each):
            raise BadInput(
                f"{path.name}: column {label!r} has {len(each):,} different values in "
                f"{each.total():,} rows{rest}",
                "a column of labels: at least two, each on several rows",
                "name it with --label COLUMN",
            )


def left_out(counts: Counts) -> str:
    """Rows that are left out, in words."""
    return (
        f" when {counts.repeats:,} that repeat others are left out, and {counts.conflicts:,} with "
        "a text that has several labels"
    )


def refuse_other_targets(column: Column, path: Path) -> tuple[str, ...]:
    """Raise BadInput for targets of another task; doubts that a person should look at."""
    if column.shape:
        words, task = SHAPES[column.shape]
        raise other_task(path, f"column {column.name!r} holds {words}", task)
    if column.amounts:
        raise other_task(
            path, f"column {column.name!r} holds numbers, fractions among them", "regression"
        )
    sign, alone = separator_of(column)
    if sign and alone:
        raise other_task(
            path,
            f"column {column.name!r} holds several labels in one value, separated by {sign!r}",
            "multi-label-classification",
        )
    if sign:
        return (
            f"values of {column.name!r} hold {sign!r}: each is taken for one label; for several in "
            f"one the task would be {known_as('multi-label-classification')}",
        )
    if column.numbers == column.filled and len(column.values) > MOST_NUMBERS:
        return (
            f"{column.name!r} holds many numbers, each taken for a label; for amounts the task "
            f"would be {known_as('regression')}",
        )
    return ()


def separator_of(column: Column) -> tuple[str, bool]:
    """The sign that separates labels inside values, and whether such labels stand alone too.

    Where several values hold a sign and most of their parts stand in other values as well.
    """
    for sign in "|;,":
        several = [value for value in column.values if sign in value]
        parts = Counter(part for value in column.values for part in parts_by(value, sign))
        own = {part for value in several for part in parts_by(value, sign)}
        recurring = sum(parts[part] > 1 for part in own)
        if len(several) > 1 and "" not in own and 2 * recurring > len(own) < len(column.values):
            return sign, any(part in column.values for part in own)
    return "", False


def parts_by(value: str, sign: str) -> set[str]:
    """The different parts of a value."""
    return {part.strip() for part in value.split(sign)}


def refuse_pairs(columns: Mapping[str, Column], path: Path) -> None:
    """Raise BadInput for a table whose rows are two texts each, by the columns' usual names."""
    names = {name.strip().lower(): name for name in columns}
    for pair, task in PAIRS.items():
        if set(pair) <= set(names) and all(columns[names[name]].strings for name in pair[:2]):
            one, two = (names[name] for name in pair[:2])
            cure = f"to use one text alone, name it: --text {one}"
            raise other_task(path, f"rows of two texts, {one!r} and {two!r}", task, cure)


def other_task(path: Path, found: str, task: str, cure: str = "") -> BadInput:
    """The refusal of rows that are for another task than text classification."""
    also = cure or "name a column with one label a row: --label COLUMN"
    there = task in entries("tasks")
    fits = f"say --task {task}" if there else f"the task would be {known_as(task)}"
    return BadInput(
        f"{path.name}: {found}",
        f"one text and one label a row, for the task {TASK}",
        f"{fits}; {also}" if task else also,
    )


def known_as(task: str) -> str:
    """A task's name, and where lmwright has none of it, that it has not, and which it has."""
    tasks = entries("tasks")
    if task in tasks:
        return task
    return f"{task}, which lmwright does not have (it has {', '.join(sorted(tasks))})"


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
        if not column.shape
        and not column.amounts
        and 2 <= len(column.values) <= MOST_VALUES
        and column.filled >= 2 * len(column.values)
    ]
    named = [column for column in few if column.name.strip().lower() in LABEL_NAMES]
    shaped = [column for column in columns.values() if column.shape]
    usual = [
        column
        for column in columns.values()
        if (column.shape or column.amounts) and column.name.strip().lower() in TARGET_NAMES
    ]
    if not named and (usual or (shaped and not few)):
        refuse_other_targets((usual or shaped)[0], path)
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
        f"a column for the {which}" + f" (of 2 to {MOST_VALUES} values)" * (which == "label"),
        f"name it with --{which} COLUMN",
    )
