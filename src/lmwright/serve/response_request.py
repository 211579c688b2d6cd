"""Requests to ``/v1/responses``, read strictly: items as messages, tools, the form of the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lmwright.serve.messages import MAX_MESSAGES, read_message
from lmwright.serve.output_format import OutputFormat, read_response_format, refuse
from lmwright.serve.parameters import CompletionRequest, common, refuse_unsupported
from lmwright.serve.request import RequestFault, checked_text, integer, printable, without_nulls
from lmwright.serve.settings import Serve
from lmwright.serve.tools import NO_ARGUMENTS, Tools, read_tools

ROUTE = "/v1/responses"
SHARED = ("model", "temperature", "top_p", "stream")
"""Parameters that are read as those of chats."""
ECHOED = ("user", "safety_identifier", "prompt_cache_key")

MAX_METADATA = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512

ROLES = ("system", "developer", "user", "assistant")
COMMON_FIELDS = ("type", "id", "status")
FIELDS_OF_ITEMS: Mapping[str, tuple[str, ...]] = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": ("summary", "content"),
}
NEUTRAL_OF_ITEMS: Mapping[str, Any] = {"summary": []}
"""Fields of an answer's items that say nothing with these values."""
PART_NEUTRAL: Mapping[str, Any] = {"annotations": [], "logprobs": []}
"""Further fields of an answer's part that is sent back as history."""
PLAIN_TEXT: Mapping[str, Any] = {"format": {"type": "text"}}


@dataclass(frozen=True)
class ResponseRequest:
    """A checked request: what is asked of the model, and what the answer says of the request."""

    parsed: CompletionRequest
    told: Mapping[str, Any]


def read_response(body: dict[str, Any], settings: Serve) -> ResponseRequest:
    """A request to ``/v1/responses``."""
    refuse_unsupported(body, ROUTE)
    most = settings.max_characters
    instructions = body.get("instructions")
    messages: list[Mapping[str, Any]] = []
    if instructions is not None:
        messages.append(
            {"role": "system", "content": checked_text(instructions, "instructions", most)}
        )
        most -= len(instructions)
    tokens = integer(body, "max_output_tokens", None, 1, settings.max_tokens)
    text, output_format = read_text_settings(body.get("text", {}))
    listed, choice, tools = read_flat_tools(body)
    if tools is not None:
        refuse(output_format, "is for answers without tools; ask without them, or with none")
    shared = common({name: body[name] for name in SHARED if name in body})
    parsed = CompletionRequest(
        prompts=(),
        messages=(*messages, *read_input(body.get("input"), most)),
        template_kwargs={},
        max_tokens=tokens,
        default_max_tokens=settings.max_tokens,
        top_logprobs=None,
        tools=tools,
        **{**shared, "output_format": output_format},
    )
    told = {
        "instructions": instructions,
        "max_output_tokens": tokens,
        "temperature": parsed.temperature,
        "top_p": parsed.top_p,
        "metadata": read_metadata(body.get("metadata", {})),
        "text": text,
        "tools": listed,
        "tool_choice": choice,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        **{name: body[name] for name in ECHOED if name in body},
    }
    return ResponseRequest(parsed, told)


def read_text_settings(value: Any) -> tuple[Mapping[str, Any], OutputFormat | None]:
    """``text`` as an answer says it again, and the form that it asks for, if any."""
    value = without_nulls(value) if isinstance(value, dict) else value
    if not isinstance(value, dict) or not value.keys() <= {"format", "verbosity"}:
        raise RequestFault(400, "text must be an object with format, verbosity or both", "text")
    if value.get("verbosity", "medium") != "medium":
        raise RequestFault(400, "text.verbosity is not supported: none can be set", "text")
    form = value.get("format", PLAIN_TEXT["format"])
    if not isinstance(form, dict):
        raise RequestFault(400, "text.format must be an object", "text.format")
    form = asked = without_nulls(form)
    if form.get("type") == "json_schema":
        rest = {name: each for name, each in form.items() if name != "type"}
        asked = {"type": "json_schema", "json_schema": rest}
    try:
        found = read_response_format(asked)
    except RequestFault as fault:
        words = fault.message.replace("response_format.json_schema", "response_format")
        words = words.replace("response_format", "text.format")
        raise RequestFault(fault.status, words, "text.format") from None
    told = {**value, "format": form}
    return told, None if found is None else replace(found, param="text.format")


def read_flat_tools(body: Mapping[str, Any]) -> tuple[list[Any], Any, Tools | None]:
    """``tools`` and ``tool_choice`` as an answer says them again, and what may be called.

    A function's fields stand beside its type here; it is strict unless it says otherwise.
    """
    tools, choice = body.get("tools", []), body.get("tool_choice", "auto")
    listed = tools
    if isinstance(tools, list):
        listed = [flat_tool(each) for each in tools]
    chosen = choice
    if isinstance(choice, dict):
        named = choice.keys() == {"type", "name"}
        function = {"function": {"name": choice["name"]}} if named else {}
        chosen = {"type": choice.get("type"), **function}
    asked = {**body, "tools": nested(listed), "tool_choice": chosen}
    try:
        return listed, choice, read_tools(asked)
    except RequestFault as fault:
        words = fault.message.replace("].function", "]")
        raise RequestFault(fault.status, words, fault.param) from None


def flat_tool(tool: Any) -> Any:
    """A function with what it leaves out; another thing as it is."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool
    return {"parameters": NO_ARGUMENTS, "strict": True, **without_nulls(tool)}


def nested(tools: Any) -> Any:
    """Functions as chats have them."""
    if not isinstance(tools, list):
        return tools
    return [
        {"type": each["type"], "function": {k: v for k, v in each.items() if k != "type"}}
        if isinstance(each, dict) and each.get("type") == "function"
        else each
        for each in tools
    ]


# Items


def read_input(value: Any, most: int) -> tuple[Mapping[str, Any], ...]:
    """A text, or items, as messages of a chat.

    Calls and reasoning belong to the assistant's message that they stand behind, or before.
    """
    if isinstance(value, str):
        return ({"role": "user", "content": checked_text(value, "input", most)},)
    if not isinstance(value, list) or not value:
        raise RequestFault(400, "input must be a text or a list of at least one item", "input")
    if len(value) > MAX_MESSAGES:
        raise RequestFault(413, f"input has {len(value)} items; at most {MAX_MESSAGES}", "input")
    found: list[dict[str, Any]] = []
    known = set[str]()
    for place, item in enumerate(value):
        message = read_item(item, f"input[{place}]", most)
        most -= len(message["content"]) + len(message.get("reasoning_content", ""))
        known |= {call["id"] for call in message.get("tool_calls", ())}
        if message["role"] == "tool" and message["tool_call_id"] not in known:
            raise RequestFault(400, f"input[{place}].call_id is of no call before it", "input")
        if found and belongs(found[-1], message):
            join(found[-1], message)
        else:
            found.append(message)
    return tuple(found)


def belongs(last: Mapping[str, Any], message: Mapping[str, Any]) -> bool:
    """Whether a message is a part of the last one: both are the assistant's, and either has no
    content and the last no calls before it."""
    if not last["role"] == message["role"] == "assistant":
        return False
    return not message["content"] or not (last["content"] or "tool_calls" in last)


def join(last: dict[str, Any], message: Mapping[str, Any]) -> None:
    """Make two parts of the assistant's one message."""
    last["content"] += message["content"]
    if "tool_calls" in message:
        last["tool_calls"] = [*last.get("tool_calls", ()), *message["tool_calls"]]
    if "reasoning_content" in message:
        last["reasoning_content"] = last.get("reasoning_content", "") + message["reasoning_content"]


def read_item(item: Any, where: str, most: int) -> dict[str, Any]:
    """One item as a message of a chat, which is checked."""
    if not isinstance(item, dict):
        raise RequestFault(400, f"{where} must be an object", "input")
    item = without_nulls(item)
    kind = item.get("type", "message")
    if not isinstance(kind, str) or kind not in FIELDS_OF_ITEMS:
        raise RequestFault(
            400, f"{where}: items of type {printable(str(kind))} are not supported", "input"
        )
    item.pop("parsed_arguments", None)  # a client's own reading of the arguments
    for name, value in item.items():
        known = name in COMMON_FIELDS + FIELDS_OF_ITEMS[kind]
        if not known or value != NEUTRAL_OF_ITEMS.get(name, value):
            raise RequestFault(400, f"{where}: {printable(name)} is not supported", "input")
    try:
        return read_message(as_message(item, kind, where), where, most)
    except RequestFault as fault:
        words = fault.message.replace(".tool_calls[0].id", ".call_id")
        words = words.replace(".tool_calls[0].function", "").replace(".tool_call_id", ".call_id")
        raise RequestFault(fault.status, words, "input") from None


def as_message(item: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    """An item as a message of a chat whose values are still to be checked."""
    if kind == "function_call":
        for name in FIELDS_OF_ITEMS[kind]:
            if name not in item:
                raise RequestFault(400, f"{where}.{name} must be a string", "input")
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if kind == "function_call_output":
        content = as_parts(item.get("output"), ("input_text",), f"{where}.output")
        return {"role": "tool", "content": content, "tool_call_id": item.get("call_id")}
    if kind == "reasoning":
        parts = as_parts(item.get("content", []), ("reasoning_text",), f"{where}.content")
        texts = [part["text"] for part in parts] if isinstance(parts, list) else [parts]
        whole = "".join(texts) if all(isinstance(each, str) for each in texts) else None
        return {"role": "assistant", "content": "", "reasoning_content": whole}
    role = item.get("role")
    if role not in ROLES:
        raise RequestFault(400, f"{where}.role must be one of {', '.join(ROLES)}", "input")
    kinds = ("output_text",) if role == "assistant" else ("input_text",)
    return {"role": role, "content": as_parts(item.get("content"), kinds, f"{where}.content")}


def as_parts(content: Any, kinds: tuple[str, ...], where: str) -> Any:
    """The parts of an item as those of a message; what is no list as it is."""
    if not isinstance(content, list):
        return content
    return [as_part(part, kinds, f"{where}[{place}]") for place, part in enumerate(content)]


def as_part(part: Any, kinds: tuple[str, ...], where: str) -> dict[str, Any]:
    """A part of an item's content as a part of a message's."""
    part = without_nulls(part) if isinstance(part, dict) else {}
    if part.get("type") not in kinds:
        raise RequestFault(400, f"{where} must be a part of type {' or '.join(kinds)}", "input")
    for name, value in part.items():
        if name not in ("type", "text") and value != PART_NEUTRAL.get(name, ...):
            raise RequestFault(400, f"{where}: {printable(name)} is not supported", "input")
    return {"type": "text", "text": part.get("text")}


def read_metadata(value: Any) -> dict[str, str]:
    """Up to 16 texts by name that are given back with the answer."""
    if not isinstance(value, dict) or len(value) > MAX_METADATA:
        raise RequestFault(
            400, f"metadata must be an object of at most {MAX_METADATA} texts", "metadata"
        )
    for name, each in value.items():
        fits = isinstance(each, str) and len(each) <= MAX_METADATA_VALUE
        if not fits or len(name) > MAX_METADATA_KEY:
            raise RequestFault(
                400,
                f"metadata: names have at most {MAX_METADATA_KEY} characters, and values are texts "
                f"of at most {MAX_METADATA_VALUE}",
                "metadata",
            )
        checked_text(name + each, "metadata", MAX_METADATA_KEY + MAX_METADATA_VALUE)
    return dict(value)
