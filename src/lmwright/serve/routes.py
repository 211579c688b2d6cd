"""The routes of a predictor: predict, the contracts that its task keeps, models."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from lmwright.core.task import role_columns
from lmwright.serve.app import add_health, add_models
from lmwright.serve.contracts import add_contracts
from lmwright.serve.request import model_of, read_predict, strict_json
from lmwright.serve.service import Services, serve_rows


def routes(services: Services) -> APIRouter:
    """The router of a server's services."""
    router = APIRouter()
    settings = services.settings

    @router.post("/v1/predict", summary="Answer one row or many by their input columns")
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
    add_models(router, services)
    add_health(router, services)
    return router
