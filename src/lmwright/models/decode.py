"""The reference decoder: what comes next, token by token. Short and slow; faster engines are held
against it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lmwright.core.errors import BadInput, LmwrightError
from lmwright.models.blocks.context import Cache
from lmwright.models.core.ragged import pack
from lmwright.models.network.network import Batch


@dataclass(frozen=True)
class Rules:
    """What a model's files ask of its answers, by the names that transformers' ``generate`` reads.

    Tokens that are known, a prompt's too, are made less likely by ``repetition_penalty`` (Keskar
    et al. 2019, section 4.1: logits above 0 are divided by it, others multiplied); no run of
    ``no_repeat_ngram_size`` tokens is there twice. Nothing ends before ``min_length`` tokens, what
    is read before the answer among them; where an answer is as long as it may be, its last token
    is one of ``forced_eos_token_id``. It does not begin with one of ``begin_suppress_tokens``.
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_length: int = 0
    forced_eos_token_id: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    ``temperature`` 0 takes the likeliest token, else logits are divided by it; of the likeliest
    ``top_k`` (0: all) those stay that are needed for a probability of ``top_p`` (Holtzman et al.
    2020, section 3.1). With ``beams`` above 1 that many hypotheses are kept, their summed
    log-probabilities divided by their length to the power of ``length_penalty`` (Wu et al. 2016,
    section 7, in its simple form). A document ends with one of the ids ``ends``, which is given
    too, or after ``most`` tokens.

    Before all of that ``bias`` is added to the logits of some ids, and from those of each token
    that the answer has already ``presence`` is taken once and ``frequency`` each time. An answer
    begins with ``first``, if that is given (a translator's language, say), and has none of the
    ids ``never``; ``rules`` are the model's own.
    """

    most: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    beams: int = 1
    length_penalty: float = 1.0
    ends: tuple[int, ...] = ()
    bias: tuple[tuple[int, float], ...] = ()
    presence: float = 0.0
    frequency: float = 0.0
    first: int | None = None
    never: tuple[int, ...] = ()
    rules: Rules = Rules()

    def __post_init__(self) -> None:
        ranges = {
            "most": self.most >= 1,
            "temperature": 0 <= self.temperature < float("inf"),
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "beams": self.beams >= 1,
        }
        for name, right in ranges.items():
            if not right:
                raise BadInput(f"{name} {getattr(self, name)}", "a number in its range")
        if self.beams > 1 and self.temperature:
            raise BadInput("beams with a temperature", "either", "leave temperature at 0")
        if self.beams > 1 and self.leans:
            raise BadInput("beams with a bias or a penalty", "either", "leave them out")

    @property
    def leans(self) -> bool:
        """Whether tokens are not chosen by the model's own logits."""
        return bool(self.bias or self.presence or self.frequency)


@dataclass(frozen=True)
class Pick:
    """A token that was chosen, and the model's own logits (vocabulary,) at its place."""

    token: int
    logits_v: Tensor

    @cached_property
    def logs_v(self) -> Tensor:
        """The model's own log-probabilities (vocabulary,), float64."""
        return torch.log_softmax(self.logits_v.double(), dim=-1)

    @property
    def log(self) -> float:
        """The token's own log-probability, before bias, penalties, temperature and cuts."""
        return float(self.logs_v[self.token])


class Foretells(Protocol):
    """What decoding needs of a network: ours, or another's behind an adapter.

    ``longest`` is the longest document in tokens, if there is a bound. ``streams`` are the names
    of what is read: one; a source and what goes on from it; or, with ``two_streams``, content and
    query. ``is_causal_lm`` says whether it gives, for each token, what comes next.
    """

    @property
    def longest(self) -> int | None: ...

    @property
    def streams(self) -> tuple[str, ...]: ...

    @property
    def two_streams(self) -> bool: ...

    @property
    def is_causal_lm(self) -> bool: ...

    def next(self, batch: Batch, cache: Cache | None) -> Tensor:
        """Logits (documents, vocabulary) of what follows each document's last token.

        The cache holds what was read before, and takes what is read now.
        """


class Reader:
    """A network that says what comes next for several documents, which it reads bit by bit.

    A decoder reads prompts; a decoder with an encoder reads ``sources`` first, and prompts are
    what its answers begin with. Raises BadInput for a network that does not read forwards.
    """

    def __init__(
        self, network: Foretells, documents: int, sources: Sequence[np.ndarray] | None = None
    ) -> None:
        refuse_other(network)
        self.network, self.known = network, [np.empty(0, np.int64)] * documents
        self.stacks, self.two_streams = network.streams, network.two_streams
        encodes = len(self.stacks) > 1 and not self.two_streams
        if encodes and sources is None:
            raise BadInput("no source", "a text for the encoder to read")
        self.sources = list(sources) if encodes and sources is not None else None
        self.cache = None if self.two_streams else Cache(documents)

    @torch.inference_mode()
    def read(self, tokens: Sequence[np.ndarray]) -> Tensor:
        """Logits (documents, vocabulary) of what follows when these tokens have been read too.

        LmwrightError where the network gives no numbers.
        """
        past = [len(known) for known in self.known]
        pairs = zip(self.known, tokens, strict=True)
        self.known = [np.concatenate([known, new]) for known, new in pairs]
        refuse_long(self.network, max(map(len, self.known)))
        order = range(len(tokens))
        if self.two_streams:
            return numbers(self.from_two_streams(order))
        stream = pack(tokens, order=order, past=past)
        if self.sources is None:
            return numbers(self.network.next(stream, self.cache))
        source, target = self.stacks
        whole = pack(self.sources, order=order)
        return numbers(self.network.next({source: whole, target: stream}, self.cache))

    def from_two_streams(self, order: range) -> Tensor:
        """The same where everything that is known is seen both ways: nothing can be kept."""
        ends = [np.array([len(known)]) for known in self.known]
        ranks = [np.zeros(len(known), np.int64) for known in self.known]
        content = pack(self.known, order=order, ranks=ranks)
        nothing = [np.zeros(1, np.int64)] * len(self.known)
        last = [np.ones(1, np.int64)] * len(self.known)
        query = pack(nothing, order=order, positions=ends, ranks=last)
        return self.network.next(dict(zip(self.stacks, (content, query), strict=True)), None)

    def choose(self, places: Sequence[int]) -> None:
        """Go on with these documents; one may be taken several times, or left."""
        self.known = [self.known[place] for place in places]
        if self.sources is not None:
            self.sources = [self.sources[place] for place in places]
        if self.cache is not None:
            self.cache.choose(places)


def generate(
    network: Foretells,
    prompts: Sequence[np.ndarray],
    decoding: Decoding,
    rng: np.random.Generator,
    sources: Sequence[np.ndarray] | None = None,
) -> Iterator[dict[int, Pick]]:
    """What follows each prompt, a token at a time: at each step, document -> its token."""
    reader = Reader(network, len(prompts), sources)
    active, new = list(range(len(prompts))), list(prompts)
    for length in range(decoding.most):
        # Not their logarithms, for a penalty looks at which are above 0.
        picks = [
            Pick(pick(chosen_from(row, known, length, decoding), decoding, rng), row)
            for row, known in zip(reader.read(new), reader.known, strict=True)
        ]
        yield dict(zip(active, picks, strict=True))
        going = [n for n, each in enumerate(picks) if each.token not in decoding.ends]
        if not going:
            return
        if len(going) < len(active):
            reader.choose(going)
        active = [active[n] for n in going]
        new = [np.array([picks[n].token]) for n in going]


def chosen_from(logits_v: Tensor, known: np.ndarray, length: int, decoding: Decoding) -> Tensor:
    """What a token is chosen by; the last ``length`` of the ids ``known`` are the answer's."""
    written = known[len(known) - length :].tolist()
    return bound(leaning(logits_v, written, decoding), known, length, decoding)


def bound(logits_v: Tensor, known: np.ndarray, length: int, decoding: Decoding) -> Tensor:
    """Logits or log-probabilities as the model's rules bend them, without what may not be next.

    The last ``length`` of the ids ``known`` are the answer's.
    """
    rules = decoding.rules
    if length == decoding.most - 1 and rules.forced_eos_token_id:
        return only(logits_v, rules.forced_eos_token_id)
    if length == 0 and decoding.first is not None:
        return only(logits_v, (decoding.first,))
    if rules.repetition_penalty != 1:
        logits_v = penalised(logits_v, known, rules.repetition_penalty)
    never = {*decoding.never, *repeating(known, rules.no_repeat_ngram_size)}
    if len(known) < rules.min_length:
        never.update(decoding.ends)
    if length == (decoding.first is not None):
        never.update(rules.begin_suppress_tokens)
    return logits_v.index_fill(-1, torch.tensor([*never]), -torch.inf) if never else logits_v


def only(logits_v: Tensor, tokens: Sequence[int]) -> Tensor:
    """Log-probabilities that leave nothing but these tokens, which cost nothing."""
    return torch.full_like(logits_v, -torch.inf).index_fill(-1, torch.tensor(tokens), 0.0)


def penalised(logits_v: Tensor, known: np.ndarray, penalty: float) -> Tensor:
    """Logits with those of known tokens made lower by a penalty above 1."""
    tokens = torch.from_numpy(np.unique(known))
    old = logits_v[tokens]
    return logits_v.index_put((tokens,), torch.where(old < 0, old * penalty, old / penalty))


def repeating(known: np.ndarray, size: int) -> set[int]:
    """The ids that would make a run of ``size`` tokens that is there already; 0 allows all."""
    if not 0 < size <= len(known):
        return set()
    runs = np.lib.stride_tricks.sliding_window_view(known, size)
    same = (runs[:, :-1] == known[len(known) - size + 1 :]).all(axis=1)
    return set(runs[same, -1].tolist())


def leaning(logs_v: Tensor, written: Sequence[int], decoding: Decoding) -> Tensor:
    """Logits with bias and penalties, for an answer that has the tokens ``written`` so far."""
    if not decoding.leans:
        return logs_v
    logits_v = logs_v.clone()
    for token, more in decoding.bias:
        logits_v[token] += more
    for token, count in Counter(written).items():
        logits_v[token] -= decoding.presence + count * decoding.frequency
    return logits_v


def pick(logs_v: Tensor, decoding: Decoding, rng: np.random.Generator) -> int:
    """One token by the rule that is set; of equals the first."""
    if decoding.temperature == 0:
        return int(logs_v.numpy().argmax())  # torch's takes twenty times as long
    shares = cut(torch.softmax(logs_v.double() / decoding.temperature, -1), decoding).numpy()
    place = int(np.searchsorted(np.cumsum(shares), rng.random() * shares.sum(), side="right"))
    return min(place, int(np.flatnonzero(shares)[-1]))


def cut(shares_v: Tensor, decoding: Decoding) -> Tensor:
    """Probabilities with those that ``top_k`` and ``top_p`` leave out at 0, summing to 1."""
    order = shares_v.argsort(descending=True, stable=True)
    if decoding.top_k:
        shares_v = shares_v.index_fill(0, order[decoding.top_k :], 0.0)
        shares_v = shares_v / shares_v.sum()
    before = torch.cumsum(shares_v[order], 0) - shares_v[order]
    shares_v = shares_v.index_fill(0, order[before >= decoding.top_p], 0.0)
    return shares_v / shares_v.sum()


@dataclass(frozen=True)
class Hypothesis:
    """An answer that a beam search found, its score, and what the model said at each token."""

    tokens: tuple[int, ...]
    score: float
    logs: tuple[Tensor, ...]


def beam_search(
    network: Foretells, prompt: np.ndarray, decoding: Decoding, source: np.ndarray | None = None
) -> list[Hypothesis]:
    """The best answers to one prompt, best first.

    At each step every beam is continued by every token; of the best (so many that ``beams`` of
    them cannot end) those that end are put aside if they are among the first ``beams``, and the
    first others go on. It is over when no running beam can score above the worst of those put
    aside, or with ``most`` tokens, where those that have not ended count too.
    """
    beams, ended = decoding.beams, set(decoding.ends)
    kept = max(2, 1 + len(ended)) * beams
    reader = Reader(network, 1, None if source is None else [source])
    logs_bv = torch.log_softmax(reader.read([prompt]).double(), dim=-1)
    reader.choose([0] * beams)
    running: list[tuple[tuple[int, ...], tuple[Tensor, ...]]] = [((), ())] * beams
    scores_b = torch.full((beams,), -torch.inf, dtype=torch.float64)
    scores_b[0], logs_bv = 0.0, logs_bv.expand(beams, -1)
    done: list[Hypothesis] = []
    for length in range(1, decoding.most + 1):
        pairs = zip(logs_bv, reader.known, strict=True)
        allowed_bv = torch.stack([bound(row, known, length - 1, decoding) for row, known in pairs])
        all_scores = (scores_b[:, None] + allowed_bv).flatten()
        best, places = all_scores.topk(min(kept, len(all_scores)))
        going: list[tuple[float, int, int]] = []
        for rank, (score, place) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
            beam, token = divmod(place, logs_bv.shape[1])
            if token in ended:
                if rank < beams:
                    done.append(
                        scored(extended(running[beam], token, logs_bv[beam]), score, decoding)
                    )
            elif len(going) < beams:
                going.append((score, beam, token))
        done = sorted(done, key=lambda each: -each.score)[:beams]
        running = [extended(running[beam], token, logs_bv[beam]) for _, beam, token in going]
        scores_b = torch.tensor([score for score, _, _ in going], dtype=torch.float64)
        hope = going[0][0] / length**decoding.length_penalty
        if length == decoding.most or (len(done) == beams and done[-1].score >= hope):
            break
        reader.choose([beam for _, beam, _ in going])
        logs_bv = torch.log_softmax(
            reader.read([np.array([token]) for _, _, token in going]).double(), dim=-1
        )
    last = zip(running, scores_b.tolist(), strict=True)
    done += [scored(begun, score, decoding) for begun, score in last]
    return sorted(done, key=lambda each: -each.score)[:beams]


Begun = tuple[tuple[int, ...], tuple[Tensor, ...]]


def extended(begun: Begun, token: int, logs_v: Tensor) -> Begun:
    """A beginning and one more token."""
    return (*begun[0], token), (*begun[1], logs_v)


def scored(begun: Begun, score: float, decoding: Decoding) -> Hypothesis:
    """A hypothesis with its score for its length."""
    tokens, logs = begun
    return Hypothesis(tokens, score / len(tokens) ** decoding.length_penalty, logs)


def numbers(logits: Tensor) -> Tensor:
    """The logits; LmwrightError where a row gives no probabilities: NaN, +inf, or -inf alone."""
    if not logits.amax(dim=-1).isfinite().all():  # NaN is the greatest of its row
        raise LmwrightError(
            "the model's logits are no numbers",
            "finite logits",
            "look at its weights, or at how they were trained or converted",
        )
    return logits


def refuse_long(network: Foretells, tokens: int) -> None:
    """Raise BadInput for a document above the longest that a network reads."""
    if network.longest is not None and tokens > network.longest:
        raise BadInput(f"{tokens} tokens", f"at most {network.longest}", "shorten the text")


def refuse_other(network: Foretells) -> None:
    """Raise BadInput for a network that cannot say what comes next."""
    if not network.is_causal_lm:
        raise BadInput(
            "this model does not foretell the next token", "a decoder with a language-model head"
        )
