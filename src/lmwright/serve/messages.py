"""The messages of a conversation, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.serve.request import (
    MAX_IDENTIFIER_CHARACTERS,
    RequestFault,
    checked_text,
    printable,
    same,
    without_nulls,
)
from lmwright.serve.tools import MAX_CALL_ID, check_answered, read_calls

MESSAGE_FIELDS = ("role", "content", "name", "refusal")
FIELDS_OF_ROLES = {"assistant": ("tool_calls", "reasoning_content"), "tool": ("tool_call_id",)}
NEUTRAL_OF_MESSAGES: dict[str, tuple[Any, ...]] = {"annotations": ([],), "tool_calls": ([],)}
"""Further fields of an answer that is sent back as history."""

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_MESSAGES = 1000


def read_messages(value: Any, most: int) -> tuple[Mapping[str, Any], ...]:
    """Messages, each with a known role and a text."""
    if not isinstance(value, list) or not value:
        raise RequestFault(400, "messages must be a list of at least one message", "messages")
    if len(value) > MAX_MESSAGES:
        raise RequestFault(
            413, f"messages has {len(value)} entries; at most {MAX_MESSAGES}", "messages"
        )
    found = []
    for place, message in enumerate(value):
        if not isinstance(message, dict):
            raise RequestFault(400, f"messages[{place}] must be an object", "messages")
        found.append(read_message(without_nulls(message), f"messages[{place}]", most))
        most -= len(found[-1]["content"]) + len(found[-1].get("reasoning_content", ""))
    check_answered(found)
    return tuple(found)


def read_message(message: Mapping[str, Any], where: str, most: int) -> dict[str, Any]:
    """One message: its role and text, its author's name where it has one; the reasoning and the
    calls of an assistant's; the call that a tool's answers.

    Every field with which we or others answer is accepted, as far as it holds nothing that would
    be ignored. A refusal is the text of its message.
    """
    role = message.get("role")
    if role not in ROLES:
        raise RequestFault(400, f"{where}.role must be one of {', '.join(ROLES)}", "messages")
    message = {
        key: value
        for key, value in message.items()
        if not any(same(value, each) for each in NEUTRAL_OF_MESSAGES.get(key, ()))
        and (key, role) != ("parsed", "assistant")  # a client's own reading of the content
    }
    for key in message:
        if key not in MESSAGE_FIELDS + FIELDS_OF_ROLES.get(role, ()):
            raise RequestFault(400, f"{where}: {printable(key)} is not supported", "messages")
    content = message.get("content")
    if refusal := message.get("refusal"):
        if role != "assistant" or content:
            raise RequestFault(
                400, f"{where}.refusal belongs to an assistant without content", "messages"
            )
        content = refusal
    found: dict[str, Any] = {"role": role}
    if "tool_calls" in message:
        found["tool_calls"] = read_calls(message["tool_calls"], where, most)
        content = "" if content is None else content
    found["content"] = read_content(content, f"{where}.content", most)
    if "reasoning_content" in message:
        text = message["reasoning_content"]
        found["reasoning_content"] = checked_text(text, f"{where}.reasoning_content", most)
    if role == "tool":
        text = message.get("tool_call_id")
        found["tool_call_id"] = checked_text(text, f"{where}.tool_call_id", MAX_CALL_ID)
    if "name" in message:
        found["name"] = checked_text(message["name"], f"{where}.name", MAX_IDENTIFIER_CHARACTERS)
    return found


def read_content(value: Any, name: str, most: int) -> str:
    """A message's text, or its parts' texts, a line each."""
    if not isinstance(value, list):
        return checked_text(value, name, most)
    texts = []
    for part in value:
        part = without_nulls(part) if isinstance(part, dict) else {}
        if part.keys() != {"type", "text"} or part["type"] != "text":
            raise RequestFault(400, f"{name} may hold parts of type text only", "messages")
        texts.append(checked_text(part["text"], name, most))
    if not texts:
        raise RequestFault(400, f"{name} is an empty list", "messages")
    return checked_text("\n".join(texts), name, most)
