"""Answers that are searched for: beams and contrastive search, a pass of the network a step.

A search holds all the pages that it may ever need from its first step on, so that none runs out of
them; one for which there are none waits. Searches take turns, a step each, and with the other work
of the engine. The first of a search's requests has the rank 0: its others are for further answers
of the same search.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lmwright.models.beam_search import Hypothesis, beam_steps
from lmwright.models.blocks.pages import PAGE, Pool, pages_for
from lmwright.models.contrastive_search import contrastive_steps
from lmwright.models.decode import CausalLM, SampledToken
from lmwright.models.text_model import TextModel
from lmwright.serve.answering import READ_TOKENS, failure
from lmwright.serve.engine import Engine, Failed, Places, TokenTurns
from lmwright.serve.generation import AnswerBuilder, GenerationRequest
from lmwright.serve.jobs import Job, JobScheduler

MOST_SEARCHES = 8
"""Searches that take turns."""


@dataclass(eq=False)
class Searching:
    """One search: the numbers of the answers that it gives, and its steps once it is begun, each
    of which tells how many tokens it read. ``pages`` are the most that it ever holds."""

    job: Job
    numbers: range
    pages: int
    steps: Iterator[int] | None = None

    @property
    def request(self) -> GenerationRequest:
        """The request, but for the rank of the answer."""
        return self.job.requests[self.numbers[0]]


@dataclass(eq=False)
class Step:
    """A step of a search: the tokens that it read, whether it was the last, and what failed."""

    searching: Searching
    tokens: int = 0
    over: bool = False
    fault: Failed | None = None


class SearchScheduler(JobScheduler):
    """Searches for answers to jobs, which are held to ``places``.

    The KV cache of each model's searches has room for ``cache_tokens``.
    """

    def __init__(self, engine: Engine, places: Places, cache_tokens: int = 32_768) -> None:
        super().__init__(engine, places)
        self.cache_tokens = cache_tokens
        self.waiting = TokenTurns[Searching]()
        self.active: deque[Searching] = deque()
        self.pools: WeakKeyDictionary[CausalLM, Pool] = WeakKeyDictionary()
        engine.add(self)

    @property
    def held_pages(self) -> int:
        """The pages of KV caches that searches hold."""
        return sum(pool.held for pool in self.pools.values())

    def pool(self, model: TextModel) -> Pool:
        """The KV cache of a model's searches."""
        if (found := self.pools.get(model.network)) is None:
            found = self.pools[model.network] = model.network.new_pool(pages_for(self.cache_tokens))
        return found

    def wait(self, job: Job) -> None:
        """Let the searches of a job wait."""
        firsts = [n for n, each in enumerate(job.requests) if each.rank == 0]
        ends = [*firsts[1:], len(job.requests)]
        searches = [
            Searching(job, range(first, end), most_pages(job.requests[first]))
            for first, end in zip(firsts, ends, strict=True)
        ]
        job.left = len(searches)
        self.waiting.push(job.client, searches)

    def cancel(self, job: Job) -> None:
        """End a job after the present step, or before it begins."""
        with self.engine.changed:
            job.gone = True
            self.free_if_left(job)
            self.engine.changed.notify_all()

    # A step

    def schedule(self) -> Step | None:
        """A step of the search that waited longest for one."""
        for searching in [each for each in self.active if each.job.gone]:
            self.end(searching)
        self.admit()
        if not self.active:
            return None
        self.active.rotate(-1)
        return Step(self.active[-1])

    def admit(self) -> None:
        """Begin searches that wait, as long as there are pages for all that they may need."""
        while self.waiting and len(self.active) < MOST_SEARCHES:
            next_ = self.waiting.first
            network = next_.job.model.network
            beside = [each for each in self.active if each.job.model.network is network]
            needed = sum(each.pages for each in [*beside, next_])
            if beside and needed > pages_for(self.cache_tokens):
                return
            self.active.append(self.waiting.pop())

    def run(self, step: Step) -> None:
        """Take the next step of a search; what fails is that search's alone."""
        searching = step.searching
        try:
            if searching.steps is None:
                search = beam_answers if searching.request.params.beams > 1 else contrastive_answer
                searching.steps = search(searching, self.pool(searching.job.model))
            step.tokens = next(searching.steps)
        except StopIteration:
            step.over = True
        except Exception as error:
            step.fault = failure(error)

    def settle(self, step: Step, seconds: float) -> None:
        """Charge the client, and free what has ended."""
        job = step.searching.job
        self.waiting.charge(job.client, step.tokens)
        self.engine.budgets.spend(job.client, step.tokens)
        if step.over or step.fault is not None or job.gone:
            self.end(step.searching, step.fault)

    def end(self, searching: Searching, fault: Failed | None = None) -> None:
        """Count a search as ended, and with the last one, or with a fault, its job."""
        job = searching.job
        self.active.remove(searching)
        searching.steps = None  # with the pages that it holds
        job.left -= 1
        if not job.gone and (fault is not None or not job.left):
            job.gone = True
            job.emit(0, fault)
        self.free_if_left(job)

    def free_if_left(self, job: Job) -> None:
        """Give the place of a job back that is gone and has no search under way."""
        if not job.gone or job not in self.held:
            return
        self.waiting.remove(job.client, lambda each: each.job is job)
        if not any(each.job is job for each in self.active):
            self.free(job)

    def abandon(self) -> None:
        """Fail what waits and what is under way."""
        with self.engine.changed:
            told = [job for job in self.held if not job.gone]
            self.active.clear()
            for job in list(self.held):
                job.gone = True
                self.free_if_left(job)
        for job in told:
            job.emit(0, Failed("the server stops"))


# Pages


def most_pages(request: GenerationRequest) -> int:
    """The most pages that a search ever holds: beams share those that the prompt fills; candidates
    have one each, beside those of the text."""
    params, prompt = request.params, len(request.prompt)
    whole = pages_for(prompt + params.max_new_tokens)
    if params.beams == 1:
        return whole + params.top_k
    shared = prompt // PAGE
    return shared + params.beams * (whole - shared)


def most_new_tokens(prompt: int, beams: int, top_k: int, cache_tokens: int) -> int:
    """The most tokens that a search can go on for in a KV cache: :func:`most_pages`, turned
    round."""
    pages, shared = pages_for(cache_tokens), prompt // PAGE
    whole = pages - top_k if beams == 1 else shared + (pages - shared) // beams
    return whole * PAGE - prompt


# The searches


def beam_answers(searching: Searching, pool: Pool) -> Iterator[int]:
    """A beam search: the tokens that each step read; in the end the answers are sent."""
    job, request = searching.job, searching.request
    decoding = job.model.decoding(request.prompt, request.params)
    top = request.top_logprobs or 0
    found = yield from beam_steps(
        job.model.network,
        decoding.begin,
        decoding.params,
        None if decoding.sources is None else decoding.sources[0],
        pool,
        READ_TOKENS,
        lambda token, logprobs_v: likeliest(token, logprobs_v, top),
    )
    for number, hypothesis in zip(searching.numbers, found, strict=False):
        send_hypothesis(job, number, hypothesis)
        yield 0


@dataclass(frozen=True)
class FoundToken(SampledToken):
    """A token of an answer that was found; its logits are what :func:`likeliest` kept of them."""

    @cached_property
    def logprobs_v(self) -> Tensor:
        """The model's own log-probabilities as far as they were kept, others being -inf."""
        ids_k, logprobs_k = self.logits_v
        known_v = torch.full((int(ids_k.max()) + 1,), -torch.inf, dtype=torch.float64)
        return known_v.index_put((ids_k.long(),), logprobs_k)


def likeliest(token: int, logprobs_v: Tensor, top: int) -> Tensor:
    """The ids of a token and of the ``top`` likeliest ones, and their log-probabilities (2, k).

    All log-probabilities of long answers would be gigabytes.
    """
    ids = logprobs_v.topk(min(top, len(logprobs_v))).indices
    ids = torch.cat([ids, torch.tensor([token])]).unique()
    return torch.stack([ids.double(), logprobs_v[ids]])


def send_hypothesis(job: Job, number: int, hypothesis: Hypothesis) -> None:
    """Send an answer that was found, up to a stop."""
    builder = AnswerBuilder(job.model, job.requests[number])
    for token, recorded in zip(hypothesis.tokens, hypothesis.logprobs, strict=True):
        if not builder.finished:
            job.emit(number, builder.push(FoundToken(token, recorded)))
    for chunk in builder.last():
        job.emit(number, chunk)


def contrastive_answer(searching: Searching, pool: Pool) -> Iterator[int]:
    """A contrastive search: the tokens that each step read; chunks are sent as they come."""
    job, request, (number,) = searching.job, searching.request, searching.numbers
    builder = AnswerBuilder(job.model, request)
    decoding = builder.decoding
    source = None if decoding.sources is None else decoding.sources[0]
    network, unread = job.model.network, len(decoding.begin)
    steps = contrastive_steps(network, decoding.begin, decoding.params, source, pool, READ_TOKENS)
    for token in steps:
        if token is None:
            yield min(READ_TOKENS, unread)
            unread -= READ_TOKENS
            continue
        job.emit(number, builder.push(token))
        if builder.finished:
            break
        yield request.params.top_k
    for chunk in builder.last():
        job.emit(number, chunk)
