"""Answers under way: what is asked, how far each is read and written, and where its pages are."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from lmwright.models.blocks.pages import PAGE, pages_for
from lmwright.models.decode import CausalLM, DecodingState
from lmwright.models.text_model import TextModel
from lmwright.serve.drafts import Pays
from lmwright.serve.engine import Failed
from lmwright.serve.generation import AnswerBuilder, Chunk, EchoBuilder, GenerationRequest
from lmwright.serve.prefixes import Prefixes
from lmwright.text.constrained import ConstraintFault

log = logging.getLogger("lmwright.serve")

Emit = Callable[[int, Chunk | Failed | None], None]
"""Called from the worker's thread: the number of an answer and its next chunk, then None."""

PREFILL_TOKENS = 256
"""Tokens of a prompt that are read in a step."""


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
    then it is written beside others, the last token being ``token``. ``begun`` is its number among
    all that were begun."""

    job: Job
    number: int
    builder: AnswerBuilder | None = None
    state: DecodingState | None = None
    unread: np.ndarray | None = None
    echo: EchoBuilder | None = None
    token: int = 0
    begun: int = 0

    @property
    def request(self) -> GenerationRequest:
        """What is asked."""
        return self.job.requests[self.number]

    @property
    def written(self) -> bool:
        """Whether it has a token, so that it is read again when it is read."""
        return self.builder is not None and self.builder.count > 0

    @property
    def to_read(self) -> int:
        """The tokens that have to be read before the answer goes on, and one more."""
        return 1 + (len(self.request.prompt) if self.builder is None else len(self.builder.ids))


class Memory:
    """The KV cache of a model for all that is asked of it: its pages, and what is known of them;
    and what drafts are worth."""

    def __init__(self, network: CausalLM, tokens: int) -> None:
        """Room for so many tokens."""
        self.pool = network.new_pool(pages_for(tokens))
        self.prefixes = Prefixes(self.pool)
        self.pays = Pays()

    @property
    def free(self) -> int:
        """Pages that can be taken."""
        return sys.maxsize if self.pool.most is None else self.pool.most - self.pool.held


@dataclass(eq=False)
class Batch:
    """The answers that a model writes side by side, each in its place of the state."""

    state: DecodingState
    answers: list[Answering]

    def leave(self, left: Collection[Answering]) -> None:
        """Take answers out."""
        places = {place for place, each in enumerate(self.answers) if each in left}
        self.answers = [each for each in self.answers if each not in left]
        if self.answers:  # a state of no documents is of no use
            self.state.leave(places)


@dataclass(eq=False)
class Prefill:
    """A step that reads a piece of a prompt; ``read``: the last one, and its answer is begun.
    ``tokens`` counts those that each answer was given, as in the other steps."""

    answering: Answering
    ended: dict[Answering, Failed | None] = field(default_factory=dict)
    read: bool = False
    tokens: dict[Answering, int] = field(default_factory=dict)


@dataclass(eq=False)
class Decode:
    """A step in which every answer of a batch gets its next token.

    ``drafts`` are tokens of each that are read ahead, if any. ``alone`` are the states of those
    that went on singly, since the batch made the network fail.
    """

    batch: Batch
    drafts: Sequence[np.ndarray] = ()
    ended: dict[Answering, Failed | None] = field(default_factory=dict)
    alone: dict[Answering, DecodingState] = field(default_factory=dict)
    tokens: dict[Answering, int] = field(default_factory=dict)


def pages_of_piece(answering: Answering) -> int:
    """The pages that reading the next piece of a prompt takes."""
    read = 0 if answering.state is None else len(answering.state.ids[0])
    return pages_for(min(answering.to_read, read + PREFILL_TOKENS)) - pages_for(read)


def pages_of_step(batch: Batch) -> int:
    """The pages that the next tokens of a batch take."""
    return sum(pages_for(len(ids) + 1) - pages_for(len(ids)) for ids in batch.state.ids)


def begin_to_read(answering: Answering, memory: Memory, owner: str) -> None:
    """Make the state of an answer, which knows as much of what is to be read as its ``owner``'s
    texts have told.

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
    answering.state, answering.unread = state, ids[len(pages) * PAGE :]


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
        try:
            write_token(answering, logits_v, ended)
        except Exception as error:
            ended[answering] = failure(error)
        rest = read[place + 1 :]
        if answering in ended or not len(rest) or rest[0] != answering.token:
            return place + 1
    return len(read)


def failure(error: Exception) -> Failed:
    """What a client is told of an answer that the model fails on."""
    if isinstance(error, ConstraintFault):  # the request's, not the model's
        return Failed(str(error))
    log.error("the model fails on a request", exc_info=error)
    return Failed("the model failed on this request")
