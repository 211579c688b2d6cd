"""``/v1/responses``: answers in items, whole or as events; nothing is stored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lmwright.serve.completions import Choose, Exchange, answer
from lmwright.serve.parameter_table import described
from lmwright.serve.request import RequestFault, strict_json
from lmwright.serve.response_items import Items
from lmwright.serve.response_request import ROUTE, read_response
from lmwright.serve.settings import Serve
from lmwright.serve.shapes import CHAT, pieces_of

SHAPE = replace(CHAT, prefix="resp", object="response")
"""The ids of responses; what they hold is written here."""
RENAMED = {"messages": "input", "max_tokens": "max_output_tokens"}
"""Parameters of a chat by their names here."""


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
        "previous_response_id": None,
        "reasoning": None,
        "service_tier": "default",
        "store": False,
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


def ended(exchange: Exchange) -> str:
    """The status of a whole answer."""
    return "incomplete" if exchange.reasons.get(0) == "length" else "completed"


def items_of(exchange: Exchange) -> Items:
    """The items of an answer, of which nothing has come."""
    return Items(exchange.head["id"].removeprefix(SHAPE.prefix))


async def whole(exchange: Exchange, told: Mapping[str, Any]) -> dict[str, Any]:
    """The body of an answer that is given at once."""
    items = items_of(exchange)
    async for _, chunk in exchange.chunks():
        for piece in pieces_of(chunk):
            items.push(piece)
    status = ended(exchange)
    items.finish(status)
    return response(exchange, told, status, items.output)


async def events(exchange: Exchange, told: Mapping[str, Any]) -> AsyncIterator[bytes]:
    """The body of an answer that is given as it comes, in numbered server-sent events."""
    numbers, items = count(), items_of(exchange)

    def event(kind: str, fields: Mapping[str, Any]) -> bytes:
        named = f"response.{kind}"
        data = json.dumps({"type": named, "sequence_number": next(numbers), **fields})
        return f"event: {named}\ndata: {data}\n\n".encode("ascii")

    def state(status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {"response": response(exchange, told, status, output)}

    yield event("created", state("in_progress", []))
    yield event("in_progress", state("in_progress", []))
    try:
        async for _, chunk in exchange.chunks():
            for piece in pieces_of(chunk):
                for each in items.push(piece):
                    yield event(*each)
    except RequestFault as fault:
        code = "server_error" if fault.status >= 500 else "invalid_prompt"
        failed = state("failed", [])
        failed["response"]["error"] = {"code": code, "message": fault.message}
        yield event("failed", failed)
        return
    status = ended(exchange)
    for each in items.finish(status):
        yield event(*each)
    yield event(status, state(status, items.output))
