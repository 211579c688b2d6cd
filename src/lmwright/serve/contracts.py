"""The routes that a task may keep beside ``/v1/predict``: classify, completions, embeddings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from lmwright.core.task import role_columns
from lmwright.serve.completions import (
    Completions,
    Exchange,
    Schedulers,
    add_chat,
    add_text,
)
from lmwright.serve.embeddings import add_embeddings
from lmwright.serve.engine import Busy
from lmwright.serve.jobs import Emit, Job, JobScheduler
from lmwright.serve.kept import Kept
from lmwright.serve.parameter_table import described
from lmwright.serve.request import model_of, read_classify, strict_json
from lmwright.serve.rerank import add_rerank
from lmwright.serve.responses import add_responses
from lmwright.serve.rows import Answer, Loaded
from lmwright.serve.served import Served
from lmwright.serve.service import Service, Services, serve_rows
from lmwright.serve.version_model import VersionModel

log = logging.getLogger("lmwright.serve")


class VersionCompletions(Completions):
    """Completions by the version in service, told to all observers where they are rows of its task.

    A conversation is no row of a task whose input is one text, so it is answered and not watched.
    """

    def __init__(self, service: Service, schedulers: Schedulers) -> None:
        super().__init__(
            service.alias, schedulers, service.settings, service.registry, "lmwright_generation"
        )
        self.service = service
        self.latest: VersionModel | None = None
        self.pool = ThreadPoolExecutor(1, "completions")
        service.pools.append(self.pool)

    def check_name(self, name: str | None) -> None:
        """Refuse a name that is neither the alias nor the version in service."""
        self.service.check_name(name)

    def reserve(self, client: str, emit: Emit, scheduler: JobScheduler) -> Job:
        """A place for the version in service, which is kept until it is free again.

        RequestFault where the version writes nothing.
        """
        rows = self.service.rows
        with self.engine.changed:
            model = self.model(rows.current)
            model.loaded.pending += 1
        try:
            return scheduler.reserve(client, emit, model, lambda: rows.release(model.loaded, 1))
        except Busy:
            rows.release(model.loaded, 1)
            raise

    def answered_by(self, job: Job) -> dict[str, str]:
        """The version that answers: after a swap no longer the one in service."""
        return {"version": cast(VersionModel, job.model).loaded.version}

    def model(self, loaded: Loaded) -> VersionModel:
        """The text model of a version; RequestFault where it writes nothing."""
        if self.latest is None or self.latest.loaded is not loaded:
            self.latest = VersionModel(loaded)
        return self.latest

    def ended(self, exchange: Exchange) -> None:
        """Tell the observers of the answers, once they are scored; answers to ids are not told."""
        model, given = cast(VersionModel, exchange.job.model), exchange.parsed
        if model.column.type == "messages":
            asked: list[Any] = [model.conversation(given.messages)] * given.n
        else:
            asked = [prompt for prompt in given.prompts for _ in range(given.n)]
        answered = [
            (
                prompt,
                exchange.texts[place].removeprefix(prompt if given.echo else ""),
                exchange.reasons.get(place) == "stop",
            )
            for place, prompt in enumerate(asked)
            if not isinstance(prompt, np.ndarray)
        ]

        def tell() -> None:
            try:
                observe(tuple(model.answer(*each) for each in answered))
            except Exception as error:  # the client has its answer: only the watch goes without
                log.error("a completion cannot be scored, and is not observed: %s", type(error))

        def observe(answers: tuple[Answer, ...]) -> None:
            served = Served(
                exchange.head["id"],
                exchange.head["created"],
                exchange.job.client,
                model.loaded.version,
                tuple({model.column.name: prompt} for prompt, *_ in answered),
                answers,
            )
            for each in self.service.observers:
                each(served)

        if answered:
            self.pool.submit(tell)


def add_classify(router: APIRouter, kept: Kept, writers: Writers) -> None:
    """``/v1/classify``: texts for the one input column."""
    settings = kept.services.settings

    @router.post(
        "/v1/classify", summary="Label one text or many", openapi_extra=described("/v1/classify")
    )
    async def classify(request: Request) -> JSONResponse:
        body = strict_json(await request.body())
        service = kept.named(model_of(body))
        (column,) = role_columns(service.rows.current.task, "input")
        asked = read_classify(body, column.name, settings.max_texts, settings.max_characters)
        served = await serve_rows(service, request, asked, "cls")
        return JSONResponse(
            {
                "id": served.id,
                "object": "classification",
                "model": service.alias,
                "version": served.version,
                "results": [
                    {"index": index, **one.told} for index, one in enumerate(served.answers)
                ],
                "usage": {"tokens": sum(one.tokens for one in served.answers)},
            }
        )


def add_text_completions(router: APIRouter, kept: Kept, writers: Writers) -> None:
    """``/v1/completions``, by the version in service."""
    add_text(router, kept.services.settings, lambda name: writers(kept.named(name)))


def add_chat_completions(router: APIRouter, kept: Kept, writers: Writers) -> None:
    """``/v1/chat/completions``, by the version in service."""
    add_chat(router, kept.services.settings, lambda name: writers(kept.named(name)))


def add_kept_responses(router: APIRouter, kept: Kept, writers: Writers) -> None:
    """``/v1/responses``, by the version in service."""
    add_responses(router, kept.services.settings, lambda name: writers(kept.named(name)))


def add_kept_embeddings(router: APIRouter, kept: Kept, writers: Writers) -> None:
    """``/v1/embeddings``, by the version in service."""
    add_embeddings(router, kept)


def add_kept_rerank(router: APIRouter, kept: Kept, writers: Writers) -> None:
    """``/v1/rerank``, by the version in service."""
    add_rerank(router, kept)


Writers = Callable[[Service], VersionCompletions]
"""The completions of a service, which both of its routes share."""
CONTRACTS: dict[str, tuple[Callable[[APIRouter, Kept, Writers], None], ...]] = {
    "classify": (add_classify,),
    "completions": (add_text_completions, add_chat_completions, add_kept_responses),
    "chat-completions": (add_chat_completions, add_kept_responses),
    "embeddings": (add_kept_embeddings,),
    "rerank": (add_kept_rerank,),
}
"""Routes by the names that tasks list."""


def add_contracts(router: APIRouter, services: Services) -> None:
    """Every route that the task of a service keeps, once."""
    keeping: dict[Callable[[APIRouter, Kept, Writers], None], list[Service]] = {}
    for service in services.members:
        for contract in service.rows.current.task.contracts:
            for add in CONTRACTS[contract]:
                keeping.setdefault(add, []).append(service)
    made: dict[str, VersionCompletions] = {}

    def writers(service: Service) -> VersionCompletions:
        return made[service.alias]

    writing = [
        each
        for each in services.members
        if any(each in keeping.get(add, ()) for add in CONTRACTS["completions"])
    ]
    if writing:
        settings, registry = services.settings, services.registry
        schedulers = Schedulers.of(services.engine, settings, registry, "lmwright_generation")
        made.update({each.alias: VersionCompletions(each, schedulers) for each in writing})
    for add, some in keeping.items():
        add(router, Kept(services, tuple(some)), writers)
