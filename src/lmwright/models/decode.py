"""The reference decoder: greedy and sampling. Short and slow; faster engines must agree with it.

The searches stand beside it: beam_search.py, required_phrases.py and contrastive_search.py.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lmwright.core.errors import BadInput, LmwrightError
from lmwright.models.blocks.context import Cache
from lmwright.models.blocks.pages import PAGE, Pool
from lmwright.models.core.device import Placement
from lmwright.models.core.ragged import pack
from lmwright.models.network.network import Batch, Network
from lmwright.models.network.together import Together
from lmwright.text.generation import SamplingParams

NUCLEUS_GUESS = 256
"""How many of the likeliest tokens are sorted first to find a nucleus."""


@dataclass(frozen=True)
class SampledToken:
    """A chosen token, and the model's own logits (vocabulary,) at its position.

    ``drawn_logprob`` is its log-probability in the distribution that it was drawn from: after bias,
    penalties, temperature and truncation; 0 where it was not drawn but taken.
    """

    id: int
    logits_v: Tensor
    drawn_logprob: float = 0.0

    @cached_property
    def logprobs_v(self) -> Tensor:
        """The model's own log-probabilities (vocabulary,), float64."""
        return torch.log_softmax(self.logits_v.double(), dim=-1)

    @property
    def logprob(self) -> float:
        """The token's own log-probability, before bias, penalties, temperature, top-k and top-p."""
        return float(self.logprobs_v[self.id])


class CausalLM(Protocol):
    """A network that predicts the next token: ours, or another's behind an adapter.

    ``longest`` is the context length in tokens, if there is a bound. ``streams`` are the names of
    the inputs: one; source and target; or, with ``two_streams``, content and query.
    ``is_causal_lm`` says whether the network has next-token logits, ``batch_invariant`` whether a
    document's bits are the same in whatever company and pieces it is read.
    """

    @property
    def longest(self) -> int | None: ...

    @property
    def streams(self) -> tuple[str, ...]: ...

    @property
    def two_streams(self) -> bool: ...

    @property
    def is_causal_lm(self) -> bool: ...

    @property
    def batch_invariant(self) -> bool: ...

    def place(self, placement: Placement) -> None:
        """Move the weights to a device, and set the precision of the products."""

    def new_pool(self, most: int | None = None) -> Pool:
        """Memory for KV caches, of ``most`` pages if there is a bound."""

    def next(self, batch: Batch, cache: Cache | None) -> Tensor:
        """Next-token logits (documents, vocabulary) of each document.

        The cache holds the keys and values of earlier tokens, and takes those of this batch.
        """

    def every(self, batch: Batch, cache: Cache | None) -> Tensor:
        """Next-token logits (tokens, vocabulary) after each token of one stream, likewise."""


class DecodingState:
    """A batch of documents that a network decodes incrementally: their ids and KV cache.

    A decoder reads prompts; a decoder with an encoder reads ``sources`` first, and prompts are
    the beginnings of its answers. States of one ``pool`` of the network can join each other.
    BadInput for a network that is no causal language model.
    """

    def __init__(
        self,
        network: CausalLM,
        documents: int,
        sources: Sequence[np.ndarray] | None = None,
        pool: Pool | None = None,
    ) -> None:
        check_causal(network)
        self.networks, self.ids = [network] * documents, [np.empty(0, np.int64)] * documents
        self.stacks, self.two_streams = network.streams, network.two_streams
        encodes = len(self.stacks) > 1 and not self.two_streams
        if encodes and sources is None:
            raise BadInput("no source", "a text for the encoder to read")
        self.sources = list(sources) if encodes and sources is not None else None
        self.cache = None
        if not self.two_streams:
            self.cache = Cache(documents, network.new_pool() if pool is None else pool)

    @property
    def network(self) -> CausalLM:
        """The network of the first document."""
        return self.networks[0]

    def begin_with(self, ids: np.ndarray, pages: Sequence[int]) -> None:
        """Let the only document begin with ids that were read before: those of full pages."""
        if self.cache is None:
            raise TypeError("this network keeps no keys and values")
        self.ids = [ids[: len(pages) * PAGE].astype(np.int64)]
        self.cache.begin_with(pages)

    @property
    def shareable(self) -> bool:
        """Whether what was read can be known by its ids: there are no states but keys and values,
        and those of the ids alone."""
        return (
            self.cache is not None
            and self.sources is None
            and not self.cache.entries
            and self.cache.lengths == [len(ids) for ids in self.ids]
        )

    def append(self, tokens: Sequence[np.ndarray]) -> Tensor:
        """Append tokens to each document; next-token logits (documents, vocabulary).

        LmwrightError where a document's logits are not finite.
        """
        return require_finite(self.extend(tokens))

    @property
    def reads_every(self) -> bool:
        """Whether one pass gives logits after every token: of a decoder alone."""
        return not self.two_streams and self.sources is None

    @torch.inference_mode()
    def extend(self, tokens: Sequence[np.ndarray], every: bool = False) -> Tensor:
        """Append tokens to each document; next-token logits, whether finite or not, on the CPU:
        after the last ones (documents, vocabulary), or after ``every`` one (tokens, vocabulary).

        Tokens are sampled there, by numpy's generators, wherever the network is. If the network
        fails, the documents are as they were before.
        """
        before, cached = self.ids, None if self.cache is None else self.cache.snapshot()
        pairs = zip(self.ids, tokens, strict=True)
        self.ids = [np.concatenate([ids, new]) for ids, new in pairs]
        try:
            check_length(self.network, max(map(len, self.ids)))
            return self.next_logits(tokens, [len(ids) for ids in before], every).cpu()
        except BaseException:
            self.ids = before
            if self.cache is not None and cached is not None:
                self.cache.restore(cached)
            raise

    def next_logits(self, tokens: Sequence[np.ndarray], past: Sequence[int], every: bool) -> Tensor:
        """Logits after new tokens, of which each document has ``past`` before."""
        order = range(len(tokens))
        if every and not self.reads_every:
            raise TypeError("logits after every token of a network with two streams")
        if self.two_streams:
            return self.two_stream_logits(order)
        stream = pack(tokens, order=order, past=past)
        if self.sources is None:
            reader = together(self.networks)
            return (reader.every if every else reader.next)(stream, self.cache)
        source, target = self.stacks
        whole = pack(self.sources, order=order)
        return self.network.next({source: whole, target: stream}, self.cache)

    def two_stream_logits(self, order: range) -> Tensor:
        """Next-token logits of a two-stream network: its content attends both ways, so no cache."""
        ends = [np.array([len(ids)]) for ids in self.ids]
        ranks = [np.zeros(len(ids), np.int64) for ids in self.ids]
        content = pack(self.ids, order=order, ranks=ranks)
        nothing = [np.zeros(1, np.int64)] * len(self.ids)
        last = [np.ones(1, np.int64)] * len(self.ids)
        query = pack(nothing, order=order, positions=ends, ranks=last)
        return self.network.next(dict(zip(self.stacks, (content, query), strict=True)), None)

    def cut(self, lengths: Sequence[int]) -> None:
        """Forget what each document has behind so many tokens; for states of keys and values."""
        self.ids = [ids[:length] for ids, length in zip(self.ids, lengths, strict=True)]
        if self.cache is None or self.cache.entries:
            raise TypeError("the states of this network cannot be cut")
        self.cache.lengths = list(lengths)

    def select(self, indices: Sequence[int]) -> None:
        """Keep the documents at these indices; one may be repeated, or dropped."""
        self.ids = [self.ids[index] for index in indices]
        self.networks = [self.networks[index] for index in indices]
        if self.sources is not None:
            self.sources = [self.sources[index] for index in indices]
        if self.cache is not None:
            self.cache.choose(indices)

    @property
    def restorable(self) -> bool:
        """Whether a failed pass leaves the documents as they were before."""
        return self.cache is None or not any(
            getattr(entry, "changes_in_place", False) for entry in self.cache.entries.values()
        )

    def alone(self, place: int) -> DecodingState:
        """The document at a place as a state of its own; this one must not go on with it."""
        found = copy.copy(self)
        found.ids, found.networks = [self.ids[place]], [self.networks[place]]
        if self.sources is not None:
            found.sources = [self.sources[place]]
        if self.cache is not None:
            found.cache = self.cache.alone(place)
        return found

    def leave(self, places: Collection[int]) -> None:
        """Give up the documents at these places; those that stay are not copied."""
        kept = [place for place in range(len(self.ids)) if place not in places]
        self.ids = [self.ids[place] for place in kept]
        self.networks = [self.networks[place] for place in kept]
        if self.sources is not None:
            self.sources = [self.sources[place] for place in kept]
        if self.cache is not None:
            self.cache.leave(places)

    def join(self, other: DecodingState) -> None:
        """Take the documents of another state, of the same network or of one that may be read in
        one pass with it; the other is used no more."""
        self.ids = [*self.ids, *other.ids]
        self.networks = [*self.networks, *other.networks]
        if self.sources is not None and other.sources is not None:
            self.sources = [*self.sources, *other.sources]
        if self.cache is not None and other.cache is not None:
            self.cache.join(other.cache)


def together(networks: Sequence[CausalLM]) -> CausalLM | Together:
    """The network, or several together, that reads documents of these networks in one pass."""
    first = networks[0]
    if all(each is first for each in networks):
        return first
    return Together([each for each in networks if isinstance(each, Network)])


def generate(
    network: CausalLM,
    prompts: Sequence[np.ndarray],
    params: SamplingParams,
    rng: np.random.Generator,
    sources: Sequence[np.ndarray] | None = None,
) -> Iterator[dict[int, SampledToken]]:
    """Continue each prompt token by token: at each step, document -> its sampled token."""
    count = len(prompts)
    return generate_each(network, prompts, [params] * count, [rng] * count, sources)


def generate_each(
    network: CausalLM,
    prompts: Sequence[np.ndarray],
    params: Sequence[SamplingParams],
    rngs: Sequence[np.random.Generator],
    sources: Sequence[np.ndarray] | None = None,
) -> Iterator[dict[int, SampledToken]]:
    """:func:`generate` with parameters and randomness of each prompt's own."""
    state = DecodingState(network, len(prompts), sources)
    active, new, length = list(range(len(prompts))), list(prompts), 0
    while True:
        # Raw logits, as the repetition penalty depends on their sign.
        sampled = [
            next_token(row, ids, length, params[at], rngs[at])
            for row, ids, at in zip(state.append(new), state.ids, active, strict=True)
        ]
        yield dict(zip(active, sampled, strict=True))
        length += 1
        going = [
            n
            for n, (at, each) in enumerate(zip(active, sampled, strict=True))
            if each.id not in params[at].stop_ids and length < params[at].max_new_tokens
        ]
        if not going:
            return
        if len(going) < len(active):
            state.select(going)
        active = [active[n] for n in going]
        new = [np.array([sampled[n].id]) for n in going]


def next_token(
    logits_v: Tensor, ids: np.ndarray, length: int, params: SamplingParams, rng: np.random.Generator
) -> SampledToken:
    """The token that follows ``ids``, of which the last ``length`` are the answer's."""
    id_, drawn = sample(process_logits(logits_v, ids, length, params), params, rng)
    return SampledToken(id_, logits_v, drawn)


def process_logits(
    logits_v: Tensor, ids: np.ndarray, length: int, params: SamplingParams
) -> Tensor:
    """Logits under all penalties and constraints; the last ``length`` ``ids`` are the answer's."""
    generated = ids[len(ids) - length :].tolist()
    return apply_constraints(apply_penalties(logits_v, generated, params), ids, length, params)


def apply_constraints(
    logits_v: Tensor, ids: np.ndarray, length: int, params: SamplingParams
) -> Tensor:
    """Logits or log-probabilities under the generation config, with banned tokens at -inf.

    The last ``length`` of ``ids`` are the answer's.
    """
    config = params.generation_config
    if length == params.max_new_tokens - 1 and config.forced_eos_token_id:
        return force_ids(logits_v, config.forced_eos_token_id)
    if length == 0 and params.forced_bos_id is not None:
        return force_ids(logits_v, (params.forced_bos_id,))
    if config.repetition_penalty != 1:
        logits_v = apply_repetition_penalty(logits_v, ids, config.repetition_penalty)
    banned = {*params.banned_ids, *repeated_ngram_ids(ids, config.no_repeat_ngram_size)}
    banned.update(phrase[-1] for phrase in params.banned if ends_with(ids, phrase[:-1]))
    if len(ids) < config.min_length:
        banned.update(params.stop_ids)
    if length == (params.forced_bos_id is not None):
        banned.update(config.begin_suppress_tokens)
    return logits_v.index_fill(-1, places(logits_v, banned), -torch.inf) if banned else logits_v


def places(logits_v: Tensor, tokens: Collection[int]) -> Tensor:
    """Ids as an index of logits, on their device."""
    return torch.tensor([*tokens], dtype=torch.int64, device=logits_v.device)


def force_ids(logits_v: Tensor, tokens: Sequence[int]) -> Tensor:
    """Log-probabilities of 0 for these tokens and -inf for all others."""
    return torch.full_like(logits_v, -torch.inf).index_fill(-1, places(logits_v, tokens), 0.0)


def apply_repetition_penalty(logits_v: Tensor, ids: np.ndarray, penalty: float) -> Tensor:
    """Logits with those of the tokens among ``ids`` lowered by a penalty above 1."""
    tokens = torch.from_numpy(np.unique(ids)).to(logits_v.device)
    old = logits_v[tokens]
    return logits_v.index_put((tokens,), torch.where(old < 0, old * penalty, old / penalty))


def repeated_ngram_ids(ids: np.ndarray, size: int) -> set[int]:
    """Tokens that would complete an n-gram of ``size`` already among ``ids``; 0 allows all."""
    if not 0 < size <= len(ids):
        return set()
    runs = np.lib.stride_tricks.sliding_window_view(ids, size)
    same = (runs[:, :-1] == ids[len(ids) - size + 1 :]).all(axis=1)
    return set(runs[same, -1].tolist())


def ends_with(ids: np.ndarray, phrase: Sequence[int]) -> bool:
    """Whether the ids end with a phrase; every one ends with the empty phrase."""
    return not phrase or tuple(ids[-len(phrase) :].tolist()) == tuple(phrase)


def apply_penalties(logits_v: Tensor, generated: Sequence[int], params: SamplingParams) -> Tensor:
    """Logits with bias, presence and frequency penalties, given the tokens ``generated`` so far."""
    if not params.has_penalties:
        return logits_v
    logits_v = logits_v.clone()
    for token, more in params.logit_bias:
        logits_v[token] += more
    for token, count in Counter(generated).items():
        logits_v[token] -= params.presence_penalty + count * params.frequency_penalty
    return logits_v


def sample(logits_v: Tensor, params: SamplingParams, rng: np.random.Generator) -> tuple[int, float]:
    """One token and the log-probability with which it was drawn.

    The likeliest at temperature 0 (of equals the first), whose log-probability is 0.
    """
    logits = logits_v.cpu().numpy()
    if params.temperature == 0:
        return int(logits.argmax()), 0.0  # torch's takes twenty times as long
    ids, probs = drawn_from(logits, params)
    ends = np.cumsum(probs)
    place = int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))
    place = min(place, int(np.flatnonzero(probs)[-1]))
    return int(ids[place]), float(np.log(probs[place]))


def drawn_from(logits: np.ndarray, params: SamplingParams) -> tuple[np.ndarray, np.ndarray]:
    """The ids that may be drawn, ascending, and their probabilities, float64: those of
    the temperature, after top-k, nucleus, min-p and typical truncation, in this order.

    Only tokens that may be among them are sorted, so that a large vocabulary is no burden.
    """
    scaled = logits.astype(np.float64) / params.temperature
    weights = np.exp(scaled - scaled.max())
    ids = np.arange(len(weights))
    if params.top_k:
        ids = likeliest(weights, min(params.top_k, len(weights)))
    probs = weights[ids] / weights[ids].sum()
    if params.top_p < 1:
        kept = nucleus(probs, params.top_p)
        ids, probs = ids[kept], probs[kept] / probs[kept].sum()
    if params.min_p:
        kept = np.flatnonzero(probs >= params.min_p * probs.max())
        ids, probs = ids[kept], probs[kept] / probs[kept].sum()
    if params.typical_p < 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = -np.log(probs)
            entropy = np.where(probs > 0, probs * surprise, 0.0).sum()
        order = np.argsort(np.abs(surprise - entropy), kind="stable")
        before = np.cumsum(probs[order]) - probs[order]
        kept = np.sort(order[before < params.typical_p])
        ids, probs = ids[kept], probs[kept] / probs[kept].sum()
    return ids, probs


def likeliest(weights: np.ndarray, count: int) -> np.ndarray:
    """The places of the greatest weights, ascending; of equals the first."""
    least = np.partition(weights, len(weights) - count)[len(weights) - count]
    above, equal = np.flatnonzero(weights > least), np.flatnonzero(weights == least)
    return np.sort(np.concatenate([above, equal[: count - len(above)]]))


def nucleus(probs: np.ndarray, mass: float) -> np.ndarray:
    """The places, ascending, of the likeliest tokens that are needed for a probability."""
    count = min(len(probs), NUCLEUS_GUESS)
    places = likeliest(probs, count)
    while probs[places].sum() < mass and count < len(probs):
        count = min(len(probs), 8 * count)
        places = likeliest(probs, count)
    order = places[np.argsort(-probs[places], kind="stable")]
    before = np.cumsum(probs[order]) - probs[order]
    return np.sort(order[before < mass])


def require_finite(logits: Tensor) -> Tensor:
    """The logits; LmwrightError where a row has no softmax: NaN, +inf, or -inf alone."""
    # NaN is the greatest of its row. numpy's search wakes no threads, which then wait for more.
    if not np.isfinite(logits.cpu().numpy().max(axis=-1)).all():
        raise LmwrightError(
            "the model's logits are no numbers",
            "finite logits",
            "look at its weights, or at how they were trained or converted",
        )
    return logits


def check_length(network: CausalLM, tokens: int) -> None:
    """Raise BadInput for a document beyond the network's context length."""
    if network.longest is not None and tokens > network.longest:
        raise BadInput(f"{tokens} tokens", f"at most {network.longest}", "shorten the text")


def check_causal(network: CausalLM) -> None:
    """Raise BadInput for a network that is no causal language model."""
    if not network.is_causal_lm:
        raise BadInput(
            "this model is no causal language model", "a decoder with a language-model head"
        )
