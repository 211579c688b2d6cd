"""One answer as it is generated: text up to a stop, token log-probabilities, finish reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.models.decode import DecodingState
from lmwright.models.text_model import TextModel
from lmwright.text.generation import SamplingParams
from lmwright.text.tokenizer import Tokenizer

MIN_LOGPROB = -9999.0
"""The stand-in for a log-probability of minus infinity, which JSON cannot hold."""


@dataclass(frozen=True)
class GenerationRequest:
    """A request for one answer.

    It ends before the first of the texts ``stop``. ``top_logprobs`` is the number of the likeliest
    tokens that are given beside each chosen one (None: no log-probabilities at all). ``echo`` is
    the prompt's text, which is given first. ``index`` sets the randomness of several answers to
    one HTTP request apart.
    """

    prompt: np.ndarray
    params: SamplingParams
    seed: int
    index: int = 0
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    echo: str | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its bytes if it has any, and its log-probability (None for a first token)."""

    id: int
    text: str
    bytes: tuple[int, ...] | None
    logprob: float | None


@dataclass(frozen=True)
class GeneratedToken:
    """A token of an answer, the likeliest tokens at its position, and its offset in the text."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]
    offset: int


@dataclass(frozen=True)
class Chunk:
    """A part of an answer: its new text, the tokens that begin in it, and in the last chunk the
    ``finish_reason`` (``stop`` or ``length``). ``count`` is the number of tokens so far."""

    text: str
    tokens: tuple[GeneratedToken, ...] = ()
    count: int = 0
    finish_reason: str = ""


def generate_chunks(model: TextModel, request: GenerationRequest) -> Iterator[Chunk]:
    """The answer to a request: a chunk after every token, be it empty, and a last one.

    Raises LmwrightError when the model's logits are not finite.
    """
    if request.echo is not None:
        yield from echo_chunks(model, request)
    stops, waiting = StopFilter(request.stop), list[GeneratedToken]()
    known = shown = len(request.echo or "")
    last, count, reason = None, 0, "length"
    rng = stream(request.seed, "answer", request.index)
    for token in model.generate(request.prompt, request.params, rng):
        sampled = token.sampled
        ended = sampled.id in request.params.stop_ids
        if sampled is not last:  # a rest of text comes with the token that it followed
            count += 1
            if request.top_logprobs is not None and not ended:
                top = top_tokens(model.tokenizer, sampled.logprobs_v, request.top_logprobs)
                chosen = token_logprob(model.tokenizer, sampled.id, sampled.logprob)
                waiting.append(GeneratedToken(chosen, top, known))
        last = sampled
        known += len(token.text)
        text = stops.push(token.text)
        shown += len(text)
        begun = [each for each in waiting if each.offset < shown]
        waiting = [each for each in waiting if each.offset >= shown]
        yield Chunk(text, tuple(begun), count)
        if stops.stopped or ended:
            full = count == request.params.max_new_tokens
            forced = full and model.generation.config.forced_eos_token_id
            reason = "length" if forced and not stops.stopped else "stop"
            break
    rest = stops.finish()
    yield Chunk(rest, () if stops.stopped else tuple(waiting), count, reason)


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


def partial_stop(text: str, stop: str) -> int:
    """The length of the longest end of a text that begins a stop."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def echo_chunks(model: TextModel, request: GenerationRequest) -> Iterator[Chunk]:
    """The prompt; with ``top_logprobs`` its tokens too, for which it is read token by token."""
    text = request.echo or ""
    if request.top_logprobs is None:
        yield Chunk(text)
        return
    state, detokenizer = DecodingState(model.network, 1), model.tokenizer.detokenizer()
    logprobs_v: Tensor | None = None
    tokens, offset = [], 0
    for id_ in request.prompt.tolist():
        logprob = None if logprobs_v is None else float(logprobs_v[id_])
        chosen, top = token_logprob(model.tokenizer, id_, logprob), tuple[TokenLogprob, ...]()
        if logprobs_v is not None:
            top = top_tokens(model.tokenizer, logprobs_v, request.top_logprobs)
        tokens.append(GeneratedToken(chosen, top, min(offset, len(text))))
        offset += len(detokenizer.push([id_]))
        logprobs_v = torch.log_softmax(state.append([np.array([id_])])[0].double(), dim=-1)
        yield Chunk("")
    yield Chunk(text, tuple(tokens))


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
