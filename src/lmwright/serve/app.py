"""The application: routers behind the guard, requests counted, every error in the one shape."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Protocol, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Metric,
    generate_latest,
)
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException

from lmwright.serve.engine import Engine
from lmwright.serve.guard import App, Guard, Receive, Scope, Send
from lmwright.serve.page import page_router
from lmwright.serve.request import RequestFault
from lmwright.serve.settings import Serve

log = logging.getLogger("lmwright.serve")


class AppService(Protocol):
    """What a server offers, as the application sees it. ``metrics`` are those of all models."""

    requests: Counter

    @property
    def settings(self) -> Serve:
        """The settings of the server."""

    @property
    def engine(self) -> Engine:
        """The engine that answers."""

    @property
    def metrics(self) -> Collector:
        """The counters of requests and of all models."""

    def models(self) -> list[dict[str, Any]]:
        """The models as entries of ``/v1/models``."""

    def model(self, name: str) -> dict[str, Any]:
        """The entry of the model of that name; RequestFault where there is none."""


def requests_counter(registry: CollectorRegistry) -> Counter:
    """The counter of requests, as every server has it."""
    return Counter(
        "lmwright_requests", "Requests by route and status", ["route", "status"], registry=registry
    )


def counters_of(members: Mapping[str, CollectorRegistry]) -> Iterator[Metric]:
    """The counters of models by their names; of several, with the name as label ``model``."""
    families: dict[str, Metric] = {}
    for name, registry in members.items():
        own = {"model": name} if len(members) > 1 else {}
        for found in registry.collect():
            family = families.setdefault(
                found.name, Metric(found.name, found.documentation, found.type, found.unit)
            )
            family.samples += [
                sample._replace(labels={**own, **sample.labels}) for sample in found.samples
            ]
    yield from families.values()


def add_models(router: APIRouter, service: AppService) -> None:
    """The routes that list the models, and retrieve one by its name."""

    @router.get("/v1/models", summary="List the models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": service.models()}

    @router.get("/v1/models/{name:path}", summary="Retrieve a model by its name")
    async def model(name: str) -> dict[str, Any]:
        return service.model(name)


def add_health(router: APIRouter, service: AppService) -> None:
    """The routes that every server has: health, readiness, metrics."""

    @router.get("/health", summary="Whether the server is well")
    async def health() -> JSONResponse:
        fault = service.engine.healthy()
        return JSONResponse({"status": fault or "ok"}, status_code=503 if fault else 200)

    @router.get("/ready", summary="Whether the server takes requests")
    async def ready() -> JSONResponse:
        fault = service.engine.healthy() or ("draining" if service.engine.draining else "")
        return JSONResponse({"status": fault or "ready"}, status_code=503 if fault else 200)

    @router.get("/metrics", summary="Counters for Prometheus")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics), media_type=CONTENT_TYPE_LATEST)


async def disconnection(request: Request) -> None:
    """Return when the client has gone."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return


T = TypeVar("T")


async def await_while_connected(request: Request, wanted: Awaitable[T], seconds: float) -> T:
    """Await a result; RequestFault when the client goes first, or the time is over."""
    gone = asyncio.ensure_future(disconnection(request))
    future = asyncio.ensure_future(wanted)
    either: set[asyncio.Future[Any]] = {gone, future}
    try:
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            if gone.done():
                raise RequestFault(499, "the client went away")
            raise RequestFault(504, "no answer in time", headers={"Retry-After": "1"})
        return await future
    finally:
        gone.cancel()
        future.cancel()


def make_app(service: AppService, routers: Sequence[APIRouter]) -> App:
    """Routers and the page put together behind the guard; every error leaves in the one shape."""
    app = FastAPI(
        title="lmwright",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(refuse_query)],
    )
    for router in (*routers, page_router()):
        app.include_router(router)

    async def fault(request: Request, error: Exception) -> Response:
        known = as_fault(error)
        return Response(known.to_bytes(), known.status, known.headers, "application/json")

    for kind in (RequestFault, HTTPException, Exception):
        app.add_exception_handler(kind, fault)
    return counted(Guard(head_as_get(app), service.settings), service)


def refuse_query(request: Request) -> None:
    """Refuse a query, which would otherwise be ignored."""
    if request.url.query:
        raise RequestFault(400, "no route takes a query; parameters stand in the body of a POST")


def head_as_get(app: App) -> App:
    """Answer HEAD as GET; the connection, which still sees HEAD, sends no body."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "HEAD":
            await app(scope, receive, send)
            return
        inner = {**scope, "method": "GET"}
        try:
            await app(inner, receive, send)
        finally:
            scope["route"] = inner.get("route")

    return answer


def counted(app: App, service: AppService) -> App:
    """Count requests under their route's own path, never under what a client typed."""

    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        status, began = 0, time.monotonic()

        async def watch(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await app(scope, receive, watch)
        finally:
            if scope["type"] == "http":
                path = getattr(scope.get("route"), "path", "unknown")
                service.requests.labels(path, str(status)).inc()
                if service.settings.log_requests:
                    facts = {
                        "route": path,
                        "status": status,
                        "client": scope.get("client_name", ""),
                        "milliseconds": round(1000 * (time.monotonic() - began), 2),
                    }
                    log.info("request", extra={"facts": facts})

    return count


def as_fault(error: Exception) -> RequestFault:
    """Any error as one that may be shown."""
    if isinstance(error, RequestFault):
        return error
    if isinstance(error, HTTPException):
        words = {404: "no such route", 405: "this route does not take that method"}
        given = dict(error.headers or {})
        return RequestFault(
            error.status_code, words.get(error.status_code, "refused"), headers=given
        )
    return RequestFault(500, "the server failed; its log says why")
