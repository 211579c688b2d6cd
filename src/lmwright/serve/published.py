"""The published language models of a server, and the adapters that stand on the first."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.registry import Collector

from lmwright.core.errors import LmwrightError
from lmwright.models.text_model import TextModel
from lmwright.serve.adapters import Adapters
from lmwright.serve.app import counters_of, requests_counter
from lmwright.serve.completions import Completions, Schedulers
from lmwright.serve.engine import Busy, Engine
from lmwright.serve.jobs import Emit, Job, JobScheduler
from lmwright.serve.offer import offer_of_published
from lmwright.serve.request import RequestFault, printable
from lmwright.serve.settings import Serve
from lmwright.serve.shelf import Shelf

log = logging.getLogger("lmwright.serve")


class GenerationService(Completions):
    """The state that the routes of a published language model share: one of a shelf."""

    def __init__(self, name: str, schedulers: Schedulers, settings: Serve, shelf: Shelf) -> None:
        super().__init__(name, schedulers, settings, CollectorRegistry())
        self.shelf, self.created = shelf, int(time.time())

    async def prepare(self) -> None:
        """Have the model loaded; RequestFault where there is no room, or it cannot be read."""
        taking = asyncio.ensure_future(asyncio.to_thread(self.shelf.take, self.name))
        try:
            await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(self.give_what_nobody_waits_for)
            raise
        except Busy as busy:
            raise RequestFault(
                503,
                f"other models are in use, and {self.name} has no room beside them",
                "model",
                {"Retry-After": str(busy.seconds)},
            ) from None
        except LmwrightError as fault:
            log.error("%s cannot be loaded: %s", self.name, fault)  # which may name files
            raise RequestFault(
                500, f"{self.name} cannot be loaded; the server's log says why"
            ) from None

    @asynccontextmanager
    async def held(self) -> AsyncIterator[TextModel]:
        """The model, loaded for the length of a block; RequestFault where it cannot be."""
        await self.prepare()
        try:
            model = self.shelf.entries[self.name].model
            assert model is not None
            yield model
        finally:
            self.shelf.give(self.name)

    def give_what_nobody_waits_for(self, taken: asyncio.Future[Any]) -> None:
        """Give a model back whose client went while it was loaded."""
        if not taken.cancelled() and taken.exception() is None:
            self.shelf.give(self.name)

    def reserve(self, client: str, emit: Emit, scheduler: JobScheduler) -> Job:
        """A place for the model."""
        model = self.shelf.entries[self.name].model
        assert model is not None
        try:
            return scheduler.reserve(client, emit, model, lambda: self.shelf.give(self.name))
        except BaseException:
            self.shelf.give(self.name)
            raise

    def describe(self) -> dict[str, Any]:
        """The model as an entry of ``/v1/models``; all that it can is known once it is loaded."""
        model = self.shelf.entries[self.name].model
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "lmwright",
            "loaded": model is not None,
            **offer_of_published(model),
        }


class GenerationServices(Collector):
    """The published language models that one server answers with, on one engine.

    A request names a model, which may be one of the ``adapters`` on the first; the first answers
    those that name none.
    """

    def __init__(self, names: Sequence[str], engine: Engine, settings: Serve, shelf: Shelf) -> None:
        self.registry = CollectorRegistry()
        self.schedulers = Schedulers.of(engine, settings, self.registry)
        self.members = {
            name: GenerationService(name, self.schedulers, settings, shelf) for name in names
        }
        self.first = self.members[names[0]]
        self.adapters = Adapters(settings.adapters, names[0], shelf)
        self.adapted: dict[str, GenerationService] = {}
        self.requests = requests_counter(self.registry)
        Gauge("lmwright_loaded_bytes", "Weights in memory", registry=self.registry).set_function(
            lambda: self.first.shelf.loaded_bytes
        )

    @property
    def settings(self) -> Serve:
        """The settings of the server."""
        return self.first.settings

    @property
    def engine(self) -> Engine:
        """The engine that answers."""
        return self.first.engine

    @property
    def metrics(self) -> Collector:
        """The counters of all."""
        return self

    def collect(self) -> Iterator[Metric]:
        """Requests, and the counters of each model."""
        yield from self.registry.collect()
        yield from counters_of(
            {name: each.registry for name, each in {**self.adapted, **self.members}.items()}
        )

    def named(self, name: str | None) -> GenerationService:
        """The model of that name, the first where there is no name; RequestFault: no such model."""
        if name is None:
            return self.first
        if name in self.members:
            return self.members[name]
        if self.adapters.renew(name):
            if name not in self.adapted:
                first = self.first
                self.adapted[name] = GenerationService(
                    name, self.schedulers, first.settings, first.shelf
                )
            return self.adapted[name]
        known = ", ".join(map(printable, [*self.members, *self.adapters.names()]))
        raise RequestFault(404, f"no model {printable(name)}; known: {known}", "model")

    def models(self) -> list[dict[str, Any]]:
        """The models as entries of ``/v1/models``, with the adapters that are there."""
        names = [*self.members, *(n for n in self.adapters.names() if n not in self.members)]
        return [self.named(name).describe() for name in names]

    def model(self, name: str) -> dict[str, Any]:
        """The entry of the model of that name."""
        return self.named(name).describe()
