"""The routes of serving: classify, models, health, readiness, metrics."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.exceptions import HTTPException

from lmwright.core.errors import BadInput
from lmwright.serve.engine import Answer, Busy, Engine, Failed, Loaded
from lmwright.serve.guard import App, Guard, Receive, Scope, Send
from lmwright.serve.request import RequestFault, printable, read_classify, strict_json
from lmwright.serve.settings import Serve

log = logging.getLogger("lmwright.serve")


@dataclass(frozen=True)
class Served:
    """One answered request, as it is handed to whoever watches."""

    id: str
    time: float
    client: str
    version: str
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    answers: tuple[Answer, ...]


Observe = Callable[[Served], None]


@dataclass
class Service:
    """What the routes of one server share: its engine, settings, counters and watchers."""

    alias: str
    engine: Engine
    settings: Serve
    observers: list[Observe] = field(default_factory=list)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        """Make the counters."""
        self.requests = Counter(
            "lmwright_requests",
            "Requests by route and status",
            ["route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "lmwright_request_seconds",
            "Seconds from request to answer",
            registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self.texts = Counter(
            "lmwright_texts",
            "Texts by version and label",
            ["version", "label"],
            registry=self.registry,
        )
        self.tokens = Counter("lmwright_tokens", "Tokens read", registry=self.registry)
        Gauge("lmwright_queued_tokens", "Tokens that wait", registry=self.registry).set_function(
            lambda: self.engine.queued
        )
        Gauge("lmwright_engine_steps", "Batches so far", registry=self.registry).set_function(
            lambda: self.engine.steps
        )

    def check_name(self, name: str | None, version: str) -> None:
        """Refuse a model's name that is neither the alias nor ``version``."""
        if name not in (None, self.alias, version):
            known = f"{self.alias} or {version}"
            raise RequestFault(404, f"no model {printable(str(name))}; this is {known}", "model")


def routes(service: Service) -> APIRouter:
    """The router of a service."""
    router = APIRouter()

    @router.post("/v1/classify", summary="Label one text or many")
    async def classify(request: Request) -> JSONResponse:
        asked = read_classify(
            strict_json(await request.body()),
            service.settings.max_texts,
            service.settings.max_characters,
        )
        service.check_name(asked.model, service.engine.current.version)
        began = time.monotonic()
        client = request.scope.get("client_name", "")
        loaded, answers = await ask(service, request, asked.texts, client)
        service.check_name(asked.model, loaded.version)  # a swap may have come between
        served = Served(
            f"cls-{uuid.uuid4().hex}",
            time.time(),
            client,
            loaded.version,
            loaded.model.labels,
            asked.texts,
            tuple(answers),
        )
        for observe in service.observers:
            observe(served)
        service.seconds.observe(time.monotonic() - began)
        for one in answers:
            service.texts.labels(loaded.version, one.label or "unsure").inc()
            service.tokens.inc(one.tokens)
        return JSONResponse(describe(service.alias, served))

    @router.get("/v1/models", summary="What answers here")
    async def models() -> dict[str, Any]:
        loaded = service.engine.current
        entry = {
            "id": service.alias,
            "object": "model",
            "version": loaded.version,
            "kind": loaded.model.kind,
            "labels": list(loaded.model.labels),
            "owned_by": "lmwright",
        }
        return {"object": "list", "data": [entry]}

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
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)

    return router


async def ask(
    service: Service, request: Request, texts: Sequence[str], client: str
) -> tuple[Loaded, list[Answer]]:
    """The answers to texts and their version; gives its places back when nobody waits."""
    try:
        loaded, futures = await asyncio.to_thread(service.engine.admit, texts, client)
    except Busy as busy:
        engine = service.engine
        status = 503 if engine.draining or engine.closing else 429
        raise RequestFault(status, str(busy), headers={"Retry-After": str(busy.seconds)}) from None
    except BadInput as fault:
        raise RequestFault(413, str(fault), "input") from None
    gone = asyncio.ensure_future(disconnection(request))
    answers = asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    either: set[asyncio.Future[Any]] = {gone, answers}
    try:
        await asyncio.wait(
            either,
            timeout=service.settings.request_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not answers.done():
            if gone.done():
                raise RequestFault(499, "the client went away")
            raise RequestFault(504, "no answer in time", headers={"Retry-After": "1"})
        found = await answers
    finally:
        gone.cancel()
        service.engine.forget(client, futures)
    return loaded, [checked(answer) for answer in found]


def checked(answer: Answer | BaseException) -> Answer:
    """An answer, or the fault of the one text that made the model fail."""
    if isinstance(answer, Failed):
        raise RequestFault(500, "the model failed on a text of this request", "input")
    if isinstance(answer, BaseException):
        raise answer
    return answer


async def disconnection(request: Request) -> None:
    """Return when the client has gone."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return


def describe(alias: str, served: Served) -> dict[str, Any]:
    """A request's answer as JSON."""
    results = [
        {
            "index": index,
            "label": one.label,
            "unsure": one.unsure,
            "probabilities": dict(zip(served.labels, map(float, one.probabilities), strict=True)),
        }
        for index, one in enumerate(served.answers)
    ]
    return {
        "id": served.id,
        "object": "classification",
        "model": alias,
        "version": served.version,
        "results": results,
        "usage": {"tokens": sum(one.tokens for one in served.answers)},
    }


def make_app(service: Service, routers: Sequence[APIRouter]) -> App:
    """Routers put together behind the guard; every error leaves in the one shape."""
    app = FastAPI(
        title="lmwright",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(refuse_query)],
    )
    for router in routers:
        app.include_router(router)

    async def fault(request: Request, error: Exception) -> Response:
        known = as_fault(error)
        return Response(known.to_bytes(), known.status, known.headers, "application/json")

    for kind in (RequestFault, HTTPException, Exception):
        app.add_exception_handler(kind, fault)
    return counted(Guard(head_as_get(app), service.settings), service)


def refuse_query(request: Request) -> None:
    """Refuse what would otherwise be ignored."""
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


def counted(app: App, service: Service) -> App:
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
