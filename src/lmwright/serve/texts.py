"""Texts to be written: all that are under way on a model get their next token in one step.

A request holds its place from :meth:`TextScheduler.reserve` on, and is answered by the model that
it was reserved with. Its answers are begun in turn from each client; a prompt is read in pieces,
so that neither those who write nor other work of the engine waits long for it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from lmwright.models.decode import DecodingState
from lmwright.models.text_model import TextModel
from lmwright.serve.engine import Busy, Engine, Failed, Places, Turns
from lmwright.serve.generation import AnswerBuilder, Chunk, EchoBuilder, GenerationRequest

log = logging.getLogger("lmwright.serve")

Emit = Callable[[int, Chunk | Failed | None], None]
"""Called from the worker's thread: the number of an answer and its next chunk, then None."""

PREFILL_TOKENS = 256
"""Tokens of a prompt that are read in a step."""
MOST_ANSWERS = 16
"""Answers that are written side by side."""
CACHE_TOKENS = 1 << 15
"""Tokens for which the KV cache of a model may have room, where more than one answer is written."""


@dataclass(eq=False)
class Job:
    """An HTTP request: its generation requests, the model that answers them all, and where chunks
    go. ``release`` is called when its place is free again. ``gone``: nobody waits; ``left`` counts
    the answers that are not yet whole."""

    client: str
    emit: Emit
    model: TextModel
    release: Callable[[], None]
    requests: Sequence[GenerationRequest] = ()
    gone: bool = False
    left: int = 0
    began: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Answering:
    """One answer under way. Its prompt is read by a state of its own, of which ``unread`` is left;
    then it is written beside others, the last token being ``token``."""

    job: Job
    number: int
    builder: AnswerBuilder | None = None
    state: DecodingState | None = None
    unread: np.ndarray | None = None
    echo: EchoBuilder | None = None
    token: int = 0

    @property
    def request(self) -> GenerationRequest:
        """What is asked."""
        return self.job.requests[self.number]

    @property
    def room(self) -> int:
        """The most tokens that prompt and answer have."""
        return len(self.request.prompt) + self.request.params.max_new_tokens


@dataclass(eq=False)
class Batch:
    """The answers that a model writes side by side, each in its place of the state."""

    state: DecodingState
    answers: list[Answering]


@dataclass(eq=False)
class Prefill:
    """A step that reads a piece of a prompt; ``read``: the last one, and its answer is begun."""

    answering: Answering
    ended: dict[Answering, Failed | None] = field(default_factory=dict)
    read: bool = False


@dataclass(eq=False)
class Decode:
    """A step in which every answer of a batch gets its next token.

    ``alone`` are the states of those that went on singly, since the batch made the network fail.
    """

    batch: Batch
    ended: dict[Answering, Failed | None] = field(default_factory=dict)
    alone: dict[Answering, DecodingState] = field(default_factory=dict)


class TextScheduler:
    """Writes answers to jobs, of which at most ``capacity`` are under way."""

    patience = 120.0

    def __init__(self, engine: Engine, capacity: int = 16) -> None:
        self.engine, self.places = engine, Places(capacity)
        self.waiting = Turns[Answering]()
        self.reading: deque[Answering] = deque()
        self.batches: deque[Batch] = deque()
        self.held: set[Job] = set()
        self.wrote = False
        self.seconds = 1.0  # of a request, smoothed; only to tell clients when to come back
        engine.add(self)

    @property
    def queued(self) -> int:
        """The number of jobs under way."""
        return self.places.taken

    def reserve(
        self, client: str, emit: Emit, model: TextModel, release: Callable[[], None] = lambda: None
    ) -> Job:
        """A place in the queue, to be filled by :meth:`submit`; Busy when there is none."""
        with self.engine.changed:
            if self.engine.closed or not self.places.free_for(client, 1):
                raise Busy(min(60, max(1, round(self.seconds * self.queued))))
            self.places.take(client, 1)
            job = Job(client, emit, model, release)
            self.held.add(job)
        return job

    def submit(self, job: Job, requests: Sequence[GenerationRequest]) -> None:
        """Queue a job with its requests."""
        with self.engine.changed:
            job.requests, job.left = requests, len(requests)
            closing = self.engine.closing
            if not closing and not job.gone:
                answers = [Answering(job, number) for number in range(len(requests))]
                self.waiting.push(job.client, answers)
            self.engine.changed.notify_all()
        if closing:
            job.emit(0, Failed("the server stops"))

    def cancel(self, job: Job) -> None:
        """End a job after the present step, or before it begins."""
        with self.engine.changed:
            job.gone = True
            self.waiting.remove(job.client, lambda each: each.job is job)
            if not any(each.job is job for each in self.under_way()):
                self.free(job)

    def under_way(self) -> list[Answering]:
        """The answers that are begun and not ended (the lock is held)."""
        return [*self.reading, *(each for batch in self.batches for each in batch.answers)]

    # A step

    def schedule(self) -> Prefill | Decode | None:
        """A piece of a prompt and a token of a batch by turns, of several models' batches too."""
        self.admit()
        if self.reading and (self.wrote or not self.batches):
            self.wrote = False
            return Prefill(self.reading[0])
        if self.batches:
            self.wrote = True
            self.batches.rotate(-1)
            return Decode(self.batches[-1])
        return None

    def admit(self) -> None:
        """Begin answers that wait, as far as there is room to write them side by side."""
        while self.waiting:
            active, next_ = self.under_way(), self.waiting.first
            beside = [each.room for each in active if each.job.model is next_.job.model]
            tokens = (len(beside) + 1) * max([*beside, next_.room])
            if active and (len(active) >= MOST_ANSWERS or tokens > CACHE_TOKENS):
                return
            self.reading.append(self.waiting.pop())

    def run(self, step: Prefill | Decode) -> None:
        """Read a piece of a prompt, or write a token of every answer."""
        if isinstance(step, Prefill):
            self.prefill(step)
        else:
            self.decode(step)

    def prefill(self, step: Prefill) -> None:
        """Read the next piece of a prompt, and after the last one write the first token."""
        answering = step.answering
        try:
            logits_v = read_piece(answering)
            if answering.unread is None or not len(answering.unread):
                step.read = True
                write_token(answering, logits_v, step.ended)
        except Exception as error:
            step.ended[answering] = failure(error)

    def decode(self, step: Decode) -> None:
        """Write a token of every answer; if the network fails, of each alone."""
        answers, state = step.batch.answers, step.batch.state
        try:
            rows = state.extend([np.array([each.token]) for each in answers])
        except Exception as error:
            if len(answers) == 1 or not state.restorable:
                step.ended.update(dict.fromkeys(answers, failure(error)))
            else:
                self.decode_singly(step)
            return
        for answering, logits_v in zip(answers, rows, strict=True):
            try:
                write_token(answering, logits_v, step.ended)
            except Exception as error:
                step.ended[answering] = failure(error)

    def decode_singly(self, step: Decode) -> None:
        """Write a token of each answer by a state of its own, so that only the guilty one fails."""
        for place, answering in enumerate(step.batch.answers):
            state = step.batch.state.copied([place])
            try:
                (logits_v,) = state.extend([np.array([answering.token])])
                step.alone[answering] = state
                write_token(answering, logits_v, step.ended)
            except Exception as error:
                step.ended[answering] = failure(error)

    def settle(self, step: Prefill | Decode, seconds: float) -> None:
        """Move answers between reading, writing and the end, and free the jobs that have ended."""
        if isinstance(step, Prefill):
            gone = step.answering in step.ended or step.answering.job.gone
            if gone or step.read:
                self.reading.remove(step.answering)
            if step.read and not gone:
                self.write_beside_others(step.answering)
            left = [step.answering] if gone else []
        else:
            left = [each for each in step.batch.answers if each in step.ended or each.job.gone]
            self.leave(step, left)
        for answering in left:
            self.close_answer(answering, step.ended.get(answering))

    def write_beside_others(self, answering: Answering) -> None:
        """Join the batch of the same model, if there is one."""
        assert answering.state is not None
        model, state = answering.job.model, answering.state
        for batch in self.batches:
            if batch.answers[0].job.model is model:
                batch.state.join(state)
                batch.answers.append(answering)
                return
        self.batches.append(Batch(state, [answering]))

    def leave(self, step: Decode, left: Collection[Answering]) -> None:
        """Take answers out of their batch; one without answers ends."""
        batch = step.batch
        kept = [each for each in batch.answers if each not in left]
        if step.alone and kept:
            batch.state, *others = (step.alone[each] for each in kept)
            for state in others:
                batch.state.join(state)
        elif kept and left:
            places = {place for place, each in enumerate(batch.answers) if each in left}
            batch.state.leave(places)
        batch.answers = kept
        if not kept:
            self.batches.remove(batch)

    def close_answer(self, answering: Answering, fault: Failed | None) -> None:
        """Count an answer as ended, and with the last one, or with a fault, its job."""
        job = answering.job
        job.left -= 1
        if fault is not None and not job.gone:
            job.gone = True
            self.waiting.remove(job.client, lambda each: each.job is job)
            job.emit(0, fault)
        elif not job.left and not job.gone:
            job.emit(0, None)
        if not job.left or (job.gone and not any(each.job is job for each in self.under_way())):
            self.free(job)

    def free(self, job: Job) -> None:
        """Give a place back (the lock is held)."""
        if job in self.held:
            self.held.remove(job)
            self.places.give(job.client, 1)
            self.seconds = 0.8 * self.seconds + 0.2 * (time.monotonic() - job.began)
            job.release()
            self.engine.changed.notify_all()

    def abandon(self) -> None:
        """Fail what waits and what is under way."""
        with self.engine.changed:
            jobs = list(self.held)
            self.waiting.clear()
            self.reading.clear()
            self.batches.clear()
            for job in jobs:
                self.free(job)
        for job in jobs:
            job.emit(0, Failed("the server stops"))


def read_piece(answering: Answering) -> Tensor:
    """Read the next piece of a prompt; the logits (vocabulary,) after it.

    A prompt that is echoed with log-probabilities is read token by token.
    """
    model, request = answering.job.model, answering.request
    if answering.builder is None:
        answering.builder = AnswerBuilder(model, request)
        decoding = answering.builder.decoding
        answering.state = DecodingState(model.network, 1, decoding.sources)
        answering.unread = decoding.begin
        if request.echo is not None:
            answering.echo = EchoBuilder(model, request)
    assert answering.state is not None and answering.unread is not None
    told = answering.echo is not None and request.top_logprobs is not None
    size = 1 if told else PREFILL_TOKENS
    piece, answering.unread = answering.unread[:size], answering.unread[size:]
    (logits_v,) = answering.state.extend([piece])
    if answering.echo is not None:
        if told:
            answering.echo.push(int(piece[0]), logits_v)
        if not len(answering.unread):
            answering.job.emit(answering.number, answering.echo.chunk())
    return logits_v


def write_token(
    answering: Answering, logits_v: Tensor, ended: dict[Answering, Failed | None]
) -> None:
    """Sample the next token and send its chunk; an answer that is whole has ``ended``."""
    builder, state = answering.builder, answering.state
    assert builder is not None and state is not None
    sampled = builder.sample(logits_v)
    answering.token = sampled.id
    emit = answering.job.emit
    if not answering.job.gone:
        emit(answering.number, builder.push(sampled))
    if builder.finished:
        ended[answering] = None
        if not answering.job.gone:
            for chunk in builder.last():
                emit(answering.number, chunk)


def failure(error: Exception) -> Failed:
    """What a client is told of an answer that the model fails on."""
    log.error("the model fails on a request", exc_info=error)
    return Failed("the model failed on this request")
