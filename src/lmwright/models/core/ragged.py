"""A batch without padding: one stream of tokens, the documents' ends, and keyed noise.

Letters in names: n tokens of the stream, b documents, d width. No interface of the core
knows padding; what a document gives does not depend on its neighbours in the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmwright.core.random import key

FRESH = {"bit_generator": "SFC64", "has_uint32": 0, "uinteger": 0}
ONE = (1).to_bytes(8, "little")  # where SFC64's own counter begins
MIXED = 12  # numbers after which its authors hold a state for mixed


@dataclass(frozen=True)
class Group:
    """Neighbouring documents of like lengths, which can share one product.

    Their queries are rows ``start`` to ``stop`` of the stream, ``length`` a document; their keys
    begin at ``key_start`` of the stream that is read, ``key_length`` a document. ``first`` is the
    place of the first of them among the batch's documents.
    """

    start: int
    length: int
    documents: tuple[int, ...]
    first: int
    key_start: int
    key_length: int

    @property
    def stop(self) -> int:
        """The row after the group's last one."""
        return self.start + self.length * len(self.documents)

    @property
    def key_stop(self) -> int:
        """The row after the group's last key."""
        return self.key_start + self.key_length * len(self.documents)


@dataclass(frozen=True)
class Ragged:
    """Documents end to end.

    ``tokens_n`` and ``positions_n`` are int64; document j of the stream stands in rows
    ``cu_seqlens[j]`` to ``cu_seqlens[j + 1]`` and is number ``order[j]`` of what was packed;
    ``documents[j]`` is the number under which its noise is drawn. ``segments_n`` numbers the
    segments that a document's tokens belong to (None: all to the first); ``ranks_n`` their places
    in an order of factorisation; ``prefixes`` how many first tokens of each document all of its
    tokens see. Where the tokens are some of a longer stream's, ``firsts`` has for each document
    which of its rows is the first here.
    """

    tokens_n: Tensor
    positions_n: Tensor
    cu_seqlens: tuple[int, ...]
    order: tuple[int, ...]
    documents: tuple[int, ...]
    segments_n: Tensor | None = None
    ranks_n: Tensor | None = None
    prefixes: tuple[int, ...] | None = None
    firsts: tuple[int, ...] | None = None

    def spans(self) -> Iterator[tuple[int, int]]:
        """First row and row after the last one, document by document."""
        return zip(self.cu_seqlens[:-1], self.cu_seqlens[1:], strict=True)

    def lengths(self) -> list[int]:
        """Tokens of each document of the stream."""
        return [stop - start for start, stop in self.spans()]

    def groups(self, keys: Ragged | None = None) -> list[Group]:
        """The documents gathered by equal lengths, their own and (of ``keys``) the others'."""
        found: list[Group] = []
        others = self if keys is None else keys
        pairs = zip(self.documents, self.spans(), others.spans(), strict=True)
        for place, (document, (start, stop), (first, last)) in enumerate(pairs):
            sizes = stop - start, last - first
            if found and (found[-1].length, found[-1].key_length) == sizes:
                group = found.pop()
                documents, at = (*group.documents, document), group
            else:
                documents, at = (document,), Group(start, 0, (), place, first, 0)
            found.append(Group(at.start, sizes[0], documents, at.first, at.key_start, sizes[1]))
        return found

    def ends(self, last: bool) -> Ragged:
        """The batch of each document's first or last token alone; names, and so noise, stay."""
        rows = self.end_rows(last)
        return Ragged(
            tokens_n=self.tokens_n[rows],
            positions_n=self.positions_n[rows],
            cu_seqlens=tuple(range(len(rows) + 1)),
            order=self.order,
            documents=self.documents,
            segments_n=None if self.segments_n is None else self.segments_n[rows],
            ranks_n=None if self.ranks_n is None else self.ranks_n[rows],
            prefixes=self.prefixes,
            firsts=tuple(length - 1 if last else 0 for length in self.lengths()),
        )

    def end_rows(self, last: bool) -> list[int]:
        """The rows of each document's first or last token."""
        return [end - 1 for end in self.cu_seqlens[1:]] if last else list(self.cu_seqlens[:-1])

    def as_packed(self, rows_b: Tensor) -> Tensor:
        """Rows, one a document of the stream, put back into the order that was packed."""
        if self.order == tuple(range(len(self.order))):
            return rows_b
        back = torch.empty(len(self.order), dtype=torch.int64)
        back[list(self.order)] = torch.arange(len(self.order))
        return rows_b[back]

    def by_document(self, x_n: Tensor) -> list[Tensor]:
        """The rows of each document, in the order in which they were packed."""
        parts = x_n.split(self.lengths())
        return [parts[place] for place in np.argsort(self.order)]


def pack(
    sequences: Sequence[np.ndarray],
    documents: Sequence[int] | None = None,
    *,
    order: Sequence[int] | None = None,
    past: Sequence[int] | None = None,
    segments: Sequence[np.ndarray] | None = None,
    ranks: Sequence[np.ndarray] | None = None,
    prefixes: Sequence[int] | None = None,
    positions: Sequence[np.ndarray] | None = None,
) -> Ragged:
    """Lay token sequences (integers, at least one token each) end to end.

    They stand shortest first, or in ``order``: two streams that are read together need the same
    one. ``documents`` are numbers below 2**128 that key the noise; their place where none are
    given. ``past`` counts the tokens of each document that a cache holds already. Segments, ranks
    (places in an order of factorisation) and positions go with the tokens of each sequence.
    """
    lengths = [len(sequence) for sequence in sequences]
    if order is None:
        order = sorted(range(len(sequences)), key=lambda j: (lengths[j], j))
    names = range(len(sequences)) if documents is None else documents
    before = [0] * len(sequences) if past is None else past
    if positions is None:
        positions = [before[j] + np.arange(lengths[j]) for j in range(len(sequences))]
    ends = np.cumsum([0, *(lengths[j] for j in order)])
    return Ragged(
        tokens_n=joined(sequences, order),
        positions_n=joined(positions, order),
        cu_seqlens=tuple(int(end) for end in ends),
        order=tuple(order),
        documents=tuple(int(names[j]) for j in order),
        segments_n=None if segments is None else joined(segments, order),
        ranks_n=None if ranks is None else joined(ranks, order),
        prefixes=None if prefixes is None else tuple(int(prefixes[j]) for j in order),
    )


def joined(parts: Sequence[np.ndarray], order: Sequence[int]) -> Tensor:
    """Sequences of integers end to end, int64."""
    return torch.from_numpy(np.concatenate([np.asarray(parts[j], dtype=np.int64) for j in order]))


def order_of_pairs(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> list[int]:
    """An order for two streams read together in which like lengths stand side by side."""
    pairs = [(len(s), len(t)) for s, t in zip(sources, targets, strict=True)]
    return sorted(range(len(pairs)), key=lambda j: (*pairs[j], j))


class Noise:
    """Dropout that is a function of seed, step, document and site, and of nothing else.

    Each document has a stream of its own at each site (SFC64 of Doty-Humphrey's PractRand, its
    state a hash of all four; numpy's Philox takes three times as long). So a document's noise is
    the same in whatever company it is packed, and a resumed run needs no generator's state.
    """

    def __init__(self, seed: int, step: int) -> None:
        self.key = key(seed, "dropout", step).to_bytes(16, "little")
        self.bits = np.random.SFC64(0)

    def fill(self, mask: np.ndarray, rate: float, site: int, document: int, first: int = 0) -> None:
        """Set a float ``mask`` to 0 with probability ``rate``, else to 1 / (1 - rate).

        The mask is that from number ``first`` on of a longer one.
        """
        kept = self.kept(mask.size, rate, site, document, first).reshape(mask.shape)
        np.multiply(kept, mask.dtype.type(1 / (1 - rate)), out=mask, dtype=mask.dtype)

    def kept(self, count: int, rate: float, site: int, document: int, first: int) -> np.ndarray:
        """Which of ``count`` numbers from ``first`` on are kept.

        Bits are compared sixteen at a time, so the rate is kept to within 2**-17.
        """
        name = f"{site} {document}".encode()
        digest = hashlib.blake2b(name, digest_size=24, key=self.key).digest()
        words = np.frombuffer(digest + ONE, dtype="<u8").astype(np.uint64)
        state: Any = {**FRESH, "state": {"state": words}}
        self.bits.state = state
        self.bits.random_raw(MIXED, output=False)
        drawn = self.bits.random_raw((first + count + 3) // 4).view(np.uint16)
        kept: np.ndarray = drawn[first : first + count] >= np.uint16(round(rate * 65536))
        return kept

    def rows(self, batch: Ragged, like_nd: Tensor, rate: float, site: int) -> Tensor:
        """A mask for one vector a token, shaped and typed as ``like_nd``."""
        width = like_nd.shape[1]
        mask = np.empty(like_nd.numel(), dtype=numpy_type(like_nd))
        firsts = batch.firsts or [0] * len(batch.documents)
        spans = zip(batch.documents, batch.spans(), firsts, strict=True)
        for document, (start, stop), first in spans:
            self.fill(mask[start * width : stop * width], rate, site, document, first * width)
        return torch.from_numpy(mask).view(like_nd.shape)

    def weights(
        self,
        group: Group,
        heads: int,
        like: Tensor,
        rate: float,
        site: int,
        firsts: Sequence[int] | None = None,
    ) -> Tensor:
        """A mask for a group's attention weights: (documents * heads, length, key length).

        ``firsts``: for each document the first of its rows that its queries are; they get the
        noise that a pass over all would give them.
        """
        keys = group.key_length
        mask = np.empty((len(group.documents), heads, group.length, keys), dtype=numpy_type(like))
        own_firsts = [0] * len(mask) if firsts is None else firsts
        for document, own, first in zip(group.documents, mask, own_firsts, strict=True):
            # A row has the noise of all heads before the next row has any.
            self.fill(own.swapaxes(0, 1), rate, site, document, first * heads * keys)
        return torch.from_numpy(mask.reshape(-1, group.length, keys))

    def vectors(self, batch: Ragged, like_bd: Tensor, rate: float, site: int) -> Tensor:
        """A mask for one vector a document of the stream, shaped and typed as ``like_bd``."""
        mask = np.empty(tuple(like_bd.shape), dtype=numpy_type(like_bd))
        for row, document in zip(mask, batch.documents, strict=True):
            self.fill(row, rate, site, document)
        return torch.from_numpy(mask)

    def documents(self, batch: Ragged, like_nd: Tensor, rate: float, site: int) -> Tensor:
        """A factor for each row, the same for all of a document: (n, 1)."""
        mask = np.empty((len(batch.documents), 1), dtype=numpy_type(like_nd))
        for row, document in zip(mask, batch.documents, strict=True):
            self.fill(row, rate, site, document)
        return torch.from_numpy(mask.repeat(batch.lengths(), axis=0))


def numpy_type(tensor: Tensor) -> type[np.floating]:
    """The numpy type of a mask for ``tensor``."""
    return np.float64 if tensor.dtype == torch.float64 else np.float32
