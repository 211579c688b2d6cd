"""Texts to be written: all that are under way on a model get their next token in one step.

A request holds its place from :meth:`TextScheduler.reserve` on, and is answered by the model that
it was reserved with. Its answers are begun in turn from each client; a prompt is read in pieces,
so that neither those who write nor other work of the engine waits long for it.

Keys and values are in pages of a bounded memory (:class:`Memory`), reserved before each step. A
prompt that begins like one read before takes its pages. Where pages run out, what nobody writes is
given up first, then the answer that began last: it waits, is read again with what it had written,
and goes on, in integer modes with the same bits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from lmwright.models.blocks.pages import pages_for
from lmwright.models.decode import CausalLM
from lmwright.models.text_model import TextModel
from lmwright.serve.answering import (
    PREFILL_TOKENS,
    Answering,
    Batch,
    Decode,
    Emit,
    Job,
    Memory,
    Prefill,
    begin_to_read,
    failure,
    keep,
    pages_of_piece,
    pages_of_step,
    write_token,
    write_tokens,
)
from lmwright.serve.drafts import MOST_ROWS, look_up
from lmwright.serve.engine import Busy, Engine, Failed, Places, TokenTurns
from lmwright.serve.generation import GenerationRequest

SCORED_TOKENS = 64
"""Tokens of a prompt that are read in a step where each one's log-probability is asked for."""
MOST_ANSWERS = 16
"""Answers that are written side by side."""


class TextScheduler:
    """Writes answers to jobs, of which at most ``capacity`` are under way.

    The KV cache of each model has room for ``cache_tokens``; at most ``draft_tokens`` of a text are
    read ahead in a step. Beginnings of texts are known to their client alone, or, where that is
    ``share_prefixes``, to all.
    """

    patience = 120.0

    def __init__(
        self,
        engine: Engine,
        capacity: int = 16,
        cache_tokens: int = 32_768,
        draft_tokens: int = 7,
        share_prefixes: bool = False,
    ) -> None:
        self.engine, self.places = engine, Places(capacity)
        self.cache_tokens, self.draft_tokens = cache_tokens, draft_tokens
        self.share_prefixes = share_prefixes
        self.waiting = TokenTurns[Answering]()
        self.preempted: deque[Answering] = deque()
        self.reading: deque[Answering] = deque()
        self.batches: deque[Batch] = deque()
        self.held: set[Job] = set()
        self.memories: WeakKeyDictionary[CausalLM, Memory] = WeakKeyDictionary()
        self.wrote = False
        self.begun = self.preemptions = 0
        self.seconds = 1.0  # of a request, smoothed; only to tell clients when to come back
        engine.add(self)

    @property
    def queued(self) -> int:
        """The number of jobs under way."""
        return self.places.taken

    @property
    def held_pages(self) -> int:
        """The pages of KV caches that texts hold, or that are kept for those that begin alike."""
        return sum(memory.pool.held for memory in self.memories.values())

    @property
    def accepted_drafts(self) -> int:
        """The drafted tokens that were kept."""
        return sum(memory.pays.accepted for memory in self.memories.values())

    def owner(self, answering: Answering) -> str:
        """Whose the beginning of an answer's prompt is."""
        return "" if self.share_prefixes else answering.job.client

    def memory(self, model: TextModel) -> Memory:
        """The KV cache of a model."""
        if (found := self.memories.get(model.network)) is None:
            found = self.memories[model.network] = Memory(model.network, self.cache_tokens)
        return found

    def reserve(
        self, client: str, emit: Emit, model: TextModel, release: Callable[[], None] = lambda: None
    ) -> Job:
        """A place in the queue, to be filled by :meth:`submit`; Busy when there is none."""
        with self.engine.changed:
            self.engine.budgets.refuse_without(client)
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
            self.let_go(job)
            if not any(each.job is job for each in self.under_way()):
                self.free(job)

    def under_way(self) -> list[Answering]:
        """The answers that are begun and not ended (the lock is held)."""
        written = (each for batch in self.batches for each in batch.answers)
        return [*self.preempted, *self.reading, *written]

    # A step

    def schedule(self) -> Prefill | Decode | None:
        """A piece of a prompt and a token of a batch by turns, of several models' batches too;
        there are pages for what it reads."""
        self.admit()
        while self.reading or self.batches:
            if self.reading and (self.wrote or not self.batches):
                self.wrote = False
                answering = self.reading[0]
                self.make_free(answering.job.model, partial(pages_of_piece, answering))
                if answering in self.reading:
                    return Prefill(answering)
            elif self.batches:
                self.wrote = True
                self.batches.rotate(-1)
                batch = self.batches[-1]
                self.make_free(batch.answers[0].job.model, partial(pages_of_step, batch))
                if batch.answers:
                    return Decode(batch, self.drafts(batch))
        return None

    def drafts(self, batch: Batch) -> list[np.ndarray]:
        """Tokens of each answer to read ahead; none where the bits of an answer depend on how it is
        read, where there is no page for them, and where they do not pay."""
        model, count = batch.answers[0].job.model, len(batch.answers)
        most = min(self.draft_tokens, MOST_ROWS // count - 1)
        if most < 1 or not model.network.batch_invariant or not batch.state.shareable:
            return []
        found = []
        for each in batch.answers:
            assert each.builder is not None
            left = each.request.params.max_new_tokens - each.builder.count - 1
            found.append(look_up(each.builder.ids, max(0, min(most, left))))
        memory, lengths = self.memory(model), [len(each) for each in found]
        pages = sum(
            pages_for(len(ids) + 1 + length) - pages_for(len(ids))
            for ids, length in zip(batch.state.ids, lengths, strict=True)
        )
        return found if memory.free >= pages and memory.pays.drafts(count, lengths) else []

    def admit(self) -> None:
        """Begin answers that wait, those that were preempted first, as far as there is room."""
        while (waits := self.preempted or self.waiting) and len(self.beside()) < MOST_ANSWERS:
            next_ = self.preempted[0] if self.preempted else self.waiting.first
            if self.beside() and not self.room_for(next_):
                return
            if waits is self.preempted:
                self.preempted.popleft()
            else:
                self.waiting.pop()
                self.begun += 1
                next_.begun = self.begun
            self.reading.append(next_)

    def beside(self) -> list[Answering]:
        """The answers that hold pages, or will when they are read."""
        return [*self.reading, *(each for batch in self.batches for each in batch.answers)]

    def room_for(self, next_: Answering) -> bool:
        """Whether there are pages to read an answer's prompt and all that are read before it, and
        one more for each that is written."""
        own = [each for each in self.beside() if each.job.model.network is next_.job.model.network]
        unread = [each.to_read for each in [*own, next_] if each in self.reading or each is next_]
        memory = self.memory(next_.job.model)
        kept = sum(1 for page in memory.prefixes.pages.values() if memory.pool.holders[page] == 1)
        return memory.free + kept >= sum(map(pages_for, unread)) + len(own)

    def make_free(self, model: TextModel, wanted: Callable[[], int]) -> None:
        """Have as many pages of a model free as are ``wanted``, if need be those of the answers
        begun last; the first one keeps its own."""
        memory = self.memory(model)
        while memory.free < wanted():
            if memory.prefixes.give_up():
                continue
            own = [each for each in self.beside() if each.job.model.network is model.network]
            if len(own) < 2:
                return  # the pass itself will say that there are none
            self.preempt(max(own, key=lambda each: each.begun))

    def preempt(self, answering: Answering) -> None:
        """Take the pages of an answer, which waits until there is room and is then read again."""
        self.preemptions += 1
        if answering in self.reading:
            self.reading.remove(answering)
        for batch in [each for each in self.batches if answering in each.answers]:
            batch.leave([answering])
            if not batch.answers:
                self.batches.remove(batch)
        answering.state = answering.unread = answering.echo = None
        self.preempted.append(answering)
        self.preempted = deque(sorted(self.preempted, key=lambda each: each.begun))

    def run(self, step: Prefill | Decode) -> None:
        """Read a piece of a prompt, or write a token of every answer."""
        if isinstance(step, Prefill):
            self.prefill(step)
        else:
            self.decode(step)

    def prefill(self, step: Prefill) -> None:
        """Read the next piece of a prompt, and after the last one write the first token, unless
        the answer is read again."""
        answering = step.answering
        try:
            logits_v = self.read_piece(answering, step)
            if answering.unread is not None and not len(answering.unread):
                step.read = True
                if not answering.written:
                    write_token(answering, logits_v, step.ended)
        except Exception as error:
            step.ended[answering] = failure(error)

    def read_piece(self, answering: Answering, step: Prefill) -> Tensor:
        """Read the next piece of a prompt; the logits (vocabulary,) after it.

        A prompt that is echoed with log-probabilities is read in smaller pieces, as logits after
        every token are much memory.
        """
        memory = self.memory(answering.job.model)
        if answering.state is None:
            begin_to_read(answering, memory, self.owner(answering))
        state, request = answering.state, answering.request
        assert state is not None and answering.unread is not None
        told = answering.echo is not None and request.top_logprobs is not None
        every = told and state.reads_every
        size = (SCORED_TOKENS if every else 1) if told else PREFILL_TOKENS
        piece, answering.unread = answering.unread[:size], answering.unread[size:]
        step.tokens[answering] = len(piece)
        rows_nv = state.extend([piece], every)
        logits_v = rows_nv[-1]
        if answering.echo is not None:
            for id_, row_v in zip(piece.tolist(), rows_nv, strict=False) if told else ():
                answering.echo.push(id_, row_v)
            if not len(answering.unread):
                answering.job.emit(answering.number, answering.echo.chunk())
        if not len(answering.unread):
            keep(memory, state, 0, self.owner(answering))
        return logits_v

    def decode(self, step: Decode) -> None:
        """Write a token of every answer; if the network fails, of each alone."""
        answers, state, drafts = step.batch.answers, step.batch.state, step.drafts
        last, before = [np.array([each.token]) for each in answers], [len(i) for i in state.ids]
        pairs = zip(last, drafts or [last[0][:0]] * len(last), strict=True)
        tokens, began = [np.concatenate(pair) for pair in pairs], time.monotonic()
        try:
            rows_nv = state.extend(tokens, every=bool(drafts))
        except Exception as error:
            if len(answers) == 1 or not state.restorable:
                step.ended.update(dict.fromkeys(answers, failure(error)))
            else:
                self.decode_singly(step)
            return
        pays = self.memory(answers[0].job.model).pays
        pays.took(sum(map(len, tokens)), time.monotonic() - began)
        kept = []
        each_rows = rows_nv.split([len(own) for own in tokens] if drafts else 1)
        for answering, own, own_nv in zip(answers, tokens, each_rows, strict=True):
            kept.append(write_tokens(answering, own, own_nv, step.ended))
            step.tokens[answering] = kept[-1]
        if drafts:
            pays.kept(sum(map(len, drafts)), sum(kept) - len(kept))
            state.cut([past + count for past, count in zip(before, kept, strict=True)])

    def decode_singly(self, step: Decode) -> None:
        """Write a token of each answer by a state of its own, so that only the guilty one fails."""
        for place, answering in enumerate(step.batch.answers):
            state = step.batch.state.alone(place)
            try:
                (logits_v,) = state.extend([np.array([answering.token])])
                step.alone[answering], step.tokens[answering] = state, 1
                write_token(answering, logits_v, step.ended)
            except Exception as error:
                step.ended[answering] = failure(error)

    def settle(self, step: Prefill | Decode, seconds: float) -> None:
        """Move answers between reading, writing and the end, and free the jobs that have ended."""
        for answering, tokens in step.tokens.items():
            self.waiting.charge(answering.job.client, tokens)
            self.engine.budgets.spend(answering.job.client, tokens)
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
            answering.state = None
            self.close_answer(answering, step.ended.get(answering))

    def write_beside_others(self, answering: Answering) -> None:
        """Join the batch of the same model, if there is one."""
        assert answering.state is not None
        model, state = answering.job.model, answering.state
        answering.state = None
        for batch in self.batches:
            if batch.answers[0].job.model is model:
                batch.state.join(state)
                batch.answers.append(answering)
                return
        self.batches.append(Batch(state, [answering]))

    def leave(self, step: Decode, left: Collection[Answering]) -> None:
        """Take answers out of their batch; one without answers ends."""
        batch = step.batch
        if step.alone:
            kept = [each for each in batch.answers if each not in left]
            states = [step.alone[each] for each in kept]
            for state in states[1:]:
                states[0].join(state)
            batch.answers, batch.state = kept, states[0] if states else batch.state
        elif left:
            memory = self.memory(batch.answers[0].job.model)
            for place, each in enumerate(batch.answers):
                if each in left and step.ended.get(each) is None:
                    keep(memory, batch.state, place, self.owner(each))
            batch.leave(left)
        if not batch.answers:
            self.batches.remove(batch)

    def close_answer(self, answering: Answering, fault: Failed | None) -> None:
        """Count an answer as ended, and with the last one, or with a fault, its job."""
        job = answering.job
        job.left -= 1
        if fault is not None and not job.gone:
            job.gone = True
            self.let_go(job)
            job.emit(0, fault)
        elif not job.left and not job.gone:
            job.emit(0, None)
        if not job.left or (job.gone and not any(each.job is job for each in self.under_way())):
            self.free(job)

    def let_go(self, job: Job) -> None:
        """Begin no answer of a job, and none that was preempted again."""
        self.waiting.remove(job.client, lambda each: each.job is job)
        self.preempted = deque(each for each in self.preempted if each.job is not job)

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
            self.preempted.clear()
            self.reading.clear()
            self.batches.clear()
            for job in jobs:
                self.free(job)
        for job in jobs:
            job.emit(0, Failed("the server stops"))
