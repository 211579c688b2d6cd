"""One answer as it is generated: text up to a stop, token log-probabilities, finish reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.models.decode import SampledToken, next_token, require_finite
from lmwright.models.text_model import TextModel
from lmwright.serve.calls.reader import Piece, Reader
from lmwright.serve.calls.scan import partial_stop
from lmwright.text.constrained import Compiled
from lmwright.text.generation import GenerationConfig, SamplingParams
from lmwright.text.tokenizer import Tokenizer

MIN_LOGPROB = -9999.0
"""The stand-in for a log-probability of minus infinity, which JSON cannot hold."""


@dataclass(frozen=True)
class GenerationRequest:
    """A request for one answer.

    It ends before the first of the texts ``stop``. ``top_logprobs`` is the number of the likeliest
    tokens that are given beside each chosen one (None: no log-probabilities at all). ``echo`` is
    the prompt's text, which is given first. ``index`` sets the randomness of several answers to
    one HTTP request apart. ``constraint`` is the language that the answer is one text of.
    ``reader`` makes what tells its pieces apart; to it the tokens ``shown`` are text, although
    others are not shown them. ``rank`` is the answer's place among those that one search finds.
    """

    prompt: np.ndarray
    params: SamplingParams
    seed: int
    index: int = 0
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    echo: str | None = None
    constraint: Compiled | None = None
    reader: Callable[[], Reader] | None = None
    shown: frozenset[int] = frozenset()
    rank: int = 0


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its bytes if it has any, and its log-probability (None for a first token)."""

    id: int
    text: str
    bytes: tuple[int, ...] | None
    logprob: float | None


@dataclass(frozen=True)
class GeneratedToken:
    """A token of an answer, the likeliest tokens at its position, and its offset in the text.

    ``drawn_logprob`` is its log-probability in the distribution that it was drawn from (None where
    it stands in a prompt); the others are the model's own.
    """

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]
    offset: int
    drawn_logprob: float | None = None


@dataclass(frozen=True)
class Chunk:
    """A part of an answer: its new text, the tokens that begin in it, and in the last chunk the
    ``finish_reason`` (``stop`` or ``length``). ``count`` is the number of tokens so far, and
    ``cached`` that of the prompt's which had been read before. ``pieces`` is what the text holds
    as far as that is certain (None: all is content); ``called``, in the last chunk: a call;
    ``ending``, there too: the token that ended the answer, where tokens are told."""

    text: str
    tokens: tuple[GeneratedToken, ...] = ()
    count: int = 0
    finish_reason: str = ""
    cached: int = 0
    pieces: tuple[Piece, ...] | None = None
    called: bool = False
    ending: GeneratedToken | None = None

    @property
    def shows(self) -> bool:
        """Whether a client is told anything of it."""
        return bool(self.tokens or (self.text if self.pieces is None else self.pieces))


class AnswerBuilder:
    """The chunks of one answer, made as its tokens are sampled.

    ``finished`` once a stop came, or as many tokens as were asked for.
    """

    def __init__(self, model: TextModel, request: GenerationRequest) -> None:
        self.model, self.request = model, request
        self.decoding = model.decoding(request.prompt, request.params)
        self.ids = self.decoding.begin
        self.rng = stream(request.seed, "answer", request.index)
        self.stops = StopFilter(request.stop)
        self.waiting: list[GeneratedToken] = []
        self.ending: GeneratedToken | None = None
        self.known = self.shown = len(request.echo or "")
        self.count, self.finished, self.reason = 0, False, "length"
        self.cached = 0
        self.decoding.text.shown = request.shown
        self.reader = None if request.reader is None else request.reader()
        self.matcher, self.params = None, self.decoding.params
        if request.constraint is not None:
            strip = self.decoding.text.strip > 0
            self.matcher = request.constraint.matcher(strip, request.params.stop_ids)
            self.params = within_language(self.params)

    def sample(self, logits_v: Tensor) -> SampledToken:
        """The next token; LmwrightError where its logits are not finite."""
        require_finite(logits_v[None])
        allowed = self.allowed(len(logits_v))
        if allowed is None:
            return next_token(logits_v, self.ids, self.count, self.params, self.rng)
        among = logits_v.masked_fill(torch.from_numpy(~allowed), -torch.inf)
        sampled = next_token(among, self.ids, self.count, self.params, self.rng)
        return replace(sampled, logits_v=logits_v)

    def allowed(self, vocabulary: int) -> np.ndarray | None:
        """Which tokens (bool, ``vocabulary``) may come next; None where any may."""
        if self.matcher is None or self.forced:
            return None
        return self.matcher.allowed(vocabulary)

    @property
    def forced(self) -> bool:
        """Whether the next token is the one that the model's answers begin with."""
        return self.count == 0 and self.params.forced_bos_id is not None

    def push(self, sampled: SampledToken) -> Chunk:
        """The chunk of the next token, be it empty."""
        request, decoded = self.request, self.decoding.decoded(sampled)
        ended = sampled.id in request.params.stop_ids
        if self.matcher is not None and not ended and not self.forced:
            self.matcher.push(sampled.id)
        self.count += 1
        self.ids = np.append(self.ids, sampled.id)
        if request.top_logprobs is not None:
            tokenizer = self.model.tokenizer
            top = top_tokens(tokenizer, sampled.logprobs_v, request.top_logprobs)
            chosen = token_logprob(tokenizer, sampled.id, sampled.logprob)
            told = GeneratedToken(chosen, top, self.known, sampled.drawn_logprob)
            if ended:
                self.ending = told
            else:
                self.waiting.append(told)
        full = self.count == request.params.max_new_tokens
        chunk = self.chunk(decoded.text)
        whole = (self.matcher is not None and self.matcher.done) or (
            self.reader is not None and self.reader.ended
        )
        if self.stops.stopped or ended or whole:
            forced = full and self.params.generation_config.forced_eos_token_id
            self.reason = "length" if forced and not self.stops.stopped else "stop"
        self.finished = self.stops.stopped or ended or full or whole
        return chunk

    def chunk(self, text: str) -> Chunk:
        """A chunk of as much text as certainly comes before a stop, and the tokens begun in it."""
        self.known += len(text)
        shown = self.stops.push(text)
        self.shown += len(shown)
        begun = [each for each in self.waiting if each.offset < self.shown]
        self.waiting = [each for each in self.waiting if each.offset >= self.shown]
        pieces = None if self.reader is None else tuple(self.reader.push(shown))
        return Chunk(shown, tuple(begun), self.count, cached=self.cached, pieces=pieces)

    def last(self) -> list[Chunk]:
        """The chunks after the last token: a rest of its text, and why the answer ended."""
        found = []
        if not self.stops.stopped and (rest := self.decoding.rest()):
            found.append(self.chunk(rest))
            if self.stops.stopped:
                self.reason = "stop"
        rest = self.stops.finish()
        tokens = () if self.stops.stopped else tuple(self.waiting)
        end = Chunk(rest, tokens, self.count, self.reason, self.cached, ending=self.ending)
        if self.reader is not None:
            pieces = (*self.reader.push(rest), *self.reader.finish())
            end = replace(end, pieces=pieces, called=self.reader.called)
        return [*found, end]


def within_language(params: SamplingParams) -> SamplingParams:
    """Parameters without what the model's own settings forbid or force: the language says that."""
    config = GenerationConfig(repetition_penalty=params.generation_config.repetition_penalty)
    return replace(params, generation_config=config, banned_ids=())


class EchoBuilder:
    """The prompt as a chunk, with ``top_logprobs`` its tokens too."""

    def __init__(self, model: TextModel, request: GenerationRequest) -> None:
        self.tokenizer, self.request = model.tokenizer, request
        self.detokenizer = model.tokenizer.detokenizer()
        self.logprobs_v: Tensor | None = None
        self.tokens: list[GeneratedToken] = []
        self.offset = 0

    def push(self, id_: int, logits_v: Tensor) -> None:
        """Take note of the next token of the prompt, and of the logits after it."""
        echo, most = self.request.echo or "", self.request.top_logprobs or 0
        known = self.logprobs_v
        logprob = None if known is None else float(known[id_])
        chosen = token_logprob(self.tokenizer, id_, logprob)
        top = () if known is None else top_tokens(self.tokenizer, known, most)
        self.tokens.append(GeneratedToken(chosen, top, min(self.offset, len(echo))))
        self.offset += len(self.detokenizer.push([id_]))
        self.logprobs_v = torch.log_softmax(logits_v.double(), dim=-1)

    def chunk(self) -> Chunk:
        """The whole prompt."""
        return Chunk(self.request.echo or "", tuple(self.tokens))


class StopFilter:
    """Text up to the first stop; a possible beginning of one is held back."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop, self.held, self.stopped = stop, "", False

    def push(self, more: str) -> str:
        """The text that certainly comes before a stop."""
        text, self.held = self.held + more, ""
        found = [at for each in self.stop if (at := text.find(each)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        length = max((partial_stop(text, each) for each in self.stop), default=0)
        self.held = text[len(text) - length :]
        return text[: len(text) - length]

    def finish(self) -> str:
        """The held text, now that no stop comes."""
        rest, self.held = self.held, ""
        return rest


def top_tokens(tokenizer: Tokenizer, logprobs_v: Tensor, count: int) -> tuple[TokenLogprob, ...]:
    """The tokens of the highest log-probabilities, highest first."""
    logprobs, ids = logprobs_v.topk(min(count, len(logprobs_v)))
    pairs = zip(ids.tolist(), logprobs.tolist(), strict=True)
    return tuple(token_logprob(tokenizer, id_, logprob) for id_, logprob in pairs)


def token_logprob(tokenizer: Tokenizer, id_: int, logprob: float | None) -> TokenLogprob:
    """A token as a text; one that is no whole text by its bytes, a row without token by its id."""
    finite = None if logprob is None else max(logprob, MIN_LOGPROB)
    try:
        name = tokenizer.token(id_)
    except BadInput:
        return TokenLogprob(id_, f"id:{id_}", None, finite)
    if tokenizer.bytes_of is not None and id_ not in tokenizer.names:
        data = tokenizer.bytes_of(name)
    else:
        data = tokenizer.decode([id_], special=True).encode()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "bytes:" + "".join(f"\\x{each:02x}" for each in data)
    return TokenLogprob(id_, text, tuple(data), finite)
