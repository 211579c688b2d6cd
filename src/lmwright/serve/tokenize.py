"""``/v1/tokenize`` and ``/v1/detokenize``: the tokens of texts as a served model reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from lmwright.core.errors import BadInput
from lmwright.models.text_model import TextModel
from lmwright.serve.engine import Engine, Places
from lmwright.serve.messages import read_messages
from lmwright.serve.parameter_table import described
from lmwright.serve.parameters import (
    conversation_ids,
    read_extras,
    read_ids,
    refuse_unsupported,
)
from lmwright.serve.request import (
    RequestFault,
    checked_text,
    flag,
    in_words,
    model_of,
    strict_json,
)
from lmwright.serve.settings import Serve

TOKENIZE, DETOKENIZE = "/v1/tokenize", "/v1/detokenize"


@dataclass(frozen=True)
class Reader:
    """How a served model reads: its text model; a text as it is cleaned; the ids of a text with the
    special tokens that it has round one; and the most tokens of a text, or of a prompt and its
    answer, if there is a bound."""

    model: TextModel[Any]
    clean: Callable[[str], str]
    ids: Callable[[str], np.ndarray]
    longest: int | None


Choose = Callable[[str | None], AbstractAsyncContextManager[Reader]]
"""What reads a request by the name that it gives to a model, held for the length of a block."""


def add_tokenize(router: APIRouter, settings: Serve, engine: Engine, choose: Choose) -> None:
    """``/v1/tokenize`` and ``/v1/detokenize``, which a thread answers and no step of the engine.

    As many are under way as texts that are written, half of them one client's.
    """
    places = Places(settings.queue_requests)

    @contextmanager
    def place(request: Request) -> Iterator[None]:
        client = request.scope.get("client_name", "")
        if engine.closed or not places.free_for(client, 1):
            status = 503 if engine.closed else 429
            raise RequestFault(status, "the server is busy", headers={"Retry-After": "1"})
        places.take(client, 1)
        try:
            yield
        finally:
            places.give(client, 1)

    @router.post(TOKENIZE, summary="Turn a text into tokens", openapi_extra=described(TOKENIZE))
    async def tokenize(request: Request) -> JSONResponse:
        body = strict_json(await request.body())
        refuse_unsupported(body, TOKENIZE)
        strings = flag(body, "return_token_strs")
        with place(request):
            async with choose(model_of(body)) as reader:
                ids = (await asyncio.to_thread(read, reader, body, settings)).tolist()
        tokenizer = reader.model.tokenizer
        return JSONResponse(
            {
                "count": len(ids),
                "max_model_len": reader.longest,
                "tokens": ids,
                "token_strs": [tokenizer.token(each) for each in ids] if strings else None,
            }
        )

    @router.post(
        DETOKENIZE, summary="Turn tokens into their text", openapi_extra=described(DETOKENIZE)
    )
    async def detokenize(request: Request) -> JSONResponse:
        body = strict_json(await request.body())
        refuse_unsupported(body, DETOKENIZE)
        tokens = body.get("tokens")
        ids = [] if tokens == [] else read_ids(tokens, settings.max_characters, "tokens")
        with place(request):
            async with choose(model_of(body)) as reader:
                text = await asyncio.to_thread(decoded, reader, ids)
        return JSONResponse({"prompt": text})


def read(reader: Reader, body: Mapping[str, Any], settings: Serve) -> np.ndarray:
    """The ids of a request's text or conversation; RequestFault where the model reads none."""
    prompt, messages = body.get("prompt"), body.get("messages")
    if (prompt is None) == (messages is None):
        raise RequestFault(400, "one of prompt and messages must be there", "prompt")
    special = prompt is not None
    if "add_special_tokens" in body:
        special = flag(body, "add_special_tokens")
    extras = read_extras(body)
    try:
        if prompt is None:
            if special:
                raise RequestFault(
                    400, "the chat template alone puts tokens round messages", "add_special_tokens"
                )
            said = read_messages(messages, settings.max_characters)
            return conversation_ids(said, extras, reader.model)
        if extras:
            raise RequestFault(
                400, "chat_template_kwargs belong to messages", "chat_template_kwargs"
            )
        text = checked_text(prompt, "prompt", settings.max_characters)
        return reader.ids(text) if special else reader.model.tokenizer.ids(reader.clean(text))
    except BadInput as fault:
        param = "prompt" if messages is None else "messages"
        raise RequestFault(400, in_words(fault), param) from None


def decoded(reader: Reader, ids: list[int]) -> str:
    """The text of ids with its special tokens; RequestFault for one that no token has."""
    try:
        for each in set(ids):
            reader.model.tokenizer.token(each)
    except BadInput as fault:
        raise RequestFault(400, in_words(fault), "tokens") from None
    return reader.model.tokenizer.decode(ids, special=True)
