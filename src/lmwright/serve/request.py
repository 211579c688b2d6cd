"""Requests read strictly, and errors in the one shape that clients know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lmwright.core.columns import LONGEST_LABEL, Column, Row, Unfit, blank, blank_column, canonical
from lmwright.core.errors import LmwrightError

MAX_IDENTIFIER_CHARACTERS = 512
"""Characters of a text that names a client's user, a cache or an author."""


class RequestFault(Exception):
    """An answer that is an error: HTTP status, message, and the parameter at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The error object of the OpenAI interface."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.status,
            }
        }

    def to_bytes(self) -> bytes:
        """The body as sent: ASCII, so that nothing that a client typed can fail to be encoded."""
        return json.dumps(self.body()).encode("ascii")


def strict_json(data: bytes) -> dict[str, Any]:
    """A request's body as a mapping: UTF-8, no doubled keys, no NaN; null is absent.

    Depth is not measured: every field is checked for its own type, and what may nest (a template's
    extras) is bounded where it is read.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestFault(400, "the body is not UTF-8") from None
    if text.startswith("\ufeff"):
        raise RequestFault(400, "the body begins with a byte-order mark; send plain UTF-8")
    try:
        value = json.loads(text, object_pairs_hook=single_keys, parse_constant=no_constant)
    except RecursionError:
        raise RequestFault(400, "the body is nested too deeply") from None
    except ValueError:
        raise RequestFault(400, "the body is not valid JSON") from None
    if not isinstance(value, dict):
        raise RequestFault(400, "the body must be a JSON object")
    return without_nulls(value)


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are there: clients write null for those that they leave out."""
    return {name: each for name, each in value.items() if each is not None}


def single_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping whose keys stand once; otherwise it is not clear which value is meant."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RequestFault(400, "a key stands twice in the body")
    return found


def no_constant(name: str) -> Any:
    """NaN and Infinity are no JSON."""
    raise RequestFault(400, f"{name} is not valid JSON")


def allow_only(body: dict[str, Any], allowed: set[str]) -> None:
    """Refuse what would otherwise be ignored."""
    for key in body:
        if key not in allowed:
            known = ", ".join(sorted(allowed))
            raise RequestFault(400, f"unknown parameter {printable(key)}; known: {known}", key[:80])


def integer(body: Mapping[str, Any], name: str, default: Any, least: int, most: int) -> Any:
    """An integer of the body, or the default where it is absent or null."""
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise RequestFault(400, f"{name} must be a whole number from {least} to {most}", name)
    return value


def number(body: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    """A number of the body, or the default where it is absent or null."""
    value = body.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not least <= value <= most:
        raise RequestFault(400, f"{name} must be a number from {least:g} to {most:g}", name)
    return float(value)


def flag(body: Mapping[str, Any], name: str) -> bool:
    """A boolean of the body; false where it is absent or null."""
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise RequestFault(400, f"{name} must be true or false", name)
    return bool(value)


def same(value: Any, neutral: Any) -> bool:
    """Whether two JSON values are equal, and true is not 1."""
    return type(value) is type(neutral) and bool(value == neutral)


def text_field(body: dict[str, Any], name: str, most: int) -> str:
    """A string of the body that can be encoded, of at most ``most`` characters."""
    return checked_text(body.get(name), name, most)


def checked_text(value: Any, name: str, most: int) -> str:
    """The value if it is a string that can be encoded and is not too long."""
    if not isinstance(value, str):
        raise RequestFault(400, f"{name} must be a string", name)
    if len(value) > most:
        raise RequestFault(413, f"{name} has {len(value)} characters; at most {most}", name)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestFault(400, f"{name} holds half of a surrogate pair", name) from None
    return value


def printable(text: str) -> str:
    """A client's word in quotes, short, with control and direction characters escaped."""
    return json.dumps(text[:60])


def in_words(fault: LmwrightError) -> str:
    """A fault as one short line; it may quote what a client or a template wrote."""
    line = "".join(each if each.isprintable() else " " for each in str(fault))
    return line[:400]


@dataclass(frozen=True)
class RowsRequest:
    """A request for answers to rows that has been checked: their input columns, and the model."""

    rows: tuple[Row, ...]
    model: str | None


def read_predict(
    body: dict[str, Any], columns: Sequence[Column], max_rows: int, max_characters: int
) -> RowsRequest:
    """``inputs`` (a list of objects with the task's input columns) and, if wished, ``model``."""
    allow_only(body, {"inputs", "model"})
    given = bounded_list(body.get("inputs"), "inputs", max_rows)
    rows = tuple(
        read_row(row, columns, f"inputs[{place}]", max_characters)
        for place, row in enumerate(given)
    )
    return RowsRequest(rows, model_of(body))


def read_row(value: Any, columns: Sequence[Column], where: str, max_characters: int) -> Row:
    """One object with the columns, each read as its type."""
    names = [column.name for column in columns]
    if not isinstance(value, dict):
        raise RequestFault(400, f"{where} must be an object with {', '.join(names)}", where)
    for name in value:
        if name not in names:
            raise RequestFault(
                400, f"{where} has {printable(name)}; known: {', '.join(names)}", where
            )
    row = {
        column.name: read_value(
            value.get(column.name), column, f"{where}.{column.name}", max_characters
        )
        for column in columns
    }
    if all(isinstance(each, str) and blank(each) for each in row.values()):
        raise RequestFault(400, f"{where} holds an empty text", where)
    if name := blank_column(columns, row):
        raise RequestFault(400, f"{where}.{name} is an empty text", f"{where}.{name}"[:80])
    return row


def read_value(value: Any, column: Column, where: str, max_characters: int) -> Any:
    """A JSON value as a column keeps it; no value of another type is taken for one of its own."""
    param = where[:80]
    if value is not None and not fits(value, column.arrow):
        raise RequestFault(400, f"{where} must be {json_name(column.arrow)}", param)
    most = min(max_characters, LONGEST_LABEL) if column.type == "label" else max_characters
    if isinstance(value, str) and len(value) > most:
        raise RequestFault(413, f"{where} has {len(value)} characters; at most {most}", param)
    try:
        found = column.read(value)
    except Unfit as unfit:
        raise RequestFault(400, f"{where}: {unfit.reason}", param) from None
    if len(canonical(found)) > max_characters:
        raise RequestFault(413, f"{where} has over {max_characters} characters", param)
    return found


def fits(value: Any, kind: pa.DataType) -> bool:
    """True if a JSON value is of the type by which an Arrow type is written in JSON."""
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(fits(each, kind.value_type) for each in value)
    if pa.types.is_string(kind):
        return isinstance(value, str)
    if pa.types.is_struct(kind):
        return isinstance(value, dict)
    return isinstance(value, int | float) and not isinstance(value, bool)


def json_name(kind: pa.DataType) -> str:
    """The name of the JSON type of an Arrow type, with its article."""
    if pa.types.is_list(kind):
        return f"a list of {json_name(kind.value_type).partition(' ')[2]}s"
    if pa.types.is_string(kind):
        return "a string"
    return "an object" if pa.types.is_struct(kind) else "a number"


def read_classify(
    body: dict[str, Any], column: str, max_texts: int, max_characters: int
) -> RowsRequest:
    """``input`` (a text or a list of texts, for the one input column) and, if wished, ``model``."""
    allow_only(body, {"input", "model"})
    given = body.get("input")
    texts = bounded_list(given if isinstance(given, list) else [given], "input", max_texts)
    checked = tuple(checked_text(text, "input", max_characters) for text in texts)
    if any(blank(text) for text in checked):
        raise RequestFault(400, "input holds an empty text", "input")
    return RowsRequest(tuple({column: text} for text in checked), model_of(body))


def bounded_list(value: Any, name: str, most: int) -> list[Any]:
    """A list that is not empty and not too long."""
    if not isinstance(value, list):
        raise RequestFault(400, f"{name} must be a list", name)
    if not value:
        raise RequestFault(400, f"{name} is an empty list", name)
    if len(value) > most:
        raise RequestFault(413, f"{name} has {len(value)} entries; at most {most}", name)
    return value


def model_of(body: dict[str, Any]) -> str | None:
    """The name of a model, where the request has one."""
    return None if body.get("model") is None else text_field(body, "model", 256)
