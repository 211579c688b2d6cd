"""What parameters may be, as JSON Schema has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JsonSchema = Mapping[str, Any]

STRING: JsonSchema = {"type": "string"}
NUMBER: JsonSchema = {"type": "number"}
INTEGER: JsonSchema = {"type": "integer"}
BOOLEAN: JsonSchema = {"type": "boolean"}
OBJECT: JsonSchema = {"type": "object"}
TEXTS: JsonSchema = {"type": "array", "items": STRING, "minItems": 1}
IDS: JsonSchema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
TEXTS_OR_IDS: JsonSchema = {
    "anyOf": [STRING, TEXTS, IDS, {"type": "array", "items": IDS, "minItems": 1}]
}


def between(least: float, most: float, kind: JsonSchema = NUMBER) -> JsonSchema:
    """The schema of a number with bounds."""
    return {**kind, "minimum": least, "maximum": most}


def listed(properties: Mapping[str, JsonSchema], *required: str) -> JsonSchema:
    """The schema of an object with these properties alone."""
    found = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return {**found, "required": list(required)} if required else found


RESPONSE_FORMAT: JsonSchema = {
    "anyOf": [
        listed({"type": {"enum": ["text", "json_object"]}}, "type"),
        listed(
            {
                "type": {"enum": ["json_schema"]},
                "json_schema": listed(
                    {"name": STRING, "description": STRING, "schema": OBJECT, "strict": BOOLEAN},
                    "name",
                    "schema",
                ),
            },
            "type",
            "json_schema",
        ),
    ]
}
STRUCTURED: JsonSchema = {
    "anyOf": [
        listed({"json": {"anyOf": [OBJECT, STRING]}}, "json"),
        listed({"regex": STRING}, "regex"),
        listed({"grammar": STRING}, "grammar"),
        listed({"choice": TEXTS}, "choice"),
    ]
}
FUNCTION: JsonSchema = listed(
    {"name": STRING, "description": STRING, "parameters": OBJECT, "strict": BOOLEAN}, "name"
)
TOOL = listed({"type": {"enum": ["function"]}, "function": FUNCTION}, "type", "function")
NAMED_TOOL = listed(
    {"type": {"enum": ["function"]}, "function": listed({"name": STRING}, "name")},
    "type",
    "function",
)
TOOL_CHOICE: JsonSchema = {"anyOf": [{"enum": ["none", "auto", "required"]}, NAMED_TOOL]}

PART_OF_TEXT = listed({"type": {"enum": ["text"]}, "text": STRING}, "type", "text")
MESSAGE = listed(
    {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"anyOf": [STRING, {"type": "array", "items": PART_OF_TEXT, "minItems": 1}]},
        "name": STRING,
    },
    "role",
    "content",
)
MESSAGES: JsonSchema = {"type": "array", "items": MESSAGE, "minItems": 1}
TEXT_ITEM = listed(
    {"type": {"enum": ["input_text", "output_text"]}, "text": STRING}, "type", "text"
)
INPUT_ITEM = listed(
    {
        "type": {"enum": ["message"]},
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"anyOf": [STRING, {"type": "array", "items": TEXT_ITEM, "minItems": 1}]},
    },
    "role",
    "content",
)
DOCUMENT: JsonSchema = {"anyOf": [STRING, listed({"text": STRING}, "text")]}
