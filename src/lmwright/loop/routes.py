"""The routes of the loop: feedback, and what the watch sees."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from lmwright.core.errors import BadInput, Refused
from lmwright.core.task import Task, role_columns
from lmwright.loop.controller import Controller
from lmwright.serve.request import (
    RequestFault,
    allow_only,
    model_of,
    read_value,
    strict_json,
    text_field,
)
from lmwright.serve.service import Service, Services
from lmwright.serve.traffic import Given, Traffic

ANSWER = re.compile(r"(?:cls|ans|cmpl)-[0-9a-f]{32}")
FAULT = "the loop has a fault; the server's log says which"


@dataclass(frozen=True)
class Loop:
    """The loop of an alias: its service, what was served and said of it, and its controller."""

    service: Service
    traffic: Traffic
    controller: Controller

    def look(self) -> dict[str, Any]:
        """Its state, and the scores of the last window."""
        controller = self.controller
        state = {
            key: controller.state.get(key) for key in ("at", "since", "reason", "lacks", "ended")
        }
        return {
            "alias": self.service.alias,
            "version": self.service.rows.current.version,
            **state,
            "windows": len(controller.scores),
            "last_window": controller.scores[-1] if controller.scores else None,
            "lost": self.traffic.lost,
            "unfit": controller.unfit or None,
            "fault": FAULT if controller.fault or self.traffic.fault else "",
        }


def routes(services: Services, loops: Sequence[Loop]) -> APIRouter:
    """The router of the loops beside their services."""
    by_alias = {each.service.alias: each for each in loops}
    router = APIRouter()
    pool = ThreadPoolExecutor(2, "feedback")  # of its own: a slow disk must hold up no answer

    @router.post("/v1/feedback", summary="Say what an answer should have been, or rate it")
    async def give(request: Request) -> JSONResponse:
        body = strict_json(await request.body())
        service = services.named(model_of(body))
        task, traffic = service.rows.current.task, by_alias[service.alias].traffic
        targets = [column.name for column in role_columns(task, "target")]
        allow_only(body, {"id", "index", "rating", "model", *targets})
        place = body.get("index", 0)
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < 10_000:
            raise RequestFault(400, "index must be the index of an answer", "index")
        answer = text_field(body, "id", 64)
        given = read_given(body, task, service.settings.max_characters)
        client = request.scope.get("client_name", "")
        if not ANSWER.fullmatch(answer):
            raise RequestFault(404, "there is no such answer", "id")

        def write() -> None:
            service.settle()
            traffic.give(answer, place, given, task, client)

        written = asyncio.get_running_loop().run_in_executor(pool, write)
        try:
            await asyncio.wait_for(written, service.settings.request_seconds)
        except BadInput:
            raise RequestFault(404, "there is no such answer", "id") from None
        except Refused as error:
            raise RequestFault(400, f"the answered row cannot have it: {error.found}") from None
        except TimeoutError:
            raise RequestFault(504, "not written in time", headers={"Retry-After": "1"}) from None
        return JSONResponse({"object": "feedback", "id": answer, "index": place}, status_code=201)

    @router.get("/v1/loop", summary="The state of the loop and the last window's drift scores")
    async def look() -> dict[str, Any]:
        return loops[0].look()

    @router.get("/v1/loop/{name:path}", summary="The same of the loop of one of several models")
    async def look_at(name: str) -> dict[str, Any]:
        return by_alias[services.named(name).alias].look()

    return router


def read_given(body: Mapping[str, Any], task: Task, max_characters: int) -> Given:
    """The targets of the body, a rating from 0 to 1, or both."""
    targets = role_columns(task, "target")
    rating = body.get("rating")
    if rating is not None and (
        not isinstance(rating, int | float) or isinstance(rating, bool) or not 0 <= rating <= 1
    ):
        raise RequestFault(400, "rating must be a number from 0 to 1", "rating")
    given = [column.name for column in targets if column.name in body]
    if not given and rating is None:
        names = " and ".join(column.name for column in targets)
        raise RequestFault(400, f"feedback needs {names or 'a rating'}, or a rating", names or None)
    if not given:
        return Given(rating=float(rating or 0))
    target = {
        column.name: read_value(body.get(column.name), column, column.name, max_characters)
        for column in targets
    }
    try:
        target = task.corrected(target)
    except BadInput as error:
        raise RequestFault(400, f"{given[0]} must be {error.wanted}", given[0]) from None
    return Given(target, None if rating is None else float(rating))
