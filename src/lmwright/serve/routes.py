"""The routes of a predictor: predict, the contracts that its task keeps, models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from lmwright.core.task import role_columns
from lmwright.models.text_model import TextPredictor
from lmwright.serve.app import add_health, add_models
from lmwright.serve.contracts import CONTRACTS, add_chat_completions, add_contracts
from lmwright.serve.embeddings import cleaned_text, text_model_of
from lmwright.serve.parameter_table import described
from lmwright.serve.request import model_of, read_predict, strict_json
from lmwright.serve.rows import Loaded
from lmwright.serve.service import Services, serve_rows
from lmwright.serve.tokenize import Reader, add_tokenize
from lmwright.serve.version_model import VersionModel

WHOLE = 1 << 30
"""More tokens than a request has."""


def routes(services: Services) -> APIRouter:
    """The router of a server's services."""
    router = APIRouter()
    settings = services.settings

    @router.post(
        "/v1/predict",
        summary="Answer one row or many by their input columns",
        openapi_extra=described("/v1/predict"),
    )
    async def predict(request: Request) -> JSONResponse:
        body = strict_json(await request.body())
        service = services.named(model_of(body))
        columns = role_columns(service.rows.current.task, "input")
        asked = read_predict(body, columns, settings.max_texts, settings.max_characters)
        served = await serve_rows(service, request, asked, "ans")
        return JSONResponse(
            {
                "id": served.id,
                "object": "prediction",
                "model": service.alias,
                "version": served.version,
                "answers": [
                    {"index": index, **one.told} for index, one in enumerate(served.answers)
                ],
                "usage": {"tokens": sum(one.tokens for one in served.answers)},
            }
        )

    add_contracts(router, services)
    add_tokenize(router, settings, services.engine, lambda name: reader_of(services, name))
    add_models(router, services)
    add_health(router, services)
    return router


@asynccontextmanager
async def reader_of(services: Services, name: str | None) -> AsyncIterator[Reader]:
    """How the model that a request names reads, or the first that has a tokenizer."""
    with_tokenizer = [
        each for each in services.members if isinstance(each.rows.current.predictor, TextPredictor)
    ]
    found = services.named(name, with_tokenizer if name is None else ())
    yield version_reader(found.rows.current)


def version_reader(loaded: Loaded) -> Reader:
    """How a version reads; RequestFault where it has no tokenizer.

    One that writes reads a prompt, which is not closed; of others a text is told whole, also
    where its end would be cut off.
    """
    model, task = text_model_of(loaded), loaded.task

    def clean(text: str) -> str:
        return cleaned_text(task, text)

    if any(add_chat_completions in CONTRACTS[each] for each in task.contracts):
        writing = VersionModel(loaded)
        if writing.column.type == "messages":
            return Reader(writing, lambda text: text, writing.prompt_ids, writing.longest)
        return Reader(writing, clean, writing.prompt_ids, writing.longest)
    return Reader(
        model, clean, lambda text: model.tokenizer.encode([clean(text)], WHOLE)[0], model.max_tokens
    )
