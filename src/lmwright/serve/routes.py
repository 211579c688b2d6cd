"""The routes of a predictor: predict, the contracts that its task keeps, models."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from lmwright.core.task import role_columns
from lmwright.serve.app import add_health, add_models
from lmwright.serve.contracts import CONTRACTS
from lmwright.serve.request import read_predict, strict_json
from lmwright.serve.service import Service, serve_rows


def routes(service: Service) -> APIRouter:
    """The router of a service."""
    router = APIRouter()
    settings = service.settings

    @router.post("/v1/predict", summary="Answer one row or many by their input columns")
    async def predict(request: Request) -> JSONResponse:
        columns = role_columns(service.rows.current.task, "input")
        body = strict_json(await request.body())
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

    for contract in service.rows.current.task.contracts:
        CONTRACTS[contract](router, service)
    add_models(router, service)
    add_health(router, service)
    return router
