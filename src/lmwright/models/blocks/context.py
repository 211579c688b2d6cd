"""What goes along with the stream through one pass: noise, what was read, cache, notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from lmwright.models.core.ragged import Noise, Ragged

T = TypeVar("T")


@dataclass
class States:
    """What a stack gave: its batch, what each of its layers took in, and its last states (n, d)."""

    batch: Ragged
    inputs: list[Tensor]
    last: Tensor


@dataclass
class Notes:
    """What to note of a pass besides its result, and heads to mask.

    ``states``: for each stack the states (n, d) that its layers took in and its last ones.
    ``weights``: for each attention, by the name of its sublayer (``decoder.3.0``; of a branch
    ``decoder.3.0.1``), the attention weights (heads, queries, keys) of each document in the
    stream's order; only if ``maps``.
    ``heads``: factors (heads,) for the heads of a sublayer, 0 masks one.
    """

    maps: bool = False
    heads: dict[str, Tensor] = field(default_factory=dict)
    states: dict[str, list[Tensor]] = field(default_factory=dict)
    weights: dict[str, list[Tensor]] = field(default_factory=dict)


class Cache:
    """Keys, values and recurrent states of the tokens that were read, for ``documents`` of them.

    The documents must be packed in the same order at every pass.
    """

    def __init__(self, documents: int) -> None:
        self.lengths = [0] * documents
        self.kept: dict[str, Any] = {}
        self.found: tuple[Ragged, int, tuple[Any, ...]] | None = None

    def extend(self, name: str, k_new: Tensor, v_new: Tensor, batch: Ragged) -> tuple[Tensor, ...]:
        """Keys and values (documents, kv heads, room, head width) with new ones (n, kv, h) added.

        A document's first ``lengths`` + new tokens of the room are filled.
        """
        need, where = self.places(batch)
        old_k, old_v = self.kept.get(name) or (None, None)
        if old_k is None or old_k.shape[2] < need:
            old_k, old_v = self.with_room(old_k, k_new, need), self.with_room(old_v, v_new, need)
            self.kept[name] = old_k, old_v
        k, v = self.kept[name]
        k[where], v[where] = k_new, v_new
        return k, v

    def places(self, batch: Ragged) -> tuple[int, tuple[Any, ...]]:
        """How long a buffer of keys must be for new tokens, and where they stand in it, as an
        index; found once for all layers."""
        if self.found is None or self.found[0] is not batch:
            need = max(a + b for a, b in zip(self.lengths, batch.lengths(), strict=True))
            self.found = batch, need, self.index(batch)
        return self.found[1:]

    def index(self, batch: Ragged) -> tuple[Any, ...]:
        """See :meth:`places`: one place for all where each document goes on by a token there."""
        if len(set(self.lengths)) == 1 and set(batch.lengths()) == {1}:
            return slice(None), slice(None), self.lengths[0]
        lengths = torch.tensor(batch.lengths())
        document_n = torch.arange(len(lengths)).repeat_interleave(lengths)
        first_n = torch.tensor(self.lengths) - torch.tensor(batch.cu_seqlens[:-1])
        return document_n, slice(None), torch.arange(len(document_n)) + first_n[document_n]

    def with_room(self, old: Tensor | None, like: Tensor, need: int) -> Tensor:
        """A buffer for ``need`` tokens and as many again, with the old contents."""
        shape = (len(self.lengths), like.shape[1], 2 * need, like.shape[2])
        made = like.new_zeros(shape)
        if old is not None:
            made[:, :, : old.shape[2]] = old
        return made

    def advance(self, batch: Ragged) -> None:
        """Count the tokens of a batch that went through the whole network."""
        self.found = None
        pairs = zip(self.lengths, batch.lengths(), strict=True)
        self.lengths = [past + new for past, new in pairs]

    def choose(self, places: Sequence[int]) -> None:
        """Go on with these documents (an old one may be taken twice, or left)."""
        self.found = None
        self.lengths = [self.lengths[place] for place in places]
        self.kept = {name: chosen(value, places) for name, value in self.kept.items()}


@dataclass(frozen=True)
class Kept:
    """Keys and values (m, kv heads, head width) that a cross-attention reads at every step."""

    k: Tensor
    v: Tensor
    batch: Ragged

    def choose(self, places: Sequence[int]) -> Kept:
        """Those of some documents."""
        k, v, tokens, positions = (
            torch.cat([x.split(self.batch.lengths())[place] for place in places])
            for x in (self.k, self.v, self.batch.tokens_n, self.batch.positions_n)
        )
        lengths = [self.batch.lengths()[place] for place in places]
        return Kept(
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
    """Some documents of what is kept: of a tensor, of each in a tuple, or as it chooses itself."""
    if isinstance(value, tuple):
        return tuple(chosen(each, places) for each in value)
    return value[list(places)] if isinstance(value, Tensor) else value.choose(places)


@dataclass
class Flow:
    """One pass: the batch of the stack at work and everything that its ops may need beside it.

    ``read`` holds the stacks that went before; ``layer`` is the number of the layer at work.
    ``losses`` collects what ops want added to the loss.
    """

    batch: Ragged
    noise: Noise | None = None
    cache: Cache | None = None
    notes: Notes | None = None
    read: dict[str, States] = field(default_factory=dict)
    layer: int = 0
    losses: list[Tensor] = field(default_factory=list)
    memo: dict[Any, Any] = field(default_factory=dict)

    def once(self, name: Any, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once for all layers of this stack's pass."""
        if name not in self.memo:
            self.memo[name] = make()
        found: T = self.memo[name]
        return found
