"""The routes of published language models: chats, completions, responses, tokens, models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter

from lmwright.serve.app import add_health, add_models
from lmwright.serve.completions import add_chat, add_text
from lmwright.serve.published import GenerationServices
from lmwright.serve.responses import add_responses
from lmwright.serve.tokenize import Reader, add_tokenize


def routes(services: GenerationServices) -> APIRouter:
    """The router of language models."""
    router, settings = APIRouter(), services.settings
    for add in (add_chat, add_text, add_responses):
        add(router, settings, services.named)

    @asynccontextmanager
    async def reader(name: str | None) -> AsyncIterator[Reader]:
        service = services.named(name)
        async with service.held() as model:
            yield Reader(model, lambda text: text, model.prompt_ids, model.longest)

    add_tokenize(router, settings, services.engine, reader)
    add_models(router, services)
    add_health(router, services)
    return router
