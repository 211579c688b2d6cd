"""Texts to be written: all that are under way on a model get their next token in one step.

A request holds its place from :meth:`TextScheduler.reserve` on, and is answered by the model that
it was reserved with. Its answers are begun in turn from each client. A step reads pieces of prompts
beside, so many tokens in all that neither those who write nor other work of the engine waits long.

Keys and values are in pages of a bounded memory (:class:`Memory`), reserved before each step. A
prompt that begins like one read before takes its pages. Where pages run out, what nobody writes is
given up first, then the answer that began last: it waits, is read again with what it had written,
and goes on, in integer modes with the same bits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence

import numpy as np
from torch import Tensor

from lmwright.models.blocks.pages import pages_for
from lmwright.models.decode import DecodingState
from lmwright.models.text_model import TextModel
from lmwright.serve.answering import (
    READ_TOKENS,
    SCORED_TOKENS,
    Answering,
    Batch,
    Memory,
    Step,
    begin_alike,
    begin_to_read,
    failure,
    keep,
    read_piece,
    write_token,
    write_tokens,
)
from lmwright.serve.drafts import MOST_ROWS, look_up
from lmwright.serve.engine import Engine, Failed, Places, TokenTurns
from lmwright.serve.jobs import Job, JobScheduler

MOST_ANSWERS = 16
"""Answers that are written side by side."""


class TextScheduler(JobScheduler):
    """Writes answers to jobs, of which at most ``capacity`` are under way.

    The KV cache of each model has room for ``cache_tokens``; at most ``draft_tokens`` of a text are
    read ahead in a step. Beginnings of texts are known to their client alone, or, where that is
    ``share_prefixes``, to all.
    """

    def __init__(
        self,
        engine: Engine,
        capacity: int = 16,
        cache_tokens: int = 32_768,
        draft_tokens: int = 7,
        share_prefixes: bool = False,
    ) -> None:
        super().__init__(engine, Places(capacity))
        self.cache_tokens, self.draft_tokens = cache_tokens, draft_tokens
        self.share_prefixes = share_prefixes
        self.waiting = TokenTurns[Answering]()
        self.preempted: deque[Answering] = deque()
        self.batches: deque[Batch] = deque()
        self.memories: list[Memory] = []
        self.begun = self.preemptions = 0
        engine.add(self)

    @property
    def held_pages(self) -> int:
        """The pages of KV caches that texts hold, or that are kept for those that begin alike."""
        return sum(memory.pool.held for memory in self.memories)

    @property
    def accepted_drafts(self) -> int:
        """The drafted tokens that were kept."""
        return sum(memory.pays.accepted for memory in self.memories)

    def memory(self, model: TextModel) -> Memory:
        """The KV cache of a model."""
        self.memories = [each for each in self.memories if each.networks]
        known = [each for each in self.memories if model.network in each.networks]
        for memory in known or self.memories:  # who joins whom is looked at but once
            if memory.takes(model.network):
                return memory
        self.memories.append(Memory(model.network, self.cache_tokens))
        return self.memories[-1]

    def owner(self, answering: Answering, memory: Memory) -> str:
        """The owner of the beginning of an answer's prompt."""
        client = "" if self.share_prefixes else answering.job.client
        return memory.owner(answering.job.model.network, client)

    def wait(self, job: Job) -> None:
        """Let the answers of a job wait."""
        job.left = len(job.requests)
        answers = [Answering(job, number) for number in range(job.left)]
        self.waiting.push(job.client, answers)

    def cancel(self, job: Job) -> None:
        """End a job after the present step, or before it begins."""
        with self.engine.changed:
            job.gone = True
            self.let_go(job)
            if not any(each.job is job for each in self.under_way()):
                self.free(job)

    def under_way(self) -> list[Answering]:
        """The answers that are begun and not ended (the lock is held)."""
        return [*self.preempted, *self.beside()]

    def beside(self) -> list[Answering]:
        """The answers that hold pages, or will when they are read."""
        return [each for batch in self.batches for each in batch.all]

    # A step

    def schedule(self) -> Step | None:
        """A step of a batch, of several models' batches by turns; there are pages for it."""
        self.admit()
        if not self.batches:
            return None
        self.batches.rotate(-1)
        batch = self.batches[-1]
        while (step := self.plan(batch)).pages > batch.memory.free and self.make_free(batch):
            pass
        begun = [batch.wait.popleft() for _ in range(step.begun)]
        batch.answers += begun
        self.draft(step)
        return step

    def admit(self) -> None:
        """Begin answers that wait, those that were preempted first, as far as there is room."""
        while (waits := self.preempted or self.waiting) and len(self.beside()) < MOST_ANSWERS:
            next_ = self.preempted[0] if self.preempted else self.waiting.first
            memory = self.memory(next_.job.model)
            batch = next((each for each in self.batches if each.memory is memory), Batch(memory))
            if self.beside() and not self.room_for(next_, batch):
                return
            if waits is self.preempted:
                self.preempted.popleft()
            else:
                self.waiting.pop()
                self.begun += 1
                next_.begun = self.begun
            batch.wait.append(next_)
            if batch not in self.batches:
                self.batches.append(batch)

    def room_for(self, next_: Answering, batch: Batch) -> bool:
        """Whether there are pages to read an answer's prompt and all that are read before it, and
        one more for each that is written."""
        memory, beside = batch.memory, batch.all
        unread = [1 + each.left for each in [*beside, next_] if each.reading]
        kept = sum(1 for page in memory.prefixes.pages.values() if memory.pool.holders[page] == 1)
        return memory.free + kept >= sum(map(pages_for, unread)) + len(beside)

    def plan(self, batch: Batch) -> Step:
        """Pieces of prompts, of those first that were begun first, and the next token of others.

        A prompt that is scored is read alone, one that begins like another one after it.
        """
        step, room, reading = Step(batch), READ_TOKENS, list[Answering]()
        for each in [*batch.answers, *batch.wait]:
            if not each.reading:
                step.sizes.append(1)
                continue
            alike = any(
                begin_alike(each, other) and self.same_owner(each, other) for other in reading
            )
            new = each.unread is None
            if new and (not room or alike or (each.scored and reading)):
                break
            if each.scored:
                step.every = reads_every(each)
                room = SCORED_TOKENS if step.every else 1
            step.sizes.append(min(max(1, each.left), room))
            room = 0 if each.scored else room - step.sizes[-1]
            step.begun += new
            reading.append(each)
        return step

    def same_owner(self, one: Answering, other: Answering) -> bool:
        """Whether what is read of one answer is known to another one."""
        clients = {each.job.client for each in (one, other)}
        return one.job.model is other.job.model and (self.share_prefixes or len(clients) == 1)

    def make_free(self, batch: Batch) -> bool:
        """Give up a page, or all those of the answer begun last; False where there is but one."""
        if batch.memory.prefixes.give_up():
            return True
        if len(batch.all) < 2:
            return False  # the pass itself will say that there are none
        self.preempt(max(batch.all, key=lambda each: each.begun), batch)
        return True

    def preempt(self, answering: Answering, batch: Batch) -> None:
        """Take the pages of an answer, which waits until there is room and is then read again."""
        self.preemptions += 1
        batch.leave([answering])
        answering.unread = answering.echo = None
        self.preempted.append(answering)
        self.preempted = deque(sorted(self.preempted, key=lambda each: each.begun))

    def draft(self, step: Step) -> None:
        """Read tokens of each answer ahead, unless prompts are read; none where the bits of an
        answer depend on how it is read, where there is no page for them, and where they do not pay.
        """
        batch, state = step.batch, step.batch.state
        most = min(self.draft_tokens, MOST_ROWS // len(batch.answers) - 1)
        if most < 1 or state is None or any(each.reading for each in batch.answers):
            return
        if not state.network.batch_invariant or not state.shareable:
            return
        found = []
        for each in batch.answers:
            assert each.builder is not None
            left = each.request.params.max_new_tokens - each.builder.count - 1
            found.append(look_up(each.builder.ids, max(0, min(most, left))))
        lengths = [len(each) for each in found]
        longer = Step(batch, [1 + length for length in lengths])
        pays = batch.memory.pays.drafts(len(found), lengths)
        if pays and batch.memory.free >= longer.pages:
            step.sizes, step.drafts, step.every = longer.sizes, found, True

    def run(self, step: Step) -> None:
        """Read pieces of prompts and write a token of every other answer; if the network fails, of
        each alone."""
        self.begin(step)
        batch, placed, state = step.batch, step.placed, step.batch.state
        if state is None:
            return
        sizes = dict(zip(batch.answers, step.sizes, strict=True))
        drafts = dict(zip(batch.answers, step.drafts, strict=False))
        pieces = [piece_of(each, sizes[each], drafts.get(each)) for each in placed]
        before, began = [len(ids) for ids in state.ids], time.monotonic()
        reads = any(each.reading for each in placed)
        try:
            logits_nv = state.extend(pieces, step.every)
        except Exception as error:
            if len(placed) == 1 or not state.restorable:
                step.ended.update(dict.fromkeys(placed, failure(error)))
            else:
                self.run_singly(step, state, pieces)
            return
        if not reads:
            batch.memory.pays.took(sum(map(len, pieces)), time.monotonic() - began)
        each_rows = logits_nv.split([len(piece) for piece in pieces] if step.every else 1)
        kept = [
            self.take(step, state, place, *those)
            for place, those in enumerate(zip(placed, pieces, each_rows, strict=True))
        ]
        if step.drafts:
            batch.memory.pays.kept(sum(map(len, step.drafts)), sum(kept) - len(kept))
            state.cut([past + count for past, count in zip(before, kept, strict=True)])

    def begin(self, step: Step) -> None:
        """Let the answers that are begun join the state."""
        batch = step.batch
        first = len(batch.answers) - step.begun
        step.placed = batch.answers[:first]
        for each in batch.answers[first:]:
            try:
                state = begin_to_read(each, batch.memory, self.owner(each, batch.memory))
            except Exception as error:
                step.ended[each] = failure(error)
                continue
            step.placed.append(each)
            if batch.state is None:
                batch.state = state
            else:
                batch.state.join(state)

    def run_singly(self, step: Step, joint: DecodingState, pieces: Sequence[np.ndarray]) -> None:
        """The same by a state of each answer's own, so that only the guilty one fails."""
        for place, (each, piece) in enumerate(zip(step.placed, pieces, strict=True)):
            state = joint.alone(place)
            try:
                logits_nv = state.extend([piece], step.every)
            except Exception as error:
                step.ended[each] = failure(error)
                continue
            step.alone[each] = state
            kept = self.take(step, state, 0, each, piece, logits_nv)
            if step.drafts:
                state.cut([len(state.ids[0]) - len(piece) + kept])

    def take(
        self,
        step: Step,
        state: DecodingState,
        place: int,
        answering: Answering,
        piece: np.ndarray,
        logits_nv: Tensor,
    ) -> int:
        """Take note of what was read of an answer, and write by the logits after it; how many
        tokens of the piece stand."""
        memory, stand = step.batch.memory, len(piece)
        try:
            if not answering.reading:
                stand = 1
                stand = write_tokens(answering, piece, logits_nv, step.ended)
            else:
                read_piece(answering, piece, logits_nv)
                if not answering.reading:
                    keep(memory, state, place, self.owner(answering, memory))
                    if not answering.written:
                        write_token(answering, logits_nv[-1], step.ended)
        except Exception as error:
            step.ended[answering] = failure(error)
        step.tokens[answering] = stand
        return stand

    def settle(self, step: Step, seconds: float) -> None:
        """Let answers leave that have ended, and free the jobs of which all have."""
        for answering, tokens in step.tokens.items():
            self.waiting.charge(answering.job.client, tokens)
            self.engine.budgets.spend(answering.job.client, tokens)
        batch = step.batch
        left = [each for each in batch.all if each in step.ended or each.job.gone]
        self.leave(step, left)
        for answering in left:
            self.close_answer(answering, step.ended.get(answering))

    def leave(self, step: Step, left: Collection[Answering]) -> None:
        """Take answers out of their batch; one without answers ends."""
        batch, memory = step.batch, step.batch.memory
        if step.alone:
            batch.wait = deque(each for each in batch.wait if each not in left)
            batch.answers = [each for each in step.placed if each not in left]
            states = [step.alone[each] for each in batch.answers]
            for state in states[1:]:
                states[0].join(state)
            batch.state = states[0] if states else None
        elif left:
            if batch.state is not None:
                for place, each in enumerate(step.placed):
                    if each in left and step.ended.get(each) is None:
                        keep(memory, batch.state, place, self.owner(each, memory))
            batch.answers = step.placed
            batch.leave(left)
        if not batch.all:
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

    def abandon(self) -> None:
        """Fail what waits and what is under way."""
        with self.engine.changed:
            jobs = list(self.held)
            self.waiting.clear()
            self.preempted.clear()
            self.batches.clear()
            for job in jobs:
                self.free(job)
        for job in jobs:
            job.emit(0, Failed("the server stops"))


def piece_of(answering: Answering, size: int, draft: np.ndarray | None) -> np.ndarray:
    """The tokens of an answer in a step: a piece of its prompt, or its last token and a draft."""
    if answering.reading:
        assert answering.unread is not None
        return answering.unread[:size]
    last = np.array([answering.token])
    return last if draft is None else np.concatenate([last, draft])


def reads_every(answering: Answering) -> bool:
    """Whether the network of an answer gives logits after every token of a pass."""
    network = answering.job.model.network
    return len(network.streams) == 1 and not network.two_streams
