"""Per-forward context: dropout RNG, states of earlier stacks, KV cache, trace."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from lmwright.kernels.int8 import quantise_rows
from lmwright.models.core.device import KvPrecision
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
    """The reference KV cache: a block of contiguous memory a document, and a table of the blocks.

    The documents must be packed in the same order at every pass. ``entries`` has the blocks of
    each attention, (blocks, kv heads, capacity, h), and other states of ops by their names;
    ``table[j]`` is the block of document j. What leaves gives its block back, and what joins takes
    a free one, so neither copies what others have.
    """

    def __init__(self, documents: int) -> None:
        self.lengths = [0] * documents
        self.entries: dict[str, Any] = {}
        self.table = list(range(documents))
        self.blocks = documents
        self.indexed: tuple[Ragged, int, tuple[Any, ...]] | None = None

    def extend(self, name: str, k_new: Tensor, v_new: Tensor, batch: Ragged) -> None:
        """Add new keys and values; of a block the first ``lengths`` + new tokens are filled."""
        kv, index = self.with_room(name, k_new, v_new, batch), self.capacity_and_index(batch)[1]
        kv.k[index], kv.v[index] = self.kept(k_new), self.kept(v_new)

    def with_room(self, name: str, k: Tensor, v: Tensor, batch: Ragged) -> Blocks:
        """The blocks of a sublayer with room for a batch; keys and values are like these."""
        need = self.capacity_and_index(batch)[0]
        kv: Blocks | None = self.entries.get(name)
        if kv is None:
            likes = self.kept(k[:0]), self.kept(v[:0])
            kv = self.entries[name] = Blocks(
                *(like.new_zeros(0, like.shape[1], 0, like.shape[2]) for like in likes)
            )
        if kv.k.shape[2] < need or kv.k.shape[0] < self.blocks:
            kv.grow(self.blocks, 2 * need if kv.k.shape[2] < need else kv.k.shape[2])
        return kv

    def read(self, name: str, documents: slice, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values of neighbouring documents, without a copy where their blocks are."""
        blocks = self.table[documents]
        kv: Blocks = self.entries[name]
        if blocks == list(range(blocks[0], blocks[0] + len(blocks))):
            those = slice(blocks[0], blocks[0] + len(blocks))
            found = kv.k[those, :, :length], kv.v[those, :, :length]
        else:
            found = kv.k[:, :, :length][blocks], kv.v[:, :, :length][blocks]
        return self.given(found[0]), self.given(found[1])

    def kept(self, rows: Tensor) -> Tensor:
        """Keys or values (n, kv heads, h) as they lie in the blocks."""
        return rows

    def given(self, kept: Tensor) -> Tensor:
        """What lies in blocks as keys or values (b, kv heads, length, h)."""
        return kept

    def capacity_and_index(self, batch: Ragged) -> tuple[int, tuple[Any, ...]]:
        """The capacity needed for new tokens and their index in blocks, alike in all layers."""
        if self.indexed is None or self.indexed[0] is not batch:
            need = max(a + b for a, b in zip(self.lengths, batch.lengths(), strict=True))
            self.indexed = batch, need, self.index(batch)
        return self.indexed[1:]

    def index(self, batch: Ragged) -> tuple[Any, ...]:
        """Index of new tokens in the blocks: one position if every document adds a token there."""
        alike = len(set(self.lengths)) == 1 and set(batch.lengths()) == {1}
        if alike and self.table == list(range(self.blocks)):
            return slice(None), slice(None), self.lengths[0]
        tokens_n = batch.tokens_n
        firsts = [
            past - start for past, (start, _) in zip(self.lengths, batch.spans(), strict=True)
        ]
        lengths = tokens_n.new_tensor(batch.lengths())
        blocks_n, first_n = (
            tokens_n.new_tensor(each).repeat_interleave(lengths) for each in (self.table, firsts)
        )
        positions_n = torch.arange(len(tokens_n), device=tokens_n.device) + first_n
        return blocks_n, slice(None), positions_n

    def advance(self, batch: Ragged) -> None:
        """Count the tokens of a batch after a whole forward pass."""
        self.indexed = None
        pairs = zip(self.lengths, batch.lengths(), strict=True)
        self.lengths = [past + new for past, new in pairs]

    def choose(self, places: Sequence[int]) -> None:
        """Go on with the documents at these places, copied into blocks side by side.

        One may be taken twice, or left.
        """
        taken = [self.table[place] for place in places]
        self.entries = {
            name: value.choose(taken if isinstance(value, Blocks) else places)
            for name, value in self.entries.items()
        }
        self.lengths = [self.lengths[place] for place in places]
        self.indexed, self.table, self.blocks = None, list(range(len(places))), len(places)

    def snapshot(self) -> tuple[list[int], dict[str, Any]]:
        """What :meth:`restore` needs, should a forward pass fail."""
        return self.lengths, dict(self.entries)

    def restore(self, snapshot: tuple[list[int], dict[str, Any]]) -> None:
        """Go back to a snapshot: what blocks hold beyond their lengths is written over."""
        self.lengths, entries = snapshot
        self.entries = {name: entries[name] for name in self.entries if name in entries}
        self.indexed = None

    def copied(self) -> Cache:
        """A cache whose documents can be chosen without this one's."""
        found = copy.copy(self)
        found.entries = dict(self.entries)
        return found

    def leave(self, places: Collection[int]) -> None:
        """Give up the documents at these places; the others stay where they are."""
        kept = [place for place in range(len(self.lengths)) if place not in places]
        self.entries = {
            name: value if isinstance(value, Blocks) else value.choose(kept)
            for name, value in self.entries.items()
        }
        self.lengths = [self.lengths[place] for place in kept]
        self.indexed, self.table = None, [self.table[place] for place in kept]

    def join(self, other: Cache) -> None:
        """Take the documents of another cache behind one's own; the other is used no more."""
        if not self.lengths:
            self.lengths, self.entries = other.lengths, other.entries
            self.table, self.blocks, self.indexed = other.table, other.blocks, None
            return
        free = sorted(set(range(self.blocks)) - set(self.table))[: len(other.table)]
        fresh = range(self.blocks, self.blocks + len(other.table) - len(free))
        taken, self.blocks = [*free, *fresh], self.blocks + len(fresh)
        for name, value in other.entries.items():
            own = self.entries[name]
            if isinstance(value, Blocks):
                own.grow(self.blocks, value.k.shape[2])
                own.take(value, other.table, taken)
            else:
                self.entries[name] = own.join(value)
        self.lengths, self.indexed = [*self.lengths, *other.lengths], None
        self.table = [*self.table, *taken]


class Int8Cache(Cache):
    """A cache of keys and values in int8: of a head of a token h quants, and their fp32 scale.

    A number takes (h + 4) / h bytes. Blocks are (kv heads, capacity, h + 4), int8; the quants are
    those of :func:`~lmwright.kernels.int8.quantise_rows`.
    """

    def kept(self, rows: Tensor) -> Tensor:
        """Keys or values (n, kv heads, h), quantised: (n, kv heads, h + 4)."""
        quants, scales = quantise_rows(rows.float().reshape(-1, rows.shape[-1]))
        whole = torch.cat([quants, scales[:, None].view(torch.int8)], 1)
        return whole.view(*rows.shape[:-1], rows.shape[-1] + SCALE_BYTES)

    def given(self, kept: Tensor) -> Tensor:
        """Quants times scales."""
        quants, scales = kept.split([kept.shape[-1] - SCALE_BYTES, SCALE_BYTES], -1)
        return quants.float() * scales.contiguous().view(torch.float32)


SCALE_BYTES = 4
CACHES: dict[KvPrecision, type[Cache]] = {"fp32": Cache, "int8": Int8Cache}
"""The KV cache of each precision of keys and values."""


class Blocks:
    """Keys and values of one attention: a block (kv heads, capacity, h) a document of the table."""

    def __init__(self, k: Tensor, v: Tensor) -> None:
        self.k, self.v = k, v

    def grow(self, blocks: int, capacity: int) -> None:
        """Have at least so many blocks of at least this capacity, with the old contents."""
        self.k, self.v = (grown(part, blocks, capacity) for part in (self.k, self.v))

    def take(self, other: Blocks, theirs: Sequence[int], ours: Sequence[int]) -> None:
        """Copy blocks of another attention's."""
        length = other.k.shape[2]
        self.k[list(ours), :, :length] = other.k[list(theirs)]
        self.v[list(ours), :, :length] = other.v[list(theirs)]

    def choose(self, blocks: Sequence[int]) -> Blocks:
        """Copies of these blocks, in this order."""
        return Blocks(self.k[list(blocks)], self.v[list(blocks)])


def grown(old: Tensor, blocks: int, capacity: int) -> Tensor:
    """A buffer (blocks, m, capacity, h) with the contents of a smaller one."""
    if old.shape[0] >= blocks and old.shape[2] >= capacity:
        return old
    shape = max(blocks, old.shape[0]), old.shape[1], max(capacity, old.shape[2]), old.shape[3]
    made = old.new_zeros(shape)
    made[: old.shape[0], :, : old.shape[2]] = old
    return made


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
