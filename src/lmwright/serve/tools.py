"""The tools of a request to a chat, and calls in its history, read strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmwright.serve.calls.syntax import Function
from lmwright.serve.request import RequestFault, checked_text, printable, without_nulls

MAX_TOOLS = 128
MAX_CALLS = 128
MAX_CALL_ID = 128
MAX_DESCRIPTION = 50_000
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
NO_ARGUMENTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Tools:
    """The tools that an answer may call.

    ``given`` is what the chat template is given; ``functions`` are those that may be called.
    ``forced``: the answer is calls and nothing else; ``several``: more than one of them. With
    ``strict``, arguments are held to their schemas in an answer that may call or not, too.
    """

    given: tuple[Mapping[str, Any], ...]
    functions: tuple[Function, ...]
    forced: bool
    several: bool
    strict: bool

    @property
    def names(self) -> list[str]:
        """The names of the functions."""
        return [each.name for each in self.functions]


def read_tools(body: Mapping[str, Any]) -> Tools | None:
    """``tools``, ``tool_choice`` and ``parallel_tool_calls``; None where nothing may be called."""
    value, several = body.get("tools"), body.get("parallel_tool_calls", True)
    if not isinstance(several, bool):
        raise RequestFault(400, "parallel_tool_calls must be true or false", "parallel_tool_calls")
    if not isinstance(value, list | None):
        raise RequestFault(400, "tools must be a list", "tools")
    if len(value or ()) > MAX_TOOLS:
        raise RequestFault(400, f"tools has {len(value or ())}; at most {MAX_TOOLS}", "tools")
    read = [read_tool(each, f"tools[{place}]") for place, each in enumerate(value or ())]
    functions = tuple(function for _, function, _ in read)
    names = [each.name for each in functions]
    for name in names:
        if names.count(name) > 1:
            raise RequestFault(400, f"tools: {printable(name)} is there twice", "tools")
    choice = read_choice(body.get("tool_choice", "auto"), names)
    if choice == "none" or not functions:
        return None
    if isinstance(choice, Function):
        chosen = tuple(each for each in functions if each.name == choice.name)
        several = False
    else:
        chosen = functions
    given = tuple(tool for tool, _, _ in read)
    return Tools(given, chosen, choice != "auto", several, any(strict for *_, strict in read))


def read_tool(value: Any, where: str) -> tuple[Mapping[str, Any], Function, bool]:
    """One tool as templates are given it, its function, and whether it is strict."""
    if not isinstance(value, dict) or value.get("type") != "function":
        raise RequestFault(400, f"{where} must be an object of type function", "tools")
    tool = without_nulls(value)
    if tool.keys() != {"type", "function"} or not isinstance(tool["function"], dict):
        raise RequestFault(400, f"{where} must have type and function, nothing else", "tools")
    function = without_nulls(tool["function"])
    for key in function:
        if key not in ("name", "description", "parameters", "strict"):
            raise RequestFault(400, f"{where}: {printable(key)} is not supported", "tools")
    name = function_name(function.get("name"), f"{where}.function.name", "tools")
    strict = function.get("strict", False)
    if not isinstance(strict, bool):
        raise RequestFault(400, f"{where}.function.strict must be true or false", "tools")
    described = {"name": name, "description": ""}
    if "description" in function:
        text = function["description"]
        described["description"] = checked_text(text, f"{where}.description", MAX_DESCRIPTION)
    schema = function.get("parameters", NO_ARGUMENTS)
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise RequestFault(
            400, f"{where}.function.parameters must be a schema of type object", "tools"
        )
    schema = {"type": "object", **schema} if schema else NO_ARGUMENTS
    given = {"type": "function", "function": {**described, "parameters": schema}}
    return given, Function(name, schema), strict


def function_name(value: Any, where: str, param: str) -> str:
    """A function's name; RequestFault for what is none."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise RequestFault(
            400, f"{where} must be 1 to 64 letters, digits, lines and hyphens", param
        )
    return value


def read_choice(value: Any, names: Sequence[str]) -> str | Function:
    """``tool_choice``: one of the words, or the function that is named."""
    if isinstance(value, str) and value in ("none", "auto", "required"):
        if value == "required" and not names:
            raise RequestFault(400, "tool_choice: required needs tools", "tool_choice")
        return value
    function = value.get("function") if isinstance(value, dict) else None
    right = isinstance(value, dict) and value.keys() == {"type", "function"}
    if not right or value["type"] != "function" or not isinstance(function, dict):
        raise RequestFault(
            400,
            "tool_choice must be none, auto, required, or an object of type function with its name",
            "tool_choice",
        )
    if function.keys() != {"name"} or function["name"] not in names:
        raise RequestFault(400, "tool_choice must name one of the tools", "tool_choice")
    return Function(function["name"], {})


def read_calls(value: Any, where: str, most: int) -> list[dict[str, Any]]:
    """The calls of an assistant's message, as templates are given them.

    Arguments that are a JSON object are given as one, since templates write them as JSON; others
    as the text that they are.
    """
    if not isinstance(value, list) or not 0 < len(value) <= MAX_CALLS:
        raise RequestFault(
            400, f"{where}.tool_calls must be a list of at most {MAX_CALLS}", "messages"
        )
    found = []
    for place, each in enumerate(value):
        call = without_nulls(each) if isinstance(each, dict) else {}
        call.pop("index", None)  # of a stream, where a client has put its parts together
        function = call.get("function")
        if isinstance(function, dict):  # what a client has read from the arguments says no more
            function = {key: function[key] for key in function if key != "parsed_arguments"}
        name = f"{where}.tool_calls[{place}]"
        if call.keys() != {"id", "type", "function"} or call["type"] != "function":
            raise RequestFault(400, f"{name} must have id, type function, and function", "messages")
        if not isinstance(function, dict) or function.keys() != {"name", "arguments"}:
            raise RequestFault(400, f"{name}.function must have name and arguments", "messages")
        arguments = checked_text(function["arguments"], f"{name}.function.arguments", most)
        most -= len(arguments)
        called = checked_text(function["name"], f"{name}.function.name", 256)
        found.append(
            {
                "id": checked_text(call["id"], f"{name}.id", MAX_CALL_ID),
                "type": "function",
                "function": {"name": called, "arguments": as_object(arguments)},
            }
        )
    return found


def as_object(arguments: str) -> Any:
    """Arguments as the object that they spell, or as they are."""
    try:
        value = json.loads(arguments, parse_constant=no_number)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def no_number(name: str) -> Any:
    """Refuse NaN and Infinity, which are no JSON."""
    raise ValueError(name)


def check_answered(messages: Sequence[Mapping[str, Any]]) -> None:
    """RequestFault for a tool's message that answers no call before it."""
    known = set[str]()
    for place, message in enumerate(messages):
        known |= {call["id"] for call in message.get("tool_calls", ())}
        if message["role"] == "tool" and message["tool_call_id"] not in known:
            raise RequestFault(
                400, f"messages[{place}].tool_call_id is of no call before it", "messages"
            )
