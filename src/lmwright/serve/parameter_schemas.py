"""JSON Schemas of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.serve.tools import MAX_CALL_ID, MAX_CALLS

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

NONE: JsonSchema = {"type": "null"}
PART_OF_TEXT = listed({"type": {"enum": ["text"]}, "text": STRING}, "type", "text")
CONTENT: JsonSchema = {"anyOf": [STRING, {"type": "array", "items": PART_OF_TEXT, "minItems": 1}]}
CALLED = listed({"name": STRING, "arguments": STRING}, "name", "arguments")
CALL = listed(
    {"id": STRING, "type": {"enum": ["function"]}, "function": CALLED}, "id", "type", "function"
)
MESSAGE: JsonSchema = {
    "anyOf": [
        listed(
            {"role": {"enum": ["system", "developer", "user"]}, "content": CONTENT, "name": STRING},
            "role",
            "content",
        ),
        listed(
            {
                "role": {"enum": ["assistant"]},
                "content": {"anyOf": [CONTENT, NONE]},
                "refusal": {"anyOf": [STRING, NONE]},
                "reasoning_content": STRING,
                "tool_calls": {"type": "array", "items": CALL, "maxItems": MAX_CALLS},
                "name": STRING,
            },
            "role",
        ),
        listed(
            {
                "role": {"enum": ["tool"]},
                "content": CONTENT,
                "tool_call_id": {**STRING, "maxLength": MAX_CALL_ID},
                "name": STRING,
            },
            "role",
            "content",
            "tool_call_id",
        ),
    ]
}
MESSAGES: JsonSchema = {"type": "array", "items": MESSAGE, "minItems": 1}

TEXT_ITEM = listed(
    {"type": {"enum": ["input_text", "output_text"]}, "text": STRING}, "type", "text"
)
ITEM_CONTENT: JsonSchema = {"anyOf": [STRING, {"type": "array", "items": TEXT_ITEM, "minItems": 1}]}
STATUS: JsonSchema = {"enum": ["in_progress", "completed", "incomplete"]}
THOUGHT = listed({"type": {"enum": ["reasoning_text"]}, "text": STRING}, "type", "text")
INPUT_ITEM: JsonSchema = {
    "anyOf": [
        listed(
            {
                "type": {"enum": ["message"]},
                "role": {"enum": ["system", "developer", "user", "assistant"]},
                "content": ITEM_CONTENT,
                "id": STRING,
                "status": STATUS,
            },
            "role",
            "content",
        ),
        listed(
            {
                "type": {"enum": ["function_call"]},
                "call_id": {**STRING, "maxLength": MAX_CALL_ID},
                "name": STRING,
                "arguments": STRING,
                "id": STRING,
                "status": STATUS,
            },
            "type",
            "call_id",
            "name",
            "arguments",
        ),
        listed(
            {
                "type": {"enum": ["function_call_output"]},
                "call_id": {**STRING, "maxLength": MAX_CALL_ID},
                "output": ITEM_CONTENT,
                "id": STRING,
                "status": STATUS,
            },
            "type",
            "call_id",
            "output",
        ),
        listed(
            {
                "type": {"enum": ["reasoning"]},
                "id": STRING,
                "summary": {"type": "array", "maxItems": 0},
                "content": {"type": "array", "items": THOUGHT},
                "status": STATUS,
            },
            "type",
        ),
    ]
}
FLAT_TOOL: JsonSchema = listed(
    {
        "type": {"enum": ["function"]},
        "name": STRING,
        "description": STRING,
        "parameters": OBJECT,
        "strict": BOOLEAN,
    },
    "type",
    "name",
)
FLAT_CHOICE: JsonSchema = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        listed({"type": {"enum": ["function"]}, "name": STRING}, "type", "name"),
    ]
}
TEXT_SETTINGS: JsonSchema = listed(
    {
        "format": {
            "anyOf": [
                listed({"type": {"enum": ["text", "json_object"]}}, "type"),
                listed(
                    {
                        "type": {"enum": ["json_schema"]},
                        "name": STRING,
                        "description": STRING,
                        "schema": OBJECT,
                        "strict": BOOLEAN,
                    },
                    "type",
                    "name",
                    "schema",
                ),
            ]
        },
        "verbosity": {"enum": ["medium"]},
    }
)
DOCUMENT: JsonSchema = {"anyOf": [STRING, listed({"text": STRING}, "text")]}
