"""Per-forward context: dropout RNG, states of earlier stacks, KV cache, trace."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from lmwright.models.blocks.pages import PAGE, Held, Pool, pages_for
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import Ragged

T = TypeVar("T")


@dataclass
class States:
    """The states of a stack: its batch, the input of each layer and the last states (n, d)."""

    batch: Ragged
    inputs: list[Tensor]
    last: Tensor


@dataclass
class Trace:
    """A record of a forward pass, and factors for attention heads.

    ``states``: for each stack the inputs (n, d) of its layers and its last states.
    ``attention_weights``: for each attention, by the name of its sublayer (``decoder.3.0``; of a
    branch ``decoder.3.0.1``), the weights (heads, queries, keys) of each document in the stream's
    order; recorded if ``attention`` is set.
    ``head_factors``: factors (heads,) for the heads of a sublayer; 0 masks a head.
    """

    attention: bool = False
    head_factors: dict[str, Tensor] = field(default_factory=dict)
    states: dict[str, list[Tensor]] = field(default_factory=dict)
    attention_weights: dict[str, list[Tensor]] = field(default_factory=dict)


class KVCache(Protocol):
    """What attention asks of a KV cache: to take new keys and values, and to read a group's.

    ``lengths`` counts the cached tokens of each document. How the keys lie in memory (one block a
    document, pages, another precision) is the cache's own affair.
    """

    lengths: list[int]
    entries: dict[str, Any]

    def extend(self, name: str, k_new: Tensor, v_new: Tensor, batch: Ragged) -> None:
        """Add new keys and values (n, kv heads, h) of the sublayer ``name``."""

    def read(self, name: str, documents: slice, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values (b, kv heads, length, h) of neighbouring documents."""

    def advance(self, batch: Ragged) -> None:
        """Count the tokens of a batch after a whole forward pass."""


class Cache:
    """The KV cache: for each document its pages of a pool, alike for all attentions.

    The documents must be packed in the same order at every pass. ``table[j]`` holds the pages of
    document j, the first ``lengths[j]`` places of which are filled; documents that were chosen
    twice, or begin alike, hold the same ones until either writes into them. ``entries`` has other
    states of ops by their names. Caches of one pool can join each other.
    """

    def __init__(self, documents: int, pool: Pool | None = None) -> None:
        self.pool = Pool() if pool is None else pool
        self.lengths = [0] * documents
        self.entries: dict[str, Any] = {}
        self.table = [Held(self.pool) for _ in range(documents)]
        self.indexed: tuple[Ragged, Tensor, Tensor] | None = None

    def begin_with(self, pages: Sequence[int]) -> None:
        """Let the only document begin with full pages that somebody holds."""
        self.table, self.lengths = [Held(self.pool, pages)], [len(pages) * PAGE]
        self.indexed = None

    def extend(self, name: str, k_new: Tensor, v_new: Tensor, batch: Ragged) -> None:
        """Add new keys and values."""
        pages_n, slots_n = self.index(batch)
        self.pool.of(name, k_new, v_new).write(pages_n, slots_n, k_new, v_new)

    def index(self, batch: Ragged) -> tuple[Tensor, Tensor]:
        """The page and slot (n) of each new token, alike in all layers; there is room for it."""
        if self.indexed is None or self.indexed[0] is not batch:
            self.make_room(batch.lengths())
            places = [
                (held.pages[at // PAGE], at % PAGE)
                for held, past, new in zip(self.table, self.lengths, batch.lengths(), strict=True)
                for at in range(past, past + new)
            ]
            pages_n, slots_n = batch.tokens_n.new_tensor(places).unbind(1)
            self.indexed = batch, pages_n, slots_n
        return self.indexed[1:]

    def make_room(self, new: Sequence[int]) -> None:
        """Have pages of each document's own for so many new tokens; OutOfPages: there are none."""
        for held, past, more in zip(self.table, self.lengths, new, strict=True):
            held.make_room(past, more)

    def read(self, name: str, documents: slice, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values of neighbouring documents."""
        pages = [held.pages[: pages_for(length)] for held in self.table[documents]]
        return self.pool.attentions[name].read(pages, length)

    def advance(self, batch: Ragged) -> None:
        """Count the tokens of a batch after a whole forward pass."""
        self.indexed = None
        pairs = zip(self.lengths, batch.lengths(), strict=True)
        self.lengths = [past + new for past, new in pairs]

    def choose(self, places: Sequence[int]) -> None:
        """Go on with the documents at these places; one may be taken twice, or left."""
        found = self.chosen(places)
        self.entries, self.lengths, self.table = found.entries, found.lengths, found.table
        self.indexed = None

    def chosen(self, places: Sequence[int]) -> Cache:
        """A cache of the documents at these places; one may be taken twice."""
        found = Cache(0, self.pool)
        found.entries = {name: value.choose(places) for name, value in self.entries.items()}
        found.lengths = [self.lengths[place] for place in places]
        found.table = [Held(self.pool, self.table[place].pages) for place in places]
        return found

    def snapshot(self) -> tuple[list[int], dict[str, Any]]:
        """What :meth:`restore` needs, should a forward pass fail."""
        return self.lengths, dict(self.entries)

    def restore(self, snapshot: tuple[list[int], dict[str, Any]]) -> None:
        """Go back to a snapshot: what pages hold beyond the lengths is written over."""
        self.lengths, entries = snapshot
        self.entries = {name: entries[name] for name in self.entries if name in entries}
        self.indexed = None

    def alone(self, place: int) -> Cache:
        """A cache of the document at a place, whose pages it takes over."""
        found = Cache(0, self.pool)
        found.entries = {name: value.choose([place]) for name, value in self.entries.items()}
        found.lengths, found.table = [self.lengths[place]], [self.table[place]]
        return found

    def leave(self, places: Collection[int]) -> None:
        """Give up the documents at these places."""
        kept = [place for place in range(len(self.lengths)) if place not in places]
        self.entries = {name: value.choose(kept) for name, value in self.entries.items()}
        self.lengths = [self.lengths[place] for place in kept]
        self.table, self.indexed = [self.table[place] for place in kept], None

    def join(self, other: Cache) -> None:
        """Take the documents of another cache of the pool; the other is used no more."""
        if other.pool is not self.pool:
            raise TypeError("caches of two pools cannot join each other")
        for name, value in other.entries.items():
            own = self.entries.get(name) if self.lengths else None
            self.entries[name] = value if own is None else own.join(value)
        self.lengths = [*self.lengths, *other.lengths]
        self.table, self.indexed = [*self.table, *other.table], None


@dataclass(frozen=True)
class RecurrentState:
    """States of a recurrent op after the last tokens, each (documents, ...)."""

    states: tuple[Tensor, ...]

    def choose(self, places: Sequence[int]) -> RecurrentState:
        """The states of the documents at these places."""
        return RecurrentState(tuple(state[list(places)] for state in self.states))

    def join(self, other: RecurrentState) -> RecurrentState:
        """The states of both."""
        pairs = zip(self.states, other.states, strict=True)
        return RecurrentState(tuple(torch.cat(pair) for pair in pairs))


@dataclass(frozen=True)
class CrossKV:
    """Cached keys and values (m, kv heads, head width) of a cross-attention."""

    k: Tensor
    v: Tensor
    batch: Ragged

    def choose(self, places: Sequence[int]) -> CrossKV:
        """Keys and values of the documents at these places."""
        k, v, tokens, positions = (
            torch.cat([x.split(self.batch.lengths())[place] for place in places])
            for x in (self.k, self.v, self.batch.tokens_n, self.batch.positions_n)
        )
        lengths = [self.batch.lengths()[place] for place in places]
        return CrossKV(
            k,
            v,
            Ragged(
                tokens_n=tokens,
                positions_n=positions,
                cu_seqlens=tuple(accumulate([0, *lengths])),
                order=tuple(range(len(lengths))),
                documents=tuple(self.batch.documents[place] for place in places),
            ),
        )

    def join(self, other: CrossKV) -> CrossKV:
        """Keys and values of the documents of both."""
        one, two = self.batch, other.batch
        lengths = [*one.lengths(), *two.lengths()]
        return CrossKV(
            torch.cat([self.k, other.k]),
            torch.cat([self.v, other.v]),
            Ragged(
                tokens_n=torch.cat([one.tokens_n, two.tokens_n]),
                positions_n=torch.cat([one.positions_n, two.positions_n]),
                cu_seqlens=tuple(accumulate([0, *lengths])),
                order=tuple(range(len(lengths))),
                documents=(*one.documents, *two.documents),
            ),
        )


@dataclass
class ForwardContext:
    """Context of one forward pass: the current stack's batch and all that its ops need beside it.

    ``states`` holds those of the stacks before; ``layer`` is the number of the current layer.
    ``aux_losses`` collects auxiliary losses of ops. ``memo`` is of one stack's pass.
    ``precision`` is the dtype of the network's products, in which kernels that have no other may
    compute too.
    """

    batch: Ragged
    dropout_rng: DropoutRNG | None = None
    cache: KVCache | None = None
    trace: Trace | None = None
    states: dict[str, States] = field(default_factory=dict)
    layer: int = 0
    aux_losses: list[Tensor] = field(default_factory=list)
    memo: dict[Any, Any] = field(default_factory=dict)
    precision: torch.dtype = torch.float32

    def memoised(self, name: Any, make: Callable[[], T]) -> T:
        """The result of ``make``, computed once for all layers of this stack's pass."""
        if name not in self.memo:
            self.memo[name] = make()
        found: T = self.memo[name]
        return found
