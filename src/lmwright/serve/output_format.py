"""The form that a request wants its answer in: a schema, a pattern, a grammar, some choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lmwright.serve.request import RequestFault, checked_text, printable, strict_json, without_nulls
from lmwright.text.constrained import (
    MAX_CHARACTERS,
    Language,
    of_choices,
    of_grammar,
    of_regex,
    of_schema,
)


@dataclass(frozen=True)
class OutputFormat:
    """A language, made when it is needed: that takes time. ``param`` is what asks for it."""

    param: str
    make: Callable[[Any], Language]
    value: Any

    def language(self) -> Language:
        """The language; BadInput where no answer can be held to it."""
        return self.make(self.value)


def read_output_format(body: Mapping[str, Any]) -> OutputFormat | None:
    """``response_format`` or ``structured_outputs``; None where neither asks for anything."""
    found = [
        each
        for each in (
            read_response_format(body.get("response_format")),
            read_structured_outputs(body.get("structured_outputs")),
        )
        if each is not None
    ]
    if len(found) > 1:
        raise RequestFault(
            400, "structured_outputs and response_format exclude each other", "structured_outputs"
        )
    return found[0] if found else None


def read_response_format(value: Any) -> OutputFormat | None:
    """A type: text, json_object, or json_schema with a schema."""
    param = "response_format"
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    keys = without_nulls(value).keys() if isinstance(value, dict) else set()
    if kind in ("text", "json_object") and keys == {"type"}:
        return None if kind == "text" else OutputFormat(param, of_schema, {"type": "object"})
    if kind != "json_schema" or keys != {"type", "json_schema"}:
        raise RequestFault(
            400,
            "response_format must be of type text, json_object, or json_schema with json_schema",
            param,
        )
    described = value["json_schema"]
    if not isinstance(described, dict):
        raise RequestFault(400, "response_format.json_schema must be an object", param)
    described = without_nulls(described)
    for key in described:
        if key not in ("name", "description", "schema", "strict"):
            raise RequestFault(400, f"response_format: {printable(key)} is not supported", param)
    for key in ("name", "description"):
        if key in described or key == "name":
            checked_text(described.get(key), f"{param}.json_schema.{key}", MAX_CHARACTERS)
    if not isinstance(described.get("strict"), bool | None):
        raise RequestFault(400, "response_format.json_schema.strict must be true or false", param)
    if not isinstance(described.get("schema"), dict):
        raise RequestFault(400, "response_format.json_schema.schema must be an object", param)
    return OutputFormat(param, of_schema, described["schema"])


def read_structured_outputs(value: Any) -> OutputFormat | None:
    """Exactly one of json, regex, grammar and choice."""
    param = "structured_outputs"
    if value is None:
        return None
    kinds = {"json": of_schema, "regex": of_regex, "grammar": of_grammar, "choice": of_choices}
    given = without_nulls(value) if isinstance(value, dict) else {}
    if len(given) != 1 or not given.keys() <= kinds.keys():
        raise RequestFault(
            400, f"structured_outputs must have exactly one of {', '.join(kinds)}", param
        )
    ((kind, asked),) = given.items()
    if kind == "choice":
        if not isinstance(asked, list):
            raise RequestFault(400, "structured_outputs.choice must be a list of texts", param)
        for each in asked:
            checked_text(each, f"{param}.choice", MAX_CHARACTERS)
    elif kind != "json" or isinstance(asked, str):
        text = checked_text(asked, f"{param}.{kind}", MAX_CHARACTERS)
        asked = strict_json(text.encode()) if kind == "json" else text
    elif not isinstance(asked, dict):
        raise RequestFault(400, "structured_outputs.json must be a schema", param)
    return OutputFormat(param, kinds[kind], asked)


def refuse(asked: OutputFormat | None, reason: str) -> None:
    """RequestFault for a form in a request that has no use for one."""
    if asked is not None:
        raise RequestFault(400, f"{asked.param} {reason}", asked.param)
