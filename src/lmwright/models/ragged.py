"""A batch without padding: one stream of tokens, the documents' ends, and keyed noise.

Letters in names: n tokens of the stream, b documents, d width. No interface of the core
knows padding; what a document gives does not depend on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmwright.core.random import key

WORD = 1 << 64


@dataclass(frozen=True)
class Group:
    """Neighbouring documents of one length: rows ``start`` to ``stop`` of the stream."""

    start: int
    length: int
    documents: tuple[int, ...]

    @property
    def stop(self) -> int:
        """The row after the group's last one."""
        return self.start + self.length * len(self.documents)


@dataclass(frozen=True)
class Ragged:
    """Documents end to end, shortest first.

    ``tokens_n`` and ``positions_n`` are int64; document j of the stream stands in rows
    ``cu_seqlens[j]`` to ``cu_seqlens[j + 1]`` and is number ``order[j]`` of what was packed;
    ``documents[j]`` is the number under which its noise is drawn.
    """

    tokens_n: Tensor
    positions_n: Tensor
    cu_seqlens: tuple[int, ...]
    order: tuple[int, ...]
    documents: tuple[int, ...]

    def spans(self) -> Iterator[tuple[int, int]]:
        """First row and row after the last one, document by document."""
        return zip(self.cu_seqlens[:-1], self.cu_seqlens[1:], strict=True)

    def groups(self) -> list[Group]:
        """The documents gathered by equal length, which can share one product."""
        found: list[Group] = []
        for document, (start, stop) in zip(self.documents, self.spans(), strict=True):
            length = stop - start
            if found and found[-1].length == length:
                last = found.pop()
                found.append(Group(last.start, length, (*last.documents, document)))
            else:
                found.append(Group(start, length, (document,)))
        return found

    def firsts(self) -> Ragged:
        """The batch of each document's first token alone; names, and so noise, stay."""
        rows = list(self.cu_seqlens[:-1])
        return Ragged(
            tokens_n=self.tokens_n[rows],
            positions_n=self.positions_n[rows],
            cu_seqlens=tuple(range(len(rows) + 1)),
            order=self.order,
            documents=self.documents,
        )

    def as_packed(self, rows_b: Tensor) -> Tensor:
        """Rows, one a document of the stream, put back into the order that was packed."""
        back = torch.empty(len(self.order), dtype=torch.int64)
        back[list(self.order)] = torch.arange(len(self.order))
        return rows_b[back]


def pack(sequences: Sequence[np.ndarray], documents: Sequence[int] | None = None) -> Ragged:
    """Lay token sequences (integers, at least one token each) end to end.

    ``documents`` are numbers below 2**128 that key the noise; their place where none are given.
    """
    lengths = [len(sequence) for sequence in sequences]
    order = sorted(range(len(sequences)), key=lambda j: (lengths[j], j))
    names = range(len(sequences)) if documents is None else documents
    tokens = np.concatenate([np.asarray(sequences[j], dtype=np.int64) for j in order])
    positions = np.concatenate([np.arange(lengths[j], dtype=np.int64) for j in order])
    ends = np.cumsum([0, *(lengths[j] for j in order)])
    return Ragged(
        tokens_n=torch.from_numpy(tokens),
        positions_n=torch.from_numpy(positions),
        cu_seqlens=tuple(int(end) for end in ends),
        order=tuple(order),
        documents=tuple(int(names[j]) for j in order),
    )


class Noise:
    """Dropout that is a function of seed, step, document and site, and of nothing else.

    Counter-based bits (Philox, Salmon et al. 2011): the key is made of seed and step, the
    counter of site and document. So a document's noise is the same in whatever company it is
    packed, and a resumed run needs no generator's state.
    """

    def __init__(self, seed: int, step: int) -> None:
        self.key = key(seed, "dropout", step)

    def fill(self, mask: np.ndarray, rate: float, site: int, document: int) -> None:
        """Set a flat float ``mask`` to 0 with probability ``rate``, else to 1 / (1 - rate).

        Bits are compared sixteen at a time, so the rate is kept to within 2**-17.
        """
        low, high = document % WORD, document // WORD
        bits = np.random.Philox(key=self.key, counter=counter(site, low, high))
        words = bits.random_raw((mask.size + 3) // 4).view(np.uint16)[: mask.size]
        kept = words >= np.uint16(round(rate * 65536))
        np.multiply(kept, mask.dtype.type(1 / (1 - rate)), out=mask, dtype=mask.dtype)

    def rows(self, batch: Ragged, like_nd: Tensor, rate: float, site: int) -> Tensor:
        """A mask for one vector a token, shaped and typed as ``like_nd``."""
        width = like_nd.shape[1]
        mask = np.empty(like_nd.numel(), dtype=numpy_type(like_nd))
        for document, (start, stop) in zip(batch.documents, batch.spans(), strict=True):
            self.fill(mask[start * width : stop * width], rate, site, document)
        return torch.from_numpy(mask).view(like_nd.shape)

    def weights(self, group: Group, heads: int, like: Tensor, rate: float, site: int) -> Tensor:
        """A mask for a group's attention weights: (documents * heads, length, length)."""
        size = heads * group.length**2
        mask = np.empty(size * len(group.documents), dtype=numpy_type(like))
        for place, document in enumerate(group.documents):
            self.fill(mask[place * size : (place + 1) * size], rate, site, document)
        return torch.from_numpy(mask).view(-1, group.length, group.length)

    def vectors(self, batch: Ragged, like_bd: Tensor, rate: float, site: int) -> Tensor:
        """A mask for one vector a document of the stream, shaped and typed as ``like_bd``."""
        mask = np.empty(tuple(like_bd.shape), dtype=numpy_type(like_bd))
        for row, document in zip(mask, batch.documents, strict=True):
            self.fill(row, rate, site, document)
        return torch.from_numpy(mask)


def counter(site: int, low: int, high: int) -> np.ndarray:
    """Philox's four words: the first counts blocks, the others name the place of the noise."""
    return np.array([0, site, low, high], dtype=np.uint64)


def numpy_type(tensor: Tensor) -> type[np.floating]:
    """The numpy type of a mask for ``tensor``."""
    return np.float64 if tensor.dtype == torch.float64 else np.float32
