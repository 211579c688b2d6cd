"""Settings read from raw values into frozen dataclasses, with faults that name key and cure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from lmwright.core.errors import BadInput, nearest
from lmwright.core.stage import Settings

Resolve = Callable[[str, str], Any]
"""(table, name) -> definition; the tables are passed in because the core knows no names."""
UNKNOWN = {"unexpected_keyword_argument", "extra_forbidden"}
"""What pydantic calls a key that it does not know."""
WANTED = {
    ("int_type", "int_parsing", "int_from_float", "int_parsing_size"): "a whole number",
    ("float_type", "float_parsing"): "a number",
    ("bool_type", "bool_parsing"): "true or false",
    ("string_type",): "a text; a number or true is one in quotes",
    ("tuple_type", "list_type"): "a list",
    ("dict_type", "dataclass_type"): "a mapping",
}
"""What pydantic calls a fault -> what a person is told was wanted."""


def read_settings(kind: type, value: Any, where: str) -> Any:
    """Read a mapping into a settings dataclass; every fault in it names its key and a cure."""
    try:
        settings: Any = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise BadInput(*explain(error, where, kind)) from None
    if isinstance(settings, Settings):
        try:
            settings.check()
        except BadInput as error:
            file, _, name = where.rpartition(": ")
            place = file if error.found.startswith(f"{name}.") else where
            raise BadInput(f"{place}: {error.found}", error.wanted, error.cure) from None
        if key := place_of_nan(settings):
            raise BadInput(f"{where}.{key} is nan", "a finite number", f"correct {key}")
    return settings


def place_of_nan(value: Any) -> str:
    """The place of the first NaN in settings (``decoding.top_p``), "" where there is none."""
    parts: Any = ()
    if is_dataclass(value) and not isinstance(value, type):
        parts = ((each.name, getattr(value, each.name)) for each in fields(value))
    elif isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    for name, each in parts:
        if isinstance(each, float) and math.isnan(each):
            return str(name)
        if below := place_of_nan(each):
            return f"{name}.{below}"
    return ""


Choice = str | dict[str, Any]
"""A setting that names an entry of a table: its name, or a mapping with ``kind`` and settings."""


def read_choice(table: str, value: Choice, where: str, resolve: Resolve) -> Any:
    """The settings of the entry of a table that a choice names."""
    settings = {"kind": value} if isinstance(value, str) else value
    kind = settings.get("kind")
    if not isinstance(kind, str):
        raise BadInput(
            f"{where} is {value!r}", f"one of the {table}, or a mapping with its kind and settings"
        )
    rest = {name: each for name, each in settings.items() if name != "kind"}
    try:
        found = resolve(table, kind)
    except BadInput as error:
        raise BadInput(f"{where}: {error.found}", error.wanted, error.cure) from None
    return read_settings(found, rest, where)


def kind_of(value: Choice) -> str:
    """The name of the entry that a choice names."""
    return value if isinstance(value, str) else str(value.get("kind"))


def explain(error: ValidationError, where: str, kind: type) -> tuple[str, str, str]:
    """One fault of a validation as (found, wanted, cure): an unknown key if there is one.

    A misspelt key comes with a complaint that the right one is missing, and explains it.
    """
    faults = of_branch(error.errors(include_url=False), kind)
    fault = next((fault for fault in faults if fault["type"] in UNKNOWN), faults[0])
    key = ".".join(str(part) for part in fault["loc"]) or "(all)"
    if fault["type"] in UNKNOWN:
        known = known_fields(kind, fault["loc"][:-1])
        if fault["loc"][-1] in known:
            return f"{where}: {key} beside another kind of entry", "one kind", f"take {key} out"
        if former := getattr(kind, "moved", {}).get(key):
            return f"{where} has the former setting {key!r}", "its new place", f"write {former}"
        return (
            f"{where} has no setting {key!r}",
            "a known setting",
            nearest(str(fault["loc"][-1]), known),
        )
    if fault["type"] in {"missing", "missing_argument"}:
        return f"{where}: {key} is missing", "a value for it", f"add {key} to the recipe"
    plain = next((words for kinds, words in WANTED.items() if fault["type"] in kinds), "")
    wanted = plain or fault["msg"].removeprefix("Input should be ")
    return f"{where}: {key} is {fault['input']!r}", wanted, f"correct {key}"


def of_branch(faults: Sequence[ErrorDetails], kind: type) -> list[ErrorDetails]:
    """The faults by places in the recipe. Of a value that may be one of several dataclasses, those
    of the ones whose keys it has, if there are such: each of the others complains of its own."""
    names = set(TypeAdapter(kind).json_schema().get("$defs", ()))

    def branch(fault: ErrorDetails) -> object:
        return next((part for part in fault["loc"] if part in names), None)

    unfit = {branch(fault) for fault in faults if fault["type"] in UNKNOWN} - {None}
    fitting = [fault for fault in faults if branch(fault) not in unfit] or faults
    return [
        {**fault, "loc": tuple(part for part in fault["loc"] if part not in names)}
        for fault in fitting
    ]


def known_fields(kind: Any, path: tuple[Any, ...]) -> list[str]:
    """The fields of ``kind``, or of the dataclasses that may stand at ``path`` inside it."""
    schema = TypeAdapter(kind).json_schema()
    place: Any = schema
    for part in path:
        place = follow(schema, place)
        place = place.get("properties", {}).get(part, place.get("items", place))
    choices = place.get("anyOf", [place])
    found = {name for each in choices for name in follow(schema, each).get("properties", ())}
    return sorted(found or {"(none)"})


def follow(schema: dict[str, Any], place: Any) -> dict[str, Any]:
    """Step through a JSON Schema's references and alternatives to the object behind them."""
    while True:
        choices = [c for c in place.get("anyOf", []) if "$ref" in c or "properties" in c]
        if "$ref" in place:
            place = schema["$defs"][place["$ref"].rsplit("/", 1)[-1]]
        elif choices:
            place = choices[0]
        else:
            return place
