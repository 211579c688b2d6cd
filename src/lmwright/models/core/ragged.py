"""Batches without padding: documents end to end in one stream of tokens.

Letters in names: n tokens of the stream, b documents, d width. No interface of the core
knows padding; a document's result does not depend on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lmwright.core.errors import BadInput


@dataclass(frozen=True)
class Group:
    """Neighbouring documents of equal lengths, which share one batched product.

    Their queries are rows ``start`` to ``stop`` of the stream, ``length`` a document; their keys
    begin at ``key_start`` of the stream attended to, ``key_length`` a document. ``first`` is the
    index of the first of them among the batch's documents.
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
    """A packed batch: documents end to end in one stream.

    ``tokens_n`` and ``positions_n`` are int64; document j of the stream stands in rows
    ``cu_seqlens[j]`` to ``cu_seqlens[j + 1]`` and is number ``order[j]`` of what was packed;
    ``documents[j]`` is the number under which its dropout_rng is drawn. ``segments_n`` numbers the
    segments that a document's tokens belong to (None: all to the first); ``ranks_n`` their ranks
    in an order of factorisation; ``prefixes`` the length of each document's prefix, to which all
    of its tokens attend. Where the tokens are some of a longer stream's, ``firsts`` has for each
    document which of its rows is the first here. ``vectors`` are spans given as vectors: the first
    row, and (k, d) in place of the vectors of its k tokens, whose ids then mean nothing.
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
    vectors: tuple[tuple[int, Tensor], ...] = ()

    def to(self, device: torch.device) -> Ragged:
        """The same batch with its tensors on a device; itself where they are there."""
        if self.tokens_n.device == device:
            return self
        names = ("tokens_n", "positions_n", "segments_n", "ranks_n")
        known = {name: getattr(self, name) for name in names}
        return replace(
            self, **{n: each.to(device) for n, each in known.items() if each is not None}
        )

    def spans(self) -> Iterator[tuple[int, int]]:
        """Iterate over the first row and the row after the last one of each document."""
        return zip(self.cu_seqlens[:-1], self.cu_seqlens[1:], strict=True)

    def lengths(self) -> list[int]:
        """Tokens of each document of the stream."""
        return [stop - start for start, stop in self.spans()]

    def groups(self, keys: Ragged | None = None) -> list[Group]:
        """Group neighbouring documents of equal lengths, their own and those of ``keys``."""
        found: list[Group] = []
        others = self if keys is None else keys
        pairs = zip(self.documents, self.spans(), others.spans(), strict=True)
        for number, (document, (start, stop), (first, last)) in enumerate(pairs):
            sizes = stop - start, last - first
            if found and (found[-1].length, found[-1].key_length) == sizes:
                group = found.pop()
                documents, at = (*group.documents, document), group
            else:
                documents, at = (document,), Group(start, 0, (), number, first, 0)
            found.append(Group(at.start, sizes[0], documents, at.first, at.key_start, sizes[1]))
        return found

    def boundary_tokens(self, last: bool) -> Ragged:
        """The batch of each document's first or last token alone, under its dropout keys.

        It is of tokens whose states are known, so it has no ``vectors``.
        """
        rows = self.boundary_rows(last)
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

    def boundary_rows(self, last: bool) -> list[int]:
        """Row numbers of each document's first or last token."""
        return [end - 1 for end in self.cu_seqlens[1:]] if last else list(self.cu_seqlens[:-1])

    def with_vectors(self, x_nd: Tensor) -> Tensor:
        """Put ``vectors`` in place of the token vectors (n, d) of their rows, with gradients."""
        parts, done = [], 0
        for first, vectors_kd in self.vectors:
            if vectors_kd.shape[1] != x_nd.shape[1]:
                raise BadInput(
                    f"vectors of width {vectors_kd.shape[1]} in place of tokens",
                    f"the embedding's width, {x_nd.shape[1]}",
                )
            parts += [x_nd[done:first], vectors_kd.to(x_nd)]
            done = first + len(vectors_kd)
        return torch.cat([*parts, x_nd[done:]]) if parts else x_nd

    def after_vectors(self, vectors_kd: Tensor, begin: Sequence[bool]) -> tuple[Ragged, list[int]]:
        """The same documents after the same vectors (k, d), and the rows of their own tokens there.

        Every position is k further. Only documents that ``begin`` get the vectors; the others had
        them in a former pass, of which a cache knows. The vectors are of the first segment, and of
        a document's prefix.
        """
        if self.ranks_n is not None:
            raise BadInput("vectors before an order of factorisation", "tokens by position")
        k, ends, rows, spans = len(vectors_kd), [0], list[int](), list[tuple[int, Tensor]]()
        fresh: list[int] = []
        for new, (start, stop) in zip(begin, self.spans(), strict=True):
            if new:
                spans.append((ends[-1], vectors_kd))
                fresh += range(ends[-1], ends[-1] + k)
            first = ends[-1] + (k if new else 0)
            rows += range(first, first + stop - start)
            ends.append(first + stop - start)

        def spread(old_n: Tensor) -> Tensor:
            found = old_n.new_zeros(ends[-1])
            found[rows] = old_n
            return found

        positions_n = spread(self.positions_n + k)
        if fresh:
            positions_n[fresh] = torch.arange(k).repeat(sum(begin)).to(positions_n)
        spans += [(rows[first], own_kd) for first, own_kd in self.vectors]
        segments_n, prefixes = self.segments_n, self.prefixes
        return replace(
            self,
            tokens_n=spread(self.tokens_n),
            positions_n=positions_n,
            cu_seqlens=tuple(ends),
            segments_n=None if segments_n is None else spread(segments_n),
            prefixes=None if prefixes is None else tuple(each + k for each in prefixes),
            vectors=tuple(sorted(spans, key=lambda span: span[0])),
        ), rows

    def as_packed(self, rows_b: Tensor) -> Tensor:
        """Reorder rows, one a document of the stream, into the order that was packed."""
        if self.order == tuple(range(len(self.order))):
            return rows_b
        return rows_b[np.argsort(self.order).tolist()]

    def by_document(self, x_n: Tensor) -> list[Tensor]:
        """Split rows by document, in the order that was packed."""
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
    vectors: Mapping[int, Sequence[tuple[int, Tensor]]] | None = None,
) -> Ragged:
    """Pack token sequences (integers, at least one token each) end to end.

    They stand shortest first, or in ``order``: two streams of one model need the same one.
    ``documents`` are numbers below 2**128 that key the dropout; by default their index.
    ``past`` counts the tokens of each document that a cache holds already. Segments, ranks
    (in an order of factorisation) and positions go with the tokens of each sequence. ``vectors``
    has spans of some sequences by their index: a place in the sequence, and the vectors (k, d)
    that stand for the k tokens from there on.
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
        vectors=() if vectors is None else spans_of_stream(vectors, lengths, order),
    )


def known_segments(segments: Sequence[np.ndarray | None]) -> list[np.ndarray] | None:
    """The segments of every sequence, where all of them have any."""
    known = [each for each in segments if each is not None]
    return known if len(known) == len(segments) else None


def spans_of_stream(
    vectors: Mapping[int, Sequence[tuple[int, Tensor]]],
    lengths: Sequence[int],
    order: Sequence[int],
) -> tuple[tuple[int, Tensor], ...]:
    """Spans of sequences as spans of the stream, by rows; BadInput for impossible ones."""
    if other := sorted(set(vectors) - set(range(len(lengths)))):
        raise BadInput(f"vectors for sequence {other[0]} of {len(lengths)}", "one of those packed")
    found, start = [], 0
    for j in order:
        done = 0
        for place, vectors_kd in sorted(vectors.get(j, ()), key=lambda span: span[0]):
            stop = place + len(vectors_kd)
            if vectors_kd.ndim != 2 or place < done or stop > lengths[j]:
                raise BadInput(
                    f"vectors {tuple(vectors_kd.shape)} at {place} of a sequence of {lengths[j]}",
                    "spans (k, d) inside the sequence, none over another",
                )
            found.append((start + place, vectors_kd))
            done = stop
        start += lengths[j]
    return tuple(found)


def joined(parts: Sequence[np.ndarray], order: Sequence[int]) -> Tensor:
    """Concatenate sequences of integers in this order, int64."""
    return torch.from_numpy(np.concatenate([np.asarray(parts[j], dtype=np.int64) for j in order]))


def order_of_pairs(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> list[int]:
    """A packing order for two streams of one model that puts equal lengths side by side."""
    pairs = [(len(s), len(t)) for s, t in zip(sources, targets, strict=True)]
    return sorted(range(len(pairs)), key=lambda j: (*pairs[j], j))
