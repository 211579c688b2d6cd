"""A slow check of JSON against a schema, for the keywords that the tests use."""

from __future__ import annotations

import re
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def fits(value: Any, schema: Any, root: Any = None) -> bool:
    """Whether a value is of a schema."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].split("/")[1:]:
            target = target[part]
        return fits(value, target, root)
    kinds = schema.get("type", list(TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(
        isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
        for kind in kinds
    ):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "anyOf" in schema and not any(fits(value, each, root) for each in schema["anyOf"]):
        return False
    if isinstance(value, dict):
        return object_fits(value, schema, root)
    if isinstance(value, list):
        within = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1 << 30)
        return within and all(fits(each, schema.get("items", True), root) for each in value)
    if isinstance(value, str):
        within = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1 << 30)
        return within and re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, int | float) and not isinstance(value, bool):
        below = value <= schema.get("maximum", float("inf"))
        whole = value % schema.get("multipleOf", 1) == 0 if "multipleOf" in schema else True
        return below and value >= schema.get("minimum", -float("inf")) and whole
    return True


def object_fits(value: dict[str, Any], schema: dict[str, Any], root: Any) -> bool:
    """Whether an object has the properties that it should have and no others."""
    known = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    return (
        set(schema.get("required", ())) <= set(value)
        and schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", 1 << 30)
        and all(fits(each, known.get(key, others), root) for key, each in value.items())
    )
