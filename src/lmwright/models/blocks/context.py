"""Per-forward context: dropout RNG, states of earlier stacks, KV cache, trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

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


class Cache:
    """A cache of keys, values and recurrent states for a number of ``documents``.

    The documents must be packed in the same order at every pass.
    """

    def __init__(self, documents: int) -> None:
        self.lengths = [0] * documents
        self.entries: dict[str, Any] = {}
        self.indexed: tuple[Ragged, int, tuple[Any, ...]] | None = None

    def extend(self, name: str, k_new: Tensor, v_new: Tensor, batch: Ragged) -> tuple[Tensor, ...]:
        """Add new keys and values (n, kv heads, h) to those of (documents, kv heads, capacity, h).

        A document's first ``lengths`` + new tokens of the capacity are filled.
        """
        need, index = self.capacity_and_index(batch)
        old_k, old_v = self.entries.get(name) or (None, None)
        if old_k is None or old_k.shape[2] < need:
            old_k, old_v = self.grown(old_k, k_new, need), self.grown(old_v, v_new, need)
            self.entries[name] = old_k, old_v
        k, v = self.entries[name]
        k[index], v[index] = k_new, v_new
        return k, v

    def capacity_and_index(self, batch: Ragged) -> tuple[int, tuple[Any, ...]]:
        """The capacity needed for new tokens and their index in a buffer, alike in all layers."""
        if self.indexed is None or self.indexed[0] is not batch:
            need = max(a + b for a, b in zip(self.lengths, batch.lengths(), strict=True))
            self.indexed = batch, need, self.index(batch)
        return self.indexed[1:]

    def index(self, batch: Ragged) -> tuple[Any, ...]:
        """Index of new tokens in a buffer: one position if every document adds a token there."""
        if len(set(self.lengths)) == 1 and set(batch.lengths()) == {1}:
            return slice(None), slice(None), self.lengths[0]
        lengths = torch.tensor(batch.lengths())
        document_n = torch.arange(len(lengths)).repeat_interleave(lengths)
        first_n = torch.tensor(self.lengths) - torch.tensor(batch.cu_seqlens[:-1])
        return document_n, slice(None), torch.arange(len(document_n)) + first_n[document_n]

    def grown(self, old: Tensor | None, like: Tensor, need: int) -> Tensor:
        """A buffer of twice the capacity ``need``, with the old contents."""
        shape = (len(self.lengths), like.shape[1], 2 * need, like.shape[2])
        made = like.new_zeros(shape)
        if old is not None:
            made[:, :, : old.shape[2]] = old
        return made

    def advance(self, batch: Ragged) -> None:
        """Count the tokens of a batch after a whole forward pass."""
        self.indexed = None
        pairs = zip(self.lengths, batch.lengths(), strict=True)
        self.lengths = [past + new for past, new in pairs]

    def choose(self, places: Sequence[int]) -> None:
        """Go on with the documents at these places (one may be taken twice, or left)."""
        self.indexed = None
        self.lengths = [self.lengths[place] for place in places]
        self.entries = {name: chosen(value, places) for name, value in self.entries.items()}


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


def chosen(value: Any, places: Sequence[int]) -> Any:
    """Choose documents of a cache entry: a tensor, a tuple, or what has a ``choose`` itself."""
    if isinstance(value, tuple):
        return tuple(chosen(each, places) for each in value)
    return value[list(places)] if isinstance(value, Tensor) else value.choose(places)


@dataclass
class ForwardContext:
    """Context of one forward pass: the current stack's batch and all that its ops need beside it.

    ``states`` holds those of the stacks before; ``layer`` is the number of the current layer.
    ``aux_losses`` collects auxiliary losses of ops. ``memo`` is of one stack's pass.
    """

    batch: Ragged
    dropout_rng: DropoutRNG | None = None
    cache: Cache | None = None
    trace: Trace | None = None
    states: dict[str, States] = field(default_factory=dict)
    layer: int = 0
    aux_losses: list[Tensor] = field(default_factory=list)
    memo: dict[Any, Any] = field(default_factory=dict)

    def memoised(self, name: Any, make: Callable[[], T]) -> T:
        """The result of ``make``, computed once for all layers of this stack's pass."""
        if name not in self.memo:
            self.memo[name] = make()
        found: T = self.memo[name]
        return found
