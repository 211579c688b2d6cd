"""Types of a task's columns: how a value is read from a table, kept in Arrow and hashed."""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa

Role = Literal["input", "target", "answer"]
Row = Mapping[str, Any]
"""A row as column -> value."""

LONGEST_LABEL = 200
SPEAKERS = ("system", "user", "assistant")
"""Roles of the messages that are learnt from."""


class Unfit(ValueError):
    """A value that a column cannot hold: a reason that can be counted, and the detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Column:
    """A column of a task's rows: its name, the name of its type in ``TYPES``, and its role.

    One with a ``default`` need not be in a table or a request. ``example`` is a value that it can
    hold, where it cannot hold any text.
    """

    name: str
    type: str
    role: Role
    default: Any = None
    example: Any = None

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type that it is kept as."""
        return TYPES[self.type].arrow

    @property
    def placed(self) -> bool:
        """True if its values hold character offsets into a text of the row."""
        return TYPES[self.type].placed

    @property
    def graded(self) -> bool:
        """True if its values say how sure an answer is, beside what it is."""
        return TYPES[self.type].graded

    @property
    def free(self) -> bool:
        """True if its values are texts in anybody's words, which may say anything of anyone."""
        return TYPES[self.type].free

    def read(self, value: Any) -> Any:
        """The value as it is kept; Unfit says why it cannot be.

        A label with a default may be blank too: tables of strings have no null.
        """
        left_out = value is None or (
            self.type == "label" and isinstance(value, str) and not value.strip()
        )
        if left_out and self.default is not None:
            return self.default
        return TYPES[self.type].read(self.name, value)


@dataclass(frozen=True)
class ColumnType:
    """How values of one type are kept and read. ``example`` shows one in messages.

    ``placed``: they hold places in a text of the row, counted in characters; ``free``: they are
    texts in anybody's words, no choices; ``graded``: they say how sure an answer is.
    """

    arrow: pa.DataType
    read: Callable[[str, Any], Any]
    example: str
    placed: bool = False
    free: bool = False
    graded: bool = False


def example(kind: str, text: str) -> Any:
    """A value of an input column's type, made of a text."""
    made: dict[str, Any] = {
        "text": text,
        "label": text[:LONGEST_LABEL],
        "texts": [text, text[::-1]],
        "messages": [{"role": "user", "content": text}],
    }
    return made.get(kind, 1.0 if kind == "number" else [])


def texts_of(column: Column, value: Any) -> list[str]:
    """The texts that an input holds; of messages those of the user."""
    if column.type == "messages":
        return [each["content"] for each in value if each["role"] == "user"]
    return {"text": [value], "texts": value}.get(column.type, [])


def with_texts(column: Column, value: Any, change: Callable[[str], str]) -> Any:
    """An input with each text of :func:`texts_of` changed."""
    if column.type == "messages":
        return [
            {**each, "content": change(each["content"])} if each["role"] == "user" else each
            for each in value
        ]
    if column.type == "texts":
        return [change(text) for text in value]
    return change(value) if column.type == "text" else value


def canonical(value: Any) -> str:
    """A value as the text that is hashed: a string as it stands, everything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def read_text(name: str, value: Any) -> str:
    """A string of whole characters without NUL."""
    if not isinstance(value, str):
        raise mistyped(name, value, "text")
    if "\0" in value:
        raise Unfit(f"NUL in {name}", f"at character {value.index(chr(0))}")
    if not whole(value):
        raise Unfit("undecodable", "")
    return value


def read_label(name: str, value: Any) -> str:
    """A label as a string: strings, numbers, booleans, and lists of one of these.

    It has normal form C and single spaces, none at its ends, so that one label has one spelling.
    """
    found = as_label(value)
    if found is None:
        raise mistyped(name, value, "a label")
    found = " ".join(unicodedata.normalize("NFC", found).split())
    if not found.strip() or not whole(found) or len(found) > LONGEST_LABEL:
        raise Unfit(f"unusable {name}", repr(found[:80]))
    return found


def read_number(name: str, value: Any) -> float:
    """A finite number, also one in words of digits."""
    refuse_blank(name, value)
    try:
        found = float(value) if not isinstance(value, bool) else math.nan
    except OverflowError:  # an integer of over 308 digits
        raise Unfit(f"unusable {name}", "a number that is too large") from None
    except (TypeError, ValueError):
        raise mistyped(name, value, "a number") from None
    if not math.isfinite(found):
        raise Unfit(f"unusable {name}", repr(value))
    return found


def read_labels(name: str, value: Any) -> list[str]:
    """A list of labels, sorted, each once.

    Also a list in a string, as JSON or Python write it, or labels in one string between bars,
    semicolons or commas (the first of these that it has); an empty string is an empty list.
    """
    if isinstance(value, str):
        value = labels_in(name, value)
    return sorted({read_label(name, each) for each in filled(name, listed(name, value))})


def labels_in(name: str, text: str) -> list[Any]:
    """The labels that a string holds."""
    text = text.strip()
    if text.startswith("{"):
        return listed(name, text)  # which says what is wrong with it
    if text.startswith("[") and text.endswith("]"):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None  # which JSON may still read
        return found if isinstance(found, list) else listed(name, text)
    sign = next((each for each in "|;," if each in text), None)
    parts = text.split(sign) if sign else [text]
    return [part.strip() for part in parts if part.strip()]


def read_texts(name: str, value: Any) -> list[str]:
    """A list of texts; a single text is a list of one."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return [read_text(name, value)]
    return [read_text(name, each) for each in filled(name, listed(name, value))]


def read_messages(name: str, value: Any) -> list[dict[str, str]]:
    """A conversation: messages with ``role`` and ``content``, also as JSON in a string.

    An optional ``system`` message, then ``user`` and ``assistant`` in turns, the user first. No
    message is empty, and none has another field that says anything.
    """
    found: list[dict[str, str]] = []
    for place, each in enumerate(listed(name, value)):
        if not isinstance(each, Mapping) or not {"role", "content"} <= set(each):
            raise Unfit("wrong type", f"{name} holds {each!r}, not role and content"[:200])
        role, content = each["role"], each["content"]
        if role not in SPEAKERS:
            raise Unfit("unknown role", f"message {place} has role {role!r}"[:200])
        if further := [key for key in each if key not in ("role", "content") and each[key]]:
            raise Unfit("unknown field of a message", f"message {place} has {further[0]!r}"[:200])
        if role == "system" and place:
            raise Unfit("roles out of order", f"message {place} is the system's")
        before = found[-1]["role"] if found else "system"
        if role != "system" and role != ("assistant" if before == "user" else "user"):
            raise Unfit("roles out of order", f"message {place} is the {role}'s after {before}'s")
        if not read_text(f"{name}.content", content).strip():
            raise Unfit("empty message", f"message {place}")
        found.append({"role": role, "content": content})
    if not any(each["role"] == "user" for each in found):
        raise Unfit(f"no {name}", "no message of a user")
    return found


def read_spans(name: str, value: Any) -> list[dict[str, Any]]:
    """Labelled spans of characters, in the order of their starts."""
    found = []
    for each in listed(name, value):
        if not isinstance(each, Mapping) or not {"start", "end", "label"} <= set(each):
            raise Unfit("wrong type", f"{name} holds {each!r}, not start, end and label")
        start, end = each["start"], each["end"]
        if not all(isinstance(edge, int) and not isinstance(edge, bool) for edge in (start, end)):
            raise Unfit("wrong type", f"{name} has the edges {start!r} and {end!r}")
        if not 0 <= start < end < 1 << 31:
            raise Unfit(f"unusable {name}", f"a span from {start} to {end}")
        if each["label"] is None:
            raise Unfit(f"unusable {name}", f"the span from {start} to {end} has no label")
        label = read_label(name, each["label"])
        found.append({"start": start, "end": end, "label": label})
    return sorted(found, key=lambda span: (span["start"], span["end"], span["label"]))


def read_answers(name: str, value: Any) -> dict[str, list[Any]]:
    """Quoted answers ``{"text": […], "answer_start": […]}``, none where nothing answers.

    Also a list of objects with one text and start each, and JSON of either in a string. Starts
    count characters.
    """
    refuse_blank(name, value)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unfit("wrong type", f"{name} is a text that holds no JSON") from None
    keys = ("text", "answer_start")
    if isinstance(value, list | tuple):
        if not all(isinstance(each, Mapping) and set(keys) <= set(each) for each in value):
            raise Unfit("wrong type", f"{name} holds what has no text and answer_start")
        value = {key: [each[key] for each in value] for key in keys}
    if not isinstance(value, Mapping):
        raise mistyped(name, value, "an object with text and answer_start")
    if missing := [key for key in keys if not isinstance(value.get(key), list | tuple)]:
        raise Unfit("wrong type", f"{name} has no list {missing[0]!r}")
    texts, starts = ([*value[key]] for key in keys)
    if len(texts) != len(starts):
        raise Unfit(f"unusable {name}", f"{len(texts)} texts, {len(starts)} starts")
    for start in starts:
        if not isinstance(start, int) or isinstance(start, bool):
            raise Unfit("wrong type", f"{name} has the start {start!r}")
        if not 0 <= start < 1 << 31:
            raise Unfit(f"unusable {name}", f"a start at {start}")
    return {"text": [read_text(name, text) for text in filled(name, texts)], "answer_start": starts}


def read_choices(name: str, value: Any) -> list[dict[str, Any]]:
    """Answers to choose from, each with its score and its place in characters."""
    keys = ("answer", "score", "start", "end")
    found = []
    for each in listed(name, value):
        if not isinstance(each, Mapping) or not set(keys) <= set(each):
            raise Unfit("wrong type", f"{name} holds {each!r}, not {', '.join(keys)}")
        score, start, end = (read_number(name, each[key]) for key in keys[1:])
        text = read_text(name, each["answer"])
        found.append({"answer": text, "score": score, "start": int(start), "end": int(end)})
    return found


def read_scores(name: str, value: Any) -> list[float]:
    """A list of finite numbers."""
    return [read_number(name, each) for each in listed(name, value)]


def listed(name: str, value: Any) -> list[Any]:
    """A list, also one written as JSON in a table of strings."""
    refuse_blank(name, value)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unfit("wrong type", f"{name} is a text that holds no JSON list") from None
    if not isinstance(value, list | tuple):
        raise mistyped(name, value, "a list")
    return list(value)


def filled(name: str, values: list[Any]) -> list[Any]:
    """The values of a list; Unfit where one of them is null."""
    if None in values:
        raise Unfit(f"unusable {name}", f"null at place {values.index(None)} of the list")
    return values


def refuse_blank(name: str, value: Any) -> None:
    """Unfit for an empty text where a number or JSON should stand, as in a table of strings."""
    if isinstance(value, str) and not value.strip():
        raise Unfit(f"no {name}", "empty")


def as_label(value: Any) -> str | None:
    """A label or id as a string, the same from every format; None for what can be none.

    Numbers are written as short as can be (4.5, and 1 for 1.0), also where they stand as text, as
    in a CSV; true and false in small letters; a list of one value is that value.
    """
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
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


def whole(text: str) -> bool:
    """Whether the text holds whole characters only: no lone surrogates, no NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def blank(text: str) -> bool:
    """True for a text without a character that shows: of white space, controls and signs without
    a width (a zero-width space, a byte-order mark) alone."""
    return all(each.isspace() or unicodedata.category(each) in UNSEEN for each in text)


def blank_column(columns: Iterable[Column], row: Row) -> str:
    """The name of the first column of texts without a default that is blank in a row, or ""."""
    needed = (each.name for each in columns if each.type == "text" and each.default is None)
    return next((name for name in needed if blank(row[name])), "")


UNSEEN = ("Cc", "Cf")
"""Unicode's categories of controls and of signs without a width."""


def mistyped(name: str, value: Any, wanted: str) -> Unfit:
    """The fault of a value of another type."""
    if value is None:
        return Unfit(f"no {name}", "null")
    return Unfit("wrong type", f"{name} is {type(value).__name__}, not {wanted}")


MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("label", pa.string())])
QUOTES = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
CHOICE = pa.struct(
    [("answer", pa.string()), ("score", pa.float64()), ("start", pa.int32()), ("end", pa.int32())]
)

TYPES: dict[str, ColumnType] = {
    "text": ColumnType(pa.string(), read_text, "a text", free=True),
    "label": ColumnType(pa.string(), read_label, "a label"),
    "number": ColumnType(pa.float64(), read_number, "a number"),
    "labels": ColumnType(pa.list_(pa.string()), read_labels, '["a", "b"]'),
    "texts": ColumnType(pa.list_(pa.string()), read_texts, '["one text", "another"]', free=True),
    "messages": ColumnType(
        pa.list_(MESSAGE), read_messages, '[{"role": "user", "content": "Hello"}]', free=True
    ),
    "score": ColumnType(pa.float64(), read_number, "0.8", graded=True),
    "scores": ColumnType(pa.list_(pa.float64()), read_scores, "[0.2, 0.8]", graded=True),
    "spans": ColumnType(
        pa.list_(SPAN), read_spans, '[{"start": 0, "end": 4, "label": "PER"}]', placed=True
    ),
    "answers": ColumnType(
        QUOTES,
        read_answers,
        '{"text": ["Rome"], "answer_start": [12]}',
        placed=True,
        free=True,
    ),
    "choices": ColumnType(
        pa.list_(CHOICE),
        read_choices,
        '[{"answer": "Rome", "score": 0.8, "start": 12, "end": 16}]',
        placed=True,
        free=True,
        graded=True,
    ),
}
