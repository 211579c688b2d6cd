"""The routes of language models: chat completions and completions."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lmwright.serve.app import await_while_connected
from lmwright.serve.compiling import CompilingTurns
from lmwright.serve.engine import Busy, Engine, Failed, Unanswerable
from lmwright.serve.generation import Chunk, GenerationRequest
from lmwright.serve.guard import Receive, Scope, Send
from lmwright.serve.jobs import Emit, Job, JobScheduler
from lmwright.serve.parameter_table import described
from lmwright.serve.parameters import (
    CHAT_ROUTE,
    TEXT_ROUTE,
    CompletionRequest,
    generation_requests,
    read_chat,
    read_text,
)
from lmwright.serve.request import RequestFault, printable, strict_json
from lmwright.serve.searches import SearchScheduler
from lmwright.serve.settings import Serve
from lmwright.serve.shapes import CHAT, TEXT, Shape
from lmwright.serve.texts import TextScheduler

log = logging.getLogger("lmwright.serve")


@dataclass(frozen=True)
class Schedulers:
    """The schedulers of all models of a server: those on one base share steps, searches
    have their places with texts, and forms are compiled in turns."""

    texts: TextScheduler
    searches: SearchScheduler
    compiling: CompilingTurns

    @classmethod
    def of(
        cls, engine: Engine, settings: Serve, registry: CollectorRegistry, prefix: str = "lmwright"
    ) -> Schedulers:
        """Those of an engine, with gauges whose names begin with ``prefix``."""
        texts = TextScheduler(
            engine,
            settings.queue_requests,
            settings.cache_tokens,
            settings.draft_tokens,
            settings.share_prefixes,
        )
        searches = SearchScheduler(engine, texts.places, settings.cache_tokens)
        found = cls(texts, searches, CompilingTurns())
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "queued_requests": ("Requests under way", lambda: texts.queued),
            "held_pages": ("Pages of the KV cache that are in use", found.held_pages),
            "preemptions": ("Answers that gave their pages", lambda: texts.preemptions),
            "accepted_drafts": ("Drafted tokens kept", lambda: texts.accepted_drafts),
        }
        for word, (told, count) in gauges.items():
            Gauge(f"{prefix}_{word}", told, registry=registry).set_function(count)
        return found

    def held_pages(self) -> int:
        """The pages that texts and searches hold."""
        return self.texts.held_pages + self.searches.held_pages


class Completions(ABC):
    """The state that routes of completions share: model and name, the schedulers of texts and of
    searches, which have their places together, limits, counters.

    The texts of all models of a server are written by one scheduler, so that those on one base
    share its steps. The names of the counters begin with ``prefix``.
    """

    def __init__(
        self,
        name: str,
        schedulers: Schedulers,
        settings: Serve,
        registry: CollectorRegistry,
        prefix: str = "lmwright",
    ) -> None:
        self.name, self.settings, self.registry = name, settings, registry
        self.texts, self.searches = schedulers.texts, schedulers.searches
        self.engine, self.compiling = schedulers.texts.engine, schedulers.compiling
        self.seconds = Histogram(
            f"{prefix}_request_seconds",
            "Seconds from request to the end of its answer",
            registry=registry,
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500),
        )
        self.tokens = Counter(
            f"{prefix}_tokens", "Tokens read and written", ["kind"], registry=registry
        )

    async def prepare(self) -> None:  # noqa: B027 - most need not
        """Have the model that answers loaded, until :meth:`reserve` is called, next."""

    @abstractmethod
    def reserve(self, client: str, emit: Emit, scheduler: JobScheduler) -> Job:
        """A place in the queue, with the model that answers; Busy when there is none."""

    def scheduler(self, parsed: CompletionRequest) -> JobScheduler:
        """The scheduler of the answers to a request."""
        return self.texts if parsed.search is None else self.searches

    def check_name(self, name: str | None) -> None:
        """Refuse the name of another model."""
        if name not in (None, self.name):
            known = f"this is {printable(self.name)}"
            raise RequestFault(404, f"no model {printable(str(name))}; {known}", "model")

    def answered_by(self, job: Job) -> dict[str, str]:
        """What an answer says of the model that gives it, beside its name."""
        return {}

    def ended(self, exchange: Exchange) -> None:  # noqa: B027 - most need not
        """Take note of a request whose answers are whole."""


Choose = Callable[[str | None], Completions]
"""What answers a request by the name that it gives to a model."""


def add_chat(router: APIRouter, settings: Serve, choose: Choose) -> None:
    """``/v1/chat/completions``: conversations to answer, where the model has a chat template."""

    @router.post(CHAT_ROUTE, summary="Answer a conversation", openapi_extra=described(CHAT_ROUTE))
    async def chat(request: Request) -> Response:
        parsed = read_chat(strict_json(await request.body()), settings)
        return await answer(choose(parsed.model), request, parsed, CHAT, whole, events)


def add_text(router: APIRouter, settings: Serve, choose: Choose) -> None:
    """``/v1/completions``: texts to go on from."""

    @router.post(TEXT_ROUTE, summary="Go on from a prompt", openapi_extra=described(TEXT_ROUTE))
    async def complete(request: Request) -> Response:
        parsed = read_text(strict_json(await request.body()), settings)
        return await answer(choose(parsed.model), request, parsed, TEXT, whole, events)


@dataclass
class Exchange:
    """One HTTP request and its answers: its job, and the queue of chunks not yet sent.

    ``began`` and ``deadline`` are times of the monotonic clock.
    """

    service: Completions
    parsed: CompletionRequest
    shape: Shape
    scheduler: JobScheduler
    job: Job
    queue: asyncio.Queue[tuple[int, Chunk | Failed | None]]

    def __post_init__(self) -> None:
        """Start the clock, and make the fields that every part of the answer carries."""
        self.began = time.monotonic()
        self.deadline = self.began + self.service.settings.answer_seconds
        self.head: dict[str, Any] = {
            "id": f"{self.shape.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.service.name,
            **self.service.answered_by(self.job),
        }
        self.requests: Sequence[GenerationRequest] = ()
        self.counts: dict[int, int] = {}
        self.cached: dict[int, int] = {}
        self.texts: dict[int, str] = {}
        self.reasons: dict[int, str] = {}
        self.whole = False

    async def chunks(self) -> AsyncIterator[tuple[int, Chunk]]:
        """The chunks of all answers, each with its answer's number; RequestFault on a failure."""
        while True:
            try:
                number, chunk = await asyncio.wait_for(
                    self.queue.get(), self.deadline - time.monotonic()
                )
            except TimeoutError:
                raise RequestFault(504, "no answer in time", headers={"Retry-After": "1"}) from None
            if isinstance(chunk, Unanswerable):
                form = self.parsed.output_format
                raise RequestFault(400, chunk.found, "tools" if form is None else form.param)
            if isinstance(chunk, Failed):
                raise RequestFault(500, chunk.found)
            if chunk is None:
                self.whole = True
                return
            self.counts[number], self.cached[number] = chunk.count, chunk.cached
            self.texts[number] = self.texts.get(number, "") + chunk.text
            if chunk.finish_reason:
                self.reasons[number] = chunk.finish_reason
            yield number, chunk

    def usage(self) -> dict[str, Any]:
        """The tokens of each prompt, once, of which some had been read before, and those that were
        chosen."""
        read = sum(len(each.prompt) for each in self.requests[:: self.parsed.n])
        chosen = sum(self.counts.values())
        firsts = range(0, len(self.requests), self.parsed.n)
        return {
            "prompt_tokens": read,
            "completion_tokens": chosen,
            "total_tokens": read + chosen,
            "prompt_tokens_details": {"cached_tokens": sum(self.cached.get(n, 0) for n in firsts)},
        }

    def leave(self) -> None:
        """Give the place in the queue back, and count tokens and seconds."""
        self.scheduler.cancel(self.job)
        self.service.seconds.observe(time.monotonic() - self.began)
        usage = self.usage()
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        for kind, count in usage.items():
            if kind in ("prompt_tokens", "completion_tokens"):
                self.service.tokens.labels(kind.removesuffix("_tokens")).inc(count)
        self.service.tokens.labels("cached").inc(cached)
        if self.whole:
            self.service.ended(self)


async def answer(
    service: Completions,
    request: Request,
    parsed: CompletionRequest,
    shape: Shape,
    whole: Callable[[Exchange], Awaitable[dict[str, Any]]],
    events: Callable[[Exchange], AsyncIterator[bytes]],
) -> Response:
    """The answer to a checked request, ``whole`` or as it comes in ``events``."""
    service.check_name(parsed.model)
    await service.prepare()
    scheduler = service.scheduler(parsed)
    exchange = Exchange(
        service, parsed, shape, scheduler, *reserve_place(service, request, scheduler)
    )
    try:
        exchange.requests = await await_while_connected(
            request, read_requests(exchange), service.settings.answer_seconds
        )
        scheduler.submit(exchange.job, exchange.requests)
        if parsed.stream:
            return Events(events(exchange), exchange.leave)
        body = await await_while_connected(
            request, whole(exchange), service.settings.answer_seconds
        )
    except BaseException:
        exchange.leave()
        raise
    exchange.leave()
    return JSONResponse(body)


async def read_requests(exchange: Exchange) -> Sequence[GenerationRequest]:
    """The requests to the model; where answers have a form, read in a turn to compile it."""
    parsed, job, service = exchange.parsed, exchange.job, exchange.service
    turn: AbstractAsyncContextManager[None] = nullcontext()
    if parsed.output_format is not None or parsed.tools is not None:
        turn = service.compiling.turn(job.client)
    async with turn:
        return await asyncio.to_thread(
            generation_requests, parsed, job.model, service.settings.cache_tokens
        )


def reserve_place(
    service: Completions, request: Request, scheduler: JobScheduler
) -> tuple[Job, asyncio.Queue[tuple[int, Chunk | Failed | None]]]:
    """A place in the queue, and the queue of its chunks; RequestFault when there is none."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[int, Chunk | Failed | None]] = asyncio.Queue()

    def emit(number: int, chunk: Chunk | Failed | None) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it all who waited
            loop.call_soon_threadsafe(queue.put_nowait, (number, chunk))

    try:
        client = request.scope.get("client_name", "")
        return service.reserve(client, emit, scheduler), queue
    except Busy as busy:
        closed = service.engine.draining or service.engine.closing
        status = 503 if closed else 429
        raise RequestFault(status, str(busy), headers={"Retry-After": str(busy.seconds)}) from None


async def whole(exchange: Exchange) -> dict[str, Any]:
    """The body of an answer that is given at once."""
    parts: dict[int, list[Chunk]] = {}
    async for number, chunk in exchange.chunks():
        parts.setdefault(number, []).append(chunk)
    with_logprobs = exchange.parsed.top_logprobs is not None
    choices = [
        exchange.shape.choice(number, joined(parts[number]), with_logprobs) for number in parts
    ]
    return {
        **exchange.head,
        "object": exchange.shape.object,
        "choices": choices,
        "usage": exchange.usage(),
    }


def joined(parts: Sequence[Chunk]) -> Chunk:
    """The parts of one answer as one."""
    text = "".join(part.text for part in parts)
    tokens = tuple(token for part in parts for token in part.tokens)
    read = [piece for part in parts for piece in part.pieces or ()]
    pieces = None if parts[-1].pieces is None else tuple(read)
    return replace(parts[-1], text=text, tokens=tokens, pieces=pieces)


async def events(exchange: Exchange) -> AsyncIterator[bytes]:
    """The body of an answer that is given as it comes, a server-sent event each."""
    more: dict[str, Any] = {"usage": None} if exchange.parsed.include_usage else {}
    head = {**exchange.head, "object": exchange.shape.part_object}
    with_logprobs, begun = exchange.parsed.top_logprobs is not None, set[int]()
    try:
        async for number, chunk in exchange.chunks():
            parts = exchange.shape.parts(number, chunk, with_logprobs, first=number not in begun)
            begun.add(number)
            for part in parts:
                yield event({**head, "choices": [part], **more})
    except RequestFault as fault:
        yield event(fault.body())
        return
    if exchange.parsed.include_usage:
        yield event({**head, "choices": [], "usage": exchange.usage()})
    yield b"data: [DONE]\n\n"


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event: JSON in ASCII, so that no text can end a line."""
    return b"data: " + json.dumps(value).encode("ascii") + b"\n\n"


class Events(StreamingResponse):
    """A stream of events; ``leave`` is called when it ends, however it does."""

    def __init__(self, content: AsyncIterator[bytes], leave: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-cache"}
        super().__init__(content, headers=headers, media_type="text/event-stream")
        self.leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the client has gone."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.leave()
