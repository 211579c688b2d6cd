"""What the routes of a version share, and how they answer rows."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.registry import Collector

from lmwright.core.columns import Row, blank
from lmwright.core.errors import BadInput
from lmwright.core.task import refusal_of, task_to_json
from lmwright.serve.app import await_while_connected, counters_of, requests_counter
from lmwright.serve.engine import Busy, Engine, Failed
from lmwright.serve.offer import offer_of_version
from lmwright.serve.request import RequestFault, RowsRequest, printable
from lmwright.serve.rows import Answer, Loaded, RowScheduler
from lmwright.serve.served import Served
from lmwright.serve.settings import Serve

Observe = Callable[[Served], None]


@dataclass
class Service:
    """An alias in service: its rows, settings, counters and observers.

    ``pools`` have one thread each that still tells the observers of what was answered.
    """

    alias: str
    rows: RowScheduler
    settings: Serve
    observers: list[Observe] = field(default_factory=list)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        """Make the counters."""
        self.created = int(time.time())
        self.pools: list[ThreadPoolExecutor] = []
        self.seconds = Histogram(
            "lmwright_request_seconds",
            "Seconds from request to answer",
            registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self.answered = Counter(
            "lmwright_rows",
            "Rows by version and class of answer",
            ["version", "answer"],
            registry=self.registry,
        )
        self.tokens = Counter("lmwright_tokens", "Tokens read", registry=self.registry)
        Gauge("lmwright_queued_tokens", "Tokens that wait", registry=self.registry).set_function(
            lambda: self.rows.queued
        )
        Gauge("lmwright_engine_steps", "Batches so far", registry=self.registry).set_function(
            lambda: self.engine.steps
        )

    @property
    def engine(self) -> Engine:
        """The engine that answers rows, and texts where the task's contracts write them."""
        return self.rows.engine

    def settle(self) -> None:
        """Return when the observers know of all that was answered before."""
        for pool in self.pools:
            pool.submit(lambda: None).result(self.settings.request_seconds)

    def describe(self) -> dict[str, Any]:
        """The model as an entry of ``/v1/models``."""
        loaded = self.rows.current
        return {
            "id": self.alias,
            "object": "model",
            "created": self.created,
            "version": loaded.version,
            "kind": loaded.predictor.kind,
            "task": task_to_json(loaded.task),
            "owned_by": "lmwright",
            **offer_of_version(loaded),
        }

    def check_name(self, name: str | None, version: str = "") -> None:
        """Refuse a name that is neither the alias nor ``version`` (empty: the present one)."""
        version = version or self.rows.current.version
        if name not in (None, self.alias, version):
            known = f"{self.alias} or {version}"
            raise RequestFault(404, f"no model {printable(str(name))}; this is {known}", "model")


class Services(Collector):
    """The aliases that one server answers for, on one engine: each has a service of its own.

    A request names a model by its alias or its version; the first answers those that name none.
    """

    def __init__(self, members: Sequence[Service]) -> None:
        self.members = tuple(members)
        self.registry = CollectorRegistry()
        self.requests = requests_counter(self.registry)

    @property
    def settings(self) -> Serve:
        """The settings of the server: those of the first."""
        return self.members[0].settings

    @property
    def engine(self) -> Engine:
        """The engine that all are asked through."""
        return self.members[0].engine

    @property
    def metrics(self) -> Collector:
        """The counters of all."""
        return self

    def collect(self) -> Iterator[Metric]:
        """Requests, and each service's counters; of several, with its alias as label ``model``."""
        yield from self.registry.collect()
        yield from counters_of({each.alias: each.registry for each in self.members})

    def named(self, name: str | None, among: Sequence[Service] = ()) -> Service:
        """The service of an alias or a version in service, the first where there is no name.

        ``among`` are those in question, by default all; RequestFault where none has the name.
        """
        members = among or self.members
        for each in members:
            if name in (None, each.alias, each.rows.current.version):
                return each
        if len(members) == 1:
            members[0].check_name(name)
        known = ", ".join(each.alias for each in members)
        raise RequestFault(404, f"no model {printable(str(name))}; these are {known}", "model")

    def models(self) -> list[dict[str, Any]]:
        """The models as entries of ``/v1/models``."""
        return [each.describe() for each in self.members]

    def model(self, name: str) -> dict[str, Any]:
        """The entry of the model of that name."""
        return self.named(name).describe()


async def serve_rows(service: Service, request: Request, asked: RowsRequest, prefix: str) -> Served:
    """Answers to the rows of a request, told to all observers and counted."""
    service.check_name(asked.model, service.rows.current.version)
    for place, row in enumerate(asked.rows):
        if reason := refusal_of(service.rows.current.task, row):
            raise RequestFault(400, f"inputs[{place}]: {reason}", "inputs")
    began = time.monotonic()
    client = request.scope.get("client_name", "")
    loaded, answers = await ask(
        service, request, lambda client: admitted(service, asked.rows, client)
    )
    service.check_name(asked.model, loaded.version)  # a swap may have come between
    name = f"{prefix}-{uuid.uuid4().hex}"
    served = Served(name, time.time(), client, loaded.version, asked.rows, tuple(answers))
    for observe in service.observers:
        observe(served)
    service.seconds.observe(time.monotonic() - began)
    for one in answers:
        service.answered.labels(loaded.version, one.task.category(one.told)).inc()
        service.tokens.inc(one.tokens)
    return served


async def ask(
    service: Service, request: Request, admit: Callable[[str], tuple[Loaded, list[Future[Answer]]]]
) -> tuple[Loaded, list[Answer]]:
    """The answers to what ``admit`` queues for a client, and their version; gives its places back
    when nobody waits."""
    client = request.scope.get("client_name", "")
    try:
        loaded, futures = await asyncio.to_thread(admit, client)
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
        service.rows.forget(client, futures)
    return loaded, [checked(answer) for answer in found]


def admitted(
    service: Service, rows: Sequence[Row], client: str
) -> tuple[Loaded, list[Future[Answer]]]:
    """The rows in the queue; RequestFault for one of which cleaning leaves nothing, as where rows
    to learn from are read."""
    task = service.rows.current.task
    for place, row in enumerate(rows):
        if blank(task.text(row)):
            raise RequestFault(400, f"row {place}: nothing is left of its text after cleaning")
    return service.rows.admit(rows, client)


def checked(answer: Answer | BaseException) -> Answer:
    """An answer, or the fault of the one row that made the model fail."""
    if isinstance(answer, Failed):
        raise RequestFault(500, "the model failed on a row of this request", "input")
    if isinstance(answer, BaseException):
        raise answer
    return answer
