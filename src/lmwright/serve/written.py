"""One answer as it is written: its text up to a stop, each token's log-probability, its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.models.decode import Decoding, Reader
from lmwright.models.language import LanguageModel
from lmwright.text.tokenizer import Tokenizer

LEAST_LOG = -9999.0
"""What stands for a log-probability that JSON cannot say."""


@dataclass(frozen=True)
class Wish:
    """An answer that somebody wants.

    It ends before the first of ``stops``. ``top`` is how many of the likeliest tokens are told
    beside each chosen one (None: not even that one). ``echo`` is the prompt's text, which is given
    first. ``index`` sets the randomness of several answers to one request apart.
    """

    prompt: np.ndarray
    decoding: Decoding
    seed: int
    index: int = 0
    stops: tuple[str, ...] = ()
    top: int | None = None
    echo: str | None = None


@dataclass(frozen=True)
class Likely:
    """A token, its bytes if it has any, and its log-probability (None where nothing was before)."""

    id: int
    text: str
    bytes: tuple[int, ...] | None
    log: float | None


@dataclass(frozen=True)
class Token:
    """A token of an answer, where it begins in the text, and what was likeliest there."""

    chosen: Likely
    top: tuple[Likely, ...]
    offset: int


@dataclass(frozen=True)
class Said:
    """What is certain since the last time: text, the tokens that begin in it, and at last why it
    ended (``validation`` or ``length``). ``count`` is how many tokens were chosen so far."""

    text: str
    tokens: tuple[Token, ...] = ()
    count: int = 0
    finish: str = ""


def written(model: LanguageModel, wish: Wish) -> Iterator[Said]:
    """The answer to a wish, something after every token, be it empty; the last says why it ended.

    Raises LmwrightError when the model gives what is no number.
    """
    if wish.echo is not None:
        yield from echoed(model, wish)
    cut, waiting = Cut(wish.stops), list[Token]()
    known = shown = len(wish.echo or "")
    last, count, finish = None, 0, "length"
    for piece in model.answer(wish.prompt, wish.decoding, stream(wish.seed, "answer", wish.index)):
        ends = piece.pick.token in wish.decoding.ends
        if piece.pick is not last:  # a rest of text comes with the token that it followed
            count += 1
            if wish.top is not None and not ends:
                likely = likeliest(model.tokenizer, piece.pick.logs_v, wish.top)
                chosen = named(model.tokenizer, piece.pick.token, piece.pick.log)
                waiting.append(Token(chosen, likely, known))
        last = piece.pick
        known += len(piece.text)
        text = cut.push(piece.text)
        shown += len(text)
        begun = [token for token in waiting if token.offset < shown]
        waiting = [token for token in waiting if token.offset >= shown]
        yield Said(text, tuple(begun), count)
        if cut.stopped or ends:
            forced = count == wish.decoding.most and model.rules.forced_eos_token_id
            finish = "length" if forced and not cut.stopped else "stop"
            break
    rest = cut.finish()
    yield Said(rest, () if cut.stopped else tuple(waiting), count, finish)


class Cut:
    """Text up to the first stop. What may be the beginning of one is kept back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.kept, self.stopped = stops, "", False

    def push(self, piece: str) -> str:
        """What is certain to come before a stop."""
        text, self.kept = self.kept + piece, ""
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped = True
            return text[: min(places)]
        keep = max((begun(text, stop) for stop in self.stops), default=0)
        self.kept = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was kept back, now that no stop comes."""
        rest, self.kept = self.kept, ""
        return rest


def begun(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def echoed(model: LanguageModel, wish: Wish) -> Iterator[Said]:
    """The prompt; with ``top`` its tokens too, for which it is read token by token."""
    text = wish.echo or ""
    if wish.top is None:
        yield Said(text)
        return
    reader, decoder = Reader(model.network, 1), model.tokenizer.stream()
    logs_v: Tensor | None = None
    tokens, offset = [], 0
    for number in wish.prompt.tolist():
        log = None if logs_v is None else float(logs_v[number])
        likely = () if logs_v is None else likeliest(model.tokenizer, logs_v, wish.top)
        tokens.append(Token(named(model.tokenizer, number, log), likely, min(offset, len(text))))
        offset += len(decoder.push([number]))
        logs_v = torch.log_softmax(reader.read([np.array([number])])[0].double(), dim=-1)
        yield Said("")
    yield Said(text, tuple(tokens))


def likeliest(tokenizer: Tokenizer, logs_v: Tensor, count: int) -> tuple[Likely, ...]:
    """The tokens of the highest log-probabilities, highest first."""
    logs, numbers = logs_v.topk(min(count, len(logs_v)))
    pairs = zip(numbers.tolist(), logs.tolist(), strict=True)
    return tuple(named(tokenizer, number, log) for number, log in pairs)


def named(tokenizer: Tokenizer, number: int, log: float | None) -> Likely:
    """A token as a text; one that is no whole text by its bytes, a row without token by its id."""
    least = None if log is None else max(log, LEAST_LOG)
    try:
        name = tokenizer.token(number)
    except BadInput:
        return Likely(number, f"id:{number}", None, least)
    if tokenizer.bytes_of is not None and number not in tokenizer.names:
        data = tokenizer.bytes_of(name)
    else:
        data = tokenizer.decode([number], special=True).encode()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "bytes:" + "".join(f"\\x{each:02x}" for each in data)
    return Likely(number, text, tuple(data), least)
