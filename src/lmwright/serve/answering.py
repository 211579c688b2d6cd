"""Answers under way: what is asked, how far each is read and written, and where its pages are."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from lmwright.models.blocks.pages import PAGE, pages_for
from lmwright.models.decode import CausalLM, DecodingState
from lmwright.models.network.together import readable_together
from lmwright.serve.drafts import Pays
from lmwright.serve.engine import Failed, Unanswerable
from lmwright.serve.generation import AnswerBuilder, EchoBuilder, GenerationRequest
from lmwright.serve.jobs import Job
from lmwright.serve.prefixes import Prefixes
from lmwright.text.constrained import ConstraintFault

log = logging.getLogger("lmwright.serve")

READ_TOKENS = 256
"""Tokens of prompts that are read in a step."""
SCORED_TOKENS = 64
"""The same where each one's log-probability is asked for, as logits are much memory."""


@dataclass(eq=False)
class Answering:
    """One answer under way: what is asked, and how far it is read and written.

    ``unread`` is what is left of its prompt, once that is begun to be read; where nothing is left
    it is written, the last token being ``token``. ``begun`` is its number in their order.
    """

    job: Job
    number: int
    builder: AnswerBuilder | None = None
    unread: np.ndarray | None = None
    echo: EchoBuilder | None = None
    token: int = 0
    begun: int = 0

    @property
    def request(self) -> GenerationRequest:
        """What is asked."""
        return self.job.requests[self.number]

    @property
    def reading(self) -> bool:
        """Whether some of its prompt is left."""
        return self.unread is None or len(self.unread) > 0

    @property
    def written(self) -> bool:
        """Whether it has a token, so that it is read again when it is read."""
        return self.builder is not None and self.builder.count > 0

    @property
    def ids(self) -> np.ndarray:
        """The ids that are read of it, as far as they are known."""
        return self.request.prompt if self.builder is None else self.builder.ids

    @property
    def to_read(self) -> int:
        """The tokens that have to be read before the answer goes on, and one more."""
        return 1 + len(self.ids)

    @property
    def left(self) -> int:
        """The most tokens of its prompt that are left."""
        return len(self.ids) if self.unread is None else len(self.unread)

    @property
    def scored(self) -> bool:
        """Whether log-probabilities of its prompt are asked for."""
        request = self.request
        return not self.written and request.echo is not None and request.top_logprobs is not None


class Memory:
    """The KV cache of a model for all that is asked of it: its pages, and what is known of them;
    and what drafts are worth. Models that are read together have one."""

    def __init__(self, network: CausalLM, tokens: int) -> None:
        """Room for so many tokens."""
        self.pool = network.new_pool(pages_for(tokens))
        self.prefixes = Prefixes(self.pool)
        self.pays = Pays()
        self.networks: WeakKeyDictionary[CausalLM, int] = WeakKeyDictionary({network: 0})
        self.numbered = 1

    @property
    def free(self) -> int:
        """Pages that can be taken."""
        return sys.maxsize if self.pool.most is None else self.pool.most - self.pool.held

    def takes(self, network: CausalLM) -> bool:
        """Whether a network is one of this memory, or joins those that are now."""
        if network not in self.networks:
            if not any(readable_together(network, each) for each in self.networks):
                return False
            self.networks[network] = self.numbered
            self.numbered += 1
        return True

    def owner(self, network: CausalLM, client: str) -> str:
        """The owner of the beginnings of texts that a network reads for a client."""
        return f"{self.networks[network]} {client}"


@dataclass(eq=False)
class Batch:
    """The answers of a memory's models that are under way: those in the ``state`` by their places
    there, and behind them those that ``wait`` to be read."""

    memory: Memory
    state: DecodingState | None = None
    answers: list[Answering] = field(default_factory=list)
    wait: deque[Answering] = field(default_factory=deque)

    @property
    def all(self) -> list[Answering]:
        """All of them."""
        return [*self.answers, *self.wait]

    @property
    def lengths(self) -> list[int]:
        """The tokens that were read of each answer in the state."""
        return [] if self.state is None else [len(ids) for ids in self.state.ids]

    def leave(self, left: Collection[Answering]) -> None:
        """Take answers out."""
        places = {place for place, each in enumerate(self.answers) if each in left}
        self.answers = [each for each in self.answers if each not in left]
        self.wait = deque(each for each in self.wait if each not in left)
        if not self.answers:  # a state of no documents is of no use
            self.state = None
        elif self.state is not None and places:
            self.state.leave(places)


@dataclass(eq=False)
class Step:
    """A pass over the answers of a batch: each gets so many tokens of its prompt, or its next one.

    The last ``begun`` answers of the batch are begun to be read. ``every``: logits are wanted after
    every token. ``drafts`` are tokens of each answer that are read ahead, if any. ``alone`` are the
    states of those that went on singly, since the batch made the network fail; ``placed`` are the
    answers in the state while it runs, and ``tokens`` counts those that each was given.
    """

    batch: Batch
    sizes: list[int] = field(default_factory=list)
    begun: int = 0
    every: bool = False
    drafts: Sequence[np.ndarray] = ()
    ended: dict[Answering, Failed | None] = field(default_factory=dict)
    alone: dict[Answering, DecodingState] = field(default_factory=dict)
    placed: list[Answering] = field(default_factory=list)
    tokens: dict[Answering, int] = field(default_factory=dict)

    @property
    def pages(self) -> int:
        """The most pages that it takes."""
        past = [*self.batch.lengths, *[0] * self.begun]
        pairs = zip(past, self.sizes, strict=True)
        return sum(pages_for(past + size) - pages_for(past) for past, size in pairs)


def begin_to_read(answering: Answering, memory: Memory, owner: str) -> DecodingState:
    """The state of an answer, which knows as much of what is to be read as its ``owner``'s texts
    have told.

    All but the last token of what was written before is read again.
    """
    model, request = answering.job.model, answering.request
    if answering.builder is None:
        answering.builder = AnswerBuilder(model, request)
    builder = answering.builder
    state = DecodingState(model.network, 1, builder.decoding.sources, memory.pool)
    ids, pages = builder.ids[: len(builder.ids) - answering.written], list[int]()
    if request.echo is not None and not answering.written:
        answering.echo = EchoBuilder(model, request)
    if state.shareable and (answering.echo is None or request.top_logprobs is None):
        pages = memory.prefixes.find(ids, owner)
        state.begin_with(ids, pages)
    if not answering.written:
        builder.cached = len(pages) * PAGE
    answering.unread = ids[len(pages) * PAGE :]
    return state


def begin_alike(one: Answering, other: Answering) -> bool:
    """Whether two prompts have their first page in common, which is then to be read but once."""
    pair = one.ids[:PAGE], other.ids[:PAGE]
    return min(map(len, pair)) == PAGE and bool((pair[0] == pair[1]).all())


def read_piece(answering: Answering, piece: np.ndarray, logits_nv: Tensor) -> None:
    """Take note of a piece of a prompt that was read, and echo the prompt after the last one.

    ``logits_nv`` are those after every token where the prompt is scored.
    """
    assert answering.unread is not None
    answering.unread = answering.unread[len(piece) :]
    if (echo := answering.echo) is None:
        return
    if answering.scored:
        for id_, row_v in zip(piece.tolist(), logits_nv, strict=True):
            echo.push(id_, row_v)
    if not answering.reading:
        answering.job.emit(answering.number, echo.chunk())


def keep(memory: Memory, state: DecodingState, place: int, owner: str) -> None:
    """Know the full pages of a document by its ids, where its network lets it."""
    if state.shareable and state.cache is not None:
        memory.prefixes.keep(state.ids[place], state.cache.table[place].pages, owner)


def write_token(
    answering: Answering, logits_v: Tensor, ended: dict[Answering, Failed | None]
) -> None:
    """Sample the next token and send its chunk; an answer that is whole has ``ended``."""
    builder = answering.builder
    assert builder is not None
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


def write_tokens(
    answering: Answering,
    read: np.ndarray,
    logits_nv: Tensor,
    ended: dict[Answering, Failed | None],
) -> int:
    """Write tokens by the logits after the last token and its draft; how many ``read`` ones stand.

    A draft stands as far as it is what is written.
    """
    for place, logits_v in enumerate(logits_nv):
        write_token(answering, logits_v, ended)
        rest = read[place + 1 :]
        if answering in ended or not len(rest) or rest[0] != answering.token:
            return place + 1
    return len(read)


def failure(error: Exception) -> Failed:
    """What a client is told of an answer that the model fails on."""
    if isinstance(error, ConstraintFault):  # the request's, not the model's
        return Unanswerable(str(error))
    log.error("the model fails on a request", exc_info=error)
    return Failed("the model failed on this request")
