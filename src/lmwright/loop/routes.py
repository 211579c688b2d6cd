"""The routes of the loop: feedback, and what the watch sees."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from lmwright.core.errors import BadInput
from lmwright.loop.controller import Controller
from lmwright.serve.request import RequestFault, allow_only, strict_json, text_field
from lmwright.serve.routes import Service
from lmwright.serve.traffic import Traffic

ANSWER = re.compile(r"cls-[0-9a-f]{32}")
FAULT = "the loop has a fault; the server's log says which"


def routes(service: Service, traffic: Traffic, controller: Controller) -> APIRouter:
    """The router of the loop beside a service."""
    router = APIRouter()
    pool = ThreadPoolExecutor(2, "feedback")  # of its own: a slow disk must hold up no answer

    @router.post("/v1/feedback", summary="Say what the label of an answered text should be")
    async def give(request: Request) -> JSONResponse:
        body = strict_json(await request.body())
        allow_only(body, {"id", "index", "label"})
        place = body.get("index", 0)
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < 10_000:
            raise RequestFault(400, "index must be the index of a result", "index")
        answer = text_field(body, "id", 64)
        label = text_field(body, "label", 200)
        labels = service.engine.current.model.labels
        client = request.scope.get("client_name", "")
        if label not in labels:
            raise RequestFault(400, "label must be one of " + ", ".join(labels), "label")
        if not ANSWER.fullmatch(answer):
            raise RequestFault(404, "there is no such answer", "id")
        given = asyncio.get_running_loop().run_in_executor(
            pool, traffic.give, answer, place, label, labels, client
        )
        try:
            await asyncio.wait_for(given, service.settings.request_seconds)
        except BadInput:
            raise RequestFault(404, "there is no such answer", "id") from None
        except TimeoutError:
            raise RequestFault(504, "not written in time", headers={"Retry-After": "1"}) from None
        return JSONResponse({"object": "feedback", "id": answer, "index": place}, status_code=201)

    @router.get("/v1/loop", summary="The state of the loop and the last window's signs")
    async def look() -> dict[str, Any]:
        state = {
            key: controller.state.get(key) for key in ("at", "since", "reason", "lacks", "ended")
        }
        return {
            "alias": service.alias,
            "version": service.engine.current.version,
            **state,
            "windows": len(controller.signs),
            "last_window": controller.signs[-1] if controller.signs else None,
            "lost": traffic.lost,
            "unfit": controller.unfit or None,
            "fault": FAULT if controller.fault or traffic.fault else "",
        }

    return router
