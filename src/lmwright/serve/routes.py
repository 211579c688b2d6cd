"""The routes of a classifier: classify, models."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lmwright.core.errors import BadInput
from lmwright.serve.app import add_health, add_models, await_while_connected, requests_counter
from lmwright.serve.engine import Answer, Busy, Engine, Failed, Loaded
from lmwright.serve.request import RequestFault, printable, read_classify, strict_json
from lmwright.serve.served import Served
from lmwright.serve.settings import Serve

Observe = Callable[[Served], None]


@dataclass
class Service:
    """The state that the routes of a server share: its engine, settings, counters and observers."""

    alias: str
    engine: Engine
    settings: Serve
    observers: list[Observe] = field(default_factory=list)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        """Make the counters."""
        self.created = int(time.time())
        self.requests = requests_counter(self.registry)
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

    def describe(self) -> dict[str, Any]:
        """The model as an entry of ``/v1/models``."""
        loaded = self.engine.current
        return {
            "id": self.alias,
            "object": "model",
            "created": self.created,
            "version": loaded.version,
            "kind": loaded.model.kind,
            "labels": list(loaded.model.labels),
            "owned_by": "lmwright",
        }

    def check_name(self, name: str | None, version: str = "") -> None:
        """Refuse a name that is neither the alias nor ``version`` (empty: the present one)."""
        version = version or self.engine.current.version
        if name not in (None, self.alias, version):
            known = f"{self.alias} or {version}"
            raise RequestFault(404, f"no model {printable(str(name))}; this is {known}", "model")


def routes(service: Service) -> APIRouter:
    """The router of a service."""
    router = APIRouter()

    @router.post("/v1/classify", summary="Label one text or many")
    async def classify(request: Request) -> JSONResponse:
        parsed = read_classify(
            strict_json(await request.body()),
            service.settings.max_texts,
            service.settings.max_characters,
        )
        service.check_name(parsed.model, service.engine.current.version)
        began = time.monotonic()
        client = request.scope.get("client_name", "")
        loaded, answers = await ask(service, request, parsed.texts, client)
        service.check_name(parsed.model, loaded.version)  # a swap may have come between
        served = Served(
            f"cls-{uuid.uuid4().hex}",
            time.time(),
            client,
            loaded.version,
            loaded.model.labels,
            parsed.texts,
            tuple(answers),
        )
        for observe in service.observers:
            observe(served)
        service.seconds.observe(time.monotonic() - began)
        for one in answers:
            service.texts.labels(loaded.version, one.label or "unsure").inc()
            service.tokens.inc(one.tokens)
        return JSONResponse(describe(service.alias, served))

    add_models(router, service)
    add_health(router, service)
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
    answers = asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    try:
        found = await await_while_connected(request, answers, service.settings.request_seconds)
    finally:
        service.engine.forget(client, futures)
    return loaded, [checked(answer) for answer in found]


def checked(answer: Answer | BaseException) -> Answer:
    """An answer, or the fault of the one text that made the model fail."""
    if isinstance(answer, Failed):
        raise RequestFault(500, "the model failed on a text of this request", "input")
    if isinstance(answer, BaseException):
        raise answer
    return answer


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
