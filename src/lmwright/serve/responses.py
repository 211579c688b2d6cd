"""``/v1/responses``: answers in items, whole or as events; nothing is stored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lmwright.serve.completions import Choose, Exchange, answer
from lmwright.serve.generation import Chunk
from lmwright.serve.messages import read_messages
from lmwright.serve.parameter_table import described
from lmwright.serve.parameters import CompletionRequest, common, refuse_unsupported
from lmwright.serve.request import (
    RequestFault,
    checked_text,
    integer,
    printable,
    strict_json,
    without_nulls,
)
from lmwright.serve.settings import Serve
from lmwright.serve.shapes import CHAT, pieces_of

ROUTE = "/v1/responses"
SHAPE = replace(CHAT, prefix="resp", object="response")
"""The ids of responses; what they hold is written here."""
SHARED = ("model", "temperature", "top_p", "stream")
"""Parameters that are read as those of chats."""
RENAMED = {"messages": "input", "max_tokens": "max_output_tokens"}
"""Parameters of a chat by their names here."""
ECHOED = ("user", "safety_identifier", "prompt_cache_key")

MAX_METADATA = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512

ITEM_FIELDS = ("type", "role", "content", "id", "status")
PART_NEUTRAL: Mapping[str, Any] = {"annotations": [], "logprobs": []}
"""Further fields of an answer's part that is sent back as history."""


@dataclass(frozen=True)
class ResponseRequest:
    """A checked request: what is asked of the model, and what the answer says of the request."""

    parsed: CompletionRequest
    told: Mapping[str, Any]


def add_responses(router: APIRouter, settings: Serve, choose: Choose) -> None:
    """``/v1/responses``: conversations to answer, where the model has a chat template."""

    @router.post(ROUTE, summary="Answer items", openapi_extra=described(ROUTE))
    async def respond(request: Request) -> Response:
        asked = read_response(strict_json(await request.body()), settings)
        parsed, told = asked.parsed, asked.told
        try:
            return await answer(
                choose(parsed.model),
                request,
                parsed,
                SHAPE,
                partial(whole, told=told),
                partial(events, told=told),
            )
        except RequestFault as fault:
            fault.param = RENAMED.get(fault.param or "", fault.param)
            raise


def read_response(body: dict[str, Any], settings: Serve) -> ResponseRequest:
    """A request to ``/v1/responses``."""
    refuse_format(body.get("text"))
    refuse_unsupported(body, ROUTE)
    most = settings.max_characters
    instructions = body.get("instructions")
    messages: list[Mapping[str, str]] = []
    if instructions is not None:
        messages.append(
            {"role": "system", "content": checked_text(instructions, "instructions", most)}
        )
        most -= len(instructions)
    tokens = integer(body, "max_output_tokens", None, 1, settings.max_tokens)
    parsed = CompletionRequest(
        prompts=(),
        messages=(*messages, *read_input(body.get("input"), most)),
        template_kwargs={},
        max_tokens=tokens,
        default_max_tokens=settings.max_tokens,
        top_logprobs=None,
        **common({name: body[name] for name in SHARED if name in body}),
    )
    told = {
        "instructions": instructions,
        "max_output_tokens": tokens,
        "temperature": parsed.temperature,
        "top_p": parsed.top_p,
        "metadata": read_metadata(body.get("metadata", {})),
        **{name: body[name] for name in ECHOED if name in body},
    }
    return ResponseRequest(parsed, told)


def refuse_format(text: Any) -> None:
    """Refuse a format of answers by its own name."""
    form = text.get("format") if isinstance(text, dict) else None
    if form is not None and form != {"type": "text"}:
        raise RequestFault(
            400, "text.format is not supported: answers are not held to a format", "text.format"
        )


def read_input(value: Any, most: int) -> tuple[Mapping[str, str], ...]:
    """A text, or items that are messages, as messages of a chat."""
    if isinstance(value, str):
        return ({"role": "user", "content": checked_text(value, "input", most)},)
    if not isinstance(value, list) or not value:
        raise RequestFault(400, "input must be a text or a list of at least one item", "input")
    messages = [as_message(item, f"input[{place}]") for place, item in enumerate(value)]
    try:
        return read_messages(messages, most)
    except RequestFault as fault:
        words = fault.message.replace("messages", "input", 1)
        raise RequestFault(fault.status, words, "input") from None


def as_message(item: Any, where: str) -> Any:
    """An item as a message of a chat whose values are still to be checked."""
    if not isinstance(item, dict):
        raise RequestFault(400, f"{where} must be an object", "input")
    item = without_nulls(item)
    kind = item.get("type", "message")
    if kind != "message":
        raise RequestFault(
            400, f"{where}: items of type {printable(str(kind))} are not supported", "input"
        )
    for name in item:
        if name not in ITEM_FIELDS:
            raise RequestFault(400, f"{where}: {printable(name)} is not supported", "input")
    content = item.get("content")
    if isinstance(content, list):
        of_answer = item.get("role") == "assistant"
        kinds = ("output_text",) if of_answer else ("input_text",)
        content = [
            as_part(part, kinds, f"{where}.content[{place}]") for place, part in enumerate(content)
        ]
    return {"role": item.get("role"), "content": content}


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


# Answers


def response(
    exchange: Exchange, told: Mapping[str, Any], status: str, output: list[dict[str, Any]]
) -> dict[str, Any]:
    """The response as an object, in any of its states."""
    incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
    head = {name: value for name, value in exchange.head.items() if name != "created"}
    return {
        **head,
        "object": SHAPE.object,
        "created_at": exchange.head["created"],
        "status": status,
        "error": None,
        "incomplete_details": incomplete,
        "output": output,
        "background": False,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": None,
        "service_tier": "default",
        "store": False,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "truncation": "disabled",
        "usage": usage(exchange) if status in ("completed", "incomplete") else None,
        **told,
    }


def usage(exchange: Exchange) -> dict[str, Any]:
    """Tokens as responses name them."""
    found = exchange.usage()
    return {
        "input_tokens": found["prompt_tokens"],
        "input_tokens_details": found["prompt_tokens_details"],
        "output_tokens": found["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": found["total_tokens"],
    }


def part_of(text: str) -> dict[str, Any]:
    """The one part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message_of(exchange: Exchange, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    """The one item of an answer."""
    name = "msg" + exchange.head["id"].removeprefix(SHAPE.prefix)
    return {
        "id": name,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def ended(exchange: Exchange) -> str:
    """The status of a whole answer."""
    return "incomplete" if exchange.reasons.get(0) == "length" else "completed"


def reasoning_of(exchange: Exchange, text: str) -> list[dict[str, Any]]:
    """The item of an answer's reasoning, if there is any."""
    if not text:
        return []
    name = "rs" + exchange.head["id"].removeprefix(SHAPE.prefix)
    content = [{"type": "reasoning_text", "text": text}]
    return [{"id": name, "type": "reasoning", "summary": [], "content": content}]


def said_in(chunk: Chunk) -> tuple[str, str]:
    """The content and the reasoning of a chunk."""
    pieces = pieces_of(chunk)
    content, reasoning = (
        "".join(each.text for each in pieces if each.kind == kind)
        for kind in ("content", "reasoning")
    )
    return content, reasoning


async def whole(exchange: Exchange, told: Mapping[str, Any]) -> dict[str, Any]:
    """The body of an answer that is given at once; its reasoning stands behind the message."""
    said = [said_in(chunk) async for _, chunk in exchange.chunks()]
    text, reasoning = ("".join(parts) for parts in zip(*said, strict=True))
    status = ended(exchange)
    item = message_of(exchange, status, [part_of(text)])
    return response(exchange, told, status, [item, *reasoning_of(exchange, reasoning)])


async def events(exchange: Exchange, told: Mapping[str, Any]) -> AsyncIterator[bytes]:
    """The body of an answer that is given as it comes, in numbered server-sent events. Reasoning is
    told when it is whole, behind the message."""
    number, text, reasoning = 0, "", ""

    def event(kind: str, **fields: Any) -> bytes:
        nonlocal number
        data = json.dumps({"type": kind, "sequence_number": number, **fields})
        number += 1
        return f"event: {kind}\ndata: {data}\n\n".encode("ascii")

    begun = message_of(exchange, "in_progress", [])
    item = {"item_id": begun["id"], "output_index": 0}
    place = {**item, "content_index": 0}
    yield event("response.created", response=response(exchange, told, "in_progress", []))
    yield event("response.in_progress", response=response(exchange, told, "in_progress", []))
    yield event("response.output_item.added", output_index=0, item=begun)
    yield event("response.content_part.added", **place, part=part_of(""))
    try:
        async for _, chunk in exchange.chunks():
            more, thought = said_in(chunk)
            text, reasoning = text + more, reasoning + thought
            if more:
                yield event("response.output_text.delta", **place, delta=more, logprobs=[])
    except RequestFault as fault:
        error = {"code": "server_error", "message": fault.message}
        failed = {**response(exchange, told, "failed", []), "error": error}
        yield event("response.failed", response=failed)
        return
    status = ended(exchange)
    done = message_of(exchange, status, [part_of(text)])
    yield event("response.output_text.done", **place, text=text, logprobs=[])
    yield event("response.content_part.done", **place, part=part_of(text))
    yield event("response.output_item.done", output_index=0, item=done)
    output = [done]
    for thought_item in reasoning_of(exchange, reasoning):
        yield event("response.output_item.added", output_index=1, item=thought_item)
        yield event("response.output_item.done", output_index=1, item=thought_item)
        output.append(thought_item)
    yield event(f"response.{status}", response=response(exchange, told, status, output))
